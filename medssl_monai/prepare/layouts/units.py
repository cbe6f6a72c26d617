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
from medssl_monai.readers.decoders import count_slices, header_notes, nonfinite
from medssl_monai.readers.dicom.identity import instance_uid
from medssl_monai.readers.dicom.objects import is_harmless
from medssl_monai.readers.dicom.series import DicomSeries, find_series
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.refusals import CUT_SHORT, UnreadableImageError


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
        """Return an item, or one for each slice, with paths as seen from `folder`; None: as they are."""
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
    """Return the images and volumes among the files of a folder.

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
    search = _Search(root, files, out_dir, names, volumes, named, dataset, keep_copies)
    search.add_series()
    search.add_files()
    units = [(name, unit) for name, unit in search.units if nan is None or _is_finite(unit, nan, dataset)]
    for _, unit in units:
        for note in unit.notes:
            dataset.add("noted", note, unit.id)
    return [unit for _, unit in sorted(units, key=lambda pair: natural(pair[0]))], search.alias


class _Search:
    """The steps of `find_units`, with its arguments.

    Attributes:
        units: what was found, each with the file that decides on its place.
        alias: name of the unit that a file stands for.
        volume_of: name of the volume that a file is a slice of.
        of_files: the series of each DICOM file that is an image of its own.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        out_dir: Path | None,
        names: Names,
        volumes: bool,
        named: Collection[str],
        dataset: Dataset,
        keep_copies: bool,
    ) -> None:
        self.root, self.files, self.out_dir, self.names, self.volumes = root, files, out_dir, names, volumes
        self.named, self.dataset, self.keep_copies = named, dataset, keep_copies
        self.units: list[tuple[str, Unit]] = []
        self.alias: dict[str, str] = {}
        self.volume_of: dict[str, str] = {}
        self.of_files: dict[Path, DicomSeries] = {}
        dicom = [root / name for name in files if image_format(root / name) == "DICOM"]
        self.in_folder = {folder: _dicom_in(folder) for folder in {path.parent for path in dicom}}
        self.series, self.unusable = find_series(dicom)

    def add_series(self) -> None:
        """Add the series that are volumes; those of which a table names several files are left to `add_files`."""
        uses = Counter(one.uid for one in self.series if one.volume)  # careless anonymising may give many one UID
        damaged = Counter(
            path.parent for path, why in self.unusable.items() if not (is_harmless(why) or why.endswith(CUT_SHORT))
        )
        for one in self.series:
            alone = self.in_folder[one.files[0].parent] == set(one.files)
            inside = [path.relative_to(self.root).as_posix() for path in one.files]
            chosen = [name for name in inside if name in self.named]
            if one.volume and len(chosen) <= 1 and (self.out_dir is not None or alone):
                self._add_volume(one, alone, inside, chosen, uses[one.uid] == 1, damaged[one.files[0].parent])
                continue
            self.of_files |= dict.fromkeys(one.files, one)
            if one.volume and len(chosen) > 1:
                reason = "series of which rows name several files, each an image then"
                self.dataset.add("noted", reason, self.names.file(chosen[0]))

    def _add_volume(
        self, one: DicomSeries, alone: bool, inside: list[str], chosen: list[str], unique: bool, damaged: int
    ) -> None:
        """Add a series as a volume.

        Args:
            one: the series.
            alone: its folder holds no other DICOM files.
            inside: names of its files.
            chosen: those of them that a table names.
            unique: its UID is that of no other series.
            damaged: how many files beside it are damaged.
        """
        path = one.files[0].parent if alone else one.files[0]
        name = path.relative_to(self.root).as_posix()
        id_ = self.names.file(name, one.uid if unique else "")
        unit = Unit(name, path, id_, _owner(one, self.names), notes=one.notes)
        if self.out_dir and not alone:
            unit = replace(unit, path=self.out_dir / "series" / _folder_name(id_), copies=one.files)
        problem = one.problem
        if damaged:
            problem = (
                f"{damaged} files beside it are damaged, and may be slices of it; copy them anew, or take them away"
            )
        if problem:
            _quarantine(self.dataset, unit.id, path, f"a series of {len(one.files)} slices: {problem}")
            return
        self.alias |= dict.fromkeys(chosen, name)
        self.volume_of |= dict.fromkeys(inside, name)
        unit = unit if self.volumes else replace(unit, slices=len(one.files))
        self.units.append((min(inside, key=natural), unit))

    def add_files(self) -> None:
        """Add the files that are no slices of a volume."""
        in_volumes = {path for one in self.series for path in one.files if path not in self.of_files}
        originals = {copy: (original, one) for one in self.series for copy, original in one.copies}
        uids = {path: instance_uid(path) for path in self.of_files}
        uses = Counter(uids.values())
        for name in self.files:
            path = self.root / name
            if path in in_volumes:
                continue
            if path in originals:
                original, self.of_files[path] = originals[path]
                if not self.keep_copies:
                    original_name = original.relative_to(self.root).as_posix()
                    self.alias[name] = self.volume_of.get(original_name, original_name)
                    self.dataset.add("dropped", "exact copy of another image", self.names.file(name))
                    continue
            elif path in self.unusable:
                _quarantine(self.dataset, self.names.file(name), path, self.unusable[path])
                continue
            uid = uids.get(path, "")
            self._add_file(name, self.names.file(name, uid if uses[uid] == 1 else ""))

    def _add_file(self, name: str, id_: str) -> None:
        path, series = self.root / name, self.of_files.get(self.root / name)
        try:
            slices = count_slices(path)
            if is_cut_short(path):
                raise UnreadableImageError(path, CUT_SHORT)
            notes = series.notes if series else tuple(header_notes(path))
        except UnreadableImageError as error:
            _quarantine(self.dataset, id_, path, error.reason)
            return
        group = _owner(series, self.names) if series else id_
        self.units.append((name, Unit(name, path, id_, group, None if self.volumes else slices, notes=notes)))


def _is_finite(unit: Unit, nan: Nan, dataset: Dataset) -> bool:
    """Return whether an image holds nothing but numbers, or what may be read as background; else quarantine it."""
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
    """Return the DICOM files that the reader would find directly in a folder, whether they are wanted or not."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path for path in files if image_format(path) == "DICOM"}


def _folder_name(id_: str) -> str:
    """Return an id as the name of a folder."""
    return id_ if re.fullmatch(r"[\w-]+", id_) else hashlib.sha256(id_.encode()).hexdigest()[:16]


def _owner(series: DicomSeries, names: Names) -> str:
    return names.patient(series.patient or series.study or series.uid)


def _quarantine(dataset: Dataset, name: str, path: Path, reason: str) -> None:
    dataset.add("dropped", "file that cannot be used", f"{name}: {reason}")
    dataset.quarantine.append({"id": name, "image": str(path), "reason": reason})
