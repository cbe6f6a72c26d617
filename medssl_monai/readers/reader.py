"""One reader for what a clinic hands over: PNG, JPEG, NIfTI and DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from medssl_monai.options import Nan
from medssl_monai.readers.decoders import DECODERS
from medssl_monai.readers.dicom.volumes import read_dicom
from medssl_monai.readers.formats import by_format, image_format
from medssl_monai.readers.grids import Array
from medssl_monai.readers.nonfinite import find_nonfinite
from medssl_monai.readers.pictures import read_picture
from medssl_monai.readers.refusals import UnreadableImageError


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
        own = {"DICOM": partial(read_dicom, display_window=self.display_window)}
        return {**DECODERS, **own, **({"PNG": partial(read_picture, indexed=True)} if self.indexed else {})}

    def verify_suffix(self, filename: Any) -> bool:
        """Tell whether all files are of a format that this reader knows."""
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


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Return names, sizes and times, which change when a file, or one in the folder, does."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(str(file), file.stat()) for file in files if file.is_file()]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def _read(path: Path, decoders: dict[str, Any], nan: Nan) -> tuple[Array, dict[str, Any]]:
    array, colour, (affine, spacing), (original_affine, original_shape) = by_format(path, decoders)
    share = 0.0
    if bad := find_nonfinite(array):
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
