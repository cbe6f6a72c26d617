"""The pixels of one file, decoded."""

from __future__ import annotations

import re
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, RLELossless, SecondaryCaptureImageStorage

from medssl_monai.readers.dicom.elements import STORED, functional_groups, pixel_spacing
from medssl_monai.readers.dicom.grey import grey_values
from medssl_monai.readers.dicom.objects import PYDICOM_3, image_shape, open_dicom
from medssl_monai.readers.dicom.stacks import stack_of_frames
from medssl_monai.readers.grids import Array, Grid, plane
from medssl_monai.readers.refusals import RefusedError

processing: Any = import_module("pydicom.pixels.processing" if PYDICOM_3 else "pydicom.pixel_data_handlers.util")
STREAM = re.compile(
    rb"\xff\x4f\xff\x51|\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]\x00[\x0b\x0e\x11\x14]", re.DOTALL
)
"""The marker where a picture in JPEG 2000, JPEG or JPEG-LS says how large it is."""
ITEM, END_OF_ITEMS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
JPEGS = "1.2.840.10008.1.2.4."


def read_dicom_file(path: Path, display_window: bool = False) -> tuple[Array, Grid, Grid]:
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
    frames, rows, columns, _ = image_shape(ds)
    array = _stored_pixels(ds).reshape(frames, rows, columns, -1)
    if array.shape[-1] == 1:
        array = grey_values(array, ds, display_window)
    array = array.transpose(3, 2, 1, 0)
    if frames == 1:
        grid = plane(pixel_spacing(functional_groups(ds)))
        return array[..., 0], grid, (grid[0], np.array(array.shape[1:3]))
    stack = stack_of_frames(ds, frames)
    return array[..., stack.order], stack.grid, (stack.grid[0], np.array(array.shape[1:]))


def _stored_pixels(ds: Dataset) -> Array:
    """Return stored values, or 8-bit RGB, frames first."""
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
