"""Feature vectors in place of images: how they are loaded, and their random views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor, nn


class LoadFeaturesd(MapTransform):
    """Row ``slice`` of the ``.npy`` table that a key names, as ``(1, D)`` float32.

    Args:
        keys: keys of the path.
        allow_missing_keys: see `MapTransform`.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self._table: tuple[str, Any] = ("", None)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[Any, Any] = dict(data)
        for key in self.key_iterator(result):
            path = result[key]
            if self._table[0] != path:
                self._table = (path, np.load(path, mmap_mode="r", allow_pickle=False))
            table, row = self._table[1], result.get("slice", 0)
            if row >= len(table):
                raise ValueError(
                    f"row {row} is asked for, and the table of features has {len(table)}; prepare it anew."
                )
            result[key] = torch.from_numpy(np.array(table[row], dtype=np.float32)[None])
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": ("", None)}  # a memory map does not travel to workers


class FeatureNoise(nn.Module):
    """Add white noise of up to `amount` times each feature's standard deviation in the batch.

    Takes and returns features ``(B, 1, D)`` of any range, with a `torch.Generator` on their device.
    """

    def __init__(self, amount: float = 0.1) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        size = torch.rand((len(images), 1, 1), generator=generator, device=images.device).mul_(self.amount)
        return images + noise * size * images.std(dim=0, correction=0, keepdim=True)


class FeatureDropout(nn.Module):
    """Put the batch mean in place of a random share of up to `share` of the features, per sample.

    Takes and returns features ``(B, 1, D)`` of any range, with a `torch.Generator` on their device.
    """

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"`share` must be in [0, 1], got {share}.")
        self.share = share

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        limit = torch.rand((len(images), 1, 1), generator=generator, device=images.device).mul_(self.share)
        gone = torch.rand(images.shape, generator=generator, device=images.device) < limit
        return torch.where(gone, images.mean(dim=0, keepdim=True), images)
