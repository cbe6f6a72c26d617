"""Files of labels: what they hold, and how large they may be."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Literal

from monai.utils import optional_import
from PIL import Image

nib, _ = optional_import("nibabel")  # its functions are untyped

Form = Literal["class", "mask"]
NRRD = (".nrrd", ".seg.nrrd")
CLASS_BYTES = 2**20
"""The most that the JSON of a label may take."""


def form_of(file: str | Path) -> Form:
    """Return what a label file holds: JSON a class or findings, everything else a mask."""
    return "class" if str(file).lower().endswith(".json") else "mask"


class TooLargeError(ValueError):
    """A label that is not read."""


def check_size(file: Path, most: int) -> None:
    """Refuse a label by its size, and by that of the pixels that its header announces, before it is decoded.

    Args:
        file: as it came.
        most: megabytes (MiB); of classes, `CLASS_BYTES` are the most in any case.

    Raises:
        TooLargeError: with what raises the bound.
    """
    size, bound = file.stat().st_size, most * 2**20
    if form_of(file) == "class":
        if size > CLASS_BYTES:
            raise TooLargeError(f"the label has {size:,} bytes, and classes take {CLASS_BYTES:,} at most.")
        return
    size = max(size, _announced(file) if size <= bound else 0)
    if size > bound:
        raise TooLargeError(
            f"the label takes {math.ceil(size / 2**20):,} MB, and this server reads {most:,}; if this is meant, start "
            f"it with `--conf label_mb {math.ceil(size / 2**20)}`."
        )


def _announced(file: Path) -> int:
    """Return the bytes of the pixels by the header alone; 0 where that cannot be read, as its decoder will say."""
    try:
        if file.name.lower().endswith(NRRD):
            return _announced_by_nrrd(file)
        if file.name.lower().endswith((".nii", ".nii.gz")):
            image = nib.load(file)
            return math.prod(max(int(side), 0) for side in image.shape) * int(image.get_data_dtype().itemsize)
        with Image.open(file) as picture:
            return math.prod(picture.size) * len(picture.getbands())
    except Image.DecompressionBombError:
        return sys.maxsize
    except Exception:  # of any kind
        return 0


def _announced_by_nrrd(file: Path) -> int:
    """Return the bytes by the header. Axes of components are among the sizes; eight bytes a value are the most."""
    with file.open("rb") as stream:
        head = stream.read(2**16).partition(b"\n\n")[0].decode("latin-1")
    fields = dict(re.findall(r"^(sizes|type): *(.+?) *$", head, re.MULTILINE))
    small = re.search(r"char|int8|(?<!\d)8", fields.get("type", ""))
    return math.prod(int(side) for side in fields["sizes"].split()) * (1 if small else 8)
