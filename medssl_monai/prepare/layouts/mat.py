"""MATLAB's files of version 5 to 7: arrays of numbers, and nothing else of what they can hold."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from medssl_monai import limits
from medssl_monai.prepare.layouts.dataset import Array

HEADER, COMPRESSED, MATRIX, COMPLEX = 128, 15, 14, 0x800
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types as they lie in the file, which may be smaller than those of the arrays."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
HEAD = 1024
"""Bytes in which an array's type, shape and name are found."""


def read_mat(path: Path, names: Collection[str]) -> dict[str, Array]:
    """Read the named arrays of numbers of a file; all others are passed over unread.

    `scipy.io.loadmat` crashes on some damaged files, hence this small reader.

    Raises:
        ValueError: if it is no such file, is damaged or too large.
    """
    limits.check("max_file_bytes", path.stat().st_size, path.name)
    content = path.read_bytes()
    if content.startswith(b"\x89HDF") or content[124:128] in (b"\0\2IM", b"\2\0MI"):
        raise ValueError(f"{path.name} is a MATLAB file of version 7.3; save it with `-v7`.")
    if content[124:128] not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError(f"{path.name} is no MATLAB file of version 5 to 7; download it anew.")
    order = "<" if content[126:128] == b"IM" else ">"
    arrays: dict[str, Array] = {}
    position = HEADER
    try:
        while position < len(content):
            kind, element, position = _element(memoryview(content), position, order, padded=False)
            name, array = _matrix(kind, element, order, names, len(content), path.name)
            if array is not None:
                arrays[name] = array
    except (struct.error, zlib.error, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path.name} is no MATLAB file, or damaged ({error}); download it anew.") from error
    return arrays


def _element(content: memoryview, start: int, order: str, padded: bool = True) -> tuple[int, memoryview, int]:
    """Return type and content of an element, and where the next begins; a small one has both in 8 bytes."""
    kind, size = struct.unpack_from(f"{order}II", content, start)
    if kind >> 16:
        kind, size, start = kind & 0xFFFF, kind >> 16, start - 4
        following = start + 12
    else:
        following = start + 8 + (-(-size // 8) * 8 if padded else size)
    if size > len(content) - start - 8:
        raise struct.error("cut short")
    return kind, content[start + 8 : start + 8 + size], following


def _matrix(
    kind: int, element: memoryview, order: str, wanted: Collection[str], packed: int, file: str
) -> tuple[str, Array | None]:
    """Return name and values of an array; None for values that are not wanted or no real numbers."""
    unpacker = zlib.decompressobj()
    content, size = element, len(element)
    if kind == COMPRESSED:
        unpacked = unpacker.decompress(element, HEAD)
        kind, size = struct.unpack_from(f"{order}II", unpacked)
        content = memoryview(unpacked)[8:]
    if kind != MATRIX:
        return "", None
    _, flags, position = _element(content, 0, order)
    _, sides, position = _element(content, position, order)
    _, text, position = _element(content, position, order)
    name, (word,) = bytes(text).decode("latin-1"), struct.unpack_from(f"{order}I", flags)
    dtype = CLASSES.get(word & 0xFF)
    if name not in wanted or dtype is None or word & COMPLEX:
        return name, None
    shape = [side for (side,) in struct.iter_unpack(f"{order}i", sides)]
    count = math.prod(shape)
    if min(shape, default=-1) < 0 or len(shape) > 8 or size > 8 * count + HEAD:
        raise struct.error(f"the shape {shape} in {size} bytes")
    limits.check_unpacked(max(size, count * np.dtype(dtype).itemsize), packed, f"{file}: {name!r}")
    if element.obj is not content.obj:
        rest = unpacker.decompress(unpacker.unconsumed_tail, max(size - len(content), 1))
        content = memoryview(bytes(content) + rest)
    stored, values, _ = _element(content, position, order)
    array = np.frombuffer(values, order + STORED[stored]) if values else np.empty(0)
    if array.size != count:
        raise struct.error(f"{array.size} values for the shape {shape}")
    return name, array.astype(dtype).reshape(shape, order="F")
