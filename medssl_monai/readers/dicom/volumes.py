"""A DICOM file, or the folder of one series, as an image or a volume."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from medssl_monai.readers.dicom.objects import count_frames, open_dicom
from medssl_monai.readers.dicom.pixels import read_dicom_file
from medssl_monai.readers.dicom.series import find_volume
from medssl_monai.readers.formats import by_format
from medssl_monai.readers.grids import COLOURED, Decoded
from medssl_monai.readers.refusals import check_size


def read_dicom(path: Path, display_window: bool = False) -> Decoded:
    """Read a file, or the folder of one series; see `medssl_monai.readers.reader.ClinicalReader`."""
    if not path.is_dir():
        array, plane_or_stack, own = read_dicom_file(path, display_window)
        return array, len(array) in COLOURED, plane_or_stack, own
    files, grid = find_volume(path)
    decoders = {"DICOM": partial(read_dicom, display_window=display_window)}
    first = by_format(files[0], decoders)
    if grid is None:
        return tuple(first)
    check_size((*first[0].shape, len(files)))
    array = np.stack([first[0], *(by_format(file, decoders)[0] for file in files[1:])], axis=-1)
    return array, first[1], grid, (grid[0], np.array(array.shape[1:]))


def count_dicom(path: Path) -> int | None:
    """Return the number of slices or frames; None for an image."""
    if not path.is_dir():
        return count_frames(path)
    files, _ = find_volume(path)
    return len(files) if len(files) > 1 else count_frames(files[0])


def may_be_nan_in_dicom(path: Path) -> bool:
    """Tell whether values may be floating point, as those of 32 bits and more may be; all others are whole numbers."""
    files = find_volume(path)[0] if path.is_dir() else (path,)
    return any(int(open_dicom(file, pixels=False).get("BitsAllocated") or 8) > 16 for file in files)
