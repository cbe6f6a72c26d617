"""Tables that people fill in."""

from __future__ import annotations

import os
import unicodedata

import pytest

from medssl_monai.data import Datalist
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.pool.annotate import annotate_from_table
from medssl_monai.tables import text_of

FINDINGS = ["effusion", "mass", "pleural/other"]
WAYS = [(e, d) for e in ("utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le") for d in ",;\t"]


def pool_of(count=4, classes=("low", "high"), **options):
    """Images "s0", "s1", ... without any label."""
    items = [{"image": f"{i}.png", "id": f"s{i}"} for i in range(count)]
    return Labels(Datalist(items, classes=classes), **options)


def give(pool, folder, content, correct=False):
    """What a pool knows by id after a table, and what was refused."""
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (given,) = annotate_from_table(LabelPool(pool), path, correct).values()
    known = {pool.ids[i]: pool.label(i) for i in range(len(pool)) if pool.label(i) is not None}
    assert correct or set(known) >= set(given.accepted)
    return known, given.refused


# ---- the table of a person ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "delimiter"), WAYS)
def test_tables_as_spreadsheets_save_them(tmp_path, encoding, delimiter):
    rows = [["id", "reason", "label"], ["s0", "weiß", "HIGH"], ["s1", "grün", "0.0"], ["s2", "", ""]]
    text = "\r\n".join(delimiter.join(row) for row in [*rows, []])
    assert give(pool_of(), tmp_path, text.encode(encoding)) == ({"s0": 1, "s1": 0}, [])


def test_findings_between_semicolons_survive_a_spreadsheet_that_separates_by_them(tmp_path):
    pool = pool_of(kind="findings", classes=FINDINGS)
    assert give(pool, tmp_path, 'id;label\ns0;"mass; ?effusion"\n') == ({"s0": [-1, 1, 0]}, [])


def test_ids_that_a_spreadsheet_would_compute_come_back(tmp_path):
    pool = Labels(Datalist([{"image": "a", "id": "-5"}, {"image": "b", "id": "+"}], classes=["low", "high"]))
    text = text_of([["id", "label"], ["-5", "low"], ["+", "high"]])
    assert "'-5" in text
    assert give(pool, tmp_path, text) == ({"-5": 0, "+": 1}, [])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_ids_are_equal_however_their_accents_are_written(tmp_path, form):
    name = unicodedata.normalize(form, "Müller é")
    pool = Labels(Datalist([{"image": "a", "id": name}], classes=["low", "high"]))
    for other in ("NFC", "NFD"):
        pool_file = tmp_path / "t.csv"
        pool_file.write_text(f"id,label\n{unicodedata.normalize(other, name)},low\n")
        assert pool.refusal(pool.id_of(unicodedata.normalize(other, name)), 0, labeled=False) is None
        assert Labels([{"id": name}], known=pool_file, names=["low", "high"]).label(0) == 0
    both = [{"id": unicodedata.normalize(form, "é")} for form in ("NFC", "NFD")]
    with pytest.raises(ValueError, match="occurs more than once"):
        Labels(both)


def test_bad_rows_are_refused_by_their_line_and_the_others_are_kept(tmp_path):
    table = 'id,label\ns0,low\nshort\nnobody,high\ns1,hgih\ns2,high,more\n"s3,low\n,low\ns2,low\n'
    known, refused = give(pool_of(), tmp_path, table)
    assert known == {"s0": 0, "s2": 0}
    lines = [int(reason.split()[1].rstrip(":")) for reason in refused]
    assert sorted(lines) == [3, 4, 5, 6, 7, 8]
    assert any(reason == "line 4: 'nobody' is not in the datalist" for reason in refused)
    assert any("line 5: the label of 's1' is 'hgih', which is none of the classes" in reason for reason in refused)


def test_rows_of_findings_that_are_too_short_or_say_nothing_are_refused(tmp_path):
    pool = pool_of(kind="findings", classes=FINDINGS)
    known, refused = give(pool, tmp_path, "id,label\ns0,1 0\ns1,-1 -1 -1\ns2,1 0 2\ns3,mass; efusion\n")
    assert known == {}
    assert "line 2: the label of 's0' is [1, 0], with 2 entries for 3 findings" in refused[0]
    assert "line 3: the label of 's1' says of every finding that it is unknown" in refused[1]
    assert (
        "line 4: the label of 's2' is [1, 0, 2], and must hold 1 (present), 0 (absent) or -1 (unknown) per finding"
        in refused[2]
    )
    assert "'s3' is 'mass; efusion'; write what is there, separated by ';', out of ['effusion', 'mass'" in refused[3]


@pytest.mark.parametrize("second", ["high", "1.0"])
def test_of_two_answers_that_differ_none_is_taken(tmp_path, second):
    known, (refused,) = give(pool_of(), tmp_path, f"id,label\ns0,low\ns1,high\ns0,{second}\ns0,low\n")
    assert known == {"s1": 1}
    assert refused == "lines 2 and 4 and 5: 's0' has different labels there, and none of them is taken"


def test_equal_answers_are_one_and_a_row_without_an_answer_is_none(tmp_path):
    assert give(pool_of(), tmp_path, "id,label\ns0,\ns0,low\ns0,0.0\ns0,LOW\ns1,\n") == ({"s0": 0}, [])


@pytest.mark.parametrize("content", ["id,label\n", "id,label\ns0,\ns1,\n", "id;label;rank\ns0;;1\n"])
def test_a_table_without_any_answer_gives_nothing(tmp_path, content):
    assert give(pool_of(), tmp_path, content) == ({}, [])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", r"t\.csv is empty"),
        ("id,label,Label\ns0,,high\n", r"t\.csv has the columns \['label', 'Label'\], which all are 'label'"),
        ("ID,id,label\ns0,s1,high\n", r"t\.csv has the columns \['ID', 'id'\], which all are 'id'"),
        ("id,label,label\ns0,low,high\n", r"t\.csv has 2 columns with the same name 'label'"),
        ("name,label\ns0,low\n", r"t\.csv must have the columns 'id' and 'label', got \['name', 'label'\]"),
        ("id\ns0\n", r"t\.csv must have the columns 'id' and 'label'"),
        (b"id,label\n\x00\x00\x00\x81", r"t\.csv is no text in UTF-8"),
    ],
)
def test_what_is_no_table_of_answers_is_refused_by_name(tmp_path, content, match):
    with pytest.raises(ValueError, match=match):
        give(pool_of(), tmp_path, content)
    with pytest.raises(ValueError, match=match):
        pool_of(known=tmp_path / "t.csv")


def test_columns_are_found_in_any_case(tmp_path):
    assert give(pool_of(), tmp_path, "ID,Label\ns0,low\n") == ({"s0": 0}, [])


def test_corrections_replace_what_is_known(tmp_path):
    pool = pool_of()
    pool.annotate([0, 1], [0, 1])
    known, refused = give(pool, tmp_path, "id,label\ns0,high\ns2,high\ns1,low\ns1,high\n", correct=True)
    assert known == {"s0": 1, "s1": 1}
    assert refused == [
        "line 3: 's2' has no label yet",
        "lines 4 and 5: 's1' has different labels there, and none of them is taken",
    ]
    assert give(pool, tmp_path, "id,label\ns0,low\ns3,high\n") == (
        {"s0": 1, "s1": 1, "s3": 1},
        ["line 2: 's0' is labeled already; correct it instead"],
    )


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("s0,low\nshort\n", "line 3 cannot be read"),
        ('s0,low\n"s1,high\n', "line 3 cannot be read"),
        ("s0,low\ns1,²\n", "line 3: the label of 's1' is '²'"),
        ("s0,low\ns0,high\n", "lines 2 and 3: 's0' has different labels"),
        ("x,low\ny,low\nz,low\nw,low\n", r"line 4: 'z' is not in the datalist \(and 1 more\)"),
    ],
)
def test_a_table_that_a_run_starts_with_must_fit_in_all(tmp_path, rows, match):
    (tmp_path / "t.csv").write_text(f"id,label\n{rows}")
    with pytest.raises(ValueError, match=rf"t\.csv: .*{match}"):
        pool_of(known=tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.txt", "t.tsv", "t.CSV"])
def test_a_run_starts_with_a_table_of_any_name(tmp_path, name):
    (tmp_path / name).write_bytes("id\tlabel\ns0\tlow\ns0\t\ns0\t0.0\n".encode("utf-16"))
    assert pool_of(known=tmp_path / name).label(0) == 0


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-1", "-1.0", "2", "2.0"])
def test_an_index_out_of_range_is_refused(tmp_path, text):
    known, (refused,) = give(pool_of(), tmp_path, f"id,label\ns0,{text}\ns1,1\n")
    assert known == {"s1": 1}
    assert "and must be a class index from 0 to 1" in refused


def test_an_index_of_classes_without_names_is_bounded(tmp_path):
    known, (refused,) = give(pool_of(classes=()), tmp_path, "id,label\ns0,3\ns1,999999999\n")
    assert known == {"s0": 3}
    assert refused.startswith("line 3") and "holds 1,000,000,000 classes" in refused


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def masks(tmp_path):
    """A pool of masks; files of masks below the folder of the table."""
    for name in ("a.png", "b.png", "mü.png"):
        (tmp_path / "drawn").mkdir(exist_ok=True)
        (tmp_path / "drawn" / name).write_bytes(b"")
    return pool_of(kind="masks", classes=("background", "lesion"))


@pytest.mark.parametrize("text", ["drawn/a.png", "drawn\\a.png", "./drawn/../drawn/a.png"])
def test_a_mask_is_a_path_from_the_folder_of_the_table(tmp_path, masks, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.csv"
    path.write_text(f"id,label\ns0,{text}\ns1,drawn/lost.png\ns2,drawn\n")
    (given,) = annotate_from_table(LabelPool(masks), os.path.relpath(path)).values()
    assert given.accepted == ["s0"]
    assert os.path.isabs(masks.label(0)) and os.path.samefile(masks.label(0), tmp_path / "drawn" / "a.png")
    assert [reason.partition(", and")[0] for reason in given.refused] == [
        "line 3: the label of 's1' is 'drawn/lost.png'",
        "line 4: the label of 's2' is 'drawn'",
    ]


def test_a_file_whose_accents_are_written_otherwise_is_found(tmp_path, masks):
    (tmp_path / "drawn" / "mü.png").rename(tmp_path / "drawn" / unicodedata.normalize("NFD", "mü.png"))
    known, refused = give(masks, tmp_path, f"id,label\ns0,{unicodedata.normalize('NFC', 'drawn/mü.png')}\n")
    assert list(known) == ["s0"] and not refused


@pytest.mark.parametrize("other", ["drawn/a.png", "drawn/../drawn/a.png", "link.png"])
def test_one_mask_file_serves_one_image(tmp_path, masks, other):
    (tmp_path / "link.png").symlink_to(tmp_path / "drawn" / "a.png")
    known, refused = give(masks, tmp_path, f"id,label\ns0,drawn/a.png\ns1,{other}\ns2,drawn/b.png\n")
    assert list(known) == ["s2"]
    assert "line 2: the mask of 's0' is that of 's1' as well, and one mask file serves one image" in refused
    assert len(refused) == 2
    known, (refused,) = give(masks, tmp_path, "id,label\ns3,drawn/b.png\n")
    assert "line 2: the mask of 's3' is that of 's2' as well" in refused
    known, refused = give(masks, tmp_path, "id,label\ns3,drawn/a.png\nnobody,drawn/a.png\n")
    assert len(refused) == 2 and list(known) == ["s2"]


def test_a_mask_that_the_datalist_hides_belongs_to_its_image(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    items = [{"image": f"{n}.png", "id": f"s{n}", "label": str(tmp_path / f"{n}.png")} for n in "ab"]
    pool = Labels(Datalist(items), known=0)
    assert give(pool, tmp_path, "id,label\nsa,b.png\n")[0] == {}
    pool = Labels(Datalist(items))
    exchanged, refused = give(pool, tmp_path, "id,label\nsa,b.png\nsb,a.png\n", correct=True)
    assert exchanged == {"sa": str(tmp_path / "b.png"), "sb": str(tmp_path / "a.png")} and not refused


def test_slices_of_one_volume_share_its_mask(tmp_path):
    (tmp_path / "m.nii").write_bytes(b"")
    items = [{"image": "v.nii", "slice": n, "id": f"v{n}"} for n in range(2)]
    pool = Labels(Datalist(items), kind="masks")
    assert give(pool, tmp_path, "id,label\nv0,m.nii\nv1,m.nii\n")[1] == []


def test_labels_and_masks_of_one_table(tmp_path):
    (tmp_path / "m.png").write_bytes(b"")
    data = Datalist([{"image": f"{i}", "id": f"s{i}"} for i in range(3)], ["low", "high"], mask_classes=["bg", "lung"])
    pool = LabelPool([Labels(data), Labels(data, key="mask")])
    (tmp_path / "t.csv").write_text("id,Label,mask\ns0,HIGH,\ns1,,m.png\nshort\ns2,low,m.png\n")
    given = annotate_from_table(pool, tmp_path / "t.csv")
    assert (given["label"].accepted, given["mask"].accepted) == (["s0", "s2"], [])
    assert len(given["label"].refused) == 1 and len(given["mask"].refused) == 2
    (tmp_path / "t.csv").write_text("id,mask\ns1,m.png\n")
    (given,) = annotate_from_table(LabelPool(Labels(data, key="mask")), tmp_path / "t.csv").values()
    assert given == (["s1"], [])
    (tmp_path / "both.csv").write_text("id,label,mask\ns1,low,m.png\ns2,,\n")
    (given,) = annotate_from_table(LabelPool(Labels(data)), tmp_path / "both.csv").values()
    assert given == (["s1"], ["line 2: there is a mask in 1 rows, and these labels have no masks"])
    assert annotate_from_table(pool, tmp_path / "t.csv")["mask"].accepted == ["s1"]
