"""Tables that people fill in: cells to labels, and why some are none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.kinds import Kind, Label
from medssl_monai.names import fold
from medssl_monai.tables import Table


@dataclass(frozen=True)
class Answer:
    """What a table says of one sample: a label, or why there is none; and the lines where it stands."""

    label: Label | None
    problem: str
    lines: tuple[int, ...]

    @property
    def where(self) -> str:
        """The lines, to begin a message with."""
        return f"line{'s' * (len(self.lines) > 1)} {' and '.join(map(str, self.lines[:5]))}: "


def column_of(table: Table, name: str, path: str | Path) -> str | None:
    """Return the column that a person calls `name`, in any case; None if there is none.

    Raises:
        ValueError: if there are several.
    """
    there = [column for column in table.header if fold(column) == name]
    if len(there) > 1:
        raise ValueError(f"{path} has the columns {there}, which all are {name!r}; remove or rename all but one.")
    return there[0] if there else None


def unread(table: Table) -> list[str]:
    """Return a reason for each line that cannot be read."""
    wrong = "it has another number of cells than the first line, or a quote that is never closed"
    return [f"line {line} cannot be read: {wrong}" for line in table.bad]


def read_answers(table: Table, path: Path, key: str, kind: Kind, id_of: Callable[[str], str]) -> dict[str, Answer]:
    """Return what a table says of one part of the labels, by id.

    Args:
        table: with the columns ``id`` and `key`; rows without a label are passed over.
        path: of the table, whose folder paths start from.
        key: of the part.
        kind: reads the labels.
        id_of: from an id in the table to that of the datalist.

    Raises:
        ValueError: if the table lacks one of the columns, or has it twice.
    """
    name_of, text_of = (column_of(table, name, path) for name in ("id", key))
    if name_of is None or text_of is None:
        raise ValueError(f"{path} must have the columns 'id' and {key!r}, got {table.header}.")
    cells: dict[str, dict[int, str]] = {}
    for line, row in table.rows:
        if row[text_of]:
            cells.setdefault(id_of(row[name_of]), {})[line] = row[text_of]
    return {name: _answer(name, given, key, kind, path.parent) for name, given in cells.items()}


def _answer(name: str, cells: Mapping[int, str], key: str, kind: Kind, folder: Path) -> Answer:
    """Return the one label of all cells of a sample; or why there is none."""
    found: list[Label] = []
    lines = tuple(sorted(cells))
    for text in cells.values():
        try:
            found.append(kind.parse(text, folder))
        except ValueError as error:
            return Answer(None, f"the {key} of {name!r} {error}", lines)
    if any(kind.text(other) != kind.text(found[0]) for other in found):
        return Answer(None, f"{name!r} has different {key}s there, and none of them is taken", lines)
    return Answer(found[0], "", lines)


def shared_files(
    files: Iterable[tuple[str, str, str | None]], answers: Mapping[str, Label], kind: Kind
) -> dict[str, str]:
    """Return why files cannot be labels, by id: another image has them, among the labels or in these answers.

    Args:
        files: id, image and label file of every sample, see `medssl_monai.pool.Labels.files`.
        answers: labels by id.
        kind: knows in which file a label is.
    """
    given = {name: kind.file(label) for name, label in answers.items()}
    if not any(given.values()):
        return {}
    known = list(files)
    places = [(name, image, given.get(name, file)) for name, image, file in known]
    ids = {name for name, _, _ in known}
    places += [(name, f"?{name}", file) for name, file in given.items() if name not in ids]
    users: dict[tuple[int, int], dict[str, str]] = {}
    own: dict[str, tuple[str, dict[str, str]]] = {}
    for name, image, mask in places:
        if (file := _identity(mask)) is not None:
            own[name] = image, users.setdefault(file, {})
            own[name][1].setdefault(image, name)
    others = {name: [other for their, other in all_.items() if their != image] for name, (image, all_) in own.items()}
    return {
        name: f"the mask of {name!r} is that of {others[name][0]!r} as well, and one mask file serves one image"
        for name in answers
        if others.get(name)
    }


def _identity(file: str | None) -> tuple[int, int] | None:
    """Return what a file is by any path; None if there is none."""
    try:
        found = None if file is None else os.stat(file)
    except (OSError, ValueError):
        return None
    return None if found is None else (found.st_dev, found.st_ino)
