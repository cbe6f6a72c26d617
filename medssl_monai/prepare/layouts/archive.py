"""``.zip`` files with a table inside."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from medssl_monai import limits
from medssl_monai.files import write_atomically
from medssl_monai.names import natural
from medssl_monai.prepare.layouts.columns import holds_paths
from medssl_monai.prepare.layouts.conventions import SUFFIX, first
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.layouts.table import join
from medssl_monai.prepare.layouts.zips import Archive
from medssl_monai.tables import Table

MANIFEST = "manifest.csv"


def fits(source: Path) -> bool:
    """Return whether a file is a ``.zip`` with a ``manifest.csv``.

    Raises:
        ValueError: if it is damaged.
    """
    if source.suffix.lower() != ".zip" or not source.is_file():
        return False
    with Archive(source) as archive:
        return MANIFEST in archive.members


def read(request: Request) -> Dataset:
    """Unpack the files that ``manifest.csv`` names to the output folder; names stay as they are.

    Raises:
        ValueError: if the archive is damaged, or one of these files cannot be unpacked safely.
    """
    if request.table:
        raise ValueError(f"the archive brings its own {MANIFEST}; unpack it to use another `table`.")
    with Archive(request.source) as archive:
        limits.check("max_table_bytes", archive.members[MANIFEST].file_size, f"{archive.name}: {MANIFEST}")
        archive.check([MANIFEST])
        table = Table.parse(bytes(archive.read(MANIFEST)), f"{archive.name}/{MANIFEST}")
        wanted = first(table.header, "image", "file") if request.image_column == "image" else request.image_column
        masks = request.masks
        if not request.mask_classes and holds_paths(table, request.label_column):
            masks = request.label_column
        columns = [column for column in (wanted, masks) if column in table.header]
        named = {_plain(row[column]) for _, row in table.rows for column in columns}
        chosen = [name for name in archive.members if _plain(name) in named]
        others = [name for name in archive.members if _plain(name) not in {MANIFEST, *named}]
        root = request.out_dir.resolve()
        files = sorted(_unpack(archive, chosen, root), key=natural)
    label = "" if request.label_column == "label" and "label" not in table.header else request.label_column
    request = replace(request, out_dir=root, label_column=label)
    dataset = join(table, root, files, request, replace(request.names, clear=True))
    dataset.add("dropped", f"file of the archive that {MANIFEST} does not name", *others)
    return dataset


def _plain(name: str) -> str:
    """Return a path in the form that compares: one separator, one Unicode form, the suffix in lower case."""
    text = unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")
    return SUFFIX.sub(lambda suffix: suffix[0].lower(), text)


def _unpack(archive: Archive, names: Sequence[str], root: Path) -> Iterator[str]:
    """Write members below a folder, never through a link, and no more than they say to hold; yields their paths."""
    total, free = archive.check(names), shutil.disk_usage(root).free
    if total > free:
        raise ValueError(f"{archive.name} unpacks to {total:,} bytes, and {root} has {free:,} left; free some space.")
    for name in names:
        path = unicodedata.normalize("NFC", name)
        target = root / path
        if not target.parent.resolve().is_relative_to(root):
            raise ValueError(f"{archive.name} holds {name!r}, which would be written outside {root} by a link there.")
        write_atomically(target, partial(_copy, archive.blocks(name)), synced=False)
        yield path


def _copy(blocks: Iterable[bytes], file: BinaryIO) -> None:
    file.writelines(blocks)
