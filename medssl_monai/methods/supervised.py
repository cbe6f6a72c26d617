"""Supervised learning on the labeled samples alone: the baseline of every other method."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.task import Task


class Supervised(SSLMethod):
    """Cross-entropy on weakly augmented labeled images; binary of findings that are known, with Dice of masks.

    The deployed weights and BatchNorm statistics are averaged, as in the semi-supervised methods, so that a comparison
    measures the unlabeled images and nothing else.

    Args:
        network: images ``(B, C, *spatial)`` to logits ``(B, K)``, or ``(B, K, *spatial)`` for masks.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        task: see `SSLMethod`.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel", "segmentation")
    streams: ClassVar[tuple[str, ...]] = ("labeled",)

    def __init__(
        self,
        network: nn.Module,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        task: Task = "multiclass",
    ) -> None:
        super().__init__(network, decay, criterion, task)

    def forward(self, batch: Batch) -> Output:
        labeled = batch["labeled"]
        return {"loss": self.criterion(self.network(labeled["image"]), labeled["label"])}
