"""PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def save_png(file: str | Path | BinaryIO, pixels: NDArray[Any], note: str = "", **options: Any) -> None:
    """Write pixels as a PNG file.

    Args:
        file: its path, or the open file.
        pixels: ``(rows, columns)`` or ``(rows, columns, 3)``, of 8 bits, or of 16 in grey.
        note: goes to the header as a comment.
        **options: of Pillow, such as ``compress_level``.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    comment = PngInfo()
    if note:
        comment.add_text("Comment", note)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", pnginfo=comment, **options)
