"""Which names may come from data: of classes, channels, groups and sets, and ids.

A name ends up in configurations, where MONAI evaluates what begins with ``$``, ``@`` or ``%``, in spreadsheets, which
compute what begins with ``=``, ``+``, ``-`` or ``@``, in terminals and in labels that a person writes. What could be
read as something else there is refused where it comes in, so that nothing behind has to think of it.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from medssl_monai import limits

NOTHING = "none"
"""In place of the names of findings: all of them are absent."""

EVALUATED, COMPUTED = "$@%", "=+-"
ALONE = re.compile(r"[+-]|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Signs by themselves, as of a test's outcome, and plain numbers: no spreadsheet computes anything of them."""
REFERENCE = re.compile(r"[@%](::|#)")
"""MONAI replaces it wherever it is in a text, by the place of the text."""
SPECIAL = re.compile(r"_\w*_")
"""Keys that MONAI has a meaning for, such as ``_target_``."""
JOINERS = "\u200c\u200d"
"""Invisible signs that some scripts need between letters."""
LONGEST = 4_096
"""Signs of a name; no path is longer."""
CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of signs that break lines, turn the direction of a text, or are not seen."""
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def problem_of(name: object) -> str | None:
    """Return what is wrong with a name from data, as the end of a sentence; None if nothing is."""
    if not isinstance(name, str):
        return f"is no text but {type(name).__name__}"
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "begins or ends with a blank"
    if len(name) > LONGEST:
        return f"is longer than {LONGEST:,} signs"
    if not name.isprintable() and any(unicodedata.category(sign) in CONTROLS and sign not in JOINERS for sign in name):
        return "holds control characters"
    first = unicodedata.normalize("NFKC", name[0])[:1]  # there are wide forms of all of them
    if first in EVALUATED:
        return f"begins with {first!r}, which a configuration would evaluate"
    if first in COMPUTED and not ALONE.fullmatch(name):
        return f"begins with {first!r}, which a spreadsheet would compute"
    if found := REFERENCE.search(name):
        return f"holds {found[0]!r}, which a configuration would take for a reference"
    return None


def check_name(name: object, kind: str, where: str) -> None:
    """Refuse a name that could be read as something else.

    Args:
        name: from a table, a datalist, metadata or a label.
        kind: what it names: ``class``, ``id``, ``group``.
        where: begins the message: a file, and the place in it.

    Raises:
        ValueError: with the name and how to mend it.
    """
    if problem := problem_of(name):
        raise ValueError(f"{where}: the {kind} {shown(name)} {problem}; rename it.")


def check_classes(
    names: Sequence[object], kind: str, where: str, problem: Callable[[str], str | None] | None = None
) -> None:
    """Refuse names of classes that cannot be told apart, or that the text of a label cannot carry.

    Args:
        names: in the order of their index.
        kind: ``class``, ``finding`` or ``class of masks``.
        where: begins the message.
        problem: what else is wrong with a name, as the end of a sentence; None if nothing is.

    Raises:
        ValueError: with the first name that is refused, and how to mend it.
    """
    limits.check("max_classes", len(names), where)
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        check_name(name, kind, where)
        if (other := seen.setdefault(fold(str(name)), position)) != position:
            raise ValueError(
                f"{where}: the {kind} {shown(name)} is there as {shown(names[other])} already; give each its own name."
            )
        if problem is not None and (reason := problem(str(name))):
            raise ValueError(f"{where}: the {kind} {shown(name)} {reason}, as labels are written; rename it.")


def check_inert(content: Any, where: str) -> None:
    """Refuse nested values of which MONAI's configurations would evaluate something, or take it for their own syntax.

    Args:
        content: mappings and sequences of plain values, to be written to ``metadata.json`` or read from a file.
        where: begins the message.

    Raises:
        ValueError: with the first text or key of that kind.
    """
    left, seen = [content], set()
    while left:
        here = left.pop()
        if isinstance(here, str):
            if here.startswith(tuple(EVALUATED)) or REFERENCE.search(here):
                raise ValueError(f"{where}: {shown(here)} is a text that a configuration would evaluate; change it.")
        elif isinstance(here, Mapping | list | tuple | set) and id(here) not in seen:
            seen.add(id(here))
            if isinstance(here, Mapping):
                for key in here:
                    if isinstance(key, str) and (SPECIAL.fullmatch(key) or "::" in key or "#" in key):
                        raise ValueError(
                            f"{where}: {shown(key)} is a key that configurations have a meaning for; change it."
                        )
                left += here.keys()
            left += here.values() if isinstance(here, Mapping) else here


def shown(value: object) -> str:
    """Return a value from data as a message quotes it: short, in one line, without signs that are not seen."""
    return _BRIEF.repr(value)


def fold(text: str) -> str:
    """Return a text in which spellings that people take for one are equal: case, blanks, ways to write an accent."""
    seen = "".join(sign for sign in text if sign not in JOINERS)
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).casefold()).split())


def find(text: str, names: Iterable[str]) -> str | None:
    """Return the name that a person meant by `text`: as it is written, else the only one that is equal but for case."""
    there = list(names)
    if text in there:
        return text
    same = [name for name in there if fold(name) == fold(text)]
    return same[0] if len(same) == 1 else None


def natural(name: str | PurePath) -> list[tuple[int, int | str]]:
    """Return a sort key that puts ``slice2`` before ``slice10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", str(name))]
