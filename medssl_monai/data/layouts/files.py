"""Image files below a folder, and the DICOM series among them."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import Item
from medssl_monai.data.dicom import COPY, DicomSeries, find_series, instance_uid
from medssl_monai.data.layouts.base import Found, Names, natural, relative
from medssl_monai.data.reader import UnreadableImageError, count_slices, image_format


@dataclass(frozen=True)
class Unit:
    """One image or volume.

    Attributes:
        name: as a table would name it: path relative to the source, of a file or of the folder of a series.
        path: where it is, or will be.
        id: unique name that shows nothing.
        group: patient, or the id.
        slices: how many images it is cut into; None: it is an image, or stays a volume.
        copies: the files of a series that has no folder of its own.
        notes: what is odd about it.
    """

    name: str
    path: Path
    id: str
    group: str
    slices: int | None = None
    copies: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def items(self, folder: Path | None) -> list[Item]:
        """An item, or one for each slice, with paths as seen from `folder`; None: as they are."""
        image = relative(self.path, folder) if folder else str(self.path)
        item: Item = {"image": image, "id": self.id, "group": self.group}
        if self.slices is None:
            return [item]
        return [{**item, "id": f"{self.id}#{k}", "slice": k} for k in range(self.slices)]


def image_files(folder: Path) -> list[str]:
    """Relative paths of what looks like an image, in natural order; hidden files and DICOMDIRs are passed over."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent) / name for name in files if not name.startswith(".") and name != "DICOMDIR"]
        names += [path.relative_to(folder).as_posix() for path in paths if path.is_file() and image_format(path)]
    return sorted(names, key=natural)


def find_units(
    root: Path,
    files: Sequence[str],
    out_dir: Path | None,
    names: Names,
    volumes: bool,
    named: Collection[str],
    found: Found,
    keep_copies: bool = True,
) -> tuple[list[Unit], dict[str, str]]:
    """Images and volumes of files below a folder.

    A DICOM series of slices is one volume. If a table names one file of it, that row stands for the series; if it
    names several, every file of the series is an image of its own.

    Args:
        root: the folder.
        files: relative paths, in the order wanted.
        out_dir: where series that share a folder will be copied to; None: nowhere, their files are images each.
        names: makes the ids.
        volumes: keep volumes whole instead of cutting them into slices.
        named: files that a table names.
        found: takes down what cannot be used.
        keep_copies: whether files with the SOPInstanceUID of another file are images of their own.

    Returns:
        Units in the order of `files`, and the unit's name for each file that stands for a series.
    """
    units: list[tuple[str, Unit]] = []
    alias: dict[str, str] = {}
    stands_for: dict[str, str] = {}
    known: dict[Path, DicomSeries] = {}
    dicom = [root / name for name in files if image_format(root / name) == "DICOM"]
    per_folder = Counter(path.parent for path in dicom)
    series, unusable = find_series(dicom)
    for one in series:
        inside = [path.relative_to(root).as_posix() for path in one.files]
        chosen = [name for name in inside if name in named]
        own_folder = one.files[0].parent
        whole = per_folder[own_folder] == len(one.files) == sum(path.parent == own_folder for path in one.files)
        if not one.volume or len(chosen) > 1 or (out_dir is None and not whole):
            known |= dict.fromkeys(one.files, one)
            continue
        name = own_folder.relative_to(root).as_posix() if whole else inside[0]
        unit = Unit(name, own_folder, names.file(name, one.uid), _owner(one, names), notes=one.notes)
        if out_dir and not whole:
            unit = replace(unit, path=out_dir / "series" / names.file(one.uid, one.uid), copies=one.files)
        if one.problem:
            _quarantine(found, unit.id, own_folder, f"a series of {len(one.files)} slices: {one.problem}")
            continue
        alias |= dict.fromkeys(chosen, name)
        stands_for |= dict.fromkeys(inside, name)
        units.append((min(inside, key=natural), unit if volumes else replace(unit, slices=len(one.files))))
    in_volumes = {path for one in series for path in one.files if path not in known}
    uids = {path: instance_uid(path) for path in known}
    used = Counter(uids.values())  # careless anonymising may give many images one UID
    originals: dict[str, tuple[Path, DicomSeries]] = {}
    if COPY in unusable.values():
        originals = {instance_uid(path): (path, one) for one in series for path in one.files}
    for name in files:
        path = root / name
        if path in in_volumes:
            continue
        if unusable.get(path) == COPY:
            original, known[path] = originals[instance_uid(path)]
            if not keep_copies:
                original_name = original.relative_to(root).as_posix()
                alias[name] = stands_for.get(original_name, original_name)
                found.add("dropped", "exact copy of another image", names.file(name))
                continue
        elif path in unusable:
            _quarantine(found, names.file(name), path, unusable[path])
            continue
        uid = uids.get(path, "")
        own = names.file(name, uid if used[uid] == 1 else "")
        try:
            slices = count_slices(path)
            if _cut_short(path):
                raise UnreadableImageError(path, "is cut short; copy it anew from its source")
        except UnreadableImageError as error:
            _quarantine(found, own, path, error.reason)
            continue
        unit = Unit(name, path, own, own, None if volumes else slices)
        if path in known:
            unit = replace(unit, group=_owner(known[path], names), notes=known[path].notes)
        units.append((name, unit))
    for _, unit in units:
        for note in unit.notes:
            found.add("noted", note, unit.id)
    return [unit for _, unit in sorted(units, key=lambda pair: natural(pair[0]))], alias


def _owner(series: DicomSeries, names: Names) -> str:
    return names.patient(series.patient or series.study or series.uid)


def _quarantine(found: Found, name: str, path: Path, reason: str) -> None:
    found.add("dropped", "file that cannot be used", f"{name}: {reason}")
    found.quarantine.append({"id": name, "image": str(path), "reason": reason})


def _cut_short(path: Path) -> bool:
    """Whether the end of the file is missing, as far as its header tells."""
    kind, size = image_format(path), path.stat().st_size
    if kind in ("PNG", "JPEG"):
        with path.open("rb") as file:
            file.seek(max(0, size - 4096))
            return (b"IEND" if kind == "PNG" else b"\xff\xd9") not in file.read()
    if kind == "DICOM":
        return False  # `find_series` has looked
    import nibabel as nib

    image: Any = nib.load(path)
    wanted = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if path.suffix.lower() != ".gz":
        return bool(size < wanted)
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if int.from_bytes(file.read(), "little") == wanted % 2**32:  # gzip ends with the size of its content
            return False
    try:
        with gzip.open(path) as stream:
            return bool(sum(len(block) for block in iter(lambda: stream.read(2**20), b"")) < wanted)
    except (EOFError, OSError, zlib.error):
        return True
