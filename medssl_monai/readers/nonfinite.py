"""Voxels that are no numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medssl_monai.options import Nan
from medssl_monai.readers.grids import Array


class NonFinite(NamedTuple):
    """The voxels of an image that are no numbers.

    Attributes:
        nan: how many are NaN.
        inside: how many of these are not connected with the border.
        infinite: how many are infinite.
        total: voxels of the image, in all channels.
    """

    nan: int
    inside: int
    infinite: int
    total: int

    def problem(self, nan: Nan) -> str | None:
        """Say why the image is refused; None if it is not."""
        if nan == "background" and self.background:
            return None
        kinds = {"NaN": self.nan, "NaN inside": self.inside, "infinite": self.infinite}
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        hint = ", or read NaN at the border as background (`nan: background`)" if self.background else ""
        return f"holds NaN or infinite voxels ({told}, of {self.total:,}); mend it{hint}."

    @property
    def background(self) -> bool:
        """Tell whether it is nothing but NaN around an image."""
        return not self.inside and not self.infinite and self.nan < self.total


def find_nonfinite(array: Array) -> tuple[NonFinite, Array] | None:
    """Count the voxels that are no numbers; None if there are none.

    Args:
        array: ``(C, *spatial)``.

    Returns:
        The counts, and which voxels are NaN that is connected with the border, ``(C, *spatial)``.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    from scipy.ndimage import generate_binary_structure, label

    nan = np.isnan(array)
    infinite = int(np.isinf(array).sum())
    outer = np.zeros_like(nan)
    for channel, own in zip(nan, outer, strict=True):
        parts, _ = label(channel, generate_binary_structure(channel.ndim, channel.ndim))
        faces = [np.take(parts, end, axis).ravel() for axis in range(parts.ndim) for end in (0, -1)]
        own[...] = np.isin(parts, np.setdiff1d(np.concatenate(faces), 0))
    return NonFinite(int(nan.sum()), int((nan & ~outer).sum()), infinite, nan.size), outer
