"""A file of decoded images: pixels, a table of what each image was made from, and checksums of both."""

from __future__ import annotations

import logging
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.data.item_files import KEY, STATE

logger = logging.getLogger(__name__)

Array = NDArray[Any]
END = 8
"""Bytes of the two checksums at the end."""


@dataclass(frozen=True)
class Pack:
    """A pack as it lies on disk.

    Attributes:
        path: of the file.
        images: ``(N, C, *spatial)``, mapped into memory.
        states: of each row, which file it was made from.
        keys: of each row, what its pixels depend on; `NO_KEY` if it has no image.
        header_crc: checksum of what precedes the pixels.
        crc: checksum of that and of the pixels.
    """

    path: Path
    images: Array
    states: list[bytes]
    keys: list[bytes]
    header_crc: int
    crc: int

    @classmethod
    def open(cls, path: Path) -> Pack | None:
        """Open a pack; None if there is none, or its size, header or table is damaged."""
        if not path.is_file():
            if path.exists():  # a pipe would never end
                _discard(path)
            return None
        try:
            mapped = np.lib.format.open_memmap(path, mode="c")  # copy-on-write: torch wants to be able to write
            with path.open("rb") as file:
                header = file.read(mapped.offset)
                file.seek(mapped.nbytes, os.SEEK_CUR)
                table, crc, seal = _split(file.read())
            sound = zlib.crc32(table + crc).to_bytes(4) == seal and len(table) == len(mapped) * (STATE + KEY)
        except OSError:
            return None
        except Exception:  # numpy takes a header for Python, and fails on what else may stand there in any way
            sound = False
        if not sound:
            _discard(path)
            return None
        rows = [table[start : start + STATE + KEY] for start in range(0, len(table), STATE + KEY)]
        images = np.asarray(mapped)  # indexing a memmap is slow
        states, keys = [row[:STATE] for row in rows], [row[STATE:] for row in rows]
        return cls(path, images, states, keys, zlib.crc32(header), int.from_bytes(crc))

    def is_sound(self) -> bool:
        """Tell whether the pixels are those that were written; reads them all, from front to back."""
        try:
            sound = zlib.crc32(self.images.data.cast("B"), self.header_crc) == self.crc
        except (TypeError, ValueError, BufferError):  # of another order or type than what is written
            sound = False
        if not sound:
            _discard(self.path)
        return sound


def _split(end: bytes) -> tuple[bytes, bytes, bytes]:
    """Split what follows the pixels: table, checksum of all before the table, checksum of these two."""
    return end[:-END], end[-END:-4], end[-4:]


def _discard(path: Path) -> None:
    logger.warning("A file of the image cache is damaged; it is deleted, and its images are read anew.")
    with suppress(OSError):
        path.unlink()
