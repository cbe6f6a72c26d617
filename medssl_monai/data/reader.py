"""One reader for what a clinic hands over: PNG, JPEG, NIfTI and DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, optional_import
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

nib, _ = optional_import("nibabel")  # MONAI has imported it already; its functions are untyped

Array = NDArray[Any]
Grid = tuple[Array, Array]
"""Affine (4, 4) in mm to RAS, and spacing along each spatial axis in mm (NaN: unknown)."""

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM"}
PILLOW_MODES = {"1": "1", "L": "L", "LA": "L", "I": "I", "I;16": "I;16", "I;16B": "I;16B", "F": "F"}  # others: RGB
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
LPS = ("L", "P", "S")
COLOURS = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
DICOM_ELEMENTS: list[Any] = [
    *("SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "PixelSpacing", "SpacingBetweenSlices"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(part.format(colour) for colour in COLOURS for part in ("{}Descriptor", "{}Data", "Segmented{}Data")),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]
"""What describes an image; names and dates are not among them."""


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
      axial slice k of such a volume has the same pixels as the DICOM file of that slice. The frames of a DICOM file
      are the last axis, in the order of the file. A volume of a single slice is an image.
    - *Grey values*: rescale slope and intercept are applied; MONOCHROME1 is inverted within the stored range, so that
      more is brighter. Palette, YBR, CMYK and the like become RGB of 8 bits, transparency is dropped; grey stays one
      channel and a grey JPEG stored in colour three (`Channelsd` settles that).
    - *Metadata*: ``spacing`` in mm (a tuple, NaN where missing or not positive), ``affine`` to RAS (spacing 1 where
      unknown), ``original_affine`` and ``spatial_shape`` of the file's own grid, on which `SaveImaged` with
      ``resample=True`` puts a result back, ``original_channel_dim`` 0. Images have the affine of their own plane,
      since MONAI reads the upper left 2x2 block, which is singular for a sagittal plane in patient space.
    - *Privacy*: of a DICOM file, only the elements that describe the image are read.

    Several files for one item are concatenated as channels.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files are of a format that this reader knows."""
        return all(image_format(path) is not None for path in self.read(filename))

    def read(self, data: Any, **kwargs: Any) -> list[Path]:
        """Remember the paths and nothing else: when `read` fails, `LoadImage` tries other readers in silence."""
        return [Path(path) for path in (data if isinstance(data, Sequence) and not isinstance(data, str) else [data])]

    def get_data(self, img: Sequence[Path]) -> tuple[Array, dict[str, Any]]:
        """Decode the files.

        Args:
            img: paths, from `read`.

        Returns:
            Array ``(C, x, y[, z])`` and metadata.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a file is of another format, damaged or cut short, or the files differ in shape.
        """
        arrays, metas = zip(*(_read(path) for path in img), strict=True)
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"{img[0]} and its other channels differ in shape: {sorted(shapes)}; resample them first.")
        return np.concatenate(arrays), metas[0]


def image_format(path: Path) -> str | None:
    """``"PNG"``, ``"JPEG"``, ``"NIfTI"`` or ``"DICOM"`` by content, by suffix where that says nothing; else None.

    Raises:
        FileNotFoundError: if there is no such file.
    """
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

    Raises:
        ValueError: if the file is of another format, damaged, or holds no image (a report, a segmentation).
    """
    return _guarded(path, _HEADERS)


def _read(path: Path) -> tuple[Array, dict[str, Any]]:
    array, (affine, spacing), (original_affine, original_shape) = _guarded(path, _DECODERS)
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
    except Exception as error:  # decoders fail in any way; whoever reads the message needs the file, not the stack
        text = error.reason if isinstance(error, UnreadableImageError) else str(error)
        text = " ".join(text.replace(str(path), "the file").split())[:200]
        raise UnreadableImageError(
            path,
            f"cannot be read as {kind} ({type(error).__name__}: {text}). If it is cut short or damaged, copy it anew "
            "from its source; else take it out of the datalist.",
        ) from None


def _plane(spacing: Array) -> Grid:
    """Grid of an image in its own plane."""
    return np.diag([*np.nan_to_num(spacing, nan=1.0), 1.0, 1.0]), spacing


# PNG and JPEG


def _read_pillow(path: Path) -> tuple[Array, Grid, Grid]:
    from PIL import Image

    with Image.open(path) as image:
        mode = PILLOW_MODES.get(image.mode, "RGB")
        array = np.asarray(image if image.mode == mode else image.convert(mode))
    array = array.astype(np.uint8) if array.dtype == bool else array  # a 1-bit mask stays 0 and 1
    array = array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    grid = _plane(np.full(2, np.nan))
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
        grid = _plane(np.delete(spacing, flat))
        array = array.squeeze(1 + flat)
        return array, grid, (grid[0], np.array(array.shape[1:]))
    return array, (turned, spacing), (affine, original_shape)


def _count_nifti(path: Path) -> int | None:
    *_, shape = _nifti_grid(nib.load(path))
    return None if (shape == 1).any() else int(shape[2])


# DICOM


def _open_dicom(path: Path, pixels: bool) -> Dataset:
    import pydicom

    ds = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=DICOM_ELEMENTS, force=True)
    if "Rows" not in ds or "Columns" not in ds:
        raise ValueError("it holds no image; it may be a report, a plan or a presentation state")
    return ds


def _count_dicom(path: Path) -> int | None:
    ds = _open_dicom(path, pixels=False)
    if ds.get("SOPClassUID") in SEGMENTATIONS:
        raise ValueError("it holds a segmentation, not an image")
    frames = int(ds.get("NumberOfFrames") or 1)
    return frames if frames > 1 else None


def _read_dicom(path: Path) -> tuple[Array, Grid, Grid]:
    ds = _open_dicom(path, pixels=True)
    frames, kind = int(ds.get("NumberOfFrames") or 1), ds.get("PhotometricInterpretation")
    try:
        array = _stored_pixels(ds)
    except (RuntimeError, NotImplementedError) as error:  # a compressed syntax without a plug-in
        array = _decode_with_itk(path, frames, error)
    else:
        if kind == "MONOCHROME1":
            array = (-1 if ds.PixelRepresentation else 2**ds.BitsStored - 1) - array
        array = _rescale(array, ds, frames)
    array = array.reshape(frames, ds.Rows, ds.Columns, -1).transpose(3, 2, 1, 0)  # (C, x, y, frame)
    if frames == 1:
        grid = _plane(_dicom_spacing(ds))
        return array[..., 0], grid, (grid[0], np.array(array.shape[1:3]))
    grid = _frames_grid(ds, frames)
    return array, grid, (grid[0], np.array(array.shape[1:]))


def _stored_pixels(ds: Dataset) -> Array:
    """Pixels before rescaling, colours as RGB, with version 3 of pydicom or version 2."""
    import pydicom

    kind = ds.get("PhotometricInterpretation")
    if int(pydicom.__version__.partition(".")[0]) > 2:
        from pydicom.pixels.processing import apply_color_lut
        from pydicom.pixels.utils import pixel_array

        array = pixel_array(ds)
    else:  # version 2 leaves colours as they are stored
        from pydicom.pixel_data_handlers import util

        array, apply_color_lut = ds.pixel_array, util.apply_color_lut
        if kind in ("YBR_FULL", "YBR_FULL_422"):
            array = util.convert_color_space(array, kind, "RGB", per_frame=True)
    if kind != "PALETTE COLOR":
        return array
    array = apply_color_lut(array, ds)
    return array >> 8 if array.dtype == np.uint16 else array


def _decode_with_itk(path: Path, frames: int, error: Exception) -> Array:
    """SimpleITK inverts MONOCHROME1, rescales and converts colours by itself."""
    import SimpleITK

    try:
        return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except RuntimeError as second:
        last = str(second).strip().splitlines()[-1]
        raise ValueError(f"neither pydicom ({error}) nor SimpleITK ({last}) can decode it") from None


def _rescale(array: Array, ds: Dataset, frames: int) -> Array:
    lines = [
        [_numbers(ds, name, 1, frame)[0] for name in ("RescaleSlope", "RescaleIntercept")]
        for frame in (range(frames) if "PerFrameFunctionalGroupsSequence" in ds else [0])
    ]
    slope, intercept = (
        np.nan_to_num(column, nan=default) for column, default in zip(np.transpose(lines), (1.0, 0.0), strict=True)
    )
    if (slope == 1).all() and (intercept == 0).all():
        return array
    if len(lines) == 1:
        slope, intercept = slope[0], intercept[0]
    else:
        slope, intercept = (v.reshape(-1, *[1] * (array.ndim - 1)) for v in (slope, intercept))
    return (array * slope + intercept).astype(np.float32)


def _numbers(ds: Dataset, name: str, count: int, frame: int = 0) -> Array:
    """Values of an element of the image or of one frame (enhanced objects keep it in groups); NaN if not usable."""
    groups = [ds]
    for sequence, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        if len(ds.get(sequence) or ()) > position:
            groups += [e.value[0] for e in ds[sequence][position] if e.VR == "SQ" and e.value]
    for group in groups:
        if name in group:
            try:
                values = np.array(group[name].value, dtype=float).reshape(-1)
            except (TypeError, ValueError):
                break
            if len(values) == count and np.isfinite(values).all():
                return values
            break
    return np.full(count, np.nan)


def _dicom_spacing(ds: Dataset) -> Array:
    """Along x and y; `PixelSpacing` is the distance of rows, then that of columns."""
    spacing = _numbers(ds, "PixelSpacing", 2)[::-1]
    return np.where(spacing > 0, spacing, np.nan)


def _frames_grid(ds: Dataset, frames: int) -> Grid:
    """In patient space if the file says where its frames lie, else as `_plane`."""
    spacing = np.append(_dicom_spacing(ds), np.nan)
    directions = _numbers(ds, "ImageOrientationPatient", 6).reshape(2, 3)
    first, last = (_numbers(ds, "ImagePositionPatient", 3, frame) for frame in (0, frames - 1))
    step = (last - first) / (frames - 1)
    distance = np.linalg.norm(step)
    located = np.isfinite(directions).all() and distance > 0
    spacing[2] = distance if located else _numbers(ds, "SpacingBetweenSlices", 1)[0]
    spacing = np.where(spacing > 0, spacing, np.nan)
    affine = np.diag([*np.nan_to_num(spacing, nan=1.0), 1.0])
    if located:
        affine[:3, :2] = directions.T * affine.diagonal()[:2]
        affine[:3, 2], affine[:3, 3] = step, first
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's LPS to RAS
    return affine, spacing


_DECODERS = {"PNG": _read_pillow, "JPEG": _read_pillow, "NIfTI": _read_nifti, "DICOM": _read_dicom}
_HEADERS = {"PNG": _count_pillow, "JPEG": _count_pillow, "NIfTI": _count_nifti, "DICOM": _count_dicom}
