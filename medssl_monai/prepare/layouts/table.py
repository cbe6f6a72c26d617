"""How the rows of a table and the files of a folder come together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medssl_monai.data.datalist import Item
from medssl_monai.prepare.layouts.check_masks import check_masks
from medssl_monai.prepare.layouts.columns import Columns, holds_paths
from medssl_monai.prepare.layouts.conventions import CONTRADICTION, EMPTY, SECTION_NAMES
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.find_masks import MaskFinder
from medssl_monai.prepare.layouts.forms import check_dates, check_labels, check_rows
from medssl_monai.prepare.layouts.labels import Labeler
from medssl_monai.prepare.layouts.paths import Paths, Place, relative
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.layouts.rows import match_rows, row_names
from medssl_monai.prepare.layouts.units import Unit, find_units
from medssl_monai.prepare.pseudonym import Names
from medssl_monai.tables import Row, Table


def join(table: Table, root: Path, files: Sequence[str], request: Request, names: Names) -> Dataset:
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
    dataset = Dataset()
    with table.named():
        columns = Columns.of(table, request, dataset) if table.header else Columns(request.image_column)
    if not table.header and any((request.id_column, request.group_column, request.split_column)):
        raise ValueError(f"there is no CSV file in {root} for the columns that were named; pass one as `table`.")
    dataset.add("dropped", "row with another number of cells than the header, or an open quote", *row_names(table.bad))
    masks = MaskFinder(root, request.masks, table, files, columns.image)
    dataset.add("dropped", "file in a folder of masks that no row names", *(stray := masks.stray(files)))
    images = [name for name in files if name not in masks.files.union(stray)]
    paths = Paths(images, root)
    named = {fits[0] for _, row in table.rows if len(fits := paths.fitting(row[columns.image])) == 1}
    units, alias = find_units(
        root, images, request.out_dir, names, request.volumes, named, dataset, request.keep_duplicates, request.nan
    )
    refused = [Path(bad["image"]).relative_to(root).as_posix() for bad in dataset.quarantine]
    rows = match_rows(
        table, Paths([*images, *refused, *(unit.name for unit in units)], root), units, alias, columns, dataset
    )
    lost = ("whose file is missing", "that fits several files", "whose file cannot be used")
    dataset.rows = (len(table.rows), len(table.rows) - sum(len(dataset.dropped.get(f"row {why}", ())) for why in lost))
    with table.named():
        check_rows(table, dataset, [root / name for name in images], columns.image, root)
    if columns.group:
        _note_other_patients(units, rows, columns.group, dataset, names)
    labels = [row for _, row in rows.values()]
    with table.named():
        check_labels(labels, columns.labels, request, dataset)
        labeler = Labeler(labels, columns.labels, columns.class_name, request)
    dataset.classes = labeler.classes
    mask_of = masks.of([*(unit.name for unit in units), *refused], rows, dataset)
    if columns.group:
        check_dates(table, columns.group, dataset)
        units = [_with_group(unit, rows, columns.group, dataset, names) for unit in units]
    for unit in units:
        for item in unit.items(request.out_dir):
            place = (unit.name, item.get("slice"))
            number, row = rows.get(place) or rows.get((unit.name, None)) or (0, {})
            if not _complete(item, unit, number, row, columns, labeler, dataset, names, place in rows):
                continue
            if request.masks is not None:
                item.pop(request.mask_key, None)  # a class, where the masks are the labels
            if mask := mask_of.get(place) or mask_of.get((unit.name, None)):
                item[request.mask_key] = str(mask)  # replaced or taken away below
            dataset.items.append(item)
        if unit.copies:
            dataset.copies[relative(unit.path, request.out_dir)] = unit.copies
    if request.masks is not None:
        check_masks(dataset, request)
    twice = [name for name, count in Counter(item["id"] for item in dataset.items).items() if count > 1]
    if twice:
        raise ValueError(
            f"{table.name}: the column {columns.id!r} has {twice[0]!r} for several images; ids must be unique."
        )
    if columns.group:
        dataset.grouping = f"column {columns.group!r}"
    elif any(unit.group != unit.id for unit in units):
        dataset.grouping = "PatientID of DICOM files, as a pseudonym; every other file its own"
    return dataset


def _with_group(unit: Unit, rows: dict[Place, tuple[int, Row]], column: str, dataset: Dataset, names: Names) -> Unit:
    """Return the unit with the group of its rows, so that slices without a row stay with the others."""
    if unit.slices is None:
        return unit
    texts = [row[column] for k in (None, *range(unit.slices)) if (row := rows.get((unit.name, k), (0, {}))[1])]
    groups = sorted({text for text in texts if text.lower() not in EMPTY and text != CONTRADICTION})
    if len(groups) > 1:
        dataset.add("noted", "volume whose slices are in several groups", unit.id)
    return replace(unit, group=names.group(groups[0])) if groups else unit


def _note_other_patients(
    units: Sequence[Unit], rows: dict[Place, tuple[int, Row]], column: str, dataset: Dataset, names: Names
) -> None:
    """Take down rows of DICOM files that name a patient of other files: perhaps the rows have slipped."""
    cells = {place: (number, row[column]) for place, (number, row) in rows.items() if row[column].lower() not in EMPTY}
    groups = {place: names.group(text) for place, (_, text) in cells.items() if text != CONTRADICTION}
    for unit in units:
        group = groups.get((unit.name, None), unit.group)
        if unit.group != unit.id and group != unit.group and unit.group in groups.values():
            dataset.add(
                "noted",
                f"row whose {column} is not the PatientID of its DICOM file, which other rows have",
                f"row {cells[unit.name, None][0]}",
            )


def _complete(
    item: Item,
    unit: Unit,
    number: int,
    row: Row,
    columns: Columns,
    labeler: Labeler,
    dataset: Dataset,
    names: Names,
    of_slice: bool,
) -> bool:
    """Fill in what the row says of an item; False if the item cannot be used. `of_slice`: the row is of it alone."""
    if not row:
        if columns.labels:
            dataset.add("noted", "file without a row", item["id"])
        if columns.split:
            dataset.sections[item["id"]] = "training"
        return True
    where = f"row {number}"
    for kind, column in (("id", columns.id), ("group", columns.group), ("split", columns.split)):
        if column and (row[column].lower() in EMPTY or row[column] == CONTRADICTION):
            dataset.add_once("dropped", f"no {kind} in its row; fill it in", where)
            return False
    if columns.split and row[columns.split].lower() not in SECTION_NAMES:
        dataset.add_once("dropped", "split that is neither train, val nor test", where)
        return False
    label, problem = labeler.label(row)
    if label is not None:
        item["label"] = label
    if problem:
        dataset.add_once("noted", problem, where)
    if columns.id:
        item["id"] = row[columns.id] + ("" if of_slice else item["id"][len(unit.id) :])
    if columns.group:
        item["group"] = names.group(row[columns.group])
    elif unit.group == unit.id and columns.id and not of_slice:
        item["group"] = row[columns.id]
    if columns.split:
        dataset.sections[item["id"]] = SECTION_NAMES[row[columns.split].lower()]
    used = {columns.image, *columns.labels, columns.id, columns.group, columns.split}
    used |= {columns.slice} if unit.slices else set()
    if meta := {key: text for key, text in row.items() if key not in used and text}:
        item["meta"] = meta
    return True
