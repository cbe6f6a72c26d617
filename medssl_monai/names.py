"""Which names may come from data: of classes, channels, groups and sets, and ids.

A name ends up in configurations, where MONAI evaluates what begins with ``$``, ``@`` or ``%``, in spreadsheets, which
compute what begins with ``=``, ``+``, ``-`` or ``@``, in terminals and in labels that a person writes. What could be
read as something else there is refused where it comes in, so that nothing behind has to think of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from medssl_monai import limits

NOTHING = "none"
"""In place of the names of findings: all of them are absent."""

EVALUATED, COMPUTED = "$@%", "=+-"
ALONE = re.compile(r"[+-]|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Signs by themselves, as of a test's outcome, and plain numbers: no spreadsheet computes anything of them."""
INVISIBLE = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C, 0xFEFF}
"""Marks that change the direction of a text, so that it is not what it looks like."""
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}


def problem_of(name: object) -> str | None:
    """What is wrong with a name from data, as the end of a sentence; None if nothing is."""
    if not isinstance(name, str):
        return f"is no text but {type(name).__name__}"
    if not name.strip():
        return "is empty"
    if name != name.strip():
        return "begins or ends with a blank"
    if any(unicodedata.category(sign) in CONTROLS or ord(sign) in INVISIBLE for sign in name):
        return "holds control characters"
    first = unicodedata.normalize("NFKC", name)[0]  # there are wide forms of all of them
    if first in EVALUATED:
        return f"begins with {first!r}, which a configuration would evaluate"
    if first in COMPUTED and not ALONE.fullmatch(name):
        return f"begins with {first!r}, which a spreadsheet would compute"
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
        raise ValueError(f"{where}: the {kind} {name!r} {problem}; rename it.")


def check_classes(names: Sequence[object], kind: str, where: str, findings: bool = False) -> None:
    """Refuse names of classes that cannot be told apart, or that the text of a label cannot carry.

    Args:
        names: in the order of their index.
        kind: ``class``, ``finding`` or ``class of masks``.
        where: begins the message.
        findings: several may apply to one image, so that a label is written as a list: ``effusion; ?mass``.

    Raises:
        ValueError: with the first name that is refused, and how to mend it.
    """
    limits.check("max_classes", len(names), where)
    seen: dict[str, object] = {}
    for name in names:
        check_name(name, kind, where)
        if (other := seen.setdefault(fold(str(name)), name)) is not name or list(names).count(name) > 1:
            raise ValueError(f"{where}: the {kind} {name!r} is there as {other!r} already; give each its own name.")
        if findings and (reason := _unwritable(str(name))):
            raise ValueError(f"{where}: the {kind} {name!r} {reason}, as labels are written; rename it.")


def _unwritable(finding: str) -> str | None:
    if fold(finding) == NOTHING:
        return "would mean that nothing is there"
    if ";" in finding:
        return "holds ';', which stands between findings"
    return "begins with '?', which stands before what is unknown" if finding.startswith("?") else None


def fold(text: str) -> str:
    """A text in which spellings that people take for the same are equal: case, blanks, ways to write an accent."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def find(text: str, names: Iterable[str]) -> str | None:
    """The name that a person meant by `text`: as it is written, else the only one that is equal but for case."""
    there = list(names)
    if text in there:
        return text
    same = [name for name in there if fold(name) == fold(text)]
    return same[0] if len(same) == 1 else None
