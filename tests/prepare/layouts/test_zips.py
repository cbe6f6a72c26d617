import io
import stat
import struct
import warnings
import zipfile

import pytest

from medssl_monai.limits import raised
from medssl_monai.prepare.layouts.zips import BLOCK, Archive


def written(path, *members, method=zipfile.ZIP_DEFLATED):
    """Members: name, or information, and content."""
    with zipfile.ZipFile(path, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that are there twice
        for name, content in members:
            file.writestr(name, content)
    return path


def info(name, **attributes):
    made = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_read_whole(tmp_path, method):
    content = bytes(range(256)) * (BLOCK // 100)
    path = written(tmp_path / "a.zip", ("folder/", b""), ("folder/x", content), ("y", b""), method=method)
    with Archive(path) as archive:
        assert set(archive.members) == {"folder/x", "y"}
        assert archive.check(["folder/x", "y"]) == len(content)
        assert archive.read("folder/x") == content
        assert archive.read("y") == b""


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../x.png", "outside"),
        ("a/../../x.png", "outside"),
        ("/etc/x.png", "outside"),
        ("C:/x.png", "outside"),
        ("C:x.png", "outside"),
        ("..\\x.png", "outside"),
        ("a//x.png", "outside"),
        ("./x.png", "outside"),
        ("a\nb.png", "control characters"),
        ("a\u202egnp.exe", "control characters"),
        ("$x.png", "evaluate"),
        (".ssh/x.png", "begins or ends with a dot"),
        ("a./x.png", "begins or ends with a dot"),
        ("a /x.png", "ends with a blank"),
    ],
)
def test_names_that_leave_the_folder_or_deceive_are_refused(tmp_path, name, match):
    path = written(tmp_path / "a.zip", (name, b"x"), ("good.png", b"x"))
    with Archive(path) as archive:
        assert archive.check(["good.png"]) == 1
        with pytest.raises(ValueError, match=rf"^a\.zip holds .*{match}"):
            archive.check([name])


def test_a_name_with_a_hidden_end_is_refused(tmp_path):
    path = written(tmp_path / "a.zip", ("x.png_sh", b"x"))
    path.write_bytes(path.read_bytes().replace(b"x.png_sh", b"x.png\0sh"))
    with Archive(path) as archive, pytest.raises(ValueError, match="longer name that is not shown"):
        archive.check(["x.png"])
    path.write_bytes(path.read_bytes().replace(b"x.png\0sh", b"\0.png\0sh"))
    with Archive(path) as archive:
        assert set(archive.members) == {""}


@pytest.mark.parametrize("other", ["x.png", "X.PNG", "e\u0301.png"])
def test_names_that_would_overwrite_each_other_are_refused(tmp_path, other):
    name = "\u00e9.png" if other.startswith("e") else "x.png"
    path = written(tmp_path / "a.zip", (name, b"1"), (other, b"2"))
    with Archive(path) as archive, pytest.raises(ValueError, match="more than once"):
        archive.check([name])


def test_links_and_what_cannot_be_unpacked_are_refused(tmp_path):
    link = info("link", external_attr=(stat.S_IFLNK | 0o777) << 16)
    path = written(tmp_path / "a.zip", (link, b"/etc/passwd"), ("x", b"1"))
    with Archive(path) as archive, pytest.raises(ValueError, match="'link', which is a link"):
        archive.check(["link"])
    whole = written(path, ("x", b"1")).read_bytes()
    directory = whole.index(b"PK\1\2")
    for position, value, match in ((8, 1, "encrypted"), (10, 99, "not known")):
        changed = bytearray(whole)
        changed[directory + position] = value
        path.write_bytes(changed)
        with Archive(path) as archive, pytest.raises(ValueError, match=match):
            archive.check(["x"])


def test_what_is_too_large_is_refused_before_it_is_unpacked(tmp_path):
    path = written(tmp_path / "a.zip", ("x", bytes(3000)), ("y", bytes(3000)))
    one = r"a\.zip: 'x' holds 3,000 bytes in one file.*--max_file_bytes 3000"
    with raised(max_file_bytes=2000), Archive(path) as archive, pytest.raises(ValueError, match=one):
        archive.check(["x"])
    both = r"a\.zip holds 6,000 bytes unpacked"
    with raised(max_bytes=5000), Archive(path) as archive, pytest.raises(ValueError, match=both):
        archive.check(["x", "y"])
    path = written(tmp_path / "a.zip", *[(f"{k:0200}", b"") for k in range(4)])
    with raised(max_files=1), pytest.raises(ValueError, match=r"a\.zip holds .* files"):
        Archive(path)


def test_a_small_archive_that_says_to_be_large_is_refused(tmp_path):
    path = written(tmp_path / "a.zip", ("x", bytes(3000)))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = struct.pack("<I", 2**28 + 2**20)
    path.write_bytes(content)
    with Archive(path) as archive, pytest.raises(ValueError, match=r"times its size.*fill a disk"):
        archive.check(["x"])


@pytest.mark.parametrize("says", [100, 2999, 3001, 2**20])
def test_no_more_is_unpacked_than_the_directory_says(tmp_path, says):
    path = written(tmp_path / "a.zip", ("x", bytes(3000)))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = struct.pack("<I", says)
    path.write_bytes(content)
    with Archive(path) as archive:
        taken = []
        with pytest.raises(ValueError, match=r"^a\.zip: 'x' is damaged"):
            taken.extend(archive.blocks("x"))
        assert sum(map(len, taken)) <= says


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "zeros", "local header", "directory"])
def test_damage_names_the_archive(tmp_path, damage):
    path = written(tmp_path / "a.zip", ("x", bytes(range(256)) * 20))
    whole = path.read_bytes()
    directory = whole.index(b"PK\1\2")
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "text": b"<html>not found</html>",
            "zeros": whole[:60] + bytes(40) + whole[100:],
            "local header": b"XX" + whole[2:],
            "directory": whole[:directory] + bytes(4) + whole[directory + 4 :],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"^a\.zip.*damaged"), Archive(path) as archive:
        archive.read("x")


def test_an_archive_in_an_archive_stays_packed(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("x.png", b"x")
    with Archive(written(tmp_path / "a.zip", ("inner.zip", inner.getvalue()))) as archive:
        assert set(archive.members) == {"inner.zip"}
