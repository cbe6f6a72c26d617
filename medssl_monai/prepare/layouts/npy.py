"""NumPy's files: nothing in them is evaluated, and no more memory is taken than their size allows."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medssl_monai import limits
from medssl_monai.files import check_file
from medssl_monai.prepare.layouts.dataset import Array
from medssl_monai.prepare.layouts.zips import Archive

HEAD = re.compile(
    rb"\{\s*'descr':\s*'(?P<type>[<>|=]?[biufSU][0-9]{1,9})',\s*'fortran_order':\s*(?P<fortran>True|False),"
    rb"\s*'shape':\s*\((?P<shape>[0-9L, ]{0,200})\),?\s*\}\s*"
)
"""As `numpy.save` writes it, of numbers and of text; objects and records do not fit."""
OBJECTS = re.compile(rb"'descr':\s*('[<>|=]?O|\[)")
LONGEST = 2**16


class _Header(NamedTuple):
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def read_npy(path: Path) -> Array:
    """Map a ``.npy`` file to memory, read-only.

    Raises:
        ValueError: if it is no such file of numbers or texts, or is cut short.
    """
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = _header(file.read(LONGEST), size, path.name)
    if not math.prod(head.shape):
        return np.empty(head.shape, head.dtype)
    return np.memmap(path, head.dtype, "r", head.offset, head.shape, "F" if head.fortran else "C")


def read_member(archive: Archive, name: str) -> Array:
    """Read an array of a ``.npz``.

    Raises:
        ValueError: if it is too large, damaged, or holds other things than numbers or texts.
    """
    member = f"{name}.npy"
    archive.check([member], "max_bytes")
    size, what = archive.members[member].file_size, f"{archive.name}: the array {name!r}"
    head = _header(next(archive.blocks(member), b""), size, what)
    if not math.prod(head.shape):
        return np.empty(head.shape, head.dtype)
    array = np.frombuffer(archive.read(member), head.dtype, offset=head.offset)
    array = array.reshape(head.shape, order="F" if head.fortran else "C")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _header(content: bytes, size: int, what: str) -> _Header:
    """Return what the first bytes say of an array, checked against the size of the whole."""
    version = content[6:8]
    width = {b"\1\0": 2, b"\2\0": 4}.get(version, 0)
    if not content.startswith(b"\x93NUMPY") or not width:
        raise ValueError(f"{what} cannot be read as an array of numbers: it is none, or damaged; write it anew.")
    offset = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    header = HEAD.fullmatch(content[8 + width : offset]) if offset <= len(content) else None
    if header is None:
        kind = "it holds objects or records" if OBJECTS.search(content[:256]) else "its header is damaged"
        raise ValueError(f"{what} cannot be read as an array of numbers: {kind}; save numbers or texts.")
    try:
        dtype = np.dtype(header["type"].decode())
        shape = tuple(int(side.removesuffix(b"L")) for side in header["shape"].replace(b" ", b"").split(b",") if side)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} has a type or shape that is none ({error}); save it anew.") from None
    limits.check("max_rows", shape[0] if shape else 1, what)
    if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != size - offset:
        raise ValueError(f"{what} is damaged: a shape of {shape} does not fit its {size - offset} bytes; copy it anew.")
    return _Header(dtype, shape, header["fortran"] == b"True", offset)
