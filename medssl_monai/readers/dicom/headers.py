"""The header of a file, as far as it tells which series the file belongs to and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from medssl_monai.readers.dicom.elements import (
    DIFFERENCES,
    directions_in,
    functional_groups,
    numbers_in,
    pixel_spacing,
    positive,
    text_in,
    value_in,
)
from medssl_monai.readers.dicom.objects import EMPTY, HEADLESS, NOT_DICOM, check_deflated, image_shape, no_image
from medssl_monai.readers.dicom.stacks import Stack, stack_of_frames
from medssl_monai.readers.formats import SUFFIXES, is_bare_preamble
from medssl_monai.readers.grids import Array

TOMOGRAPHIC = {f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "128")}
"""CT, MR and PET images of one slice each: a series of them is a volume even if it does not say where slices lie."""


@dataclass(frozen=True)
class Header:
    """What the header of a file says of its series; NaN where it says nothing.

    Attributes:
        path: of the file.
        tomographic: whether it is a CT, MR or PET image of one slice.
        instance: SOPInstanceUID.
        patient: PatientID.
        study: StudyInstanceUID.
        uid: SeriesInstanceUID.
        number: InstanceNumber.
        location: SliceLocation, in mm.
        frames: how many.
        size: columns, rows and samples.
        spacing: along x and y, in mm.
        between: SpacingBetweenSlices, in mm.
        position: of the first pixel (3,), in mm, L-P-S.
        directions: of rows and columns (6,).
        differences: what may tell it apart from other images at its position.
        cut_short: whether pixels are missing.
        stack: how the frames of a multi-frame file lie on each other.
    """

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
    stack: Stack | None


def read_header(path: Path, tags: list[Any]) -> Header | str:
    """Read the header of a file; return the reason if it is no image.

    Args:
        path: of the file.
        tags: of the elements that are read.

    Raises:
        RefusedError: if it cannot be such an image, or is too large.
    """
    check_deflated(path)
    with path.open("rb") as file:
        ds = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
        left = path.stat().st_size - file.tell() - 8  # the pixels follow on a tag and their length
    if reason := no_image(ds):
        cut = reason == NOT_DICOM and (SUFFIXES.get(path.suffix.lower()) == "DICOM" or is_bare_preamble(path))
        return EMPTY if not path.stat().st_size else HEADLESS if cut else reason
    frames, rows, columns, samples = image_shape(ds)
    groups, syntax = functional_groups(ds), ds.file_meta.get("TransferSyntaxUID")
    wanted = frames * rows * columns * samples * int(ds.get("BitsAllocated") or 8) // 8
    if "422" in str(ds.get("PhotometricInterpretation")):
        wanted = wanted * 2 // 3
    if syntax is not None and (syntax.is_compressed or syntax.is_deflated):
        wanted = 0  # decoding tells
    cut_short = wanted > 0 and left < wanted
    return Header(
        path=path,
        tomographic=ds.get("SOPClassUID") in TOMOGRAPHIC,
        instance=text_in(groups, "SOPInstanceUID"),
        patient=str(ds.get("PatientID") or ""),
        study=text_in(groups, "StudyInstanceUID"),
        uid=text_in(groups, "SeriesInstanceUID"),
        number=numbers_in(groups, "InstanceNumber", 1)[0],
        location=numbers_in(groups, "SliceLocation", 1)[0],
        frames=frames,
        size=(columns, rows, samples),
        spacing=pixel_spacing(groups),
        between=positive(numbers_in(groups, "SpacingBetweenSlices", 1))[0],
        position=numbers_in(groups, "ImagePositionPatient", 3),
        directions=directions_in(groups),
        differences={name: str(value_in(groups, name)) for name in DIFFERENCES},
        cut_short=cut_short,
        stack=stack_of_frames(ds, frames) if frames > 1 and not cut_short else None,
    )
