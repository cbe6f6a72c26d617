"""Labels in words, and whether two of them contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def contradict(first: Any, second: Any) -> bool:
    """Return whether two labels cannot both be right.

    Unknown findings contradict nothing, nor do the paths of masks.
    """
    if isinstance(first, list) and isinstance(second, list):
        return any(a != b and min(a, b) >= 0 for a, b in zip(first, second, strict=False))
    return first != second and not any(label is None or isinstance(label, str) for label in (first, second))


def label_text(label: Any, classes: Sequence[str]) -> str | None:
    """Return a label in words, None if there is no label."""
    names = dict(enumerate(classes))
    if isinstance(label, list):
        return ", ".join(names.get(k, str(k)) for k, value in enumerate(label) if value == 1) or "no finding"
    if label is None or isinstance(label, str):
        return "mask" if label else None
    return names.get(label, str(label))
