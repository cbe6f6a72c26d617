"""Images and volumes among the files of a folder."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medssl_monai.data.datalist import Item
from medssl_monai.names import natural
from medssl_monai.options import Nan
from medssl_monai.prepare.layouts.cut_short import is_cut_short
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.paths import relative
from medssl_monai.prepare.pseudonym import Names
from medssl_monai.readers.dicom import DicomSeries, find_series, instance_uid, is_harmless
from medssl_monai.readers.reader import (
    CUT_SHORT,
    UnreadableImageError,
    count_slices,
    header_notes,
    image_format,
    nonfinite,
)


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


def find_units(
    root: Path,
    files: Sequence[str],
    out_dir: Path | None,
    names: Names,
    volumes: bool,
    named: Collection[str],
    dataset: Dataset,
    keep_copies: bool = True,
    nan: Nan | None = None,
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
        dataset: takes down what cannot be used.
        keep_copies: whether files with the SOPInstanceUID of another file are images of their own.
        nan: what NaN in an image means; None: pixels are not looked at.

    Returns:
        Units in the order of `files`, and the unit's name for each file that stands for a series.
    """
    units: list[tuple[str, Unit]] = []
    alias: dict[str, str] = {}
    stands_for: dict[str, str] = {}
    known: dict[Path, DicomSeries] = {}
    dicom = [root / name for name in files if image_format(root / name) == "DICOM"]
    in_folder = {folder: _dicom_in(folder) for folder in {path.parent for path in dicom}}
    series, unusable = find_series(dicom)
    whole = [in_folder[one.files[0].parent] == set(one.files) for one in series]
    used = Counter(one.uid for one in series if one.volume)  # careless anonymising may give many series one UID
    damaged = Counter(
        path.parent for path, why in unusable.items() if not (is_harmless(why) or why.endswith(CUT_SHORT))
    )
    for one, alone in zip(series, whole, strict=True):
        inside = [path.relative_to(root).as_posix() for path in one.files]
        chosen = [name for name in inside if name in named]
        if not one.volume or len(chosen) > 1 or (out_dir is None and not alone):
            known |= dict.fromkeys(one.files, one)
            if one.volume and len(chosen) > 1:
                dataset.add(
                    "noted",
                    "series of which rows name several files, each an image then",
                    names.file(chosen[0]),
                )
            continue
        path = one.files[0].parent if alone else one.files[0]
        name = path.relative_to(root).as_posix()
        own = names.file(name, one.uid if used[one.uid] == 1 else "")
        unit = Unit(name, path, own, _owner(one, names), notes=one.notes)
        if out_dir and not alone:
            unit = replace(unit, path=out_dir / "series" / _folder_name(own), copies=one.files)
        problem = one.problem
        if spoiled := damaged[one.files[0].parent]:
            problem = (
                f"{spoiled} files beside it are damaged, and may be slices of it; copy them anew, or take them away"
            )
        if problem:
            _quarantine(dataset, unit.id, path, f"a series of {len(one.files)} slices: {problem}")
            continue
        alias |= dict.fromkeys(chosen, name)
        stands_for |= dict.fromkeys(inside, name)
        units.append((min(inside, key=natural), unit if volumes else replace(unit, slices=len(one.files))))
    in_volumes = {path for one in series for path in one.files if path not in known}
    originals = {copy: (original, one) for one in series for copy, original in one.copies}
    uids = {path: instance_uid(path) for path in known}
    used = Counter(uids.values())
    for name in files:
        path = root / name
        if path in in_volumes:
            continue
        if path in originals:
            original, known[path] = originals[path]
            if not keep_copies:
                original_name = original.relative_to(root).as_posix()
                alias[name] = stands_for.get(original_name, original_name)
                dataset.add("dropped", "exact copy of another image", names.file(name))
                continue
        elif path in unusable:
            _quarantine(dataset, names.file(name), path, unusable[path])
            continue
        uid = uids.get(path, "")
        own = names.file(name, uid if used[uid] == 1 else "")
        try:
            slices = count_slices(path)
            if is_cut_short(path):
                raise UnreadableImageError(path, CUT_SHORT)
            notes = known[path].notes if path in known else tuple(header_notes(path))
        except UnreadableImageError as error:
            _quarantine(dataset, own, path, error.reason)
            continue
        group = _owner(known[path], names) if path in known else own
        units.append((name, Unit(name, path, own, group, None if volumes else slices, notes=notes)))
    units = [(name, unit) for name, unit in units if nan is None or _is_finite(unit, nan, dataset)]
    for _, unit in units:
        for note in unit.notes:
            dataset.add("noted", note, unit.id)
    return [unit for _, unit in sorted(units, key=lambda pair: natural(pair[0]))], alias


def _is_finite(unit: Unit, nan: Nan, dataset: Dataset) -> bool:
    """Whether an image holds nothing but numbers, or what may be read as background; else it is quarantined."""
    for path in unit.copies or (unit.path,):
        try:
            bad = nonfinite(path)
            problem = bad.problem(nan) if bad else None
        except UnreadableImageError as error:
            bad, problem = None, error.reason
        if problem:
            _quarantine(dataset, unit.id, path, problem)
            return False
        if bad:
            share = f"{bad.nan / bad.total:.2%}"
            dataset.add("noted", "NaN around an image, read as background", f"{unit.id}: {share} of its voxels")
    return True


def _dicom_in(folder: Path) -> set[Path]:
    """DICOM files that the reader would find directly in a folder, whether they are wanted or not."""
    there = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path for path in there if image_format(path) == "DICOM"}


def _folder_name(own: str) -> str:
    """An id as the name of a folder."""
    return own if re.fullmatch(r"[\w-]+", own) else hashlib.sha256(own.encode()).hexdigest()[:16]


def _owner(series: DicomSeries, names: Names) -> str:
    return names.patient(series.patient or series.study or series.uid)


def _quarantine(dataset: Dataset, name: str, path: Path, reason: str) -> None:
    dataset.add("dropped", "file that cannot be used", f"{name}: {reason}")
    dataset.quarantine.append({"id": name, "image": str(path), "reason": reason})
