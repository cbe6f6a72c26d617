"""What stored grey values mean: rescaling, tables, windows and MONOCHROME1."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian

from medssl_monai.readers.dicom.elements import functional_groups, per_frame, text_in
from medssl_monai.readers.grids import Array


def grey_values(array: Array, ds: Dataset, display_window: bool) -> Array:
    """Return the modality values of stored values ``(frames, rows, columns, 1)``, or [0, 1] in the window.

    More is brighter: MONOCHROME1 is inverted.
    """
    slope, intercept = per_frame(ds, "RescaleSlope", "RescaleIntercept")
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
    """Return the least and the greatest value that can be stored."""
    if array.dtype.kind == "f":
        return array.min(), array.max()
    bits = int(ds.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2**bits - 1)


def _look_up(array: Array, item: Dataset, ds: Dataset) -> tuple[Array, int, int]:
    """Return values from a table, and their range (PS3.3, C.11.1.1.1); pydicom knows tables of 8 and 16 bits only."""
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
    """Return grey values in [0, 1] as the file wants them shown (PS3.3, C.11.2); its whole range if it does not say."""
    if ds.get("VOILUTSequence"):
        array, _, high = _look_up(np.rint(array).astype(np.int64), ds.VOILUTSequence[0], ds)
        return array / high
    centre, width = per_frame(ds, "WindowCenter", "WindowWidth")
    function = text_in(functional_groups(ds), "VOILUTFunction") or "LINEAR"
    if function == "SIGMOID" and np.isfinite(centre + width).all():
        return 1.0 / (1.0 + np.exp(-4.0 * (array - centre) / width))  # Eq. of C.11.2.1.3.1
    pixel = 0.0 if function == "LINEAR_EXACT" else 1.0  # LINEAR counts from the middle of a grey level
    middle, half = centre - pixel / 2, (width - pixel) / 2
    known = np.isfinite(middle + half)
    low, high = np.where(known, middle - half, low), np.where(known, middle + half, high)
    return ((array - low) / np.maximum(high - low, 1e-6)).clip(0.0, 1.0)
