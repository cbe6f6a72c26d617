"""Chest X-rays and their findings as published: CheXpert and ChestX-ray14."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medssl_monai.prepare.layouts.conventions import EMPTY
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.files import image_files
from medssl_monai.prepare.layouts.labels import finding
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.layouts.table import join
from medssl_monai.tables import Row, Table, header_of, lines_of

CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
"""Observations in the order of CheXpert's columns."""
CHESTXRAY14 = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
"""Findings in NIH's usual order; an image without any says "No Finding" instead."""
CHEXPERT_TABLES = ("train.csv", "valid.csv")
CHEXPERT_PATH = re.compile(r"(?:^|/)(?P<image>(?P<split>train|valid|test)/(?P<patient>patient\d+)/[^/]+/[^/]+)$")
CHEXPERT_META = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
NIH_TABLES = "Data_Entry_2017*.csv"
NIH_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
NIH_META = ("Follow-up #", "Patient Age", "Patient Gender", "Patient Sex", "View Position")


def fits_chexpert(source: Path) -> bool:
    """Return whether a folder has CheXpert's ``train.csv`` or ``valid.csv``."""
    return any({"Path", *CHEXPERT}.issubset(header_of(source / name)) for name in CHEXPERT_TABLES)


def read_chexpert(request: Request) -> Dataset:
    """Read CheXpert (Irvin et al., AAAI 2019): ``train.csv``, ``valid.csv`` and the folders ``train``, ``valid``.

    Section and patient come from the path, ``train/patient00001/study1/view1_frontal.jpg``; what stands before
    ``train`` is the publisher's folder and passed over. A finding is 1, 0, -1 (uncertain) or blank (not mentioned);
    `uncertain` and `blank` of the request say what the last two count as.

    Raises:
        ValueError: if a column is missing, or the request names columns.
    """
    wanted = _wanted(request, CHEXPERT)
    listing = image_files(request.source)
    tables = [request.source / name for name in CHEXPERT_TABLES]
    total, named = Dataset(), set()
    for path in [request.table] if request.table else filter(Path.is_file, tables):
        table = _parse(path, ("Path", *wanted))
        rows, problems = [], Dataset()
        for number, row in table.rows:
            place = CHEXPERT_PATH.search(row["Path"].replace("\\", "/"))
            if not place:
                problems.add("dropped", "Path: not .../train/patient00001/study1/view1_frontal.jpg", f"row {number}")
                continue
            labels = {name: finding(row[name], request.uncertain, request.blank) for name in wanted}
            for name in (name for name, value in labels.items() if value is None):
                problems.add("noted", f"{name}: neither 1, 0, -1 nor blank", f"row {number}")
            rows.append((number, _row(place.groupdict(), row, CHEXPERT_META, labels)))
        paths = {row["image"] for _, row in rows}
        named |= paths
        files = [name for name in listing.images if name in paths]
        _add(total, path.name, problems, _join(rows, table, files, wanted, request))
    total.add("dropped", "file without a row", *(name for name in listing.images if name not in named))
    total.grouping, total.passed_over = "patient, read from the path", listing.unused(CHEXPERT_TABLES)
    return total


def fits_chestxray14(source: Path) -> bool:
    """Return whether a folder has NIH's ``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv``."""
    return any({"Image Index", "Finding Labels"}.issubset(header_of(path)) for path in source.glob(NIH_TABLES))


def read_chestxray14(request: Request) -> Dataset:
    """Read ChestX-ray14 (Wang et al., CVPR 2017): ``Data_Entry_2017.csv``, lists of the split, images below.

    Images are found by name, be they in ``images`` or in ``images_001/images`` and so on. ``test_list.txt`` is the
    testing section, ``train_val_list.txt`` the training section, which has yet to give up a validation section.

    Raises:
        ValueError: if a column is missing, the request names columns, there are several tables and none is named, or
            the lists contradict each other.
    """
    wanted = _wanted(request, CHESTXRAY14)
    path = request.table or _only_table(request.source)
    table = _parse(path, ("Image Index", "Finding Labels", "Patient ID"))
    split = _nih_split(request.source)
    rows, problems = [], Dataset()
    for number, row in table.rows:
        image, cell, patient = row["Image Index"], row["Finding Labels"], row["Patient ID"]
        if split and image not in split:
            problems.add("dropped", "Image Index: in neither list of the split", f"row {number}")
            continue
        stated = {part.strip().replace(" ", "_") for part in cell.split("|")} - {"No_Finding"}
        known = stated <= set(CHESTXRAY14)
        if not known and cell.lower() not in EMPTY:
            problems.add("noted", f"Finding Labels: none of the {len(CHESTXRAY14)} findings", f"row {number}")
        patient = patient.lstrip("0") or patient  # NIH's files write it with and without zeros
        place = {"image": image, "id": image, "patient": patient, "split": split.get(image, "")}
        labels = {name: int(name in stated) if known else None for name in wanted}
        rows.append((number, _row(place, row, NIH_META, labels)))
    dataset, names = Dataset(), {row["image"] for _, row in rows}
    listing = image_files(request.source)
    files = [name for name in listing.images if Path(name).name in names]
    _add(dataset, path.name, problems, _join(rows, table, files, wanted, request))
    dataset.add("dropped", "file without a row", *(name for name in listing.images if Path(name).name not in names))
    dataset.grouping, dataset.passed_over = "column 'Patient ID'", listing.unused([path.name, *NIH_LISTS])
    return dataset


def _wanted(request: Request, findings: Sequence[str]) -> tuple[str, ...]:
    """Return the findings that were asked for, or all; the tables say everything else themselves."""
    named = (request.id_column, request.group_column, request.split_column, request.masks)
    if any(named) or request.label_column not in ("label", "") or request.image_column != "image":
        raise ValueError("the publisher's tables are read as they are; name findings as `classes`, and no columns.")
    unknown = [name for name in request.classes if name not in findings]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no finding of this set; it has {list(findings)}.")
    if len(request.classes) == 1:
        raise ValueError(f"for {request.classes[0]!r} against the rest, name it as `positive`, not as `classes`.")
    return request.classes or tuple(findings)


def _parse(path: Path, columns: Iterable[str]) -> Table:
    table = Table.read(path)
    missing = [name for name in columns if name not in table.header]
    if missing:
        raise ValueError(f"{path.name} has no column {missing[0]!r}, only {table.header}.")
    return table


def _only_table(source: Path) -> Path:
    tables = sorted(source.glob(NIH_TABLES))
    if len(tables) > 1:
        raise ValueError(f"there are several tables, {[path.name for path in tables]}; name one as `table`.")
    return tables[0]


def _nih_split(source: Path) -> dict[str, str]:
    """Return ``train`` or ``test`` by image; empty without the lists."""
    names = [name for name in NIH_LISTS if (source / name).is_file()]
    lists = {name: {image for line in lines_of(source / name) for image in line.split()} for name in names}
    if len(lists) == 1:
        raise ValueError(f"there is only {min(lists)} of {list(NIH_LISTS)}; put the other beside it, or take it away.")
    both = set.intersection(*lists.values()) if lists else set()
    if both:
        raise ValueError(f"{len(both)} images are in both {' and '.join(lists)}, such as {min(both)!r}.")
    return {image: NIH_LISTS[name] for name, images in lists.items() for image in images}


def _row(place: Row, row: Row, meta: Iterable[str], labels: dict[str, int | None]) -> Row:
    """Return a row as `join` reads it."""
    cells = {name: "-1" if value is None else str(value) for name, value in labels.items()}
    return {**place, **{name: row[name] for name in meta if name in row}, **cells}


def _join(
    rows: list[tuple[int, Row]], original: Table, files: Sequence[str], wanted: tuple[str, ...], request: Request
) -> Dataset:
    """Bring rows and files together; an image of which no finding is known has no label."""
    split = any(row["split"] for _, row in rows)
    header = list(rows[0][1]) if rows else ["image", "patient", "split", *wanted]
    table = Table([name for name in header if split or name != "split"], rows, original.bad, original.name)
    plain = Request(
        request.source, request.out_dir, label_column=",".join(wanted), group_column="patient", classes=wanted
    )
    dataset = join(table, request.source, files, plain, replace(request.names, clear=True))
    for item in dataset.items:
        if set(item.get("label", [-1])) == {-1}:  # rows of one image may have contradicted each other
            item.pop("label", None)
            dataset.add("noted", "no label", item["id"])
    return dataset


def _add(total: Dataset, table: str, *parts: Dataset) -> None:
    """Take over what a table holds, and its name beside its rows."""
    for part in parts:
        for reason, what in part.dropped.items():
            total.add("dropped", reason, *_with_table(table, what))
        for reason, what in part.noted.items():
            total.add("noted", reason, *_with_table(table, what))
        total.items += part.items
        total.sections |= part.sections
        total.quarantine += part.quarantine
        total.classes = part.classes or total.classes


def _with_table(table: str, what: Iterable[str]) -> list[str]:
    return [f"{table}, {one}" if one.startswith("row") else one for one in what]
