"""Arrays of pixels, and the grids on which they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Grid = tuple[Array, Array]
"""Affine (4, 4) in mm to RAS, and spacing along each spatial axis in mm (NaN: unknown)."""
Decoded = tuple[Array, bool, Grid, Grid]
"""Pixels ``(C, x, y[, z])``, whether their channels are colours, their grid, and affine and shape of the file's own."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NO_SPACING = "pixel spacing is missing or zero; taken as 1 mm"
COLOURED = (3, 4)
"""Channels of colours: red, green and blue, and transparency."""


def plane(spacing: Array) -> Grid:
    """Return the grid of an image in its own plane, or of a volume that does not say where it lies.

    Args:
        spacing: of two or three axes, in mm; NaN: unknown, and 1 mm in the affine.
    """
    size = np.nan_to_num(spacing, nan=1.0)
    return np.diag([*size, *[1.0] * (4 - len(size))]), spacing
