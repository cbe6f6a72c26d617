"""A folder of images, with a table, with classes as folders, or with nothing."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from medssl_monai.prepare.layouts.conventions import KERMANY, SECTION_NAMES
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.files import image_files
from medssl_monai.prepare.layouts.find_masks import MaskFinder
from medssl_monai.prepare.layouts.paths import relative
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.layouts.table import join
from medssl_monai.tables import Table


def read(request: Request) -> Dataset:
    """Read PNG, JPEG, NIfTI and DICOM files, wherever they lie below the folder."""
    listing = image_files(request.source)
    ignored = [name for name in listing.images if _fits(name, request.ignore)]
    files = [name for name in listing.images if name not in set(ignored)]
    if request.class_folders:
        if request.table:
            raise ValueError("give either a `table` or `class_folders`, not both.")
        masks = MaskFinder(request.source, request.masks, Table(), files).files
        table, used = _folders_as_table([name for name in files if name not in masks]), list[str]()
    else:
        path = find_table(request)
        used = [relative(path, request.source)] if path else []
        table = Table.read(path) if path else Table()
    dataset = join(table, request.source, files, request, request.names)
    dataset.passed_over = listing.unused(used, {"fits a pattern to ignore": ignored})
    return dataset


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(Path(name).name, pattern) for pattern in patterns)


def find_table(request: Request) -> Path | None:
    """Return the table that was named, or else the only one in the folder.

    Raises:
        ValueError: if there are several.
    """
    if request.table:
        return request.table
    tables = sorted(path for path in request.source.iterdir() if path.suffix.lower() in (".csv", ".tsv"))
    if len(tables) > 1:
        raise ValueError(
            f"{request.source} holds {len(tables)} tables, {', '.join(path.name for path in tables[:5])}; name one as "
            "`table`."
        )
    return tables[0] if tables else None


def _folders_as_table(files: list[str]) -> Table:
    """Make a table of ``train/ill/1.png``: class ``ill``, section ``train``; groups from the names if Kermany's."""
    parts = [Path(name).parts for name in files]
    if any(len(part) < 2 for part in parts):
        raise ValueError("with `class_folders`, every image must lie in a folder that is named after its class.")
    split = all(len(part) > 2 and part[0].lower() in SECTION_NAMES for part in parts)
    patients = [KERMANY.match(part[-1]) for part in parts]
    header = ["image", "label", *(["split"] if split else []), *(["patient"] if all(patients) else [])]
    rows = []
    for number, (name, part, patient) in enumerate(zip(files, parts, patients, strict=True), start=1):
        values = {"image": name, "label": part[-2], "split": part[0], "patient": patient["patient"] if patient else ""}
        rows.append((number, {key: values[key] for key in header}))
    return Table(header, rows)
