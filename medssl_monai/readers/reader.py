"""One reader for what a clinic hands over: PNG, JPEG, NIfTI and DICOM."""

from __future__ import annotations

import gzip
import math
import os
import re
import warnings
import zlib
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, optional_import

from medssl_monai.options import Nan
from medssl_monai.readers.dicom import (
    NO_SPACING,
    Array,
    Grid,
    RefusedError,
    _check_voxels,
    count_frames,
    find_volume,
    is_bare_preamble,
    open_dicom,
    plane,
    read_dicom,
)

nib, _ = optional_import("nibabel")  # MONAI has imported it already; its functions are untyped

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM"}
PILLOW_MODES = {"1": "1", "L": "L", "LA": "L", "I": "I", "I;16": "I;16", "I;16B": "I;16B", "F": "F"}  # others: RGB
COLOURED = (3, 4)
"""Channels of colours: red, green and blue, and transparency."""
LPS = ("L", "P", "S")
ORIENTATION = 274
"""EXIF tag: which of Pillow's `Image.Transpose` makes the stored picture upright."""
UPRIGHT = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"},
    **{7: "TRANSVERSE", 8: "ROTATE_90"},
}
BARE_DICOM = re.compile(rb"[\x02\x08]\x00.\x00(UL|CS|UI|DA|LO|SH|PN)|[\x02\x08]\x00\x00\x00\x04\x00\x00\x00", re.DOTALL)
"""How a DICOM file without preamble begins: an element of the first groups with its type, or the length of a group."""
NIFTI_1, NIFTI_2 = 348, 540
"""Bytes of the headers of NIfTI files, which begin with this number."""
ENDS: tuple[Literal["little", "big"], ...] = ("little", "big")
FAR_OFF = 2**24
"""Bytes before the voxels of a NIfTI file, at most: its header, and extensions."""
LARGE = 2**28
"""Bytes of voxels from which on a compressed file is unpacked once to see whether they are there."""
CUT_SHORT = "is cut short; copy it anew from its source"
SAME_GRID = 0.1
"""Voxels that a corner may lie off between two descriptions of one grid."""
TURNED = "turned upright, as its EXIF orientation says and viewers show it; so must its mask be"
QFORM = "qform and sform put the volume at different places; read by the sform, as most programs do"
PIXDIM = "pixdim and sform tell different sizes of the voxels; read by the sform, as most programs do"
MEND = "mend its path in the datalist, or set `dataset_dir`"


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
    - *Pictures* are read upright, as viewers show them (EXIF). Of several pictures in one file, and of colours of 16
      bits, none is read.
    - *Channels*: only colours are more than one, and the metadata says that they are (``colour``). A NIfTI file whose
      fourth axis holds sequences or points in time is refused.
    - *NaN and infinity* are refused. With ``nan="background"``, NaN that is connected with the border of the image or
      volume is read as its smallest finite value, and ``nan_share`` of the metadata says how much that was.
    - *Grey values*: the modality transform (rescale slope and intercept, or table) is applied; MONOCHROME1 is inverted
      within the range that can be stored, so that more is brighter. Palette, YBR, CMYK and the like become RGB of 8
      bits, transparency is dropped; grey stays one channel and a grey JPEG stored in colour three (`Channelsd`
      settles that). Overlays are not drawn.
    - *Metadata*: ``spacing`` in mm (a tuple, NaN where missing or not positive), ``affine`` to RAS (spacing 1 where
      unknown), ``original_affine`` and ``spatial_shape`` of the file's own grid, on which `SaveImaged` with
      ``resample=True`` puts a result back, ``original_channel_dim`` 0, ``colour`` and ``nan_share``. Images have the
      affine of their own plane, since MONAI reads the upper left 2x2 block, which is singular for a sagittal plane in
      patient space.
    - *Privacy*: of a DICOM file, only the elements that describe the image are read, and of a folder those that tell
      which files are one series.

    Several files for one item are concatenated as channels. The volume read last is kept, so that its slices can be
    taken one after the other (`TakeSliced`) without decoding it anew; a changed file is noticed by size and time.

    Args:
        display_window: show DICOM images of one channel in [0, 1], through the table or the first window (linear,
            linear exact or sigmoid) that the file suggests for viewing, or through its whole range if it suggests
            none. Off by default: windows differ between devices, and CT loses its Hounsfield units.
        nan: ``refuse`` or ``background``.
        indexed: read the index of a pixel in place of its colour, where a picture has a palette: for masks.
    """

    def __init__(self, display_window: bool = False, nan: Nan = "refuse", indexed: bool = False) -> None:
        super().__init__()
        if nan not in get_args(Nan):
            raise ValueError(f"`nan` is refuse or background, got {nan!r}.")
        self.display_window, self.nan, self.indexed = display_window, nan, indexed
        self._last: tuple[Any, Array, dict[str, Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a worker process decodes its own

    @property
    def _decoders(self) -> dict[str, Any]:
        own = {"DICOM": partial(_read_dicom, display_window=self.display_window)}
        return {**_DECODERS, **own, **({"PNG": partial(_read_pillow, indexed=True)} if self.indexed else {})}

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
            UnreadableImageError: if a file is of another format, damaged, cut short, too large, holds what is not read
                or voxels that are not finite, or a folder is no volume.
            ValueError: if the files differ in shape.
        """
        stamp, last = [_stamp(path) for path in img], self._last
        if last and last[0] == stamp:
            return last[1].copy(), deepcopy(last[2])
        arrays, metas = zip(*(_read(path, self._decoders, self.nan) for path in img), strict=True)
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"{img[0]} and its other channels differ in shape: {sorted(shapes)}; resample them first.")
        array, meta = arrays[0], metas[0]
        if len(arrays) > 1:
            array, meta = np.concatenate(arrays), {**meta, "colour": False}
        if array.ndim == 4:
            self._last = stamp, array, meta
            return array.copy(), deepcopy(meta)  # what follows may work in place
        return array, meta


def image_format(path: Path) -> str | None:
    """``"PNG"``, ``"JPEG"``, ``"NIfTI"`` or ``"DICOM"`` by content, by suffix where that says nothing; else None.

    A folder is DICOM if a file directly in it is.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it is a device or a pipe.
    """
    if path.is_dir():
        inside = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return "DICOM" if any(image_format(file) == "DICOM" for file in inside) else None
    if not path.is_file():
        if path.exists():
            raise UnreadableImageError(path, "is neither a file nor a folder; take it away.")
        raise FileNotFoundError(f"there is no file {path}; {MEND}.")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "NIfTI"
    with path.open("rb") as file:
        head = file.read(132)
    if head.startswith(b"\x89PNG"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[128:] == b"DICM" or BARE_DICOM.match(head) or is_bare_preamble(path):
        return "DICOM"
    return SUFFIXES.get(path.suffix.lower())


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


class NonFinite(NamedTuple):
    """Voxels of an image that are no numbers.

    Attributes:
        nan: how many are NaN.
        inside: how many of these are not connected with the border.
        infinite: how many are infinite.
        total: voxels of the image, in all channels.
    """

    nan: int
    inside: int
    infinite: int
    total: int

    def problem(self, nan: Nan) -> str | None:
        """Why the image is refused; None: it is not."""
        if nan == "background" and self.background:
            return None
        kinds = {"NaN": self.nan, "NaN inside": self.inside, "infinite": self.infinite}
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        hint = ", or read NaN at the border as background (`nan: background`)" if self.background else ""
        return f"holds NaN or infinite voxels ({told}, of {self.total:,}); mend it{hint}."

    @property
    def background(self) -> bool:
        """Whether it is nothing but NaN around an image."""
        return not self.inside and not self.infinite and self.nan < self.total


def nonfinite(path: Path) -> NonFinite | None:
    """What an image holds that `ClinicalReader` may refuse; None: nothing. Of pixels that cannot be, none is decoded.

    Args:
        path: of a file, or of the folder of one DICOM series.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it cannot be read.
    """
    if not _guarded(path, _MAY_BE_NAN):
        return None
    array, *_ = _guarded(path, {**_DECODERS, "DICOM": _read_dicom})
    found = _find_nonfinite(array)
    return found[0] if found else None


def header_notes(path: Path) -> list[str]:
    """What is odd about the geometry of a file, but no obstacle; of DICOM series, `find_series` tells.

    Raises:
        FileNotFoundError: if there is no such file.
        UnreadableImageError: if it cannot be read.
    """
    return list(_guarded(path, _NOTES))


def _find_nonfinite(array: Array) -> tuple[NonFinite, Array] | None:
    """And which voxels are NaN that is connected with the border, ``(C, *spatial)``."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    from scipy.ndimage import generate_binary_structure, label

    nan = np.isnan(array)
    infinite = int(np.isinf(array).sum())
    outer = np.zeros_like(nan)
    for channel, own in zip(nan, outer, strict=True):
        parts, _ = label(channel, generate_binary_structure(channel.ndim, channel.ndim))
        faces = [np.take(parts, end, axis).ravel() for axis in range(parts.ndim) for end in (0, -1)]
        own[...] = np.isin(parts, np.setdiff1d(np.concatenate(faces), 0))
    return NonFinite(int(nan.sum()), int((nan & ~outer).sum()), infinite, nan.size), outer


def _read(path: Path, decoders: dict[str, Any], nan: Nan) -> tuple[Array, dict[str, Any]]:
    array, colour, (affine, spacing), (original_affine, original_shape) = _guarded(path, decoders)
    share = 0.0
    if bad := _find_nonfinite(array):
        found, outer = bad
        if problem := found.problem(nan):
            raise UnreadableImageError(path, problem)
        array, share = np.where(outer, np.nanmin(array), array), found.nan / found.total
    return np.ascontiguousarray(array), {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: original_affine,
        MetaKeys.SPATIAL_SHAPE: tuple(int(size) for size in original_shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        "spacing": tuple(float(size) for size in spacing),
        "colour": colour,
        "nan_share": share,
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
        raise FileNotFoundError(f"there is no file {path}; {MEND}.") from None
    except UnreadableImageError:  # of a file in the folder
        raise
    except RefusedError as error:
        raise UnreadableImageError(path, f"cannot be read as {kind}: {error}.") from None
    except Exception as error:  # decoders fail in any way; whoever reads the message needs the file, not the stack
        text = str(error).replace(str(path.resolve()), "the file").replace(str(path), "the file")
        text = " ".join(text.split())[:300]
        raise UnreadableImageError(
            path,
            f"cannot be read as {kind} ({type(error).__name__}: {text}). If it is cut short or damaged, copy it anew "
            "from its source; else take it out of the datalist.",
        ) from None


# PNG and JPEG


def _open_pillow(path: Path) -> Any:
    """The picture, by the format that its content tells, and before its pixels are decoded."""
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EXIF that is damaged
        image = (PngImageFile if image_format(path) == "PNG" else JpegImageFile)(path)  # no bound but ours
    try:
        _check_size((*image.size, len(image.getbands())))
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise RefusedError(f"it is an animation of {frames} pictures; save the one that is meant by itself")
        bits = _png_bits(path)
        if bits == 16 and image.mode in ("LA", "RGB", "RGBA"):
            raise RefusedError("it has colours or transparency of 16 bits; save it in grey, or with 8 bits")
    except BaseException:
        image.close()
        raise
    return image


def _png_bits(path: Path) -> int:
    """Of each sample, as the header tells; 0 for a JPEG."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(b"\x89PNG") and len(head) == 25 else 0


def _read_pillow(path: Path, indexed: bool = False) -> tuple[Array, bool, Grid, Grid]:
    from PIL import Image

    with _open_pillow(path) as image:
        mode = "P" if indexed and image.mode == "P" else PILLOW_MODES.get(image.mode, "RGB")
        image.info.pop("transparency", None)  # is dropped, and Pillow warns of some kinds
        turn = UPRIGHT.get(_orientation(image))
        upright = image.transpose(Image.Transpose[turn]) if turn else image
        array = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    array = array.astype(np.uint8) if array.dtype == bool else array  # a 1-bit mask stays 0 and 1
    array = array.reshape(*array.shape[:2], -1).transpose(2, 1, 0)
    grid = plane(np.full(2, np.nan))
    return array, len(array) in COLOURED, grid, (grid[0], np.array(array.shape[1:]))


def _orientation(image: Any) -> int:
    """By EXIF; 1, upright, where that is missing or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of any kind: a viewer shows such a picture as it is stored
        return 1


def _count_pillow(path: Path) -> None:
    with _open_pillow(path):
        pass


def _notes_pillow(path: Path) -> list[str]:
    with _open_pillow(path) as image:
        return [TURNED] if _orientation(image) in UPRIGHT else []


def _check_size(shape: Sequence[int]) -> None:
    """Refuse what is too large, by what the header says.

    Raises:
        RefusedError: which names what raises the bound.
    """
    if min(shape) < 1:
        raise RefusedError(f"it says that it has {' x '.join(map(str, shape))} voxels; it is damaged")
    _check_voxels(shape)


# NIfTI


def _open_nifti(path: Path) -> Any:
    """The file, before its voxels are read.

    Raises:
        RefusedError: if it is too large, or holds what is not read.
    """
    pixdim = _check_header(path)
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise RefusedError("it is of another format under this name")
    _check_size(image.shape)
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
    """Whether the end of a file is missing; nothing is kept in memory.

    Args:
        image: from `_open_nifti`.
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


def _is_known(image: Any) -> bool:
    """Whether the file says how large its voxels are, and where they lie."""
    affine, *_ = _nifti_grid(image)
    sized = bool(image.header["sform_code"]) or bool((np.nan_to_num(image.extra["pixdim"]) > 0).all())
    return sized and np.allclose(affine, image.affine, equal_nan=False)


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


def _read_nifti(path: Path) -> tuple[Array, bool, Grid, Grid]:
    image = _open_nifti(path)
    size = math.prod(image.shape) * image.get_data_dtype().itemsize
    if (size > LARGE or path.suffix.lower() != ".gz") and nifti_cut_short(image, path, trusting=False):
        raise UnreadableImageError(path, CUT_SHORT)
    affine, turn, shape = _nifti_grid(image)
    array = np.asanyarray(image.dataobj)
    colour = bool(array.dtype.names)
    if array.dtype.names:
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    original_shape = np.array((*image.shape, 1, 1)[:3])
    array = nib.orientations.apply_orientation(array.reshape(*original_shape, -1), turn)
    turned = affine @ nib.orientations.inv_ornt_aff(turn, original_shape)
    spacing = nib.affines.voxel_sizes(turned) if _is_known(image) else np.full(3, np.nan)
    array = np.moveaxis(array, -1, 0)
    if (shape == 1).any():
        flat = int(np.flatnonzero(shape == 1)[-1])
        grid = plane(np.delete(spacing, flat))
        array = array.squeeze(1 + flat)
        return array, colour, grid, (grid[0], np.array(array.shape[1:]))
    return array, colour, (turned, spacing), (affine, original_shape)


def _count_nifti(path: Path) -> int | None:
    *_, shape = _nifti_grid(_open_nifti(path))
    return None if (shape == 1).any() else int(shape[2])


def _notes_nifti(path: Path) -> list[str]:
    image = _open_nifti(path)
    (affine, *_), header = _nifti_grid(image), image.header
    if not _is_known(image):
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


# DICOM


def _read_dicom(path: Path, display_window: bool = False) -> tuple[Array, bool, Grid, Grid]:
    if not path.is_dir():
        array, plane_or_stack, own = read_dicom(path, display_window)
        return array, len(array) in COLOURED, plane_or_stack, own
    files, grid = find_volume(path)
    decoders = {"DICOM": partial(_read_dicom, display_window=display_window)}
    first = _guarded(files[0], decoders)
    if grid is None:
        return tuple(first)
    _check_size((*first[0].shape, len(files)))
    array = np.stack([first[0], *(_guarded(file, decoders)[0] for file in files[1:])], axis=-1)
    return array, first[1], grid, (grid[0], np.array(array.shape[1:]))


def _count_dicom(path: Path) -> int | None:
    if not path.is_dir():
        return count_frames(path)
    files, _ = find_volume(path)
    return len(files) if len(files) > 1 else count_frames(files[0])


def _may_be_nan(path: Path) -> bool:
    """DICOM values are whole numbers, but for those of 32 bits and more, which may be floating point."""
    files = find_volume(path)[0] if path.is_dir() else (path,)
    return any(int(open_dicom(file, pixels=False).get("BitsAllocated") or 8) > 16 for file in files)


_DECODERS = {"PNG": _read_pillow, "JPEG": _read_pillow, "NIfTI": _read_nifti}
_HEADERS = {"PNG": _count_pillow, "JPEG": _count_pillow, "NIfTI": _count_nifti, "DICOM": _count_dicom}
_MAY_BE_NAN = {
    **dict.fromkeys(("PNG", "JPEG"), lambda path: False),
    "NIfTI": lambda path: _open_nifti(path).get_data_dtype().kind == "f",
    "DICOM": _may_be_nan,
}
_NOTES = {"PNG": _notes_pillow, "JPEG": _notes_pillow, "NIfTI": _notes_nifti, "DICOM": lambda path: ()}
