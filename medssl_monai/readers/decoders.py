"""What a file of each format is decoded with, and what it tells without being decoded."""

from __future__ import annotations

from pathlib import Path

from medssl_monai.readers.dicom.volumes import count_dicom, may_be_nan_in_dicom, read_dicom
from medssl_monai.readers.formats import by_format
from medssl_monai.readers.nifti import count_nifti, may_be_nan_in_nifti, notes_on_nifti, read_nifti
from medssl_monai.readers.nonfinite import NonFinite, find_nonfinite
from medssl_monai.readers.pictures import count_picture, notes_on_picture, read_picture

DECODERS = {"PNG": read_picture, "JPEG": read_picture, "NIfTI": read_nifti, "DICOM": read_dicom}
COUNTS = {"PNG": count_picture, "JPEG": count_picture, "NIfTI": count_nifti, "DICOM": count_dicom}
NOTES = {"PNG": notes_on_picture, "JPEG": notes_on_picture, "NIfTI": notes_on_nifti, "DICOM": lambda path: ()}
MAY_BE_NAN = {
    **dict.fromkeys(("PNG", "JPEG"), lambda path: False),
    "NIfTI": may_be_nan_in_nifti,
    "DICOM": may_be_nan_in_dicom,
}


def count_slices(path: Path) -> int | None:
    """Return the number of slices or frames along the last axis that `ClinicalReader` gives, by the header alone.

    Args:
        path: of a file, or of the folder of one DICOM series.

    Returns:
        None for an image.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is of another format, damaged, no image (a report, a segmentation) or no volume.
    """
    return by_format(path, COUNTS)


def header_notes(path: Path) -> list[str]:
    """Return what is odd about the geometry of a file, but no obstacle; of DICOM series, `find_series` tells.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it cannot be read.
    """
    return list(by_format(path, NOTES))


def nonfinite(path: Path) -> NonFinite | None:
    """Count the voxels that are no numbers; None if there are none. Files that cannot have such are not decoded.

    Args:
        path: of a file, or of the folder of one DICOM series.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it cannot be read.
    """
    if not by_format(path, MAY_BE_NAN):
        return None
    array, *_ = by_format(path, DECODERS)
    found = find_nonfinite(array)
    return found[0] if found else None
