"""One reader for what a clinic hands over: PNG, JPEG, NIfTI and DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, optional_import

from medssl_monai.data.dicom import Array, Grid, count_frames, find_volume, plane, read_dicom

nib, _ = optional_import("nibabel")  # MONAI has imported it already; its functions are untyped

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM"}
PILLOW_MODES = {"1": "1", "L": "L", "LA": "L", "I": "I", "I;16": "I;16", "I;16B": "I;16B", "F": "F"}  # others: RGB
LPS = ("L", "P", "S")


class UnreadableImageError(ValueError):
    """A file that cannot be read as an image.

    Attributes:
        path: which one; it may name a person, so logs and reports name the item's id and `reason` instead.
        reason: what is wrong and how to mend it, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


class ClinicalReader(ImageReader):
    """Read images of any of the formats, told apart by content, as channel-first arrays of one convention.

    Use it as ``LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)``.

    - *Axes*: ``(C, x, y)`` or ``(C, x, y, z)``, x to the right of the stored picture and y down, as in MONAI's
      readers. Volumes in NIfTI files are turned to the closest L-P-S orientation, that of an axial DICOM slice: the
      axial slice k of such a volume has the same pixels as the DICOM file of that slice. A volume of a single slice
      is an image.
    - *DICOM series*: a folder that directly holds the files of one series is a volume, z along the slice normal (the
      cross product of x and y). Slice k has the pixels of its file. Missing slices, several images at one position
      and mixed orientations are refused; a tilted gantry shears the affine. The frames of a DICOM file are the last
      axis, sorted likewise if they are the slices of one volume, else in the order of the file.
    - *Grey values*: the modality transform (rescale slope and intercept, or table) is applied; MONOCHROME1 is inverted
      within the range that can be stored, so that more is brighter. Palette, YBR, CMYK and the like become RGB of 8
      bits, transparency is dropped; grey stays one channel and a grey JPEG stored in colour three (`Channelsd`
      settles that). Overlays are not drawn.
    - *Metadata*: ``spacing`` in mm (a tuple, NaN where missing or not positive), ``affine`` to RAS (spacing 1 where
      unknown), ``original_affine`` and ``spatial_shape`` of the file's own grid, on which `SaveImaged` with
      ``resample=True`` puts a result back, ``original_channel_dim`` 0. Images have the affine of their own plane,
      since MONAI reads the upper left 2x2 block, which is singular for a sagittal plane in patient space.
    - *Privacy*: of a DICOM file, only the elements that describe the image are read, and of a folder those that tell
      which files are one series.

    Several files for one item are concatenated as channels. The volume read last is kept, so that its slices can be
    taken one after the other (`TakeSliced`) without decoding it anew; a changed file is noticed by size and time.

    Args:
        display_window: show DICOM images of one channel in [0, 1], through the table or the first window (linear,
            linear exact or sigmoid) that the file suggests for viewing, or through its whole range if it suggests
            none. Off by default: windows differ between devices, and CT loses its Hounsfield units.
    """

    def __init__(self, display_window: bool = False) -> None:
        super().__init__()
        self._decoders = {**_DECODERS, "DICOM": partial(_read_dicom, display_window=display_window)}
        self._last: tuple[Any, Array, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a worker process decodes its own

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files are of a format that this reader knows."""
        return all(image_format(path) is not None for path in self.read(filename))

    def read(self, data: Any, **kwargs: Any) -> list[Path]:
        """Remember the paths and nothing else: when `read` fails, `LoadImage` tries other readers in silence."""
        return [Path(path) for path in (data if isinstance(data, Sequence) and not isinstance(data, str) else [data])]

    def get_data(self, img: Sequence[Path]) -> tuple[Array, dict[str, Any]]:
        """Decode the files.

        Args:
            img: paths, from `read`: files, or folders of one DICOM series each.

        Returns:
            Array ``(C, x, y[, z])`` and metadata.

        Raises:
            FileNotFoundError: if there is no such file.
            UnreadableImageError: if a file is of another format, damaged or cut short, or a folder is no volume.
            ValueError: if the files differ in shape.
        """
        stamp, last = [_stamp(path) for path in img], self._last
        if last and last[0] == stamp:
            return last[1].copy(), deepcopy(last[2])
        arrays, metas = zip(*(_read(path, self._decoders) for path in img), strict=True)
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"{img[0]} and its other channels differ in shape: {sorted(shapes)}; resample them first.")
        array, meta = np.concatenate(arrays) if len(arrays) > 1 else arrays[0], metas[0]
        if array.ndim == 4:
            self._last = stamp, array, meta
            return array.copy(), deepcopy(meta)  # what follows may work in place
        return array, meta


def image_format(path: Path) -> str | None:
    """``"PNG"``, ``"JPEG"``, ``"NIfTI"`` or ``"DICOM"`` by content, by suffix where that says nothing; else None.

    A folder is DICOM if a file directly in it is.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if path.is_dir():
        inside = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return "DICOM" if any(image_format(file) == "DICOM" for file in inside) else None
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "NIfTI"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; mend its path in the datalist, or set `dataset_dir`.")
    with path.open("rb") as file:
        head = file.read(132)
    if head.startswith(b"\x89PNG"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "DICOM" if head[128:] == b"DICM" else SUFFIXES.get(path.suffix.lower())


def count_slices(path: Path) -> int | None:
    """Slices or frames along the last axis as `ClinicalReader` gives it, from the header alone; None for an image.

    Args:
        path: of a file, or of the folder of one DICOM series.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is of another format, damaged, no image (a report, a segmentation) or no volume.
    """
    return _guarded(path, _HEADERS)


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Changes when a file, or one in the folder, does."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files if file.is_file()]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def _read(path: Path, decoders: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
    array, (affine, spacing), (original_affine, original_shape) = _guarded(path, decoders)
    return np.ascontiguousarray(array), {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: original_affine,
        MetaKeys.SPATIAL_SHAPE: tuple(int(size) for size in original_shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        "spacing": tuple(float(size) for size in spacing),
    }


def _guarded(path: Path, functions: dict[str, Any]) -> Any:
    kind = image_format(path)
    if kind is None:
        raise UnreadableImageError(
            path, "is neither PNG, JPEG, NIfTI nor DICOM; convert it, or take it out of the datalist."
        )
    try:
        return functions[kind](path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file {path}; mend its path in the datalist, or set `dataset_dir`."
        ) from None
    except UnreadableImageError:  # of a file in the folder
        raise
    except Exception as error:  # decoders fail in any way; whoever reads the message needs the file, not the stack
        text = str(error).replace(str(path.resolve()), "the file").replace(str(path), "the file")
        text = " ".join(text.split())[:300]
        raise UnreadableImageError(
            path,
            f"cannot be read as {kind} ({type(error).__name__}: {text}). If it is cut short or damaged, copy it anew "
            "from its source; else take it out of the datalist.",
        ) from None


# PNG and JPEG


def _read_pillow(path: Path) -> tuple[Array, Grid, Grid]:
    from PIL import Image

    with Image.open(path) as image:
        mode = PILLOW_MODES.get(image.mode, "RGB")
        array = np.asarray(image if image.mode == mode else image.convert(mode))
    array = array.astype(np.uint8) if array.dtype == bool else array  # a 1-bit mask stays 0 and 1
    array = array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    grid = plane(np.full(2, np.nan))
    return array, grid, (grid[0], np.array(array.shape[1:]))


def _count_pillow(path: Path) -> None:
    from PIL import Image

    with Image.open(path):
        pass


# NIfTI


def _nifti_grid(image: Any) -> tuple[Array, Array, Array]:
    """Affine, transform to L-P-S and shape in that orientation; a broken affine counts as L-P-S of 1 mm."""
    shape = (*image.shape, 1, 1)[:3]
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(LPS))
    turned = np.empty(3, dtype=int)
    turned[turn[:, 0].astype(int)] = shape
    return affine, turn, turned


def _read_nifti(path: Path) -> tuple[Array, Grid, Grid]:
    image = nib.load(path)
    affine, turn, shape = _nifti_grid(image)
    known = np.allclose(affine, image.affine, equal_nan=False)
    array = np.asanyarray(image.dataobj)
    if array.dtype.names:  # colour voxels
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    elif array.ndim > 4 and sum(size > 1 for size in array.shape[3:]) > 1:
        raise ValueError(f"its shape is {array.shape}; at most one axis may follow the three of space")
    original_shape = np.array((*image.shape, 1, 1)[:3])
    array = nib.orientations.apply_orientation(array.reshape(*original_shape, -1), turn)
    turned = affine @ nib.orientations.inv_ornt_aff(turn, original_shape)
    spacing = nib.affines.voxel_sizes(turned) if known else np.full(3, np.nan)
    array = np.moveaxis(array, -1, 0)
    if (shape == 1).any():
        flat = int(np.flatnonzero(shape == 1)[-1])
        grid = plane(np.delete(spacing, flat))
        array = array.squeeze(1 + flat)
        return array, grid, (grid[0], np.array(array.shape[1:]))
    return array, (turned, spacing), (affine, original_shape)


def _count_nifti(path: Path) -> int | None:
    *_, shape = _nifti_grid(nib.load(path))
    return None if (shape == 1).any() else int(shape[2])


# DICOM


def _read_dicom(path: Path, display_window: bool = False) -> tuple[Array, Grid, Grid]:
    if not path.is_dir():
        return read_dicom(path, display_window)
    files, grid = find_volume(path)
    decoders = {"DICOM": partial(read_dicom, display_window=display_window)}
    slices = [_guarded(file, decoders) for file in files]
    if grid is None:
        return slices[0]
    array = np.stack([array for array, *_ in slices], axis=-1)
    return array, grid, (grid[0], np.array(array.shape[1:]))


def _count_dicom(path: Path) -> int | None:
    if not path.is_dir():
        return count_frames(path)
    files, _ = find_volume(path)
    return len(files) if len(files) > 1 else count_frames(files[0])


_DECODERS = {"PNG": _read_pillow, "JPEG": _read_pillow, "NIfTI": _read_nifti}
_HEADERS = {"PNG": _count_pillow, "JPEG": _count_pillow, "NIfTI": _count_nifti, "DICOM": _count_dicom}
