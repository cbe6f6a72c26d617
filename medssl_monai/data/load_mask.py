"""Masks from files, checked against their images, on the grid that the images are brought to.

The chain for a mask is that for its image without what concerns grey values, each step with nearest neighbours::

    LoadMaskd, TakeSliced, Resized(mode="nearest-exact")                            images of two dimensions
    LoadMaskd, Orientationd, KnownSpacingd(mode="nearest"), PadToSized(value=255)   volumes
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageReader, MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from medssl_monai.readers.grids import Array
from medssl_monai.readers.mask_axes import elsewhere, to_image_axes
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.transforms.load import TakeSliced
from medssl_monai.transforms.masks import UNLABELED


class LoadMaskd(MapTransform):
    """Read the mask of an image, and refuse it if it does not fit the image or the classes.

    In a file a voxel has the index of its class, from 0 to K - 1; K (the first index that is no class) or -1 means that
    nobody labeled it. For two classes the values 0 and 255 are read as 0 and 1. Image and mask are read anew from
    their files, so that they are compared as they were stored, whatever has been done to the image since. If both say
    how they lie in the patient, the mask may be stored in other axes: it is permuted and flipped, never interpolated.

    The result is a ``MetaTensor`` ``(1, *spatial)`` of 8 bits, 255 where nobody labeled. It has the metadata of the
    image, whose spacing the mask's file may lack, so that both are resampled alike. The mask of an item with a
    ``slice`` may be a volume like the image, which `medssl_monai.transforms.TakeSliced` cuts, or that slice alone,
    whose position is not looked at: programs that cut slices often leave them that of the volume.

    Args:
        keys: paths of masks of the item's ``image``; items without such a key are refused, unless `allow_missing_keys`.
        reader: reads the image, usually `medssl_monai.readers.ClinicalReader`; masks are read by `mask_reader`.
        num_classes: K, at most 254.
        allow_missing_keys: pass items without a mask.

    Raises:
        ValueError: if shape, spacing, position or orientation differ, or a value is no class; it names the item's
            ``id`` and no path.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reader: ImageReader,
        num_classes: int,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 2 <= num_classes < UNLABELED:
            raise ValueError(f"`num_classes` counts the background too, from 2 to {UNLABELED - 1}; got {num_classes}.")
        self.reader, self.mask_reader = reader, mask_reader()  # each keeps the volume that it read last
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            name = str(result.get("id", "the item"))
            image, grid = _read(self.reader, result["image"], f"{name}: its image")
            mask, own_grid = _read(self.mask_reader, result[key], f"{name}: its mask")
            mask_path, path = (Path(ensure_tuple(data[k])[0]) for k in (key, "image"))
            try:
                mask, ours, theirs = to_image_axes(mask, mask_path, own_grid, path, grid)
            except ValueError as error:  # headers are read anew
                raise ValueError(f"{name}: where its image or mask lies cannot be read: {error}") from error
            shape, own_shape = image.shape[1:], mask.shape[1:]
            one_slice = "slice" in result and own_shape == shape[:-1] and len(own_shape) == 2
            if own_shape != shape and not one_slice:
                raise ValueError(
                    f"{name}: the mask has {_sides(own_shape)}, its image {_sides(shape)}; export it again on the grid "
                    "of the image (in most programs: set the image as reference geometry)."
                )
            if problem := None if one_slice else elsewhere(ours, theirs, shape):
                raise ValueError(f"{name}: {problem}; export the mask again on the grid of its image.")
            classes = torch.from_numpy(self._classes(_one_channel(mask, name), name))
            result[key] = MetaTensor(classes, meta=self._slice_meta(result, shape, grid) if one_slice else dict(grid))
        return result

    def _slice_meta(
        self, item: Mapping[Hashable, Any], shape: Sequence[int], grid: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the metadata of a slice of the item's image."""
        volume = MetaTensor(torch.empty(1).expand(1, *shape), meta=dict(grid))
        cut = TakeSliced("image")({**item, "image": volume})
        return dict(cut["image"].meta)

    def _classes(self, mask: Array, name: str) -> Array:
        """Return the indices of classes, and `UNLABELED`, for the values in a file."""
        whole = np.round(mask)
        mask = np.where(np.abs(mask - whole) < 1e-3, whole, mask)  # a file with a scale has them nearly
        values, count = np.unique(mask), self.num_classes
        if not np.isfinite(values).all() or (values != np.round(values)).any():
            odd = values[~np.isfinite(values) | (values != np.round(values))][0]
            raise ValueError(
                f"{name}: the mask holds {odd:.4g}, and a class is a whole number; it may be a map of probabilities, "
                "or was interpolated: export it with nearest neighbours."
            )
        if count == 2 and set(values.tolist()) <= {0, UNLABELED}:
            return (mask > 0).astype(np.uint8)
        if odd := [int(value) for value in values if not -1 <= value <= count]:
            raise ValueError(
                f"{name}: the mask holds {odd[:5]}{' and more' if len(odd) > 5 else ''}, but there are {count} "
                f"classes, 0 to {count - 1} ({count} or -1: nobody labeled this voxel); change its values, or name "
                "all classes in the datalist. JPEG files blur values: keep masks as PNG or NIfTI."
            )
        return np.where((mask < 0) | (mask == count), UNLABELED, mask).astype(np.uint8)


def mask_reader() -> ClinicalReader:
    """Return the reader of masks: of a picture with a palette, the index is the class."""
    return ClinicalReader(indexed=True)


def _read(reader: ImageReader, path: Any, what: str) -> tuple[Array, dict[str, Any]]:
    try:
        return reader.get_data(reader.read(path))
    except FileNotFoundError:
        raise ValueError(f"{what}: there is no such file; mend its path in the datalist.") from None
    except ValueError as error:  # an unreadable file's message begins with its path
        raise ValueError(f"{what} {getattr(error, 'reason', error)}") from None


def _one_channel(mask: Array, name: str) -> Array:
    if len(mask) > 1 and not (mask == mask[:1]).all():
        raise ValueError(
            f"{name}: the mask has {len(mask)} channels that differ: colours, or a channel per class. Save one channel "
            "whose grey values are the indices of the classes."
        )
    return mask[:1]


def _sides(shape: Sequence[int]) -> str:
    names = ("columns", "rows", "slices")
    return " x ".join(f"{size} {name}" for size, name in zip(shape, names, strict=False))
