"""Which elements of a header are read, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag

from medssl_monai.readers.grids import Array

tag_of = cache(Tag)
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


def functional_groups(ds: Dataset, frame: int = 0) -> list[Dataset]:
    """Return where an element of a frame may stand: the image itself, and the functional groups of enhanced objects."""
    groups = [ds]
    for sequence, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = ds[tag_of(sequence)].value if tag_of(sequence) in ds else []
        groups += [e.value[0] for item in items[position : position + 1] for e in item if e.VR == "SQ" and e.value]
    return groups


def value_in(groups: Iterable[Dataset], name: str) -> Any:
    """Return a value as it stands in the file: pydicom's decoding would take most of the time of `find_series`."""
    elements = (group.get_item(tag_of(name)) for group in groups)
    return next((element.value for element in elements if element is not None), None)


def text_in(groups: Iterable[Dataset], name: str) -> str:
    """Return the text of an element; empty if it is absent."""
    value = value_in(groups, name)
    return value.decode("latin-1").strip("\0 ") if isinstance(value, bytes) else str(value or "")


def numbers_in(groups: Iterable[Dataset], name: str, count: int) -> Array:
    """Return the first `count` values of an element of decimal numbers; NaN if they are absent or unusable."""
    value = value_in(groups, name)
    try:
        numbers = value.decode("latin-1").split("\\") if isinstance(value, bytes) else value
        values = np.array(numbers, dtype=float).reshape(-1)[:count]
    except (TypeError, ValueError):
        values = np.empty(0)
    return values if len(values) == count and np.isfinite(values).all() else np.full(count, np.nan)


def per_frame(ds: Dataset, *names: str) -> list[Array]:
    """Return for each name a number, or one for each frame, that broadcasts over ``(frames, rows, columns, 1)``."""
    frames = max(1, len(ds.get("PerFrameFunctionalGroupsSequence") or ()))
    numbers = [
        [numbers_in(groups, name, 1) for name in names] for groups in map(partial(functional_groups, ds), range(frames))
    ]
    return list(np.array(numbers).reshape(-1, len(names), 1, 1, 1).swapaxes(0, 1))


def positive(values: Array) -> Array:
    """Return the values, NaN where they are not positive."""
    return np.where(values > 0, values, np.nan)


def pixel_spacing(groups: Iterable[Dataset]) -> Array:
    """Return the spacing along x and y, in mm; `PixelSpacing` is the distance of rows, then that of columns."""
    return positive(numbers_in(groups, "PixelSpacing", 2)[::-1])


def directions_in(groups: Iterable[Dataset]) -> Array:
    """Return the directions of rows and columns (6,); NaN if they are not at right angles and of length 1."""
    directions = numbers_in(groups, "ImageOrientationPatient", 6)
    row, column = directions.reshape(2, 3)
    right = np.abs(np.array([row @ row - 1, column @ column - 1, row @ column])).max() < 0.05
    return directions if right else np.full(6, np.nan)
