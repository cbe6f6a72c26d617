"""Names and numbers as people write them in the cells of a table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medssl_monai.names import ALONE, find

NUMBER = re.compile(r"([+-]?[0-9]{1,9})(\.0+)?")
"""A whole number, also as spreadsheets and data frames write it; no other sign that Unicode takes for a digit."""


def meant(text: str, names: Sequence[str]) -> int | None:
    """Return the index of a name that is written in any case, or of a name that reads as the same number."""
    if (name := find(text, names)) is not None:
        return list(names).index(name)
    number = NUMBER.fullmatch(text)
    same = [
        k
        for k, name in enumerate(names)
        if number and (own := NUMBER.fullmatch(name)) and int(own[1]) == int(number[1])
    ]
    return same[0] if len(same) == 1 else None


def are_numbers(names: Sequence[str]) -> bool:
    """Whether a name is a number, so that numbers in a cell are names and no indices."""
    return any(ALONE.fullmatch(name) and name not in ("+", "-") for name in names)


def numbers(text: str) -> list[int]:
    """Return the whole numbers between blanks; none if anything else is among them."""
    found = [NUMBER.fullmatch(part) for part in text.split()]
    return [int(match[1]) for match in found if match] if all(found) else []


def index_of(text: str, names: Sequence[str]) -> int | None:
    """Return the index that a cell means, by a name or a number; None if it means none.

    Where a name is a number, numbers are names and no indices: ``1`` is the class of that name, or ``1.0`` or ``01``,
    as spreadsheets change them.
    """
    if (index := meant(text, names)) is not None:
        return index
    found = numbers(text)
    return found[0] if len(found) == 1 and not are_numbers(names) else None
