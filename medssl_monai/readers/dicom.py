"""DICOM: which files are one series and in what order, where their pixels lie, and what these mean."""

from __future__ import annotations

import hashlib
import re
import tempfile
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from medssl_monai.files import sha256
from medssl_monai.limits import check_voxels
from medssl_monai.names import natural

Array = NDArray[Any]
Grid = tuple[Array, Array]
"""Affine (4, 4) in mm to RAS, and spacing along each spatial axis in mm (NaN: unknown)."""

PYDICOM_3 = int(pydicom.__version__.partition(".")[0]) > 2
processing: Any = import_module("pydicom.pixels.processing" if PYDICOM_3 else "pydicom.pixel_data_handlers.util")
_tag = cache(Tag)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_PLACE = 1e-3
"""Slices closer than this (mm) lie at one place: far above rounding, far below any slice distance."""

COLOURS = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
STORED: list[str] = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *(part.format(colour) for colour in COLOURS for part in ("{}Descriptor", "{}Data", "Segmented{}Data")),
]
"""What it takes to decode stored values; a copy with these alone is what SimpleITK gets to see."""

GEOMETRY = ["PixelSpacing", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"]
GROUPS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
IMAGE_ELEMENTS: list[Any] = [
    *("SOPClassUID", "Modality", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *(*STORED, *GEOMETRY, *GROUPS),
]
"""What describes an image; names and dates are not among them."""

DIFFERENCES = {
    "EchoTime": "echo time",
    "DiffusionBValue": "b-value",
    "TemporalPositionIdentifier": "time",
    "TriggerTime": "trigger time",
    "ImageType": "image type",
    "AcquisitionNumber": "acquisition number",
}
"""What tells images at one position apart, and its name."""

SERIES_ELEMENTS: list[str] = [
    *("SOPClassUID", "Modality", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber", "SliceLocation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *(*GEOMETRY, *GROUPS, *DIFFERENCES),
]
OWNER_ELEMENTS = ["PatientID", "StudyInstanceUID"]

TOMOGRAPHIC = {f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "128")}
"""CT, MR and PET images of one slice each: a series of them is a volume even if it does not say where slices lie."""

NO_IMAGES = {
    "SEG": "a segmentation",
    "SR": "a report",
    "KO": "a selection of images",
    "PR": "a presentation state",
    "DOC": "a document",
    "RTDOSE": "a dose distribution",
    "RTPLAN": "a treatment plan",
    "RTSTRUCT": "contours",
    "RTRECORD": "the record of a treatment",
    "REG": "a registration",
    "FID": "fiducials",
    "RWV": "a table of units",
    **dict.fromkeys(("ECG", "EEG", "EMG", "EOG", "EPS", "HD", "RESP", "AU"), "a waveform"),
}
"""What objects of a modality hold that are no images, although some have pixels."""
CLASSES = {
    "Media": "an index of other files (DICOMDIR)",
    "Segmentation": "a segmentation",
    " SR": "a report",
    "Presentation State": "a presentation state",
    "RT ": "a treatment",
    "Waveform": "a waveform",
}
"""What objects hold that are no images, by a part of their class's name."""
IMAGE_CLASS = re.compile(r"\bImage\b|US Volume|Parametric Map")
"""In the name of a class of storage that holds images; RT images (taken with the beam) are images."""

EMPTY = "it is empty; copy it anew from its source"
NOT_DICOM = "it is not a DICOM file"
NO_PIXELS = "it holds no image; it may be a report, a plan or a presentation state"
NOT_AN_IMAGE = ", not an image"
CUT_SHORT = "it is cut short; copy it anew from its source"
SUFFIXES = (".dcm", ".dicom", ".ima")
"""Of files that call themselves DICOM."""
STANDARD = "1.2.840.10008."
"""Beginning of the UIDs of DICOM's own classes; those that are no images are known by name."""
HEADLESS = "its header is cut short: it does not say how large its image is; copy it anew from its source"
COPY = "it is a copy of another file (equal SOPInstanceUID and pixels)"

MOST_FRAMES = 2**16
"""Of a file; each is looked at by itself."""
DEFLATED = b"1.2.840.10008.1.2.1.99"
MOST_INFLATED = 2**29
"""Bytes of a deflated file, which is unpacked at once."""
STREAM = re.compile(
    rb"\xff\x4f\xff\x51|\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]\x00[\x0b\x0e\x11\x14]", re.DOTALL
)
"""Where a picture in JPEG 2000, JPEG or JPEG-LS says how large it is."""
ITEM, END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
JPEGS = "1.2.840.10008.1.2.4."
PLACES = 10
"""Gaps of a series that are named, at most."""

SCOUT = "localizer (scout): not a slice of a volume"
NO_SPACING = "pixel spacing is missing or zero; taken as 1 mm"
NO_DISTANCE = "the distance of slices or frames is unknown; taken as 1 mm"
SHARED_UID = "its SOPInstanceUID is that of other images, too; kept, as no copy has other pixels"


class RefusedError(ValueError):
    """A file that is whole, or whose header cannot be true; the message is our own and quotes nothing of it."""


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
    """The files of the one series that lies directly in a folder, and their grid; no grid if it is a single file.

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


def instance_uid(path: Path) -> str:
    """SOPInstanceUID of a file, or the SHA-256 of its content where it has none."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["SOPInstanceUID"])
            uid = str(ds.get("SOPInstanceUID") or "")
        except Exception:  # whatever pydicom makes of garbage
            uid = ""
    return uid or sha256(path)


def identifiers(path: Path) -> dict[str, str]:
    """By what a file may be named in a hospital's tables: PatientID, and the UIDs of study, series and instance."""
    names = ["PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=names)
            return {name: str(ds.get(name)) for name in names if ds.get(name)}
        except Exception:  # whatever pydicom makes of garbage
            return {}


def count_frames(path: Path) -> int | None:
    """Frames of a file; None for a single image.

    Raises:
        ValueError: if it holds no image.
    """
    frames, *_ = _shape(open_dicom(path, pixels=False))
    return frames if frames > 1 else None


def open_dicom(path: Path, pixels: bool) -> Dataset:
    """The elements of a file that describe its image.

    Raises:
        ValueError: if it holds no image, or one that is too large (`medssl_monai.limits`).
    """
    _check_deflated(path)
    ds = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=IMAGE_ELEMENTS, force=True)
    if reason := _no_image(ds):
        raise (RefusedError if reason.endswith(NOT_AN_IMAGE) else ValueError)(reason)
    _shape(ds)
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding if PYDICOM_3 else (ds.is_implicit_VR, ds.is_little_endian)
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds


def read_dicom(path: Path, display_window: bool = False) -> tuple[Array, Grid, Grid]:
    """Read one file.

    Args:
        path: of a single image, or of several frames.
        display_window: see `medssl_monai.readers.reader.ClinicalReader`.

    Returns:
        Array ``(C, x, y[, frame])``, its grid, and its affine with its shape. Frames that are the slices of one
        volume are sorted along their normal, others stay in the order of the file.

    Raises:
        ValueError: if the pixels cannot be decoded.
    """
    ds = open_dicom(path, pixels=True)
    frames, rows, columns, _ = _shape(ds)
    array = _stored_pixels(ds).reshape(frames, rows, columns, -1)
    if array.shape[-1] == 1:
        array = _grey_values(array, ds, display_window)
    array = array.transpose(3, 2, 1, 0)
    if frames == 1:
        grid = plane(_pixel_spacing(_groups(ds)))
        return array[..., 0], grid, (grid[0], np.array(array.shape[1:3]))
    stack = _stack_of_frames(ds, frames)
    return array[..., stack.order], stack.grid, (stack.grid[0], np.array(array.shape[1:]))


def plane(spacing: Array) -> Grid:
    """Grid of an image in its own plane, or of a volume that does not say where it lies."""
    size = np.nan_to_num(spacing, nan=1.0)
    return np.diag([*size, *[1.0] * (4 - len(size))]), spacing


# series


@dataclass(frozen=True)
class _Header:
    path: Path
    tomographic: bool
    instance: str
    patient: str
    study: str
    uid: str
    number: float
    location: float
    frames: int
    size: tuple[int, ...]
    spacing: Array
    between: float
    position: Array
    directions: Array
    differences: dict[str, str]
    cut_short: bool
    stack: _Stack | None


def _find(files: Iterable[Path], elements: list[str]) -> tuple[list[tuple[DicomSeries, Grid | None]], dict[Path, str]]:
    groups: dict[tuple[str, ...], _Group] = defaultdict(_Group)
    unusable: dict[Path, str] = {}
    tags = [_tag(name) for name in elements]
    for path in sorted(files, key=natural):
        try:
            header = _read_header(path, tags)
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
        self.by_header: dict[str, list[_Header]] = defaultdict(list)
        self.by_pixels: dict[tuple[str, str], _Header] = {}
        self.copies: list[tuple[Path, Path]] = []

    @property
    def headers(self) -> list[_Header]:
        return [header for same in self.by_header.values() for header in same]

    def add(self, header: _Header) -> str | None:
        """Take it in; else the reason why not."""
        place = (header.instance or header.path, header.number, header.position.tolist(), header.size, header.frames)
        same = self.by_header[itself := str(place)]
        if header.cut_short:
            same += [] if same else [header]
            return CUT_SHORT
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
    """Hash of what an image shows, however it is encoded; of the file where that cannot be decoded."""
    try:
        array, *_ = read_dicom(path)
    except Exception:  # decoders fail in any way; who reads the image says how
        return sha256(path)
    return hashlib.sha256(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def _no_image(ds: Dataset) -> str | None:
    """What a file holds in place of an image."""
    name = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or "")).name
    if held := NO_IMAGES.get(str(ds.get("Modality") or "").strip().upper()):
        return f"it holds {held}{NOT_AN_IMAGE}"
    if "Storage" in name and not IMAGE_CLASS.search(name):
        name = name.partition(" Storage")[0]
        known = (held for part, held in CLASSES.items() if part in name)
        return f"it holds {next(known, 'an object')} (class {name}){NOT_AN_IMAGE}"
    if "Rows" in ds and "Columns" in ds:
        return None
    if not ds.preamble and not name:
        return NOT_DICOM
    of_a_vendor = name and not name.startswith(STANDARD) and not STANDARD.startswith(name)  # the name may be cut, too
    return NO_PIXELS if of_a_vendor and not IMAGE_CLASS.search(name) else HEADLESS


def is_harmless(reason: str) -> bool:
    """Whether a file is passed over for this reason without being damaged."""
    return reason in (NOT_DICOM, NO_PIXELS, COPY) or reason.endswith(NOT_AN_IMAGE)


def is_bare_preamble(path: Path) -> bool:
    """Whether a file without a suffix holds nothing but the zeros that a DICOM file begins with: the rest is lost."""
    if path.suffix or not 0 < path.stat().st_size < 132:
        return False
    return not path.read_bytes()[:128].strip(b"\0")


def _shape(ds: Dataset) -> tuple[int, int, int, int]:
    """Frames, rows, columns and samples.

    Raises:
        RefusedError: if there cannot be such an image, or it is too large.
    """
    frames, samples = (int(ds.get(name) or 1) for name in ("NumberOfFrames", "SamplesPerPixel"))
    shape = frames, int(ds.Rows), int(ds.Columns), samples
    if min(shape) < 1 or frames > MOST_FRAMES:
        raise RefusedError(f"it says that it has {frames} frames of {shape[1]} x {shape[2]} pixels; it is damaged")
    _check_voxels(shape)
    return shape


def _check_voxels(shape: Sequence[int]) -> None:
    try:
        check_voxels(shape, "it")
    except ValueError as error:
        raise RefusedError(str(error).removesuffix(".")) from None


def _check_deflated(path: Path) -> None:
    """Refuse a file that unpacks to more than fits."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = file.read(2**12)
        if DEFLATED not in head:
            return
        file.seek(0)
        pydicom.filereader.read_preamble(file, force=True)
        pydicom.filereader._read_file_meta_info(file)
        unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        for block in iter(lambda: file.read(2**16), b""):
            while block and not unpack.eof:
                size += len(unpack.decompress(block, 2**20))
                block = unpack.unconsumed_tail
                if size > MOST_INFLATED:
                    raise RefusedError(f"it unpacks to more than {MOST_INFLATED // 2**20} MB; store it uncompressed")


def _read_header(path: Path, tags: list[Any]) -> _Header | str:
    """Or the reason why it is no image."""
    _check_deflated(path)
    with path.open("rb") as file:
        ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
        left = path.stat().st_size - file.tell() - 8  # the pixels follow on a tag and their length
    if reason := _no_image(ds):
        cut = reason == NOT_DICOM and (path.suffix.lower() in SUFFIXES or is_bare_preamble(path))
        return EMPTY if not path.stat().st_size else HEADLESS if cut else reason
    frames, rows, columns, samples = _shape(ds)
    groups, syntax = _groups(ds), ds.file_meta.get("TransferSyntaxUID")
    wanted = frames * rows * columns * samples * int(ds.get("BitsAllocated") or 8) // 8
    if "422" in str(ds.get("PhotometricInterpretation")):
        wanted = wanted * 2 // 3
    if syntax is not None and (syntax.is_compressed or syntax.is_deflated):
        wanted = 0  # decoding tells
    cut_short = wanted > 0 and left < wanted
    return _Header(
        path=path,
        tomographic=ds.get("SOPClassUID") in TOMOGRAPHIC,
        instance=_text(groups, "SOPInstanceUID"),
        patient=str(ds.get("PatientID") or ""),
        study=_text(groups, "StudyInstanceUID"),
        uid=_text(groups, "SeriesInstanceUID"),
        number=_numbers(groups, "InstanceNumber", 1)[0],
        location=_numbers(groups, "SliceLocation", 1)[0],
        frames=frames,
        size=(columns, rows, samples),
        spacing=_pixel_spacing(groups),
        between=_positive(_numbers(groups, "SpacingBetweenSlices", 1))[0],
        position=_numbers(groups, "ImagePositionPatient", 3),
        directions=_directions(groups),
        differences={name: str(_value(groups, name)) for name in DIFFERENCES},
        cut_short=cut_short,
        stack=_stack_of_frames(ds, frames) if frames > 1 and not cut_short else None,
    )


def _parts(group: _Group, shared: Container[str]) -> list[tuple[DicomSeries, Grid | None]]:
    """Series that files of one SeriesInstanceUID make: multi-frame files, localizers, and the rest."""
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
    """With the copies of its files, and a note on those whose UID others have, too."""
    notes = (*series.notes, *([SHARED_UID] if with_uid.intersection(series.files) else []))
    return replace(series, notes=notes, copies=tuple(pair for pair in copies if pair[1] in series.files))


def _series(
    headers: Sequence[_Header], volume: bool = False, problem: str | None = None, notes: Iterable[str] = ()
) -> DicomSeries:
    first = headers[0]
    spacing = [NO_SPACING] if any(np.isnan(h.spacing).any() for h in headers) else []
    unnamed = [] if first.uid else ["SeriesInstanceUID is missing; the images of one folder are taken as a series"]
    files = tuple(h.path for h in headers)
    return DicomSeries(files, first.patient, first.study, first.uid, volume, problem, (*spacing, *unnamed, *notes))


def _slices(headers: list[_Header], lost: int) -> tuple[DicomSeries, Grid | None]:
    """A volume, if the files are slices of one, else the images one by one; `lost` files are cut short."""
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


# geometry


class _Stack(NamedTuple):
    """How planes lie on each other.

    Attributes:
        order: positions in the given sequence, sorted along the slice normal.
        grid: of the sorted volume.
        problem: why they are no volume.
        notes: what is odd about it.
    """

    order: Array
    grid: Grid
    problem: str | None
    notes: tuple[str, ...] = ()


def _stack_of_slices(headers: list[_Header]) -> _Stack | None:
    """None: they are no slices of a volume."""
    spacing, kinds = headers[0].spacing, [h.differences for h in headers]
    positions, directions = np.stack([h.position for h in headers]), np.stack([h.directions for h in headers])
    known = np.isfinite(positions).all(axis=1) & np.isfinite(directions).all(axis=1)
    if known.all():
        return _stack(positions, directions, spacing, kinds)
    if not all(h.tomographic for h in headers):
        return None
    if known.any():
        lost = f"{(~known).sum()} of its {len(known)} images do not say where they lie; take them out"
        return _Stack(np.arange(len(known)), plane(spacing), lost)
    between = np.nanmedian([h.between for h in headers]) if any(np.isfinite(h.between) for h in headers) else np.nan
    numbers, locations = np.array([h.number for h in headers]), np.array([[h.location] for h in headers])
    if np.isfinite(locations).all() and np.ptp(locations) > SAME_PLACE:
        order, problem = _line(locations, np.ones(1), kinds)
        distance, by = np.ptp(locations) / (len(known) - 1), "SliceLocation"
    elif np.isfinite(numbers).all() and len(set(numbers)) == len(numbers):
        order, steps = np.argsort(numbers), np.diff(np.sort(numbers))
        wide = np.flatnonzero(steps > steps.min())
        gaps = [f"between InstanceNumber {numbers[order][k]:g} and {numbers[order][k + 1]:g}" for k in wide]
        problem = f"slice positions are missing, and so are images {_listed(gaps)}" if gaps else None
        distance, by = between, "InstanceNumber"
    else:
        return None
    spacing = np.append(spacing, distance)
    notes = [f"slice positions are missing; sorted by {by}", *([NO_DISTANCE] if np.isnan(distance) else [])]
    return _Stack(order, plane(spacing), problem, tuple(notes))


def _stack_of_frames(ds: Dataset, frames: int) -> _Stack:
    """In patient space if the frames are slices of one volume, else in the order of the file."""
    groups = [_groups(ds, frame) for frame in range(frames)]
    spacing = _pixel_spacing(groups[0])
    positions = np.stack([_numbers(group, "ImagePositionPatient", 3) for group in groups])
    directions = np.stack([_directions(group) for group in groups])
    known = np.isfinite(positions).all() and np.isfinite(directions).all()
    stack = _stack(positions, directions, spacing) if known else None
    if stack and not stack.problem:
        return stack
    spacing = np.append(spacing, _positive(_numbers(groups[0], "SpacingBetweenSlices", 1)))
    notes = (NO_DISTANCE,) if np.isnan(spacing[2]) else ()
    return _Stack(np.arange(frames), plane(spacing), stack.problem if stack else None, notes)


def _stack(positions: Array, directions: Array, spacing: Array, kinds: Sequence[dict[str, str]] = ()) -> _Stack | None:
    """Sort planes along their common normal.

    Args:
        positions: of the first pixels ``(N, 3)``, in mm, L-P-S as in the file.
        directions: of rows and columns, ``(N, 6)``.
        spacing: of pixels along x and y, in mm.
        kinds: what may tell planes at one position apart.

    Returns:
        None if all planes lie at one place, or no two are parallel.
    """
    orientations: list[Array] = []
    for row in np.unique(directions, axis=0):
        if all(np.abs(row - other).max() > 0.01 for other in orientations):
            orientations.append(row)
    if len(orientations) == len(positions):  # a localizer (scout) of one image for each plane
        return None
    if len(orientations) > 1:
        mixed = (
            f"its {len(positions)} images have {len(orientations)} orientations; are there localizers (scouts) or "
            "several stacks among them? Split the series by orientation"
        )
        return _Stack(np.arange(len(positions)), plane(spacing), mixed)
    row, column = np.median(directions, axis=0).reshape(2, 3)  # a mean would depend on the order, in the last digit
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = (positions * normal).sum(axis=1)
    if np.ptp(along) <= SAME_PLACE:
        return None
    order, problem = _line(positions, normal, kinds)
    first, last = positions[order[0]], positions[order[-1]]
    step = (last - first) / (len(order) - 1)
    spacing = np.append(spacing, np.linalg.norm(step))
    affine = np.eye(4)
    affine[:3] = np.column_stack([row, column, step / spacing[2], first])
    affine[:3, :3] *= np.nan_to_num(spacing, nan=1.0)
    tilt = np.degrees(np.arccos(min(1.0, step @ normal / spacing[2])))
    notes = (f"gantry tilted by {tilt:.1f} degrees",) if tilt > 0.5 and not problem else ()
    return _Stack(order, (LPS_TO_RAS @ affine, spacing), problem, notes)


def _line(points: Array, axis: Array, kinds: Sequence[dict[str, str]]) -> tuple[Array, str | None]:
    """Order of points ``(N, D)`` along an axis, and what is wrong if they are not evenly spaced on a line.

    Tolerances are shares of the common step: a tenth for points at one place, a half for a gap, a quarter for the
    distance from where a point should be.
    """
    along = (points * axis).sum(axis=1)
    order = np.argsort(along, kind="stable")
    points, along = points[order], along[order]
    gaps = np.diff(along)
    step = np.quantile(gaps[gaps > SAME_PLACE], 0.5, method="lower")
    same, wide, digits = gaps < 0.1 * step, gaps > 1.5 * step, 1 if step >= 1 else 3
    off = np.linalg.norm(points - np.linspace(points[0], points[-1], len(points)), axis=1).max()
    if same.any():
        place = np.append(0, np.cumsum(~same))
        twice = (np.bincount(place) > 1).sum()
        differ = [
            name
            for key, name in DIFFERENCES.items()
            if kinds and len({(p, kinds[o][key]) for p, o in zip(place, order, strict=True)}) > place[-1] + 1
        ]
        return order, (
            f"several images lie at {twice} of its {place[-1] + 1} slice positions"
            + (f" and differ in {' and '.join(differ)}" if differ else "")
            + "; these are probably several echoes, phases or b-values. Split the series by them"
        )
    if wide.any():
        lost = np.rint(gaps[wide] / step).astype(int) - 1
        places = [f"between {along[k]:.{digits}f} and {along[k + 1]:.{digits}f} mm" for k in np.flatnonzero(wide)]
        others = [f"{count} {place}" for count, place in zip(lost[1:], places[1:], strict=True)]
        return order, (
            f"{'a slice is' if lost[0] == 1 else f'{lost[0]} slices are'} missing {places[0]} along the slice axis "
            f"(other steps: {step:.{digits}f} mm)" + (f", and {_listed(others)}" if others else "")
        )
    if off > 0.25 * step:
        return order, f"its slices are unevenly spaced: one lies {off:.{digits}f} mm off (steps: {step:.{digits}f} mm)"
    return order, None


def _listed(places: Sequence[str]) -> str:
    more = [f"at {len(places) - PLACES} further places"] if len(places) > PLACES else []
    return ", ".join([*places[:PLACES], *more])


# pixels


def _stored_pixels(ds: Dataset) -> Array:
    """Stored values, or 8-bit RGB, frames first."""
    _check_streams(ds)
    try:
        return _decode_with_pydicom(ds)
    except Exception as error:  # no plug-in for the syntax, or one that fails, in any way
        syntax = ds.file_meta.TransferSyntaxUID
        if not syntax.is_compressed or syntax == RLELossless:  # both need no plug-in: the data are damaged
            raise
        return _decode_with_itk(ds, error)


def _check_streams(ds: Dataset) -> None:
    """Refuse a compressed picture for which decoders would take more memory than the header says.

    Raises:
        RefusedError: if it says itself that it has another size.
        ValueError: if its parts say that they are longer than they are.
    """
    if not str(ds.file_meta.TransferSyntaxUID).startswith(JPEGS) or "PixelData" not in ds:
        return
    at = 0
    while ds.PixelData[at : at + 4] == ITEM:
        at += 8 + int.from_bytes(ds.PixelData[at + 4 : at + 8], "little")
    if at > len(ds.PixelData) or ds.PixelData[at:].strip(b"\0") not in (b"", END_OF_ITEMS):
        raise ValueError("the parts of its picture are not as long as they say")
    for marker in STREAM.finditer(ds.PixelData):
        wide = marker[0][1] == 0x4F  # JPEG 2000: columns, rows and what is left out of them, of four bytes each
        head = ds.PixelData[marker.end() + (4 if wide else 1) :][:16]
        numbers = np.frombuffer(head[: len(head) // 4 * 4], ">u4" if wide else ">u2").astype(int).tolist()
        sides = [numbers[1] - numbers[3], numbers[0] - numbers[2]] if wide else numbers[:2]
        if sides != [ds.Rows, ds.Columns]:
            size = " x ".join(map(str, sides))
            raise RefusedError(f"its header says {ds.Rows} x {ds.Columns} pixels, its picture {size}; it is damaged")


def _decode_with_pydicom(ds: Dataset) -> Array:
    kind = ds.get("PhotometricInterpretation")
    if PYDICOM_3:
        from pydicom.pixels.utils import pixel_array

        array = pixel_array(ds)
    else:  # version 2 leaves colours as they are stored, and overlays in the bits above the image
        array = ds.pixel_array
        if kind in ("YBR_FULL", "YBR_FULL_422"):
            array = processing.convert_color_space(array, kind, "RGB", per_frame=True)
        if array.dtype.kind in "iu" and not ds.file_meta.TransferSyntaxUID.is_compressed:
            unused = int(ds.BitsAllocated) - int(ds.BitsStored)
            array = array << unused >> unused
    if kind != "PALETTE COLOR":
        return array
    array = processing.apply_color_lut(array, ds)
    return array >> 8 if array.max() > 255 else array  # tables of 16 bits may hold values of 8


def _decode_with_itk(ds: Dataset, error: Exception) -> Array:
    """Let SimpleITK decode a copy of the stored values alone: of the whole it would also invert and rescale some."""
    import SimpleITK

    bare = Dataset()
    for name in STORED:
        if name in ds and name != "PhotometricInterpretation":  # elements are shared, not copied
            bare[name] = ds[name]
    kind = ds.PhotometricInterpretation
    bare.PhotometricInterpretation = "MONOCHROME2" if kind == "MONOCHROME1" else kind
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID = SecondaryCaptureImageStorage
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID = UID("2.25.1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.dcm"
        if PYDICOM_3:
            bare.save_as(path, enforce_file_format=True)
        else:
            bare.is_implicit_VR, bare.is_little_endian = False, True
            bare.save_as(path, write_like_original=False)
        try:
            return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        except RuntimeError:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"neither pydicom ({first}) nor SimpleITK can decode it") from None


def _grey_values(array: Array, ds: Dataset, display_window: bool) -> Array:
    """Modality values, in the window or not, of stored values ``(frames, rows, columns, 1)``; more is brighter."""
    slope, intercept = _per_frame(ds, "RescaleSlope", "RescaleIntercept")
    slope, intercept = np.where(slope == 0, 1.0, np.nan_to_num(slope, nan=1.0)), np.nan_to_num(intercept)
    low, high = _stored_range(array, ds)
    if ds.get("ModalityLUTSequence"):
        array, low, high = _look_up(array, ds.ModalityLUTSequence[0], ds)
    elif (slope != 1).any() or intercept.any():
        array, low, high = (values * slope + intercept for values in (array, low, high))
    if display_window:
        array, low, high = _windowed(array, ds, np.minimum(low, high), np.maximum(low, high)), 0, 1
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        array = np.subtract(low + high, array, dtype=np.result_type(array, np.int32))
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _stored_range(array: Array, ds: Dataset) -> tuple[Any, Any]:
    """Least and greatest value that can be stored."""
    if array.dtype.kind == "f":
        return array.min(), array.max()
    bits = int(ds.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2**bits - 1)


def _look_up(array: Array, item: Dataset, ds: Dataset) -> tuple[Array, int, int]:
    """Values from a table, and their range (PS3.3, C.11.1.1.1); pydicom knows modality tables of 8 and 16 bits only."""
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count % 2**16 or 2**16
    if first >= 2**15 and ds.PixelRepresentation:  # of two types, the file does not say which
        first -= 2**16
    table = item.LUTData
    if isinstance(table, bytes):
        order = ">" if ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
        table = np.frombuffer(table, f"{order}u2" if len(table) >= 2 * count else "u1")
    table = np.array(table[:count], dtype=np.int32)
    return table[(array.astype(np.int64) - first).clip(0, len(table) - 1)], 0, 2**bits - 1


def _windowed(array: Array, ds: Dataset, low: Any, high: Any) -> Array:
    """Grey values in [0, 1] as the file wants them shown (PS3.3, C.11.2); its whole range if it does not say."""
    if ds.get("VOILUTSequence"):
        array, _, high = _look_up(np.rint(array).astype(np.int64), ds.VOILUTSequence[0], ds)
        return array / high
    centre, width = _per_frame(ds, "WindowCenter", "WindowWidth")
    function = _text(_groups(ds), "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID" and np.isfinite(centre + width).all():
        return 1.0 / (1.0 + np.exp(-4.0 * (array - centre) / width))  # Eq. of C.11.2.1.3.1
    pixel = 0.0 if function == "LINEAR_EXACT" else 1.0  # LINEAR counts from the middle of a grey level
    middle, half = centre - pixel / 2, (width - pixel) / 2
    known = np.isfinite(middle + half)
    low, high = np.where(known, middle - half, low), np.where(known, middle + half, high)
    return ((array - low) / np.maximum(high - low, 1e-6)).clip(0.0, 1.0)


# elements


def _groups(ds: Dataset, frame: int = 0) -> list[Dataset]:
    """Where an element of a frame may stand: in the image itself, or, in enhanced objects, in a functional group."""
    groups = [ds]
    for sequence, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = ds[_tag(sequence)].value if _tag(sequence) in ds else []
        groups += [e.value[0] for item in items[position : position + 1] for e in item if e.VR == "SQ" and e.value]
    return groups


def _value(groups: Iterable[Dataset], name: str) -> Any:
    """As it stands in the file: decoding it the way of pydicom would take most of the time of `find_series`."""
    elements = (group.get_item(_tag(name)) for group in groups)
    return next((element.value for element in elements if element is not None), None)


def _text(groups: Iterable[Dataset], name: str) -> str:
    value = _value(groups, name)
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def _numbers(groups: Iterable[Dataset], name: str, count: int) -> Array:
    """The first `count` values of an element of decimal numbers; NaN if they are absent or unusable."""
    value = _value(groups, name)
    try:
        numbers = value.decode("latin-1").split("\\") if isinstance(value, bytes) else value
        values = np.array(numbers, dtype=float).reshape(-1)[:count]
    except (TypeError, ValueError):
        values = np.empty(0)
    return values if len(values) == count and np.isfinite(values).all() else np.full(count, np.nan)


def _per_frame(ds: Dataset, *names: str) -> list[Array]:
    """For each name one number, or one for each frame, ready to be broadcast over ``(frames, rows, columns, 1)``."""
    frames = max(1, len(ds.get("PerFrameFunctionalGroupsSequence") or ()))
    numbers = [[_numbers(groups, name, 1) for name in names] for groups in map(partial(_groups, ds), range(frames))]
    return list(np.array(numbers).reshape(-1, len(names), 1, 1, 1).swapaxes(0, 1))


def _positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def _pixel_spacing(groups: Iterable[Dataset]) -> Array:
    """Along x and y; `PixelSpacing` is the distance of rows, then that of columns."""
    return _positive(_numbers(groups, "PixelSpacing", 2)[::-1])


def _directions(groups: Iterable[Dataset]) -> Array:
    """Of rows and columns; NaN if they are not at right angles and of length 1."""
    directions = _numbers(groups, "ImageOrientationPatient", 6)
    row, column = directions.reshape(2, 3)
    right = np.abs(np.array([row @ row - 1, column @ column - 1, row @ column])).max() < 0.05
    return directions if right else np.full(6, np.nan)
