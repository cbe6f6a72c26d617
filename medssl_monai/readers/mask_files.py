"""Masks written to files with the geometry of their image's file."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.utils import optional_import

from medssl_monai.files import write_atomically
from medssl_monai.png import save_png
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.grids import Array
from medssl_monai.readers.mask_axes import patient_affine
from medssl_monai.readers.nifti import has_known_grid, nifti_grid, open_nifti

nib, _ = optional_import("nibabel")  # its functions are untyped

GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""Fields of a NIfTI header that say where voxels lie; the others may hold texts on the patient."""


class MaskFile(NamedTuple):
    """The file of a mask, and the volume of a voxel in millilitres (NaN: unknown, or no volume)."""

    path: Path
    voxel: float


def write_mask(stem: Path, mask: Array, image: Path, num_classes: int, note: str = "") -> MaskFile:
    """Write a mask that any program lays over its image.

    For PNG and JPEG files it is a PNG file of the same size; for NIfTI files a NIfTI file with the same shape and
    affine; for DICOM a NIfTI file in the patient's space or, where the file does not say where it lies, as if its rows
    and columns ran to the patient's left and back, which is what programs suppose of such a file; unknown spacings are
    1 mm. Of the source's header, nothing but its geometry is copied.

    Args:
        stem: path without suffix.
        mask: class indices on the grid of the file (`to_file_axes`).
        image: path of the image.
        num_classes: two: a PNG file has the values 0 and 255, to be seen at all; else the indices.
        note: goes to the header.
    """
    kind = image_format(image)
    if kind in ("PNG", "JPEG"):
        path = stem.with_name(f"{stem.name}.png")
        pixels = mask.astype(np.uint8) * (255 if num_classes == 2 else 1)
        write_atomically(path, lambda file: save_png(file, pixels.T, note))
        return MaskFile(path, np.nan)
    if kind == "NIfTI":
        source = open_nifti(image)
        out = nib.Nifti1Image(mask.reshape(source.shape[:3]).astype(np.uint8), None)
        _copy_geometry(source.header, out.header)
        affine, *_ = nifti_grid(source)
        known = has_known_grid(source)
    else:
        affine, known, _ = patient_affine(image, mask.ndim)
        mask = mask if mask.ndim == 3 else mask[..., None]
        out = nib.Nifti1Image(mask.astype(np.uint8), affine)
        out.header.set_xyzt_units("mm")
        out.set_sform(affine, 1)
        if np.allclose(
            (axes := affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T @ axes, np.eye(3), atol=1e-4
        ):
            out.set_qform(affine, 1)  # it cannot say that a gantry was tilted
    out.header["descrip"] = note.encode()[:79]
    path = stem.with_name(f"{stem.name}.nii.gz")
    content = gzip.compress(out.to_bytes(), mtime=0)  # the time would change the bytes
    write_atomically(path, lambda file: file.write(content))
    volume = known and min(mask.shape) > 1
    return MaskFile(path, abs(np.linalg.det(affine[:3, :3])) / 1000 if volume else np.nan)


def _copy_geometry(source: Mapping[str, Any], target: Any) -> None:
    for name in GEOMETRY:
        target[name] = source[name]
    target["pixdim"][4:] = 0  # channels or time
