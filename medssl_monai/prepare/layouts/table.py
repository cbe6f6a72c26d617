"""Tables, and how their rows come to images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medssl_monai import limits
from medssl_monai.data.datalist import Item
from medssl_monai.data.patients import same_patient
from medssl_monai.names import find, fold, natural, problem_of
from medssl_monai.options import Policy
from medssl_monai.prepare.layouts.base import (
    CONTRADICTION,
    EMPTY,
    SECTION_NAMES,
    SUFFIX,
    Found,
    Names,
    Request,
    first,
    relative,
)
from medssl_monai.prepare.layouts.files import Unit, find_units
from medssl_monai.prepare.layouts.forms import check_dates, check_labels, check_rows
from medssl_monai.prepare.layouts.masks import MaskFinder, Place, read_masks
from medssl_monai.prepare.layouts.paths import Paths
from medssl_monai.tables import Row, Table

POLICIES = {"ignore": -1, "zero": 0, "one": 1}


@dataclass(frozen=True)
class Columns:
    """Which column says what; None or empty: none does. Several `labels` are findings, a column each."""

    image: str
    labels: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    split: str | None = None
    class_name: str | None = None
    slice: str | None = None

    @classmethod
    def of(cls, table: Table, request: Request, found: Found) -> Columns:
        """What the caller named, and where they named nothing, what the header suggests and the cells bear out.

        Raises:
            ValueError: if a column that was named is not there, or one that was not holds what its name says by half.
        """
        labels = tuple(part.strip() for part in request.label_column.split(",")) if request.label_column else ()
        if request.mask_key == "mask":
            _refuse_paths(table, labels)
        elif labels == (request.masks,) or (labels == ("label",) and request.masks):
            labels = ()
        if labels == ("label",):
            labels = (first(table.header, "label") or "label",)
        columns = cls(
            image_column(table, request),
            labels,
            request.id_column or _if_ids(table, first(table.header, "id"), found),
            request.group_column or first(table.header, "patient", "patient_id", "lesion_id", "group"),
            request.split_column or _if_sections(table, first(table.header, "split"), found),
            _if_names(table, first(table.header, "label_name"), labels[0], found) if len(labels) == 1 else None,
            first(table.header, "slice"),
        )
        wanted = {"image": columns.image, "id": columns.id, "group": columns.group, "split": columns.split}
        for flag, name in [*wanted.items(), *(("label", name) for name in columns.labels)]:
            if name and name not in table.header:
                raise ValueError(
                    f"there is no column {name!r}, only {table.header}; say which one is meant with `{flag}_column`."
                )
        return columns


def image_column(table: Table, request: Request) -> str:
    """The column of the images' paths."""
    if request.image_column != "image":
        return request.image_column
    return first(table.header, "image", "file", "path", "filename") or "image"


def _if_ids(table: Table, column: str | None, found: Found) -> str | None:
    """The column, if its cells are unique names; it happens to be called so otherwise."""
    cells = [row[column] for _, row in table.rows] if column else []
    if column and (len(set(cells)) < len(cells) or any(cell.lower() in EMPTY or problem_of(cell) for cell in cells)):
        found.add("noted", "column whose cells are no unique names, and which is not used; --id_column uses it", column)
        return None
    return column


def _if_sections(table: Table, column: str | None, found: Found) -> str | None:
    """The column, if its cells name sections; it happens to be called so if none does."""
    cells = [(number, row[column]) for number, row in table.rows if row[column].lower() not in EMPTY] if column else []
    odd = [(number, cell) for number, cell in cells if cell.lower() not in SECTION_NAMES]
    if column and len(odd) == len(cells):
        found.add("noted", "column that names no sections, and is not used; --split_column uses it", column)
        return None
    if odd:
        raise ValueError(
            f"the column {column!r} names sections, and in row {odd[0][0]} holds {odd[0][1]!r}, which is neither "
            f"train, val nor test ({len(odd)} of {len(cells)} rows); mend it, or use it as it is with `split_column`, "
            "which leaves such rows out."
        )
    return column


def _if_names(table: Table, column: str | None, labels: str, found: Found) -> str | None:
    """The column, if it has one name for each label; it happens to be called so otherwise."""
    if column is None or labels not in table.header:
        return None
    names = {(_tidy(row[labels]), row[column]) for _, row in table.rows if row[labels].lower() not in EMPTY}
    if any(count > 1 for side in zip(*names, strict=True) for count in Counter(side).values()):
        found.add("noted", "column that has not one name for each label, and is not used; rename or mend it", column)
        return None
    return column


def join(table: Table, root: Path, files: Sequence[str], request: Request, names: Names) -> Found:
    """Bring rows and files together; nothing is lost without a line in the report.

    Args:
        table: may be empty.
        root: folder of the files.
        files: relative paths, masks among them.
        request: what the caller said.
        names: makes ids and groups.

    Raises:
        ValueError: if columns are missing, or ids not unique.
    """
    if request.masks is None and not request.mask_classes and holds_paths(table, request.label_column):
        request = replace(request, masks=request.label_column)
    found = Found()
    with table.named():
        columns = Columns.of(table, request, found) if table.header else Columns(request.image_column)
    if not table.header and any((request.id_column, request.group_column, request.split_column)):
        raise ValueError(f"there is no CSV file in {root} for the columns that were named; pass one as `table`.")
    found.add("dropped", "row with another number of cells than the header, or an open quote", *_rows(table.bad))
    masks = MaskFinder(root, request.masks, table, files, columns.image)
    found.add("dropped", "file in a folder of masks that no row names", *(stray := masks.stray(files)))
    images = [name for name in files if name not in masks.files.union(stray)]
    paths = Paths(images, root)
    named = {fits[0] for _, row in table.rows if len(fits := paths.fitting(row[columns.image])) == 1}
    units, alias = find_units(
        root, images, request.out_dir, names, request.volumes, named, found, request.keep_duplicates, request.nan
    )
    refused = [Path(bad["image"]).relative_to(root).as_posix() for bad in found.quarantine]
    rows = _match(table, Paths([*images, *refused, *(unit.name for unit in units)], root), units, alias, columns, found)
    lost = ("whose file is missing", "that fits several files", "whose file cannot be used")
    found.rows = (len(table.rows), len(table.rows) - sum(len(found.dropped.get(f"row {why}", ())) for why in lost))
    with table.named():
        check_rows(table, found, [root / name for name in images], columns.image, root)
    if columns.group:
        _note_other_patients(units, rows, columns.group, found, names)
    labels = [row for _, row in rows.values()]
    with table.named():
        check_labels(labels, columns.labels, request, found)
        labeler = _Labeler(labels, columns, request)
    found.classes = labeler.classes
    mask_of = masks.of([*(unit.name for unit in units), *refused], rows, found)
    if columns.group:
        check_dates(table, columns.group, found)
        units = [_with_group(unit, rows, columns.group, found, names) for unit in units]
    for unit in units:
        for item in unit.items(request.out_dir):
            own = (unit.name, item.get("slice"))
            number, row = rows.get(own) or rows.get((unit.name, None)) or (0, {})
            if not _complete(item, unit, number, row, columns, labeler, found, names, own in rows):
                continue
            if request.masks is not None:
                item.pop(request.mask_key, None)  # a class, where the masks are the labels
            if mask := mask_of.get(own) or mask_of.get((unit.name, None)):
                item[request.mask_key] = str(mask)  # replaced or taken away below
            found.items.append(item)
        if unit.copies:
            found.copies[relative(unit.path, request.out_dir)] = unit.copies
    if request.masks is not None:
        read_masks(found, request)
    twice = [name for name, count in Counter(item["id"] for item in found.items).items() if count > 1]
    if twice:
        raise ValueError(
            f"{table.name}: the column {columns.id!r} has {twice[0]!r} for several images; ids must be unique."
        )
    if columns.group:
        found.grouping = f"column {columns.group!r}"
    elif any(unit.group != unit.id for unit in units):
        found.grouping = "PatientID of DICOM files, as a pseudonym; every other file its own"
    return found


def holds_paths(table: Table, column: str) -> bool:
    """Whether the cells of a column are names of files, as a column of masks has."""
    return column in table.header and any(SUFFIX.search(row[column]) for _, row in table.rows)


def _refuse_paths(table: Table, labels: Sequence[str]) -> None:
    if paths := [name for name in labels if holds_paths(table, name)]:
        raise ValueError(
            f"the column {paths[0]!r} holds names of files, and with `mask_classes` the classes of the images are "
            "wanted beside the masks; name their column as `label_column`, or leave `mask_classes` out."
        )


def _rows(numbers: Iterable[int]) -> list[str]:
    return [f"row {number}" for number in numbers]


def _match(
    table: Table, paths: Paths, units: Sequence[Unit], alias: dict[str, str], columns: Columns, found: Found
) -> dict[Place, tuple[int, Row]]:
    """The row of each unit or slice, with its line number; rows without a file and contradicting ones are reported."""
    slices = {unit.name: unit.slices for unit in units}
    rows: dict[Place, tuple[int, Row]] = {}
    by_name: dict[Place, list[int]] = defaultdict(list)
    past: list[int] = []
    for number, row in table.rows:
        fits = paths.fitting(row[columns.image])
        if len(fits) != 1:
            reason = "row whose file is missing" if not fits else "row that fits several files"
            found.add("dropped", reason, f"row {number}")
            continue
        name = alias.get(fits[0], fits[0])
        if name not in slices:
            found.add("dropped", "row whose file cannot be used", f"row {number}")
            continue
        if fits[0] in alias and fits[0] != name:
            found.add(
                "noted",
                "row that names one file of a series or a copy, and stands for the image itself",
                f"row {number}",
            )
        text = _tidy(row[columns.slice]) if columns.slice and slices[name] else ""
        if text and not text.isdecimal():
            found.add("dropped", "row whose slice is no number from 0", f"row {number}")
            continue
        if text and int(text) >= (slices[name] or 0):
            found.add("dropped", "row whose slice the volume does not have", f"row {number}")
            past += [number] * (int(text) == slices[name])
            continue
        place = (name, int(text) if text else None)
        start, known = rows.setdefault(place, (number, dict(row)))
        if paths.is_bare(row[columns.image], fits[0]):
            by_name[place].append(number)
        if start != number:
            _merge(known, row, columns, f"rows {start} and {number}", found)
    if past and not any(k == 0 for _, k in rows):
        raise ValueError(
            f"row {past[0]} names the slice after the last of its volume, and no row a slice 0: the slices in the "
            f"column {columns.slice!r} seem to be counted from 1; count them from 0."
        )
    for place, numbers in by_name.items():
        if len(numbers) > 1 and CONTRADICTION in rows[place][1].values():
            found.add("dropped", "row with a file name alone, which others have too", *_rows(numbers))
            del rows[place]
    return rows


def _merge(known: Row, row: Row, columns: Columns, where: str, found: Found) -> None:
    """Take over a second row of the same file."""
    kinds = [*(("label", name) for name in columns.labels), ("id", columns.id), ("group", columns.group)]
    for kind, column in [*kinds, ("split", columns.split)]:
        same = {"label": lambda text: fold(_tidy(text)), "group": same_patient}.get(kind, str)
        if not column or same(row[column]) == same(known[column]):
            continue
        if kind == "label" and EMPTY.issuperset({known[column].lower()}) and known[column] != CONTRADICTION:
            known[column] = row[column]
        elif row[column].lower() not in EMPTY:
            found.add("noted", f"rows of one file that contradict in {kind}", where)
            known[column] = CONTRADICTION


def _with_group(unit: Unit, rows: dict[Place, tuple[int, Row]], column: str, found: Found, names: Names) -> Unit:
    """The unit with the group of its rows, so that slices without a row stay with the others."""
    if unit.slices is None:
        return unit
    told = [row[column] for k in (None, *range(unit.slices)) if (row := rows.get((unit.name, k), (0, {}))[1])]
    groups = sorted({text for text in told if text.lower() not in EMPTY and text != CONTRADICTION})
    if len(groups) > 1:
        found.add("noted", "volume whose slices are in several groups", unit.id)
    return replace(unit, group=names.group(groups[0])) if groups else unit


def _note_other_patients(
    units: Sequence[Unit], rows: dict[Place, tuple[int, Row]], column: str, found: Found, names: Names
) -> None:
    """Take down rows of DICOM files that name a patient of other files: perhaps the rows have slipped."""
    told = {place: (number, row[column]) for place, (number, row) in rows.items() if row[column].lower() not in EMPTY}
    groups = {place: names.group(text) for place, (_, text) in told.items() if text != CONTRADICTION}
    for unit in units:
        own = groups.get((unit.name, None), unit.group)
        if unit.group != unit.id and own != unit.group and unit.group in groups.values():
            found.add(
                "noted",
                f"row whose {column} is not the PatientID of its DICOM file, which other rows have",
                f"row {told[unit.name, None][0]}",
            )


def _complete(
    item: Item,
    unit: Unit,
    number: int,
    row: Row,
    columns: Columns,
    labeler: _Labeler,
    found: Found,
    names: Names,
    of_slice: bool,
) -> bool:
    """Fill in what the row says of an item; False if the item cannot be used. `of_slice`: the row is of it alone."""
    if not row:
        if columns.labels:
            found.add("noted", "file without a row", item["id"])
        if columns.split:
            found.sections[item["id"]] = "training"
        return True
    where = f"row {number}"
    for kind, column in (("id", columns.id), ("group", columns.group), ("split", columns.split)):
        if column and (row[column].lower() in EMPTY or row[column] == CONTRADICTION):
            found.add_once("dropped", f"no {kind} in its row; fill it in", where)
            return False
    if columns.split and row[columns.split].lower() not in SECTION_NAMES:
        found.add_once("dropped", "split that is neither train, val nor test", where)
        return False
    label, problem = labeler.label(row)
    if label is not None:
        item["label"] = label
    if problem:
        found.add_once("noted", problem, where)
    if columns.id:
        item["id"] = row[columns.id] + ("" if of_slice else item["id"][len(unit.id) :])
    if columns.group:
        item["group"] = names.group(row[columns.group])
    elif unit.group == unit.id and columns.id and not of_slice:
        item["group"] = row[columns.id]
    if columns.split:
        found.sections[item["id"]] = SECTION_NAMES[row[columns.split].lower()]
    used = {columns.image, *columns.labels, columns.id, columns.group, columns.split}
    used |= {columns.slice} if unit.slices else set()
    if meta := {key: text for key, text in row.items() if key not in used and text}:
        item["meta"] = meta
    return True


class _Labeler:
    """From the label columns of a row to a class index or a multi-hot list."""

    def __init__(self, rows: Sequence[Row], columns: Columns, request: Request) -> None:
        self.columns, self.request = columns, request
        if len(columns.labels) > 1:
            self.classes = request.classes or columns.labels
            self.index: dict[str, int] = {}
            if len(self.classes) != len(columns.labels):
                raise ValueError(f"{len(self.classes)} classes are named for {len(columns.labels)} label columns.")
        else:
            self.classes, self.index = _classes(rows, columns, request.classes)

    def label(self, row: Row) -> tuple[int | list[int] | None, str | None]:
        """The label, and what the report should note."""
        if not self.columns.labels:
            return None, None
        if len(self.columns.labels) > 1:
            values = [
                finding(row[column], self.request.uncertain, self.request.blank) for column in self.columns.labels
            ]
            if None in values:
                return None, "finding that is neither 1, 0, -1 nor blank"
            return [value for value in values if value is not None], None
        text = _tidy(row[self.columns.labels[0]])
        if (name := find(text, self.index)) is not None:
            return self.index[name], None
        if text == CONTRADICTION:
            return None, None
        if text.lower() in EMPTY - {""}:
            return None, f"{text!r}, which is read as no label; to have it as a class, name all with --classes"
        return None, "label that is no class" if text else "no label"


def finding(text: str, uncertain: Policy, blank: Policy) -> int | None:
    """1, 0 or -1 (unknown) of a cell; None if it is something else.

    Args:
        text: the cell: 1, 0, -1 (uncertain), or nothing.
        uncertain: what -1 counts as.
        blank: what an empty cell counts as.
    """
    tidy = _tidy(text.strip())
    if tidy.lower() in EMPTY or tidy == CONTRADICTION:
        return POLICIES[blank]
    return {"1": 1, "0": 0, "-1": POLICIES[uncertain]}.get(tidy)


def _classes(rows: Sequence[Row], columns: Columns, given: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, and the index of each text that may stand in the label column."""
    if not columns.labels:
        return given, {}
    column = columns.labels[0]
    texts = [_tidy(row[column]) for row in rows]
    texts = [text for text in texts if text.lower() not in EMPTY and text != CONTRADICTION]
    whole = [text for text in texts if text.isdecimal()]
    if columns.class_name and not given:
        names = {_tidy(row[column]): row[columns.class_name] for row in rows}
        limits.check("max_classes", 1 + max(map(int, whole), default=-1), f"the column {column!r}")
        given = tuple(names.get(str(k), str(k)) for k in range(1 + max(map(int, whole), default=-1)))
    if given:
        by_index = {} if any(name.isdecimal() for name in given) else {str(k): k for k in range(len(given))}
        return given, by_index | {name: k for k, name in enumerate(given)}
    # where most labels are numbers, a text among them is a slip and no class
    classes = tuple(sorted(set(whole if 2 * len(whole) > len(texts) else texts), key=natural))
    return classes, {name: k for k, name in enumerate(classes)}


def _tidy(text: str) -> str:
    """``1`` for the ``1.0`` that a table with empty cells is often saved with."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)
