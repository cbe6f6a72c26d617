"""Which files are one series, and in what order."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medssl_monai.files import sha256
from medssl_monai.names import natural
from medssl_monai.readers.dicom.elements import OWNER_ELEMENTS, SERIES_ELEMENTS, tag_of
from medssl_monai.readers.dicom.headers import Header, read_header
from medssl_monai.readers.dicom.objects import COPY, is_harmless
from medssl_monai.readers.dicom.pixels import read_dicom_file
from medssl_monai.readers.dicom.stacks import NO_DISTANCE, SAME_PLACE, Stack, listed, order_along, stack_of_planes
from medssl_monai.readers.grids import NO_SPACING, Grid, plane
from medssl_monai.readers.refusals import CUT_SHORT, RefusedError

SCOUT = "localizer (scout): not a slice of a volume"
SHARED_UID = "its SOPInstanceUID is that of other images, too; kept, as no copy has other pixels"


@dataclass(frozen=True)
class DicomSeries:
    """Images that belong together: the slices of a volume, the views of a radiograph, or one multi-frame file.

    Attributes:
        files: sorted along the slice normal if they are a volume, else by InstanceNumber, then by name.
        patient: PatientID, empty if absent. It names a person: keep nothing of it but a keyed pseudonym.
        study: StudyInstanceUID, empty if absent.
        uid: SeriesInstanceUID, empty if absent.
        volume: whether the files are slices of one volume: two or more single-frame files at distinct positions.
        problem: why they cannot be read as a volume all the same, and how to mend it.
        notes: what is odd about them, but no obstacle.
        copies: files that are copies, each with that of `files` that it is a copy of.
    """

    files: tuple[Path, ...]
    patient: str
    study: str
    uid: str
    volume: bool
    problem: str | None = None
    notes: tuple[str, ...] = ()
    copies: tuple[tuple[Path, Path], ...] = ()


def find_series(files: Iterable[Path]) -> tuple[list[DicomSeries], dict[Path, str]]:
    """Sort DICOM files into series, by their headers; of files of one SOPInstanceUID the pixels are compared.

    Slices are sorted by their positions in the patient; where these are missing in CT, MR and PET, by SliceLocation,
    else by InstanceNumber. Multi-frame files are series of their own, and so are the images that call themselves
    localizers (scouts), which often share a SeriesInstanceUID with the slices planned on them. Radiographs and other
    images without positions stay images.

    Args:
        files: in any order, of any name; what is not DICOM is reported, not refused.

    Returns:
        Series in the natural order of their first files, and the files that cannot be used with the reason, in which
        no path and no name occurs. A file that is cut short counts as such and as a problem of its series.
    """
    with warnings.catch_warnings():  # pydicom's quote what it finds
        warnings.simplefilter("ignore")
        series, unusable = _find(files, [*SERIES_ELEMENTS, *OWNER_ELEMENTS])
    return [one for one, _ in series], unusable


def find_volume(folder: Path) -> tuple[tuple[Path, ...], Grid | None]:
    """Return the files of the one series that lies directly in a folder, and their grid; None for a single file's.

    Raises:
        ValueError: if there is no series or more than one, or it is no volume, or has a problem; no path is in it.
    """
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    found, unusable = _find(files, SERIES_ELEMENTS)  # whose series it is, is nothing that a reader must know
    damaged = [reason for reason in unusable.values() if not is_harmless(reason)]
    if not found and not damaged:
        raise ValueError("the folder holds no DICOM image; name the folder of the series itself, or a file")
    if damaged:
        raise ValueError(f"{len(damaged)} of its {len(files)} files cannot be used: {damaged[0]}")
    parts = [part for part in found if SCOUT not in part[0].notes] or found
    if (count := max(len(parts), len({one.uid for one, _ in found}))) > 1:
        raise ValueError(f"the folder holds {count} series; give each a folder of its own, or name single files")
    series, grid = parts[0]
    if series.problem:
        raise ValueError(series.problem)
    if len(series.files) > 1 and not series.volume:
        raise ValueError(f"its {len(series.files)} images are no slices of a volume; name each file by itself")
    return series.files, grid


def _find(files: Iterable[Path], elements: list[str]) -> tuple[list[tuple[DicomSeries, Grid | None]], dict[Path, str]]:
    groups: dict[tuple[str, ...], _Group] = defaultdict(_Group)
    unusable: dict[Path, str] = {}
    tags = [tag_of(name) for name in elements]
    for path in sorted(files, key=natural):
        try:
            header = read_header(path, tags)
        except RefusedError as error:
            header = str(error)
        except Exception as error:  # pydicom fails in any way, and its messages quote what it finds
            header = f"it is damaged ({type(error).__name__}); copy it anew from its source"
        if isinstance(header, str):
            unusable[path] = header
        elif problem := groups[header.patient, header.study, header.uid or str(path.parent)].add(header):
            unusable[path] = problem
    used = Counter(header.instance for group in groups.values() for header in group.headers)
    shared = {uid for uid, count in used.items() if uid and count > 1}
    found = [part for group in groups.values() for part in _parts(group, shared)]
    return sorted(found, key=lambda part: min(map(natural, part[0].files))), unusable


class _Group:
    """Images of one SeriesInstanceUID; pixels tell copies, as careless anonymising gives many one SOPInstanceUID."""

    def __init__(self) -> None:
        self.by_header: dict[str, list[Header]] = defaultdict(list)
        self.by_pixels: dict[tuple[str, str], Header] = {}
        self.copies: list[tuple[Path, Path]] = []

    @property
    def headers(self) -> list[Header]:
        return [header for same in self.by_header.values() for header in same]

    def add(self, header: Header) -> str | None:
        """Take a header in; return the reason if it is not taken."""
        place = (header.instance or header.path, header.number, header.position.tolist(), header.size, header.frames)
        same = self.by_header[itself := str(place)]
        if header.cut_short:
            same += [] if same else [header]
            return f"it {CUT_SHORT}"
        if not same or same[0].cut_short:
            same[:1] = [header]
            return None
        if len(same) == 1:
            self.by_pixels[itself, _pixels(same[0].path)] = same[0]
        known = self.by_pixels.setdefault((itself, _pixels(header.path)), header)
        if known is header:
            same.append(header)
            return None
        self.copies.append((header.path, known.path))
        return COPY


def _pixels(path: Path) -> str:
    """Return the hash of what an image shows, however it is encoded; of the file where that cannot be decoded."""
    try:
        array, *_ = read_dicom_file(path)
    except Exception:  # decoders fail in any way; who reads the image says how
        return sha256(path)
    return hashlib.sha256(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def _parts(group: _Group, shared: Container[str]) -> list[tuple[DicomSeries, Grid | None]]:
    """Return the series that files of one SeriesInstanceUID make: multi-frame files, localizers, and the rest."""
    order = sorted(group.headers, key=lambda h: (np.isnan(h.number), np.nan_to_num(h.number), natural(h.path)))
    headers = [h for h in order if not h.cut_short]
    parts: list[tuple[DicomSeries, Grid | None]] = []
    for header in headers:
        if header.stack:
            problem = header.stack.problem
            notes = [f"its frames stay in their order, as they are no volume: {problem}"] if problem else []
            parts.append((_series([header], notes=[*notes, *header.stack.notes]), None))
    single = [h for h in headers if not h.stack]
    scouts = [h for h in single if "LOCALIZER" in h.differences["ImageType"]]
    slices = [h for h in single if "LOCALIZER" not in h.differences["ImageType"]]
    if scouts:
        parts.append((_series(scouts, notes=[SCOUT]), None))
    if slices:
        parts.append(_slices(slices, lost=len(order) - len(headers)))
    with_uid = {h.path for h in headers if h.instance in shared}
    return [(_completed(one, group.copies, with_uid), grid) for one, grid in parts]


def _completed(series: DicomSeries, copies: Iterable[tuple[Path, Path]], with_uid: set[Path]) -> DicomSeries:
    """Return a series with the copies of its files, and a note on those whose UID others have, too."""
    notes = (*series.notes, *([SHARED_UID] if with_uid.intersection(series.files) else []))
    return replace(series, notes=notes, copies=tuple(pair for pair in copies if pair[1] in series.files))


def _series(
    headers: Sequence[Header], volume: bool = False, problem: str | None = None, notes: Iterable[str] = ()
) -> DicomSeries:
    first = headers[0]
    spacing = [NO_SPACING] if any(np.isnan(h.spacing).any() for h in headers) else []
    unnamed = [] if first.uid else ["SeriesInstanceUID is missing; the images of one folder are taken as a series"]
    files = tuple(h.path for h in headers)
    return DicomSeries(files, first.patient, first.study, first.uid, volume, problem, (*spacing, *unnamed, *notes))


def _slices(headers: list[Header], lost: int) -> tuple[DicomSeries, Grid | None]:
    """Return a volume, if the files are slices of one, else the images one by one; `lost` files are cut short."""
    stack = _stack_of_slices(headers) if len(headers) > 1 else None
    if stack is None:
        return _series(headers), None
    headers = [headers[position] for position in stack.order]
    problem = stack.problem
    if len({h.size for h in headers}) > 1:
        sizes = sorted({f"{h.size[0]} x {h.size[1]}" for h in headers})
        problem = f"its images differ in size ({', '.join(sizes)}) or in colour; split the series"
    elif np.ptp([h.spacing for h in headers], axis=0).max() > 1e-3 * np.max(headers[0].spacing):
        problem = "its images differ in pixel spacing; split the series"
    if lost:
        problem = f"{lost} of its {lost + len(headers)} files are cut short; copy them anew from their source"
    return _series(headers, True, problem, stack.notes), stack.grid


def _stack_of_slices(headers: list[Header]) -> Stack | None:
    """Stack single images by their positions, else by what numbers them; None if they are no slices of a volume."""
    spacing, kinds = headers[0].spacing, [h.differences for h in headers]
    positions, directions = np.stack([h.position for h in headers]), np.stack([h.directions for h in headers])
    known = np.isfinite(positions).all(axis=1) & np.isfinite(directions).all(axis=1)
    if known.all():
        return stack_of_planes(positions, directions, spacing, kinds)
    if not all(h.tomographic for h in headers):
        return None
    if known.any():
        lost = f"{(~known).sum()} of its {len(known)} images do not say where they lie; take them out"
        return Stack(np.arange(len(known)), plane(spacing), lost)
    between = np.nanmedian([h.between for h in headers]) if any(np.isfinite(h.between) for h in headers) else np.nan
    numbers, locations = np.array([h.number for h in headers]), np.array([[h.location] for h in headers])
    if np.isfinite(locations).all() and np.ptp(locations) > SAME_PLACE:
        order, problem = order_along(locations, np.ones(1), kinds)
        distance, by = np.ptp(locations) / (len(known) - 1), "SliceLocation"
    elif np.isfinite(numbers).all() and len(set(numbers)) == len(numbers):
        order, steps = np.argsort(numbers), np.diff(np.sort(numbers))
        wide = np.flatnonzero(steps > steps.min())
        gaps = [f"between InstanceNumber {numbers[order][k]:g} and {numbers[order][k + 1]:g}" for k in wide]
        problem = f"slice positions are missing, and so are images {listed(gaps)}" if gaps else None
        distance, by = between, "InstanceNumber"
    else:
        return None
    spacing = np.append(spacing, distance)
    notes = [f"slice positions are missing; sorted by {by}", *([NO_DISTANCE] if np.isnan(distance) else [])]
    return Stack(order, plane(spacing), problem, tuple(notes))
