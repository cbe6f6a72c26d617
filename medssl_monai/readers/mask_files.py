"""Masks in files: written with the geometry of their image's file, and read back to its axes."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.utils import optional_import

from medssl_monai.files import write_atomically
from medssl_monai.png import save_png
from medssl_monai.readers.dicom import (
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
from medssl_monai.readers.reader import ClinicalReader, _is_known, _nifti_grid, _open_nifti, image_format

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


def mask_reader() -> ClinicalReader:
    """Reads masks, wherever they are read: of a picture with a palette, the index is the class."""
    return ClinicalReader(indexed=True)


def to_file_axes(mask: Array, image: Path) -> Array:
    """A mask on the grid of `medssl_monai.readers.ClinicalReader` on that of the file: exact flips and permutations.

    Args:
        mask: ``(x, y)`` or ``(x, y, z)``.
        image: path of the image.

    Returns:
        For NIfTI files three axes as in the file, be they one voxel deep; else the mask as it is.
    """
    if image_format(image) != "NIfTI":
        return mask
    _, turn, shape = _nifti_grid(_open_nifti(image))
    back = np.empty_like(turn)
    back[turn[:, 0].astype(int)] = np.column_stack([np.arange(3), turn[:, 1]])
    return np.asarray(nib.orientations.apply_orientation(mask.reshape(shape), back))


def to_image_axes(
    mask: Array, path: Path, meta: Mapping[str, Any], image: Path, image_meta: Mapping[str, Any]
) -> tuple[Array, Mapping[str, Any], Mapping[str, Any]]:
    """A mask in the axes of its image, if both files say how they lie in the patient: exact flips and permutations.

    `medssl_monai.readers.ClinicalReader` turns NIfTI files to the closest L-P-S orientation and drops an axis of one
    voxel; of DICOM files it keeps rows, columns and slices, which in sagittal and coronal planes run otherwise.

    Args:
        mask: ``(C, x, y[, z])``, as read.
        path: of the mask.
        meta: read with it.
        image: path of the image.
        image_meta: read with that.

    Returns:
        The mask, its third axis dropped if it is one voxel deep, and ``affine`` and ``spacing`` of mask and image to
        compare; all as they are if a file does not say how it lies.
    """
    own, wanted = in_patient(path, meta), in_patient(image, image_meta)
    if own is None or wanted is None:
        return mask, meta, image_meta
    volume = mask.reshape((*mask.shape, 1)[:4])
    turn = nib.io_orientation(np.linalg.inv(wanted) @ own)  # of grids at 45 degrees to L-P-S, too, it is unambiguous
    turned = np.moveaxis(nib.orientations.apply_orientation(np.moveaxis(volume, 0, -1), turn), -1, 0)
    turned = turned[..., 0] if turned.shape[-1] == 1 else turned
    spacing = np.append(meta["spacing"], np.nan)[np.argsort(turn[:, 0])][: turned.ndim - 1]
    affine = own @ nib.orientations.inv_ornt_aff(turn, volume.shape[1:])
    return turned, {"affine": affine, "spacing": spacing}, {"affine": wanted, "spacing": image_meta["spacing"]}


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
        source = _open_nifti(image)
        out = nib.Nifti1Image(mask.reshape(source.shape[:3]).astype(np.uint8), None)
        _copy_geometry(source.header, out.header)
        affine, *_ = _nifti_grid(source)
        known = _is_known(source)
    else:
        affine, known, _ = _patient_affine(image, mask.ndim)
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


def in_patient(path: Path, meta: Mapping[str, Any]) -> Array | None:
    """Affine (4, 4) to RAS of x, y and z as `ClinicalReader` reads them, z one voxel deep if it reads a plane.

    None: the file does not say; of DICOM volumes that do not, what programs suppose.
    """
    kind, affine, ndim = image_format(path), np.asarray(meta["affine"], dtype=float), len(meta["spacing"])
    if kind == "DICOM":
        if ndim == 3 and not _is_unplaced(affine):
            return affine
        affine, _, placed = _patient_affine(path, ndim)
        return affine if placed or ndim == 3 else None
    if kind != "NIfTI" or not np.isfinite(meta["spacing"]).all():
        return None
    if ndim == 3:
        return affine
    image = _open_nifti(path)
    if not image.header["qform_code"] and not image.header["sform_code"]:
        return None
    affine, turn, shape = _nifti_grid(image)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, (*image.shape, 1, 1)[:3])
    flat = int(np.flatnonzero(shape == 1)[-1])
    return np.asarray(affine[:, [*np.delete(range(3), flat), flat, 3]])


def _patient_affine(path: Path, ndim: int) -> tuple[Array, bool, bool]:
    """Of a DICOM file or series: affine (4, 4) to RAS in the axes of its pixels; are its scale, its place known?"""
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
        return LPS_TO_RAS @ affine, False, placed
    affine, spacing = grid or _stack_of_frames(ds, int(ds.NumberOfFrames)).grid
    placed = not _is_unplaced(affine) or (placed and not position.any())
    return affine if placed else LPS_TO_RAS @ affine, bool(np.isfinite(spacing).all()), placed


def _is_unplaced(affine: Array) -> bool:
    """Whether it is as `medssl_monai.readers.dicom.plane` gives it."""
    return np.array_equal(affine, np.diag(affine.diagonal().clip(0)))
