"""Image files below a folder, and the DICOM series among them."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from medssl_monai.data.datalist import Item
from medssl_monai.names import natural
from medssl_monai.options import Nan
from medssl_monai.prepare.layouts.base import Found, Names, relative
from medssl_monai.readers.decoders import count_slices, header_notes, nonfinite
from medssl_monai.readers.dicom.identity import instance_uid
from medssl_monai.readers.dicom.objects import is_harmless
from medssl_monai.readers.dicom.series import DicomSeries, find_series
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.nifti import nifti_cut_short, open_nifti
from medssl_monai.readers.refusals import CUT_SHORT, UnreadableImageError

FEW = 5
"""Names that stand for all files passed over for one reason."""
NOT_READ = "not a format that is read"
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""But for those within the picture's data."""


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


class ImageFiles(NamedTuple):
    """What lies below a folder.

    Attributes:
        images: relative paths of what looks like an image, in natural order.
        passed_over: relative paths of all else, by reason.
    """

    images: list[str]
    passed_over: dict[str, list[str]]

    def unused(self, tables: Collection[str], others: Mapping[str, list[str]] | None = None) -> dict[str, list[str]]:
        """`passed_over` without the `tables` and lists that were read, and with `others`, by reason."""
        rest = {reason: [name for name in names if name not in tables] for reason, names in self.passed_over.items()}
        return {reason: names for reason, names in {**rest, **(others or {})}.items() if names}


def image_files(folder: Path) -> ImageFiles:
    """What looks like an image, and what does not; links to folders are followed, but none is read twice.

    What lies in the folder itself is read before what is linked, so that it keeps its own path.
    """
    found = ImageFiles([], {})
    root = os.path.realpath(folder)
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        links: list[str] = []
        for name in sorted(waiting, key=natural):
            real = os.path.realpath(folder / name)
            if name and (root + os.sep).startswith(real.rstrip(os.sep) + os.sep):
                found.passed_over.setdefault("link to a folder that holds this one", []).append(name)
            elif real in seen:
                found.passed_over.setdefault("link to a folder that was read already", []).append(name)
            else:
                links += _walk(folder, name, seen, found)
        waiting = links
    return ImageFiles(sorted(found.images, key=natural), found.passed_over)


def _walk(root: Path, start: str, seen: set[str], found: ImageFiles) -> list[str]:
    """Take down what lies below one folder; returns the links to folders, which are not followed."""
    links, waiting = [], [(start, False)]
    while waiting:
        folder, hidden = waiting.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            found.passed_over.setdefault(f"folder that cannot be opened ({error.strerror})", []).append(folder)
            continue
        seen.add(os.path.realpath(root / folder))
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            is_hidden = hidden or entry.name.startswith(".")
            if entry.is_dir(follow_symlinks=False):
                real = os.path.realpath(entry.path)
                if real not in seen:
                    waiting.append((name, is_hidden))
            elif os.path.isdir(entry.path) and not is_hidden:  # `entry.is_dir` raises for a link to itself
                links.append(name)
            elif reason := "hidden" if is_hidden else _not_an_image(Path(entry.path)):
                found.passed_over.setdefault(reason, []).append(name)
            else:
                found.images.append(name)
    return links


def _not_an_image(path: Path) -> str | None:
    """Why a file is passed over; None: it is not."""
    try:
        str(path).encode()
        if path.is_symlink() and not path.exists():
            return "broken link"
        if not path.is_file():
            return "neither a file nor a folder"
        if path.name == "DICOMDIR":
            return "index of DICOM files"
        return None if image_format(path) else NOT_READ
    except UnicodeEncodeError:
        return "name that is no text in UTF-8"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"


def by_suffix(passed_over: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Files that were not used, named by reason, for a report: count and the first few names by suffix and reason."""
    result: dict[str, dict[str, Any]] = {}
    for reason, names in passed_over.items():
        for name in sorted(names, key=natural):
            name = name.encode(errors="backslashreplace").decode()
            suffix = _suffix(name)
            entry = result.setdefault(suffix, {}).setdefault(reason, {"count": 0, "items": []})
            entry["count"] += 1
            entry["items"] += [name] if len(entry["items"]) < FEW else []
    return dict(sorted(result.items()))


def in_words(unused: Mapping[str, Mapping[str, Any]]) -> str:
    """What `by_suffix` gives, as a text of one line."""
    return "; ".join(
        f"{entry['count']} x {suffix}: {reason} ({', '.join(entry['items'])}{', ...' * (entry['count'] > FEW)})"
        for suffix, reasons in unused.items()
        for reason, entry in reasons.items()
    )


def _suffix(name: str) -> str:
    suffix = re.search(r"(?<=[^/.])(\.nii)?\.[^./\s]{1,8}$", name)
    return suffix[0].lower() if suffix else "without suffix"


class Listed(NamedTuple):
    """Images below a folder.

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
    """Items for all images below a folder, in natural order, one for each slice or frame of a volume.

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
    found, there = Found(), image_files(folder)
    out_dir = None if gather is None else Path(gather)
    units, _ = find_units(folder, there.images, out_dir, Names(False, key_file), volumes, (), found)
    for unit in units:
        if unit.copies:
            put_series(unit.path, unit.copies, link=True)
    return Listed([item for unit in units for item in unit.items(None)], found.quarantine, there.passed_over)


def put_series(folder: Path, files: Sequence[Path], link: bool = False) -> None:
    """Give the files of a series a folder of their own, in place of what was there.

    Args:
        folder: which.
        files: of the series.
        link: do not copy them, where the file system can link.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    for k, file in enumerate(files):
        target = temporary / f"{k:05d}.dcm"
        if link:
            with suppress(OSError):
                target.symlink_to(file.resolve())
        if not target.is_symlink():
            shutil.copyfile(file, target)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def find_units(
    root: Path,
    files: Sequence[str],
    out_dir: Path | None,
    names: Names,
    volumes: bool,
    named: Collection[str],
    found: Found,
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
        found: takes down what cannot be used.
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
                found.add(
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
            _quarantine(found, unit.id, path, f"a series of {len(one.files)} slices: {problem}")
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
                raise UnreadableImageError(path, CUT_SHORT)
            notes = known[path].notes if path in known else tuple(header_notes(path))
        except UnreadableImageError as error:
            _quarantine(found, own, path, error.reason)
            continue
        group = _owner(known[path], names) if path in known else own
        units.append((name, Unit(name, path, own, group, None if volumes else slices, notes=notes)))
    units = [(name, unit) for name, unit in units if nan is None or _is_finite(unit, nan, found)]
    for _, unit in units:
        for note in unit.notes:
            found.add("noted", note, unit.id)
    return [unit for _, unit in sorted(units, key=lambda pair: natural(pair[0]))], alias


def _is_finite(unit: Unit, nan: Nan, found: Found) -> bool:
    """Whether an image holds nothing but numbers, or what may be read as background; else it is quarantined."""
    for path in unit.copies or (unit.path,):
        try:
            bad = nonfinite(path)
            problem = bad.problem(nan) if bad else None
        except UnreadableImageError as error:
            bad, problem = None, error.reason
        if problem:
            _quarantine(found, unit.id, path, problem)
            return False
        if bad:
            share = f"{bad.nan / bad.total:.2%}"
            found.add("noted", "NaN around an image, read as background", f"{unit.id}: {share} of its voxels")
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


def _quarantine(found: Found, name: str, path: Path, reason: str) -> None:
    found.add("dropped", "file that cannot be used", f"{name}: {reason}")
    found.quarantine.append({"id": name, "image": str(path), "reason": reason})


def _cut_short(path: Path) -> bool:
    """Whether the end of the file is missing, as far as its header tells."""
    kind = image_format(path)
    if kind in ("PNG", "JPEG"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return not (_png_ends if kind == "PNG" else _jpeg_ends)(content)
    if kind == "DICOM":
        return False  # `find_series` has looked
    return nifti_cut_short(open_nifti(path), path)


def _png_ends(content: mmap.mmap) -> bool:
    """Whether the last chunk is there; what follows it is no part of the picture."""
    at = 8
    while at + 12 <= len(content):
        kind, at = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        if kind == b"IEND":
            return at <= len(content)
    return False


def _jpeg_ends(content: mmap.mmap) -> bool:
    """Whether the marker of the end is there: after the segments, in which a thumbnail may have its own."""
    at = 2
    while marker := JPEG_MARKER.search(content, at):
        if marker[1] == b"\xd9":
            return True
        at = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2]))
    return False
