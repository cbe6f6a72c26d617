"""Masks on the grid of their file, and on that of their image."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import optional_import

from medssl_monai.readers.dicom.elements import directions_in, functional_groups, numbers_in, pixel_spacing, positive
from medssl_monai.readers.dicom.objects import open_dicom
from medssl_monai.readers.dicom.series import find_volume
from medssl_monai.readers.dicom.stacks import stack_of_frames
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.grids import LPS_TO_RAS, Array
from medssl_monai.readers.nifti import nifti_grid, open_nifti

nib, _ = optional_import("nibabel")  # its functions are untyped


def to_file_axes(mask: Array, image: Path) -> Array:
    """Bring a mask from the axes of `medssl_monai.readers.ClinicalReader` to those of the file, by flips and swaps.

    Args:
        mask: ``(x, y)`` or ``(x, y, z)``.
        image: path of the image.

    Returns:
        For NIfTI files three axes as in the file, be they one voxel deep; else the mask as it is.
    """
    if image_format(image) != "NIfTI":
        return mask
    _, turn, shape = nifti_grid(open_nifti(image))
    back = np.empty_like(turn)
    back[turn[:, 0].astype(int)] = np.column_stack([np.arange(3), turn[:, 1]])
    return np.asarray(nib.orientations.apply_orientation(mask.reshape(shape), back))


def to_image_axes(
    mask: Array, path: Path, meta: Mapping[str, Any], image: Path, image_meta: Mapping[str, Any]
) -> tuple[Array, Mapping[str, Any], Mapping[str, Any]]:
    """Bring a mask to the axes of its image, by flips and swaps, if both files say how they lie in the patient.

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


def in_patient(path: Path, meta: Mapping[str, Any]) -> Array | None:
    """Return the affine (4, 4) to RAS of x, y and z as `ClinicalReader` reads them, z one voxel deep for a plane.

    None if the file does not say; of DICOM volumes that do not, what programs suppose.
    """
    kind, affine, ndim = image_format(path), np.asarray(meta["affine"], dtype=float), len(meta["spacing"])
    if kind == "DICOM":
        if ndim == 3 and not _is_unplaced(affine):
            return affine
        affine, _, placed = patient_affine(path, ndim)
        return affine if placed or ndim == 3 else None
    if kind != "NIfTI" or not np.isfinite(meta["spacing"]).all():
        return None
    if ndim == 3:
        return affine
    image = open_nifti(path)
    if not image.header["qform_code"] and not image.header["sform_code"]:
        return None
    affine, turn, shape = nifti_grid(image)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, (*image.shape, 1, 1)[:3])
    flat = int(np.flatnonzero(shape == 1)[-1])
    return np.asarray(affine[:, [*np.delete(range(3), flat), flat, 3]])


def patient_affine(path: Path, ndim: int) -> tuple[Array, bool, bool]:
    """Return the affine (4, 4) to RAS of a DICOM file or series, in the axes of its pixels.

    Args:
        path: of the file, or of the folder of the series.
        ndim: of its pixels, 2 or 3.

    Returns:
        The affine, whether the file says how large voxels are, and whether it says where they lie.
    """
    files, grid = find_volume(path) if path.is_dir() else ((path,), None)
    ds = open_dicom(files[0], pixels=False)
    groups = functional_groups(ds)
    position, directions = numbers_in(groups, "ImagePositionPatient", 3), directions_in(groups)
    placed = bool(np.isfinite(position).all() and np.isfinite(directions).all())
    if ndim == 2:
        spacing = np.append(pixel_spacing(groups), positive(numbers_in(groups, "SpacingBetweenSlices", 1)))
        row, column = directions.reshape(2, 3) if placed else np.eye(3)[:2]
        affine = np.eye(4)
        affine[:3, :3] = np.column_stack([row, column, np.cross(row, column)]) * np.nan_to_num(spacing, nan=1.0)
        affine[:3, 3] = position if placed else 0.0
        return LPS_TO_RAS @ affine, False, placed
    affine, spacing = grid or stack_of_frames(ds, int(ds.NumberOfFrames)).grid
    placed = not _is_unplaced(affine) or (placed and not position.any())
    return affine if placed else LPS_TO_RAS @ affine, bool(np.isfinite(spacing).all()), placed


def _is_unplaced(affine: Array) -> bool:
    """Tell whether an affine is as `medssl_monai.readers.grids.plane` gives it."""
    return np.array_equal(affine, np.diag(affine.diagonal().clip(0)))


def elsewhere(
    mask: Mapping[str, Any], image: Mapping[str, Any], shape: Sequence[int], tolerance: float = 0.1
) -> str | None:
    """Say how the place of a mask differs from its image's, as far as their files tell; None if it does not.

    Args:
        mask: metadata with ``spacing`` in mm (NaN: unknown, as in PNG files) and ``affine``.
        image: likewise.
        shape: of both.
        tolerance: how far a corner of the mask's grid may lie off the image's, in shares of the smallest side of a
            voxel.
    """
    ours, theirs = (np.array(meta["spacing"], dtype=float) for meta in (mask, image))
    known = np.isfinite(ours) & np.isfinite(theirs)
    if (np.abs(ours - theirs) > 0.01 * theirs)[known].any():
        return f"the mask's spacing is {_sizes(ours)} mm, its image's {_sizes(theirs)} mm"
    if not known.all():
        return None
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*((0, size - 1) for size in shape))])
    axes = [*range(len(shape)), -1]  # of an image, the affine has a third axis too
    move = (np.asarray(mask["affine"]) - np.asarray(image["affine"]))[:, axes]
    far = np.linalg.norm((corners @ move.T)[:, :3], axis=1).max()
    if far <= tolerance * theirs.min():
        return None
    return f"the mask lies up to {far:.3g} mm off its image: another position or orientation"


def _sizes(values: Array) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
