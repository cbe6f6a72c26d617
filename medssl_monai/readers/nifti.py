"""NIfTI: voxels, turned to the closest L-P-S orientation."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.utils import optional_import

from medssl_monai.readers.grids import NO_SPACING, Array, Decoded, plane
from medssl_monai.readers.refusals import CUT_SHORT, RefusedError, UnreadableImageError, check_size

nib, _ = optional_import("nibabel")  # MONAI has imported it already; its functions are untyped

LPS = ("L", "P", "S")
NIFTI_1, NIFTI_2 = 348, 540
"""Bytes of the headers of NIfTI files, which begin with this number."""
ENDS: tuple[Literal["little", "big"], ...] = ("little", "big")
FAR_OFF = 2**24
"""Bytes before the voxels of a NIfTI file, at most: its header, and extensions."""
LARGE = 2**28
"""Bytes of voxels from which on a compressed file is unpacked once to see whether they are there."""
SAME_GRID = 0.1
"""Voxels that a corner may lie off between two descriptions of one grid."""
QFORM = "qform and sform put the volume at different places; read by the sform, as most programs do"
PIXDIM = "pixdim and sform tell different sizes of the voxels; read by the sform, as most programs do"


def open_nifti(path: Path) -> Any:
    """Open a file; its voxels are not read yet.

    Raises:
        RefusedError: if it is too large, or holds what is not read.
    """
    pixdim = _check_header(path)
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise RefusedError("it is of another format under this name")
    check_size(image.shape)
    if image.get_data_dtype().kind == "c":
        raise RefusedError("its voxels are complex numbers; save their magnitude")
    beyond = [size for size in image.shape[3:] if size > 1]
    if beyond:
        raise RefusedError(
            f"its shape is {' x '.join(map(str, image.shape))}: {beyond[0]} sequences, channels or points in time on "
            "the fourth axis, which are not read as one image; save those that are wanted as files of three axes"
        )
    image.extra["pixdim"] = pixdim  # nibabel takes 0 for 1
    return image


def nifti_cut_short(image: Any, path: Path, trusting: bool = True) -> bool:
    """Tell whether the end of a file is missing; nothing is kept in memory.

    Args:
        image: from `open_nifti`.
        path: of the file.
        trusting: believe a compressed file that ends with the size of the voxels.
    """
    wanted = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if path.suffix.lower() != ".gz":
        return bool(path.stat().st_size < wanted)
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if trusting and int.from_bytes(file.read(), "little") == wanted % 2**32:
            return False
    try:
        with gzip.open(path) as stream:
            while wanted > 0 and (block := stream.read(min(wanted, 2**20))):
                wanted -= len(block)
            stream.read(1)  # whether what follows is the end or more
        return bool(wanted > 0)
    except (EOFError, OSError, zlib.error):
        return True


def _check_header(path: Path) -> Array:
    """Refuse what nibabel would read into memory before anything is known of the voxels.

    Returns:
        ``pixdim`` of the three axes, as stored.

    Raises:
        RefusedError: if it is no such header, or says that more than `FAR_OFF` bytes precede the voxels, or has an
            extension that is larger than that.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        head = file.read(NIFTI_2)
        kinds = {NIFTI_1: nib.Nifti1Header, NIFTI_2: nib.Nifti2Header}
        size = next((size for size in kinds if size in (int.from_bytes(head[:4], order) for order in ENDS)), 0)
        if not size or len(head) < size:
            raise ValueError("it has no header of a NIfTI file")
        header = kinds[size](head[:size], check=False)
        if header["magic"].item()[:2] != b"n+":
            raise RefusedError("its voxels are in another file, and such pairs are not read; save it as one file")
        offset = float(header["vox_offset"])
        if not 0 <= offset <= FAR_OFF:
            raise RefusedError(f"it says that its voxels begin at byte {offset:.0f}; it is damaged")
        head += file.read(max(0, int(offset) - len(head)))
    at, order = size + 4, ENDS[header.endianness == ">"]
    while head[size : size + 1] not in (b"", b"\0") and at + 8 <= len(head):
        length = int.from_bytes(head[at : at + 4], order, signed=True)
        if not 8 <= length <= int(offset) - at:
            raise RefusedError(f"an extension of its header says that it has {length} bytes; it is damaged")
        at += length
    return np.array(header["pixdim"][1:4], dtype=float)


def has_known_grid(image: Any) -> bool:
    """Tell whether the file says how large its voxels are, and where they lie."""
    affine, *_ = nifti_grid(image)
    sized = bool(image.header["sform_code"]) or bool((np.nan_to_num(image.extra["pixdim"]) > 0).all())
    return sized and np.allclose(affine, image.affine, equal_nan=False)


def nifti_grid(image: Any) -> tuple[Array, Array, Array]:
    """Return affine, transform to L-P-S and shape in that orientation; a broken affine counts as L-P-S of 1 mm."""
    shape = (*image.shape, 1, 1)[:3]
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(LPS))
    turned = np.empty(3, dtype=int)
    turned[turn[:, 0].astype(int)] = shape
    return affine, turn, turned


def read_nifti(path: Path) -> Decoded:
    """Read a volume in the closest L-P-S orientation, or an image if it is one voxel deep along an axis."""
    image = open_nifti(path)
    size = math.prod(image.shape) * image.get_data_dtype().itemsize
    if (size > LARGE or path.suffix.lower() != ".gz") and nifti_cut_short(image, path, trusting=False):
        raise UnreadableImageError(path, CUT_SHORT)
    affine, turn, shape = nifti_grid(image)
    array = np.asanyarray(image.dataobj)
    colour = bool(array.dtype.names)
    if array.dtype.names:
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    original_shape = np.array((*image.shape, 1, 1)[:3])
    array = nib.orientations.apply_orientation(array.reshape(*original_shape, -1), turn)
    turned = affine @ nib.orientations.inv_ornt_aff(turn, original_shape)
    spacing = nib.affines.voxel_sizes(turned) if has_known_grid(image) else np.full(3, np.nan)
    array = np.moveaxis(array, -1, 0)
    if (shape == 1).any():
        flat = int(np.flatnonzero(shape == 1)[-1])
        grid = plane(np.delete(spacing, flat))
        array = array.squeeze(1 + flat)
        return array, colour, grid, (grid[0], np.array(array.shape[1:]))
    return array, colour, (turned, spacing), (affine, original_shape)


def count_nifti(path: Path) -> int | None:
    """Return the number of slices; None for an image."""
    *_, shape = nifti_grid(open_nifti(path))
    return None if (shape == 1).any() else int(shape[2])


def notes_on_nifti(path: Path) -> list[str]:
    """Say whether the size of voxels is unknown, or told twice and differently, and likewise where they lie."""
    image = open_nifti(path)
    (affine, *_), header = nifti_grid(image), image.header
    if not has_known_grid(image):
        return [NO_SPACING]
    if not header["sform_code"]:
        return []
    corners = np.array([(*corner, 1.0) for corner in np.ndindex(2, 2, 2)])
    corners[:, :3] *= np.array((*image.shape, 1, 1)[:3]) - 1
    sizes, notes = nib.affines.voxel_sizes(affine), []
    if not np.allclose(image.extra["pixdim"], sizes, rtol=1e-2):
        notes.append(PIXDIM)
    if header["qform_code"]:
        try:
            off = np.linalg.norm(corners @ (image.get_qform() - affine).T, axis=1).max()
        except Exception:  # a quaternion that is none
            off = np.inf
        notes += [QFORM] if not off <= SAME_GRID * sizes.min() else []
    return notes


def may_be_nan_in_nifti(path: Path) -> bool:
    """Tell whether voxels are floating point, by the header."""
    return bool(open_nifti(path).get_data_dtype().kind == "f")
