"""What MONAI lacks between reading a file and scaling it: one slice of a volume, a fixed number of channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as in JPEG and Pillow."""


class TakeSliced(MapTransform):
    """Turn a volume ``(C, x, y, z)`` into the image ``(C, x, y)`` that the item names; images pass unchanged.

    The affine of the result is that of its own plane: MONAI reads the upper left 2x2 block of an image's affine,
    which is singular for a sagittal slice in patient space.

    Args:
        keys: images to cut.
        slice_key: key of the item that holds the index. An item without it must be an image, or one slice deep.
        axis: spatial axis to cut across, counted without the channel; -1 is z: axial slices of what
            `medssl_monai.readers.reader.ClinicalReader` reads, or frames.

    Raises:
        ValueError: if the index is out of range, or a deeper volume comes without one; it names the item's ``id``.
    """

    def __init__(self, keys: KeysCollection, slice_key: str = "slice", axis: int = -1) -> None:
        super().__init__(keys)
        self.slice_key, self.axis = slice_key, axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            if result[key].ndim == 4:
                result[key] = self._take(result[key], result)
        return result

    def _take(self, volume: Tensor, item: Mapping[Hashable, Any]) -> Tensor:
        axis = range(3)[self.axis]
        depth, name = volume.shape[1 + axis], item.get("id", "the item")
        if self.slice_key not in item and depth > 1:
            raise ValueError(
                f"{name}: the volume has {depth} slices or frames and the item does not say which; add "
                f"{self.slice_key!r} (an index from 0) to it, one item per slice."
            )
        index = item.get(self.slice_key, 0)
        if not 0 <= index < depth:
            raise ValueError(f"{name}: {self.slice_key!r} is {index}, but there are {depth} slices or frames, from 0.")
        plain = torch.as_tensor(volume).select(1 + axis, index)
        if not isinstance(volume, MetaTensor):
            return plain
        kept = [a for a in range(3) if a != axis]
        meta = dict(volume.meta)
        size = volume.affine[:3, :3].norm(dim=0)[kept]
        meta["affine"] = meta["original_affine"] = torch.diag(torch.cat([size, torch.ones(2).to(size)]))
        meta["spatial_shape"] = tuple(plain.shape[1:])
        if "spacing" in meta:
            meta["spacing"] = tuple(meta["spacing"][a] for a in kept)
        return MetaTensor(getattr(plain, "as_tensor", lambda: plain)(), meta=meta)


class Channelsd(MapTransform):
    """Settle the number of channels of grey and colour images ``(C, *spatial)``.

    Whether channels are colours, their reader says (``colour`` of the metadata), and never their number: four sequences
    are no colours with transparency.

    Args:
        keys: images to change.
        channels: 1: luminance of RGB or RGBA images, grey ones as they are; 3: grey repeated, RGBA without its last.
        convert: False: refuse a grey image where 3 are wanted, and a colour image where 1 is. An image whose colours
            are all equal counts as grey, whatever it is stored as.

    Raises:
        ValueError: if `channels` is neither 1 nor 3, or an image has several channels that are no colours, or is
            refused; it names the item's ``id``.
    """

    def __init__(self, keys: KeysCollection, channels: int, convert: bool = True) -> None:
        super().__init__(keys)
        if channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 (grey) or 3 (colour), got {channels}.")
        self.channels, self.convert = channels, convert

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._settled(result[key], f"{result.get('id', 'the item')}: {key!r}")
        return result

    def _settled(self, image: Tensor, name: str) -> Tensor:
        colour = isinstance(image, MetaTensor) and bool(image.meta.get("colour"))
        if len(image) != 1 and not (colour and len(image) in (3, 4)):
            raise ValueError(
                f"{name} has {len(image)} channels that are no colours, and {self.channels} "
                f"{'is' if self.channels == 1 else 'are'} wanted; name a file with the one sequence that is meant."
            )
        if not self.convert and _is_grey(image) != (self.channels == 1):
            kind, wanted = ("colour", "grey") if self.channels == 1 else ("grey", "colour")
            raise ValueError(
                f"{name} is a {kind} image, and {wanted} ones are wanted; leave it out, or have it converted "
                "(`convert_channels: true` in a bundle)."
            )
        if len(image) > 1 and self.channels == 1:
            weights = torch.tensor(LUMINANCE, dtype=torch.float32, device=image.device)
            return torch.tensordot(weights, image[:3].float(), dims=1)[None]
        if len(image) == 1 and self.channels == 3:
            return image.repeat(3, *[1] * (image.ndim - 1))
        return image[:3]


def _is_grey(image: Tensor) -> bool:
    return bool((image[:3] == image[:1]).all())
