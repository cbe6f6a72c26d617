"""Which DICOM objects are images, and how large these say they are."""

from __future__ import annotations

import re
import warnings
import zlib
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medssl_monai.readers.dicom.elements import IMAGE_ELEMENTS
from medssl_monai.readers.refusals import RefusedError, check_bound

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
"""What the name of a class of storage says that holds images; RT images (taken with the beam) are images."""
EMPTY = "it is empty; copy it anew from its source"
NOT_DICOM = "it is not a DICOM file"
NO_PIXELS = "it holds no image; it may be a report, a plan or a presentation state"
NOT_AN_IMAGE = ", not an image"
STANDARD = "1.2.840.10008."
"""Beginning of the UIDs of DICOM's own classes; those that are no images are known by name."""
HEADLESS = "its header is cut short: it does not say how large its image is; copy it anew from its source"
COPY = "it is a copy of another file (equal SOPInstanceUID and pixels)"
MOST_FRAMES = 2**16
"""Frames of a file, at most; each is looked at by itself."""
DEFLATED = b"1.2.840.10008.1.2.1.99"
MOST_INFLATED = 2**29
"""Bytes of a deflated file, at most, which is unpacked at once."""
PYDICOM_3 = int(pydicom.__version__.partition(".")[0]) > 2


def open_dicom(path: Path, pixels: bool) -> Dataset:
    """Return the elements of a file that describe its image.

    Raises:
        ValueError: if it holds no image, or one that is too large (`medssl_monai.limits`).
    """
    check_deflated(path)
    ds = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=IMAGE_ELEMENTS, force=True)
    if reason := no_image(ds):
        raise (RefusedError if reason.endswith(NOT_AN_IMAGE) else ValueError)(reason)
    image_shape(ds)
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding if PYDICOM_3 else (ds.is_implicit_VR, ds.is_little_endian)
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds


def count_frames(path: Path) -> int | None:
    """Return the number of frames of a file; None for a single image.

    Raises:
        ValueError: if it holds no image.
    """
    frames, *_ = image_shape(open_dicom(path, pixels=False))
    return frames if frames > 1 else None


def no_image(ds: Dataset) -> str | None:
    """Say what a file holds in place of an image; None if it holds one."""
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
    """Tell whether a file is passed over for this reason without being damaged."""
    return reason in (NOT_DICOM, NO_PIXELS, COPY) or reason.endswith(NOT_AN_IMAGE)


def image_shape(ds: Dataset) -> tuple[int, int, int, int]:
    """Return the numbers of frames, rows, columns and samples.

    Raises:
        RefusedError: if there cannot be such an image, or it is too large.
    """
    frames, samples = (int(ds.get(name) or 1) for name in ("NumberOfFrames", "SamplesPerPixel"))
    shape = frames, int(ds.Rows), int(ds.Columns), samples
    if min(shape) < 1 or frames > MOST_FRAMES:
        raise RefusedError(f"it says that it has {frames} frames of {shape[1]} x {shape[2]} pixels; it is damaged")
    check_bound(shape)
    return shape


def check_deflated(path: Path) -> None:
    """Refuse a file that unpacks to more than `MOST_INFLATED` bytes.

    Raises:
        RefusedError: if it does.
    """
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
