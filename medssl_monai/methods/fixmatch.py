"""FixMatch (Sohn et al., NeurIPS 2020, https://arxiv.org/abs/2001.07685)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.distributed import gather
from medssl_monai.losses.pseudo_label import DistributionAlignment, Normalization, pseudo_label_loss
from medssl_monai.methods.base import Batch, Output, SSLMethod


class FixMatch(SSLMethod):
    """Train on confident pseudo-labels of weakly augmented images, predicted from strongly augmented ones.

    The weak view runs without gradient, in a forward pass of its own (the student in training mode, as published, but
    with batch statistics of the weak views alone); labeled and strong views share one pass and its BatchNorm.

    Args:
        network: classifier; images ``(B, C, *spatial)`` to logits ``(B, K)``.
        threshold: confidence that a pseudo-label must reach to count, in [0, 1] (tau, Eq. 4).
        weight: weight of the unlabeled loss (lambda_u, Sec. 2.3).
        alignment: distribution alignment of the weak predictions (Sec. 2.5), off by default.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.

    Raises:
        ValueError: if `threshold` is not in [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        threshold: float = 0.95,
        weight: float = 1.0,
        alignment: DistributionAlignment | None = None,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
    ) -> None:
        super().__init__(network, decay, criterion)
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"`threshold` is a probability and must be in [0, 1], got {threshold}.")
        self.threshold, self.weight, self.alignment = threshold, weight, alignment

    def forward(self, batch: Batch) -> Output:
        return weak_to_strong(
            self.network, batch, self.threshold, self.weight, self.alignment, criterion=self.criterion
        )

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        if self.alignment is not None:
            self.alignment.update(gather(output["mean_probs"].unsqueeze(0)).mean(dim=0))
        super().after_step(batch, output)

    @property
    def confidence_threshold(self) -> float:
        return self.threshold


def weak_to_strong(
    network: nn.Module,
    batch: Batch,
    threshold: float | Tensor,
    weight: float,
    alignment: DistributionAlignment | None = None,
    normalization: Normalization = "batch",
    temperature: float | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Output:
    """The step of FixMatch and of what is built on it: pseudo-labels of weak views teach strong views.

    Returns:
        ``loss`` and its parts, ``mask_rate``, the ``confidence`` ``(B,)`` of the weak views and, with an alignment,
        the ``mean_probs`` to update it with.
    """
    labeled, unlabeled = batch["labeled"], batch["unlabeled"]
    output: Output = {}
    with torch.no_grad():  # targets carry no gradient: a third of the step is saved
        probs = network(unlabeled["weak"]).float().softmax(dim=1)
        if alignment is not None:
            probs, output["mean_probs"] = alignment(probs)
    images = torch.cat([labeled["image"], unlabeled["strong"]])
    logits, logits_strong = network(images).float().split([len(labeled["image"]), len(unlabeled["strong"])])
    supervised = criterion(logits, labeled["label"])  # Eq. 3
    unsupervised, mask = pseudo_label_loss(logits_strong, probs, threshold, normalization, temperature)  # Eq. 4
    return {
        "loss": supervised + weight * unsupervised,
        "supervised": supervised,
        "unsupervised": unsupervised,
        "mask_rate": mask.mean(),
        "confidence": probs.amax(dim=1),
        **output,
    }
