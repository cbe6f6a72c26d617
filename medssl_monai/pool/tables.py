"""Labels as people write them: the tables that they fill in, and the text of a label."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medssl_monai.data.datalist import FLAGS, Key
from medssl_monai.names import ALONE, NOTHING, find, fold
from medssl_monai.tables import Table
from medssl_monai.task import UNKNOWN, Task

if TYPE_CHECKING:
    from medssl_monai.pool.pool import Label, LabelPool

NUMBER = re.compile(r"([+-]?[0-9]{1,9})(\.0+)?")
"""A whole number, also as spreadsheets and data frames write it; no other sign that Unicode takes for a digit."""
SHOWN = 300
"""Characters of a reason, which may quote a cell."""


class Given(NamedTuple):
    """What became of the answers in a table: ids whose label was taken, and a reason for each that was refused."""

    accepted: list[str]
    refused: list[str]


def annotate_from_table(pool: LabelPool, path: str | Path, correct: bool = False) -> dict[Key, Given]:
    """Give the labels of a table to a pool, those of masks to the one `beside` it: bad rows are refused by their line.

    The table has the columns ``id`` and ``label`` (see `parse_label`), or ``mask`` for masks beside labels; others are
    ignored, and so are rows without a label. Ids are equal however Unicode writes their accents. A mask is a path, from
    the folder of the table and with either separator; its file must be there, and serves one image. Two answers for one
    id that differ are both refused.

    Args:
        pool: pool to change.
        path: table, as `medssl_monai.tables.Table` reads it.
        correct: replace known labels instead of adding new ones.

    Returns:
        What became of the answers, by what they are.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: if it is no table, or lacks one of the columns.
    """
    table = Table.read(path)
    pools = [own for own in (pool, pool.beside) if own is not None]
    answered = [own for own in pools if column_of(table, own.key, path)] or pools[:1]
    given = {own.key: _give(own, table, Path(path), correct) for own in answered}
    first = given[answered[0].key].refused
    first[:0] = _unread(table)
    for key in FLAGS.keys() - {own.key for own in pools}:
        column = column_of(table, key, path)
        if lines := [line for line, row in table.rows if column and row[column]]:
            first.append(f"line {lines[0]}: there is a {key} in {len(lines)} rows, and these labels have no {key}s")
    return given


def take_table(pool: LabelPool, path: str | Path) -> None:
    """`annotate_from_table` for one pool alone, where everything must fit.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: with the first lines that do not fit.
    """
    table = Table.read(path)
    refused = _unread(table) + _give(pool, table, Path(path), False).refused
    if refused:
        more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
        raise ValueError(f"{path}: " + "; ".join(refused[:3]) + more + ".")


def column_of(table: Table, name: str, path: str | Path) -> str | None:
    """The column that a person calls `name`, in any case; None if there is none.

    Raises:
        ValueError: if there are several.
    """
    there = [column for column in table.header if fold(column) == name]
    if len(there) > 1:
        raise ValueError(f"{path} has the columns {there}, which all are {name!r}; remove or rename all but one.")
    return there[0] if there else None


def _unread(table: Table) -> list[str]:
    wrong = "it has another number of cells than the first line, or a quote that is never closed"
    return [f"line {line} cannot be read: {wrong}" for line in table.bad]


def _give(pool: LabelPool, table: Table, path: Path, correct: bool) -> Given:
    name_of, text_of = (column_of(table, name, path) for name in ("id", pool.key))
    if name_of is None or text_of is None:
        raise ValueError(f"{path} must have the columns 'id' and {pool.key!r}, got {table.header}.")
    answers: dict[str, dict[int, Label]] = {}
    for line, row in table.rows:
        if row[text_of]:
            label = parse_label(row[text_of], pool.classes, pool.task)
            if isinstance(label, str):
                label = _file(os.path.abspath(path.parent), label) or label
            if label is not None:
                answers.setdefault(pool.id_of(row[name_of]), {})[line] = label
    one = {name: next(iter(given.values())) for name, given in answers.items()}
    shared = _shared_masks(pool, one)
    others, taken, refused = pool.example, {}, []
    for name, given in answers.items():
        label, lines = one[name], sorted(given)
        if any(other != label for other in given.values()):
            reason: str | None = f"{name!r} has different {pool.key}s there, and none of them is taken"
        else:
            reason = pool.refusal(name, label, labeled=correct, others=others) or shared.get(name)
            if reason is None and isinstance(label, str) and not os.path.isfile(label):
                reason = f"the mask of {name!r} is {label!r}, and there is no such file"
        if reason is None:
            taken[pool.position[name]] = others = label
        else:
            where = f"line{'s' * (len(lines) > 1)} {' and '.join(map(str, lines[:5]))}: "
            refused.append(where + (reason if len(reason) <= SHOWN else f"{reason[:SHOWN]} ..."))
    (pool.correct if correct else pool.annotate)(taken, taken.values())
    return Given([pool.ids[position] for position in taken], refused)


def _file(folder: str, text: str) -> str | None:
    """The file that a path in a table names, from the folder of the table; None if there is none."""
    for own in (text, text.replace("\\", "/")):
        for form in ("NFC", "NFD"):  # the reader makes NFC of all cells, and a Mac names files otherwise
            path = os.path.join(folder, unicodedata.normalize(form, own))
            if os.path.isfile(path):
                return path
    return None


def _shared_masks(pool: LabelPool, answers: Mapping[str, Label]) -> dict[str, str]:
    """Why files cannot be masks, by id: another image has them, in the pool, the datalist, or these answers."""
    if not any(isinstance(label, str) for label in answers.values()):
        return {}
    places = [(name, image, answers.get(name, mask)) for name, image, mask in pool.masks_of_images()]
    places += [(name, f"?{name}", label) for name, label in answers.items() if name not in pool.position]
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


def _identity(label: Label | None) -> tuple[int, int] | None:
    """What a file is by any path; None if there is none."""
    try:
        found = os.stat(label) if isinstance(label, str) else None
    except (OSError, ValueError):
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def parse_label(text: str, classes: Sequence[str] = (), task: Task = "multiclass") -> Label | None:
    """The label that a person wrote; None for no text, and the text itself if it is none.

    Classes go by their names in any case, else by their index. Where the name of a class is a number, numbers are names
    and no indices: ``1`` is the class of that name, or ``1.0`` or ``01``, as spreadsheets change them.

    Args:
        text: of a cell.
        classes: names of the classes. Of findings, a label is also ``1 0 -1``, a number for each.
        task: ``multilabel``: a label is the names of the findings that are there, separated by semicolons; all others
            are absent. ``none``: all are. A finding with a question mark before it is unknown: ``effusion; ?mass``.
            ``segmentation``: it is the path of a mask.
    """
    if not text or task == "segmentation":
        return text or None
    if task == "multilabel":
        return _parse_findings(text, classes)
    if (name := _meant(text, classes)) is not None:
        return list(classes).index(name)
    numbers = _numbers(text)
    if len(numbers) == 1:
        return text if _are_numbers(classes) else numbers[0]
    return numbers or text


def _meant(text: str, classes: Sequence[str]) -> str | None:
    """The class of a name, in any case, or of a number as which its name reads."""
    if (name := find(text, classes)) is not None:
        return name
    number = NUMBER.fullmatch(text)
    same = [name for name in classes if number and (own := NUMBER.fullmatch(name)) and int(own[1]) == int(number[1])]
    return same[0] if len(same) == 1 else None


def _are_numbers(classes: Sequence[str]) -> bool:
    return any(ALONE.fullmatch(name) and name not in ("+", "-") for name in classes)


def _numbers(text: str) -> list[int]:
    """Whole numbers between blanks; none if anything else is among them."""
    found = [NUMBER.fullmatch(part) for part in text.split()]
    return [int(match[1]) for match in found if match] if all(found) else []


def _parse_findings(text: str, classes: Sequence[str]) -> Label | None:
    names = [part.strip() for part in text.split(";") if part.strip()]
    present = {name: _meant(name, classes) for name in names}
    asked = {name: _meant(name[1:].strip(), classes) for name in names if present[name] is None and name[0] == "?"}
    if classes and len(names) == 1 and fold(names[0]) == NOTHING and present[names[0]] is None:
        return [0] * len(classes)
    meant = [asked.get(name, present[name]) for name in names]
    if names and None not in meant and len(set(meant)) == len(meant):
        unknown = set(asked.values())
        return [UNKNOWN if name in unknown else int(name in meant) for name in classes]
    numbers = _numbers(text)
    return text if len(numbers) == 1 and _are_numbers(classes) else numbers or text


def label_text(label: Label, classes: Sequence[str] = ()) -> str:
    """A label as a person writes it, see `parse_label`; of a mask only that it is one: paths may name people."""
    if isinstance(label, str):
        return "mask"
    if isinstance(label, int):
        return classes[label] if classes else str(label)
    if not classes:
        return " ".join(map(str, label))
    marks = {1: "", UNKNOWN: "?"}
    named = [marks[value] + name for name, value in zip(classes, label, strict=True) if value in marks]
    return "; ".join(named) or NOTHING
