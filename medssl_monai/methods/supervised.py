"""Supervised learning on the labeled samples alone: the baseline of every other method."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from medssl_monai.kinds import Kind
from medssl_monai.methods.base import LABELED, Batch, Output, SSLMethod, Stream


class Supervised(SSLMethod):
    """Cross-entropy on weakly augmented labeled images; binary of findings that are known, with Dice of masks.

    The deployed weights and BatchNorm statistics are averaged, as in the semi-supervised methods, so that a comparison
    measures the unlabeled images and nothing else.

    Args:
        network: images ``(B, C, *spatial)`` to logits ``(B, K)``, or ``(B, K, *spatial)`` for masks.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`.
    """

    streams: Mapping[str, Stream] = MappingProxyType({"labeled": LABELED})

    def __init__(
        self,
        network: nn.Module,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)

    def forward(self, batch: Batch) -> Output:
        labeled = batch["labeled"]
        return {"loss": self.criterion(self.network(labeled["image"]), labeled["label"])}
