"""Image files whose end is missing."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from medssl_monai.readers.formats import image_format
from medssl_monai.readers.nifti import nifti_cut_short, open_nifti

JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""But for those within the picture's data."""


def is_cut_short(path: Path) -> bool:
    """Return whether the end of a file is missing, as far as its header tells."""
    kind = image_format(path)
    if kind in ("PNG", "JPEG"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return not (_png_ends if kind == "PNG" else _jpeg_ends)(content)
    if kind == "DICOM":
        return False  # `find_series` has looked
    return nifti_cut_short(open_nifti(path), path)


def _png_ends(content: mmap.mmap) -> bool:
    """Return whether the last chunk is there; what follows it is no part of the picture."""
    at = 8
    while at + 12 <= len(content):
        kind, at = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        if kind == b"IEND":
            return at <= len(content)
    return False


def _jpeg_ends(content: mmap.mmap) -> bool:
    """Return whether the marker of the end follows the segments, in which a thumbnail may have its own."""
    at = 2
    while marker := JPEG_MARKER.search(content, at):
        if marker[1] == b"\xd9":
            return True
        at = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2]))
    return False
