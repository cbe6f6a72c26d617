"""From what a network says to probabilities, whatever its labels are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from torch import Tensor


class HasOutcomes(Protocol):
    """What of a kind of labels is needed here, see `medssl_monai.kinds.Kind`."""

    @property
    def cases(self) -> tuple[int, ...] | None:
        """Shape of the cases of an image; None if it differs from image to image."""

    def outcomes(self, logits: Tensor) -> Tensor:
        """Return probabilities ``(B, *cases, S)`` from logits."""


class Outcomesd(MapTransform):
    """Turn the logits of one image into the probabilities of its states, ``(*cases, S)``.

    Where there is a case for each voxel, they are ``(S, *spatial)``, the channels first as MONAI's transforms want
    them. The history of a `monai.data.MetaTensor` is kept.

    Args:
        keys: logits.
        kind: what they are of.
        allow_missing_keys: pass over keys that an image lacks.
    """

    def __init__(self, keys: KeysCollection, kind: HasOutcomes, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.kind = kind

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            outcomes = self.kind.outcomes(torch.as_tensor(result[key]).unsqueeze(0))[0]
            outcomes = outcomes.movedim(-1, 0) if self.kind.cases is None else outcomes
            result[key] = convert_to_dst_type(outcomes, result[key], dtype=torch.float32)[0]
        return result
