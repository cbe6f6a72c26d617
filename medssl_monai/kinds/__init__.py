"""The kinds of labels, and the one place that chooses one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medssl_monai.kinds.base import Kind, Label, Read
from medssl_monai.kinds.classes import Classes
from medssl_monai.kinds.findings import Findings
from medssl_monai.kinds.grades import Grades
from medssl_monai.kinds.masks import Masks
from medssl_monai.kinds.scores import Scores
from medssl_monai.kinds.threshold import Threshold

__all__ = [
    "DEFAULT",
    "KINDS",
    "Classes",
    "Findings",
    "Kind",
    "Label",
    "Masks",
    "Read",
    "Scores",
    "Threshold",
    "chosen_kind",
    "kind_named",
    "kind_of",
]

KINDS: dict[str, type[Kind]] = {
    kind.word: kind
    for kind in (
        Classes,
        Findings,
        Masks,
        Grades,
    )
}
"""Kinds by the word that names them in files and configurations; another package may add its own."""

DEFAULT: type[Kind] = Classes
"""Taken where neither a datalist nor a file nor a configuration tells."""


def kind_named(word: object, names: Sequence[str] = ()) -> Kind:
    """Return the kind of a word.

    Raises:
        ValueError: if there is no such kind.
    """
    if not isinstance(word, str) or word not in KINDS:
        raise ValueError(f"a kind of label is one of {sorted(KINDS)}, got {word!r}.")
    return KINDS[word](tuple(names))


def kind_of(values: Iterable[object], names: Sequence[str] = ()) -> Kind | None:
    """Return the kind that the first value looks like; None if there is none, or it looks like nothing."""
    first = next((value for value in values if value is not None), None)
    found = [kind(tuple(names)) for kind in KINDS.values() if first is not None and kind.recognizes(first)]
    return found[0].fitted(Label(first)) if len(found) == 1 else None


def chosen_kind(said: Kind | str, values: Iterable[object], names: Sequence[str] = (), saved: str = "") -> Kind:
    """Return the kind that is said, or that values look like, or that a file of labels says; else the default.

    Args:
        said: a kind, or its word; empty: nobody said any.
        values: of a datalist.
        names: of the classes, findings or structures; a kind that is said has its own.
        saved: word of a file of labels; empty if there is none.

    Raises:
        ValueError: if there is no such kind.
    """
    if isinstance(said, Kind):
        return said
    known = list(values)
    if said:
        kind = kind_named(said, names)
        return kind.fitted(Label(known[0])) if known else kind
    return kind_of(known, names) or (kind_named(saved, names) if saved else DEFAULT(tuple(names)))
