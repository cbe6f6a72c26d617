"""Tables that say something else than a label in a row for an image: recognised and refused, never read by half."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from medssl_monai.data.patients import looks_like_date, same_patient
from medssl_monai.prepare.layouts.conventions import CONTRADICTION, EMPTY
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.readers.dicom.identity import identifiers
from medssl_monai.readers.formats import image_format
from medssl_monai.tables import Row, Table

FRACTION = re.compile(
    r"[+-]?(\d*[.,]\d*[1-9]\d*([eE][+-]?\d+)?|\d+(\.\d*)?[eE]-\d+|\d+([.,]\d*)?\s*%|\d*[.,]\d+\s*%)", re.ASCII
)
WHOLE_FLOAT = re.compile(r"^(-?\d+)\.0+$", re.ASCII)
WHOLE = re.compile(r"-?\d+(\.0+)?", re.ASCII)
FINDING = re.compile(r"[01](\.0+)?|-1(\.0+)?", re.ASCII)
SEPARATORS = "|;\n"
"""Between values, whatever they are; other signs only where what they separate stands alone elsewhere."""
DOUBTFUL = re.compile(r"\s*([,/+&]|\band\b)\s*|\s+")
LIST = re.compile(r"\[.*\]|\{.*\}", re.DOTALL)
NOTHING = re.compile(r"[\W_]+|unknown|unclear|missing|not (known|available|done)|tbd|#n/a", re.IGNORECASE)
"""Texts that people write where nothing is to be said, but which may be classes."""
SAMPLE = 200


def check_rows(table: Table, dataset: Dataset, files: Sequence[Path], column: str, root: Path) -> None:
    """Refuse a table of which no row names a file, or of which rows are torn by more than a slip.

    Raises:
        ValueError: with what the column holds instead, if the headers of DICOM files tell.
    """
    total = len(table.rows) + len(table.bad)
    if (len(table.bad) > 2 and _is_common(len(table.bad), total)) or (table.bad and not table.rows):
        raise ValueError(
            f"{len(table.bad)} of {total} rows have another number of cells than the header, or an open quote; the "
            f"first is row {table.bad[0]}. Put quotes around cells that hold the sign between cells, or save the table "
            "with another one."
        )
    if not files or not table.rows or dataset.rows[1] or dataset.dropped.get("row whose file cannot be used"):
        return
    cells = {same_patient(row[column]): row[column] for _, row in table.rows}
    example = next(iter(cells.values()))
    known: Counter[str] = Counter()
    for path in [path for path in files if image_format(path) == "DICOM"][:SAMPLE]:
        known.update(name for name, value in identifiers(path).items() if same_patient(value) in cells)
    held = "which is the path of no file"
    if len(dataset.dropped.get("row that fits several files", ())) == len(table.rows):
        held = "which fits several files"
    elif known:
        held = f"the {known.most_common(1)[0][0]} of a DICOM file"
    raise ValueError(
        f"none of the {len(table.rows)} rows names a file below {root}: the column {column!r} holds {example!r}, "
        f"{held}; it must hold the path of the file, or of any file of the series, from there. Add a column of paths, "
        "or name the one that has them with `image_column`."
    )


def check_labels(rows: Sequence[Row], columns: Sequence[str], request: Request, dataset: Dataset) -> None:
    """Refuse labels that are not one class per image, or 1, 0, -1 or nothing per finding.

    Args:
        rows: of the images, merged where several were of one.
        columns: of the labels; several are findings.
        request: names classes, perhaps.
        dataset: takes down columns that exclude each other.

    Raises:
        ValueError: with the column, an example, and how to mend the table.
    """
    torn = sum(any(row[column] == CONTRADICTION for column in columns) for row in rows)
    if _is_common(torn, len(rows)):
        raise ValueError(
            f"{torn} of {len(rows)} images have several rows with different labels in the column {', '.join(columns)}: "
            "a row for each finding or reader. One row per image is read: give every finding a column with 1, 0 or -1, "
            "or decide which row counts."
        )
    if len(columns) > 1:
        _check_findings(rows, columns, dataset)
    elif columns:
        texts = [row[columns[0]] for row in rows if row[columns[0]] != CONTRADICTION]
        texts = [text for text in texts if text.lower() not in EMPTY]
        _check_classes(texts, columns[0], request.classes)
        if not request.classes and not {"+", "-"}.issubset(texts):
            odd = Counter(text for text in texts if NOTHING.fullmatch(text))
            dataset.add(
                "noted",
                "class that may stand for no label; if so, empty its cells, and else name all with --classes",
                *(f"{text!r} in {count} rows" for text, count in odd.items()),
            )


def check_dates(table: Table, column: str, dataset: Dataset) -> None:
    """Take down groups that a spreadsheet has turned into dates."""
    dates = [f"row {number}" for number, row in table.rows if looks_like_date(row[column])]
    dataset.add("noted", "group that looks like a date, as spreadsheets make of numbers", *dates)


def _check_findings(rows: Sequence[Row], columns: Sequence[str], dataset: Dataset) -> None:
    cells = [(row[column], column) for row in rows for column in columns]
    odd = [(text, column) for text, column in cells if not FINDING.fullmatch(text) and text.lower() not in EMPTY]
    odd = [(text, column) for text, column in odd if text != CONTRADICTION]
    if fraction := next((pair for pair in odd if FRACTION.fullmatch(pair[0])), None):
        _refuse_fraction(*fraction)
    if _is_common(len(odd), len(rows)):
        text, column = odd[0]
        raise ValueError(
            f"{len(odd)} cells of the findings are neither 1, 0, -1 nor empty, such as {text!r} in the column "
            f"{column!r}; write them so."
        )
    marks = [[row[column].partition(".")[0] for column in columns] for row in rows]
    exclusive = all(row.count("1") == 1 and row.count("0") == len(row) - 1 for row in marks)
    if len({row.index("1") for row in marks if exclusive}) > 1:
        dataset.add("noted", "column of which exactly one is 1 in each row (one-hot), read as a finding", *columns)


def _check_classes(texts: Sequence[str], column: str, classes: Sequence[str]) -> None:
    """Refuse what is no class, unless it is named as one."""
    unknown = [text for text in texts if text not in classes]
    for text in unknown:
        if FRACTION.fullmatch(text):
            _refuse_fraction(text, column)
    alone = set(texts)
    for text in dict.fromkeys(unknown):
        marks = [sign for sign in SEPARATORS if sign in text] + ["[]"] * bool(LIST.fullmatch(text))
        if not marks and (found := DOUBTFUL.search(text)):
            parts = DOUBTFUL.sub("\n", text).split("\n")
            marks = [found[0].strip() or " "] * alone.issuperset(parts)
        if marks:
            raise ValueError(
                f"the column {column!r} holds several values per image, such as {text!r} with {marks[0]!r} between "
                "them; one class per image is read: give every finding a column with 1, 0 or -1, or name such classes "
                "as they are with `classes`."
            )
    if classes:
        return
    distinct = {WHOLE_FLOAT.sub(r"\1", text) for text in texts}
    if len(distinct) > max(20, len(texts) / 2):
        raise ValueError(
            f"the column {column!r} holds {len(distinct)} different texts in {len(texts)} rows, such as {texts[0]!r}, "
            "and classes are few; name their column with `label_column`, or the classes with `classes`."
        )
    numbers: dict[int, str] = {}
    for text in distinct:
        if text.isdecimal() and (other := numbers.setdefault(int(text), text)) != text:
            raise ValueError(
                f"the column {column!r} holds {other!r} and {text!r}, which are one number; write it in one way, or "
                "name such classes as they are with `classes`."
            )
    slips = [text for text in texts if not WHOLE.fullmatch(text)]
    if len(slips) < len(texts) / 2 and _is_common(len(slips), len(texts)):
        raise ValueError(
            f"of {len(texts)} labels in the column {column!r} {len(slips)} are no numbers and the others are, such as "
            f"{slips[0]!r}; write all in one way, or name the classes with `classes`."
        )


def _refuse_fraction(text: str, column: str) -> NoReturn:
    raise ValueError(
        f"the column {column!r} holds numbers such as {text!r}: probabilities or measurements are no labels; decide "
        "from which value on an image counts, and write 1 or 0, or name such classes as they are with `classes`."
    )


def _is_common(count: int, total: int) -> bool:
    """Return whether something is the form of a table, and no slip in a row of it."""
    return count > 1 and 50 * count >= total
