"""Words and names by which data sets say things: sections, empty cells, suffixes, columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

SECTION_NAMES = {
    **{"train": "training", "training": "training", "test": "testing", "testing": "testing"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
}
CONTRADICTION = "\0"
"""In place of a cell: rows of one image contradict each other there."""
EMPTY = {"", "na", "n/a", "nan", "none", "null", "?"}
"""Cells that say nothing, in lower case."""
SUFFIX = re.compile(r"\.(png|jpe?g|dcm|dicom|ima|nii|nii\.gz)$", re.IGNORECASE)
KERMANY = re.compile(r"(?P<patient>person\d+|(?:NORMAL2-)?IM-\d+)[_-]")


def tidy(text: str) -> str:
    """Return ``1`` for the ``1.0`` that a table with empty cells is often saved with."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def first(header: Sequence[str], *names: str) -> str | None:
    """Return the first of the names that the header has, whatever its case, blanks, ``_`` and ``-``; else None.

    Raises:
        ValueError: if several columns are called so but for these.
    """
    for name in names:
        same = [column for column in header if _letters(column) == _letters(name)]
        if len(same) > 1:
            raise ValueError(f"the columns {same[0]!r} and {same[1]!r} may both be {name!r}; rename or remove one.")
        if same:
            return same[0]
    return None


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()
