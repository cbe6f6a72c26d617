"""All images below a folder, without a table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from medssl_monai.data.datalist import Item
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.files import image_files
from medssl_monai.prepare.layouts.series import put_series
from medssl_monai.prepare.layouts.units import find_units
from medssl_monai.prepare.pseudonym import Names


class Listed(NamedTuple):
    """The images below a folder.

    Attributes:
        items: with absolute paths; ``group`` is the patient of DICOM files, else the file.
        unusable: for each file that looks like an image but cannot be used its ``id``, ``image`` and ``reason``.
        passed_over: relative paths of all other files, by reason.
    """

    items: list[Item]
    unusable: list[dict[str, str]]
    passed_over: dict[str, list[str]]


def list_images(
    folder: str | Path, volumes: bool = False, key_file: str | Path | None = None, gather: str | Path | None = None
) -> Listed:
    """List items for all images below a folder, in natural order, one for each slice or frame of a volume.

    DICOM files of one series are a volume, sorted by geometry. Headers are read and no pixels. DICOM files are known by
    their content and need no suffix.

    Args:
        folder: where to look.
        volumes: one item for a volume.
        key_file: of the pseudonyms that are the ids; see `medssl_monai.prepare.pseudonym.load_key`.
        gather: folder in which series that share theirs with others, or lie in several, get folders of links of their
            own; None: nothing is written, and the files of such series are images each.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    dataset, files = Dataset(), image_files(folder)
    out_dir = None if gather is None else Path(gather)
    units, _ = find_units(folder, files.images, out_dir, Names(False, key_file), volumes, (), dataset)
    for unit in units:
        if unit.copies:
            put_series(unit.path, unit.copies, link=True)
    return Listed([item for unit in units for item in unit.items(None)], dataset.quarantine, files.passed_over)
