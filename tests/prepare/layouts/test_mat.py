import io
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from medssl_monai.prepare.layouts.mat import read_mat


def content_of(compressed=False, **arrays):
    file = io.BytesIO()
    savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


def read(tmp_path, content, *names):
    path = tmp_path / "train.mat"
    path.write_bytes(content)
    return read_mat(path, names)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "u8", "f4", "f8"])
def test_arrays_as_scipy_writes_them(tmp_path, compressed, kind):
    array = np.arange(2 * 3 * 700).reshape(2, 3, 700).astype(kind)
    content = content_of(compressed, other="text", X=array, y=np.array([[3]], kind), z={"a": 1})
    found = read(tmp_path, content, "X", "y", "z", "other")
    assert set(found) == {"X", "y"}
    assert found["X"].dtype == array.dtype
    assert np.array_equal(found["X"], array)
    assert found["y"].tolist() == [[3]]


def test_numbers_that_matlab_stored_smaller_and_big_endian(tmp_path):
    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    inside = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 3, 1)) + element(1, b"digits")
    matrix = element(14, inside + element(2, bytes([10, 1, 9])))  # class double, stored in bytes
    found = read(tmp_path, b"MATLAB 5.0".ljust(124) + b"\1\0MI" + matrix, "digits")
    assert found["digits"].dtype == np.float64
    assert found["digits"].tolist() == [[10], [1], [9]]


def zeros(count):
    """An array X of so many bytes that are zero, compressed, with a shape to match."""
    shape = struct.pack("<4i", 32, 32, 3, count // 3072)
    head = (
        struct.pack("<IIIIII", 6, 8, 9, 0, 5, 16)
        + shape
        + struct.pack("<HH4s", 1, 1, b"X")
        + struct.pack("<II", 2, count)
    )
    packer = zlib.compressobj(9)
    data = packer.compress(struct.pack("<II", 14, len(head) + count) + head)
    data += b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()  # all of it is never asked for
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data


def damaged(**changes):
    content = bytearray(content_of(X=np.zeros((32, 32, 3, 4), np.uint8), y=np.ones((4, 1), np.uint8)))
    for position, value in changes.items():
        content[int(position[1:]) : int(position[1:]) + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is no MATLAB file of version 5"),
        (bytes(200), "is no MATLAB file of version 5"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "version 7.3; save it with `-v7`"),
        (b"MATLAB 7.3".ljust(124) + b"\0\2IM", "version 7.3; save it with `-v7`"),
        (damaged()[:5000], "damaged"),
        (damaged(_132=b"\xff\xff\xff\xff"), "damaged"),
        (damaged(_160=b"\xff\xff\xff\xff"), "damaged"),
        (damaged(_160=struct.pack("<4i", 2**30, 2**30, 2**30, 4)), "bytes unpacked"),
        (damaged(_160=struct.pack("<4i", 32, 32, 3, 3)), "damaged"),
        (damaged(_184=b"\xff\xff\xff\x0f"), "damaged"),
        (content_of(True, X=np.arange(30_000))[:1000], "damaged"),
        (zeros(3 * 10**9 // 3072 * 3072), "would unpack to 2,999,.* bytes"),
    ],
)
def test_damaged_and_hostile_files_are_named(tmp_path, content, match):
    with pytest.raises(ValueError, match=rf"^train\.mat.*{match}"):
        read(tmp_path, content, "X", "y")
