"""Labels in the cells of a table: a class, or several findings."""

from __future__ import annotations

from collections.abc import Sequence

from medssl_monai import limits
from medssl_monai.names import find, natural
from medssl_monai.options import Policy
from medssl_monai.prepare.layouts.conventions import CONTRADICTION, EMPTY, tidy
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.tables import Row

POLICIES = {"ignore": -1, "zero": 0, "one": 1}


class Labeler:
    """Reads the label of a row: a class index, or a multi-hot list.

    Args:
        rows: of all images.
        columns: of the labels; several are findings.
        class_name: the column with the names of the classes, or None.
        request: names classes, perhaps, and says what uncertain and missing findings count as.

    Raises:
        ValueError: if there are more or fewer names than columns.
    """

    def __init__(self, rows: Sequence[Row], columns: tuple[str, ...], class_name: str | None, request: Request) -> None:
        self.columns, self.request = columns, request
        if len(columns) > 1:
            self.classes = request.classes or columns
            self.index: dict[str, int] = {}
            if len(self.classes) != len(columns):
                raise ValueError(f"{len(self.classes)} classes are named for {len(columns)} label columns.")
        else:
            column = columns[0] if columns else None
            self.classes, self.index = _classes(rows, column, class_name, request.classes)

    def label(self, row: Row) -> tuple[int | list[int] | None, str | None]:
        """Return the label (None: not known), and what the report should note about it."""
        if not self.columns:
            return None, None
        if len(self.columns) > 1:
            values = [finding(row[column], self.request.uncertain, self.request.blank) for column in self.columns]
            if None in values:
                return None, "finding that is neither 1, 0, -1 nor blank"
            return [value for value in values if value is not None], None
        text = tidy(row[self.columns[0]])
        if (name := find(text, self.index)) is not None:
            return self.index[name], None
        if text == CONTRADICTION:
            return None, None
        if text.lower() in EMPTY - {""}:
            return None, f"{text!r}, which is read as no label; to have it as a class, name all with --classes"
        return None, "label that is no class" if text else "no label"


def finding(text: str, uncertain: Policy, blank: Policy) -> int | None:
    """Return the finding in a cell: 1, 0 or -1 (unknown); None if it is something else.

    Args:
        text: the cell: 1, 0, -1 (uncertain), or nothing.
        uncertain: what -1 counts as.
        blank: what an empty cell counts as.
    """
    text = tidy(text.strip())
    if text.lower() in EMPTY or text == CONTRADICTION:
        return POLICIES[blank]
    return {"1": 1, "0": 0, "-1": POLICIES[uncertain]}.get(text)


def _classes(
    rows: Sequence[Row], column: str | None, class_name: str | None, given: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes, and the index of each text that may stand in the label column."""
    if column is None:
        return given, {}
    texts = [tidy(row[column]) for row in rows]
    texts = [text for text in texts if text.lower() not in EMPTY and text != CONTRADICTION]
    whole = [text for text in texts if text.isdecimal()]
    if class_name and not given:
        names = {tidy(row[column]): row[class_name] for row in rows}
        limits.check("max_classes", 1 + max(map(int, whole), default=-1), f"the column {column!r}")
        given = tuple(names.get(str(k), str(k)) for k in range(1 + max(map(int, whole), default=-1)))
    if given:
        by_index = {} if any(name.isdecimal() for name in given) else {str(k): k for k in range(len(given))}
        return given, by_index | {name: k for k, name in enumerate(given)}
    # where most labels are numbers, a text among them is a slip and no class
    classes = tuple(sorted(set(whole if 2 * len(whole) > len(texts) else texts), key=natural))
    return classes, {name: k for k, name in enumerate(classes)}
