"""``.zip`` files with a table inside."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

from medssl_monai.data.layouts.base import Found, Request, first, natural
from medssl_monai.data.layouts.table import holds_paths, join
from medssl_monai.tables import Table

MANIFEST = "manifest.csv"


def fits(source: Path) -> bool:
    """Whether a file is a ``.zip`` with a ``manifest.csv``."""
    if source.suffix.lower() != ".zip" or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as file:
        return MANIFEST in file.namelist()


def read(request: Request) -> Found:
    """Files and ``manifest.csv``; the files are unpacked to the output folder, and names stay as they are."""
    if request.table:
        raise ValueError(f"the archive brings its own {MANIFEST}; unpack it to use another `table`.")
    with zipfile.ZipFile(request.source) as archive:
        table = Table.parse(archive.read(MANIFEST), f"{request.source.name}/{MANIFEST}")
        wanted = first(table.header, "image", "file") if request.image_column == "image" else request.image_column
        masks = request.masks
        if not request.mask_classes and holds_paths(table, request.label_column):
            masks = request.label_column
        columns = [column for column in (wanted, masks) if column in table.header]
        names = set(archive.namelist())
        files = sorted(
            {row[column] for _, row in table.rows for column in columns if row[column] in names}, key=natural
        )
        root = request.out_dir.resolve()
        for name in files:
            target = (root / name).resolve()
            if not target.is_relative_to(root):
                raise ValueError(f"{request.source.name} holds {name!r}, which would be written outside {root}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file)
    label = "" if request.label_column == "label" and "label" not in table.header else request.label_column
    request = replace(request, out_dir=root, label_column=label)
    return join(table, root, files, request, replace(request.names, clear=True))
