"""Errors of files that are not read, and the bounds of their size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl_monai.limits import check_voxels

CUT_SHORT = "is cut short; copy it anew from its source"


class RefusedError(ValueError):
    """A file is refused that is whole, or whose header cannot be true; the message quotes nothing of it."""


class UnreadableImageError(ValueError):
    """A file cannot be read as an image.

    Attributes:
        path: which one; it may name a person, so logs and reports name the item's id and `reason` instead.
        reason: what is wrong and how to mend it, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


def check_bound(shape: Sequence[int]) -> None:
    """Refuse an image of more voxels than are read (`medssl_monai.limits`).

    Raises:
        RefusedError: which names what raises the bound.
    """
    try:
        check_voxels(shape, "it")
    except ValueError as error:
        raise RefusedError(str(error).removesuffix(".")) from None


def check_size(shape: Sequence[int]) -> None:
    """Refuse an image that has no voxels, or more than are read, by what the header says.

    Raises:
        RefusedError: which says how to mend it.
    """
    if min(shape) < 1:
        raise RefusedError(f"it says that it has {' x '.join(map(str, shape))} voxels; it is damaged")
    check_bound(shape)
