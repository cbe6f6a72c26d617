"""Tables as people write them, and tables for people."""

import codecs
import csv
import io
import os

import pytest

from medssl_monai import limits
from medssl_monai.tables import Table, header_of, text_of

CELLS = {"id": "a", "größe": "ü"}


def test_quoted_cells_may_span_lines():
    table = Table.parse(b'id,text,label\na,"two\nlines, and ""more""",1\nb,plain,0\n', "t.csv")
    assert table.rows == [
        (2, {"id": "a", "text": 'two\nlines, and "more"', "label": "1"}),
        (4, {"id": "b", "text": "plain", "label": "0"}),
    ]
    assert not table.bad


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_as_spreadsheets_write_them(encoding, delimiter):
    text = f"id{delimiter} größe \r\na{delimiter} ü \r\n"
    assert Table.parse(text.encode(encoding), "t.csv").rows == [(2, CELLS)]
    marked = codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    assert Table.parse(marked, "t.csv").rows == [(2, CELLS)]


def test_what_separates_cells_is_what_fits_the_rows():
    assert Table.parse(b"id;a, b\nx;1\ny;2\n", "t.csv").header == ["id", "a, b"]
    assert Table.parse(b"sep=;\nid;a,b,c\nx;1\n", "t.csv").rows == [(3, {"id": "x", "a,b,c": "1"})]


def test_accents_are_one_sign_however_they_were_written():
    table = Table.parse("na\u0308me\nu\u0308\n".encode(), "t.csv")
    assert table.rows == [(2, {"n\u00e4me": "\u00fc"})]


def test_lines_end_where_spreadsheets_end_them():
    """Other signs that Python splits lines at are part of a cell."""
    text = "id,note\na,one\u2028two\x0bthree\rb,four\n"
    assert [row["note"] for _, row in Table.parse(text.encode(), "t.csv").rows] == ["one\u2028two\x0bthree", "four"]


def test_columns_without_a_name_are_left_out():
    table = Table.parse(b",id,\n0,a,\n1,b,\n", "t.csv")
    assert table.header == ["id"] and table.rows == [(2, {"id": "a"}), (3, {"id": "b"})]


@pytest.mark.parametrize("header", ["image,label,label", "image, label ,label", "image,na\u0308,n\u00e4"])
def test_two_columns_of_one_name_are_refused(header):
    with pytest.raises(ValueError, match=r"t\.csv has 2 columns with the same name .*; rename or remove all but one"):
        Table.parse(f"{header}\na,1,0\n".encode(), "t.csv")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"sep=;\n", codecs.BOM_UTF8])
def test_an_empty_file_is_refused(content):
    with pytest.raises(ValueError, match=r"t\.csv is empty; its first line must name the columns"):
        Table.parse(content, "t.csv")


def test_a_table_must_name_its_columns():
    with pytest.raises(ValueError, match=r"t\.csv names no column in its first line"):
        Table.parse(b",,\na,b,c\n", "t.csv")


@pytest.mark.parametrize("content", [b"PK\x03\x04\0\0\0\0", b"id,x\n\x81,\x8d\n", b"id,label\na,\0\n"])
def test_what_is_no_text_is_refused_by_name(content):
    with pytest.raises(ValueError, match=r"t\.csv is no text in UTF-8, UTF-16 or Windows-1252; save the table as"):
        Table.parse(content, "t.csv")


def test_rows_that_cannot_be_read_are_told_by_their_line():
    table = Table.parse(b'id,label\na,1,2\nb\n"c,1\nd,0\n', "t.csv")
    assert table.bad == [2, 3, 4] and table.rows == [(5, {"id": "d", "label": "0"})]


def test_a_long_cell_is_a_cell():
    assert Table.parse(b"id,note\na," + b"x" * 300_000, "t.csv").rows[0][1]["note"] == "x" * 300_000


def test_tables_are_bounded(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id\n" + b"a\n" * 9)
    with (
        limits.raised(max_rows=8),
        pytest.raises(ValueError, match=r"t\.csv holds 9 rows, and 8 are .* `--max_rows 9`"),
    ):
        Table.read(tmp_path / "t.csv")
    with limits.raised(max_table_bytes=20), pytest.raises(ValueError, match=r"--max_table_bytes 21"):
        Table.read(tmp_path / "t.csv")
    assert len(Table.read(tmp_path / "t.csv").rows) == 9


@pytest.mark.parametrize("name", ["=1+1", "+", "-1", "@SUM(A1)", "'=1", "''-x", "\t=1", "-", "- a, b"])
def test_a_spreadsheet_computes_nothing_of_what_is_written(name):
    text = text_of([["id", "score"], [name, -0.5]])
    cell, score = list(csv.reader(io.StringIO(text)))[1]
    assert cell[0] not in "=+-@\t\r" and score == "-0.5"
    assert Table.parse(text.encode(), "t.csv").rows == [(2, {"id": name, "score": "-0.5"})]


def test_other_texts_are_written_as_they_are():
    assert text_of([["it's", "'quoted'", "a=b", 3, ""]]) == "it's,'quoted',a=b,3,\n"


def test_a_header_tells_layouts_apart(tmp_path):
    (tmp_path / "t.csv").write_text("Path,Sex\na,b\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "twice.csv").write_text("a,a\n")
    assert header_of(tmp_path / "t.csv") == ["Path", "Sex"]
    (tmp_path / "wide.csv").write_bytes("Path,größe\na,b\n".encode("utf-16"))
    (tmp_path / "long.csv").write_bytes("Path,größe\n".encode() + "ä".encode() * 2**16)
    assert header_of(tmp_path / "wide.csv") == header_of(tmp_path / "long.csv") == ["Path", "größe"]
    assert header_of(tmp_path / "empty.csv") == header_of(tmp_path / "twice.csv") == header_of(tmp_path / "none") == []


def test_a_folder_a_device_or_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "zero.csv", "folder.csv"):
        with pytest.raises(ValueError, match=rf"{name} is no file; name one"):
            Table.read(tmp_path / name)
        assert header_of(tmp_path / name) == []
    with pytest.raises(FileNotFoundError):
        Table.read(tmp_path / "none.csv")
