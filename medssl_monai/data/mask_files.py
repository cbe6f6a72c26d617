"""Masks written to files, each with the geometry of its image's file."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.utils import optional_import

from medssl_monai.data.dicom import (
    LPS_TO_RAS,
    Array,
    _directions,
    _groups,
    _numbers,
    _pixel_spacing,
    _positive,
    _stack_of_frames,
    find_volume,
    open_dicom,
)
from medssl_monai.data.reader import _nifti_grid, image_format
from medssl_monai.files import write_atomically

nib, _ = optional_import("nibabel")  # its functions are untyped

GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""Fields of a NIfTI header that say where voxels lie; the others may hold texts on the patient."""


class MaskFile(NamedTuple):
    """Where a mask was written, and the volume of a voxel in millilitres (NaN: unknown, or no volume)."""

    path: Path
    voxel: float


def to_file_axes(mask: Array, image: Path) -> Array:
    """A mask on the grid of `medssl_monai.data.ClinicalReader` on that of the file: exact flips and permutations.

    Args:
        mask: ``(x, y)`` or ``(x, y, z)``.
        image: path of the image.

    Returns:
        For NIfTI files three axes as in the file, be they one voxel deep; else the mask as it is.
    """
    if image_format(image) != "NIfTI":
        return mask
    _, turn, shape = _nifti_grid(nib.load(image))
    back = np.empty_like(turn)
    back[turn[:, 0].astype(int)] = np.column_stack([np.arange(3), turn[:, 1]])
    return np.asarray(nib.orientations.apply_orientation(mask.reshape(shape), back))


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
        write_atomically(path, lambda temporary: _write_png(temporary, pixels.T, note))
        return MaskFile(path, np.nan)
    if kind == "NIfTI":
        source = nib.load(image)
        out = nib.Nifti1Image(mask.reshape(source.shape[:3]).astype(np.uint8), None)
        _copy_geometry(source.header, out.header)
        affine, *_ = _nifti_grid(source)
        known = np.allclose(affine, source.affine, equal_nan=False)
    else:
        affine, known = _patient_affine(image, mask.ndim)
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
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    volume = known and min(mask.shape) > 1
    return MaskFile(path, abs(np.linalg.det(affine[:3, :3])) / 1000 if volume else np.nan)


def _write_png(path: Path, pixels: Array, note: str) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    comment = PngInfo()
    if note:
        comment.add_text("Comment", note)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, format="PNG", pnginfo=comment)


def _copy_geometry(source: Mapping[str, Any], target: Any) -> None:
    for name in GEOMETRY:
        target[name] = source[name]
    target["pixdim"][4:] = 0  # channels or time


def _patient_affine(path: Path, ndim: int) -> tuple[Array, bool]:
    """Affine (4, 4) to RAS of a DICOM file or series in the axes of its pixels, and whether its scale is known."""
    files, grid = find_volume(path) if path.is_dir() else ((path,), None)
    ds = open_dicom(files[0], pixels=False)
    groups = _groups(ds)
    position, directions = _numbers(groups, "ImagePositionPatient", 3), _directions(groups)
    placed = bool(np.isfinite(position).all() and np.isfinite(directions).all())
    if ndim == 2:
        spacing = np.append(_pixel_spacing(groups), _positive(_numbers(groups, "SpacingBetweenSlices", 1)))
        row, column = directions.reshape(2, 3) if placed else np.eye(3)[:2]
        affine = np.eye(4)
        affine[:3, :3] = np.column_stack([row, column, np.cross(row, column)]) * np.nan_to_num(spacing, nan=1.0)
        affine[:3, 3] = position if placed else 0.0
        return LPS_TO_RAS @ affine, False
    affine, spacing = grid or _stack_of_frames(ds, int(ds.NumberOfFrames)).grid
    diagonal = np.array_equal(affine, np.diag(affine.diagonal().clip(0)))  # as `plane` gives it
    known = bool(np.isfinite(spacing).all())
    return (LPS_TO_RAS @ affine if diagonal and not (placed and not position.any()) else affine), known
