"""PNG and JPEG."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.readers.formats import image_format
from medssl_monai.readers.grids import COLOURED, Decoded, plane
from medssl_monai.readers.refusals import RefusedError, check_size

PILLOW_MODES = {"1": "1", "L": "L", "LA": "L", "I": "I", "I;16": "I;16", "I;16B": "I;16B", "F": "F"}  # others: RGB
ORIENTATION = 274
"""EXIF tag: which of Pillow's `Image.Transpose` makes the stored picture upright."""
UPRIGHT = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"},
    **{7: "TRANSVERSE", 8: "ROTATE_90"},
}
TURNED = "turned upright, as its EXIF orientation says and viewers show it; so must its mask be"


def open_picture(path: Path) -> Any:
    """Open a picture as the format that its content tells; its pixels are not decoded yet.

    Raises:
        RefusedError: if it is too large, an animation, or has colours of 16 bits.
    """
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EXIF that is damaged
        image = (PngImageFile if image_format(path) == "PNG" else JpegImageFile)(path)  # no bound but ours
    try:
        check_size((*image.size, len(image.getbands())))
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise RefusedError(f"it is an animation of {frames} pictures; save the one that is meant by itself")
        bits = _png_bits(path)
        if bits == 16 and image.mode in ("LA", "RGB", "RGBA"):
            raise RefusedError("it has colours or transparency of 16 bits; save it in grey, or with 8 bits")
    except BaseException:
        image.close()
        raise
    return image


def _png_bits(path: Path) -> int:
    """Return the bits of a sample, as the header tells; 0 for a JPEG."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(b"\x89PNG") and len(head) == 25 else 0


def read_picture(path: Path, indexed: bool = False) -> Decoded:
    """Read a picture upright, of 8 bits if it has colours.

    Args:
        path: of a PNG or JPEG file.
        indexed: read the index of a pixel in place of its colour, where the picture has a palette.
    """
    from PIL import Image

    with open_picture(path) as image:
        mode = "P" if indexed and image.mode == "P" else PILLOW_MODES.get(image.mode, "RGB")
        image.info.pop("transparency", None)  # is dropped, and Pillow warns of some kinds
        turn = UPRIGHT.get(_orientation(image))
        upright = image.transpose(Image.Transpose[turn]) if turn else image
        array = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    array = array.astype(np.uint8) if array.dtype == bool else array  # a 1-bit mask stays 0 and 1
    array = array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    grid = plane(np.full(2, np.nan))
    return array, len(array) in COLOURED, grid, (grid[0], np.array(array.shape[1:]))


def _orientation(image: Any) -> int:
    """Return the orientation by EXIF; 1, upright, where that is missing or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of any kind: a viewer shows such a picture as it is stored
        return 1


def count_picture(path: Path) -> None:
    """Return None, as a picture has no slices; refuse what cannot be read."""
    with open_picture(path):
        pass


def notes_on_picture(path: Path) -> list[str]:
    """Say whether a picture is turned to be upright."""
    with open_picture(path) as image:
        return [TURNED] if _orientation(image) in UPRIGHT else []
