import zipfile

import numpy as np
import pytest

from medssl_monai.limits import raised
from medssl_monai.prepare.layouts.npy import read_member, read_npy
from medssl_monai.prepare.layouts.zips import Archive


def npy(header, data=b"", version=b"\1\0"):
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + data


def described(kind="|u1", shape="(3,)", fortran="False"):
    return f"{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize("kind", ["u1", "<i4", ">i4", ">f8", "?", "S3", "U5"])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (0, 4), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_as_numpy_writes_them(tmp_path, kind, shape, order):
    array = np.array(np.arange(np.prod(shape, dtype=int)).reshape(shape), dtype=kind, order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    with Archive(tmp_path / "a.npz") as archive:
        for read in (read_npy(tmp_path / "a.npy"), read_member(archive, "a")):
            assert read.shape == array.shape
            assert read.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
            assert np.array_equal(read, array)


def test_headers_of_other_versions_and_of_python_2(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(described(shape="(3L, 1L)"), b"abc", b"\2\0"))
    assert read_npy(tmp_path / "a.npy").tolist() == [[97], [98], [99]]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "damaged"),
        (b"PK\3\4", "damaged"),
        (npy(described())[:20], "header is damaged"),
        (npy(described(), b"ab"), r"a shape of \(3,\) does not fit its 2 bytes"),
        (npy(described(), b"abcd"), "does not fit its 4 bytes"),
        (npy(described(shape="(9000000000000000000, 9000000000000000000)")), "rows"),
        (npy(described(shape="(1, 9000000000000000000)"), b"abc"), "does not fit"),
        (npy(described(shape="(6000000, 0)")), "holds 6,000,000 rows"),
        (npy(described(shape="(1 2,)"), b"abc"), "does not fit"),
        (npy(described(shape="(L,)"), b"abc"), "none"),
        (npy(described(shape="(-3,)"), b"abc"), "header is damaged"),
        (npy(described(shape="((((((((3,))))))))"), b"abc"), "header is damaged"),
        (npy(described(kind="|S0")), "does not fit"),
        (npy(described(kind="<u3"), b"abc"), "type or shape that is none"),
        (npy(described(kind="<U999999999"), b"abc"), "none|does not fit"),
        (npy(described(kind="|O"), b"abc"), "objects or records"),
        (npy(b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }\n", b"a" * 8), "objects or records"),
        (
            npy(b"{'descr': __import__('os').mkdir('x'), 'fortran_order': False, 'shape': (1,), }\n"),
            "header is damaged",
        ),
        (npy(b"-" * 60_000 + b"1"), "header is damaged"),
        (npy(described(), b"abc", b"\3\0"), "damaged"),
    ],
)
def test_damaged_and_hostile_files_are_named(tmp_path, content, match):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^a\.npy.*{match}"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", content)
    with Archive(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match=rf"^a\.npz.*'x'.*{match}"):
        read_member(archive, "x")


def test_arrays_of_an_archive_are_bounded_together(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2000, np.uint8), y=np.zeros(2000, np.uint8))
    with raised(max_bytes=3000), Archive(tmp_path / "a.npz") as archive:
        assert len(read_member(archive, "x")) == 2000
        with pytest.raises(ValueError, match=r"a\.npz holds 4,256 bytes unpacked.*--max_bytes 4256"):
            read_member(archive, "y")
