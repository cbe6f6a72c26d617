"""What masks need on their way to batches: a value for voxels that nobody labeled, and one size for all volumes.

`medssl_monai.data.load_mask` has the whole chain.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import SpatialPadd

UNLABELED = 255
"""In masks of 8 bits between file and tensor: a voxel that nobody labeled."""


class PadToSized(SpatialPadd):
    """Pad images ``(C, *spatial)`` on both sides to one size, and refuse those that are larger.

    The inverse cuts the padding off.

    Args:
        keys: images or masks.
        spatial_size: size wanted.
        value: of the padding: 0 for images, 255 (`UNLABELED`) for masks.
        allow_missing_keys: pass items without a key.

    Raises:
        ValueError: if an image is larger; it names the item's ``id`` and the size that it needs.
    """

    def __init__(
        self, keys: KeysCollection, spatial_size: Sequence[int], value: float = 0.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, list(spatial_size), allow_missing_keys=allow_missing_keys, value=value)
        self.spatial_size = list(spatial_size)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            size = list(data[key].shape[1:])
            if len(size) == 3 and "slice" in data:
                raise ValueError(
                    f"{data.get('id', 'the item')}: the item is one slice of a volume, and whole volumes are wanted; "
                    "prepare the data with `--volumes`."
                )
            if len(size) != len(self.spatial_size):
                raise ValueError(
                    f"{data.get('id', 'the item')}: {key!r} has {len(size)} dimensions, and `image_size` "
                    f"{self.spatial_size} has {len(self.spatial_size)}; use a bundle for {len(size)} dimensions."
                )
            if any(have > room for have, room in zip(size, self.spatial_size, strict=True)):
                needed = [max(pair) for pair in zip(size, self.spatial_size, strict=True)]
                raise ValueError(
                    f"{data.get('id', 'the item')}: {key!r} is {size} after resampling, larger than `image_size` "
                    f"{self.spatial_size}; set `image_size` to at least {needed}, or a coarser `spacing`."
                )
        return super().__call__(data, lazy)
