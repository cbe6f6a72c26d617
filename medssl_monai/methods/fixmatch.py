"""FixMatch (Sohn et al., NeurIPS 2020, https://arxiv.org/abs/2001.07685)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.losses.pseudo_label import (
    DistributionAlignment,
    Normalization,
    checked_threshold,
    confidence_of,
    pseudo_label_loss,
)
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.task import Task


class FixMatch(SSLMethod):
    """Train on confident pseudo-labels of weakly augmented images, predicted from strongly augmented ones.

    The weak view runs without gradient, in a forward pass of its own (the student in training mode, as published, but
    with batch statistics of the weak views alone); labeled and strong views share one pass and its BatchNorm.

    Multi-label learning is ours: the pseudo-label of each finding in each image is its more probable state, present or
    absent, and counts by itself. Mind rare findings. Where one image in fifty has a finding, a network that has only
    learnt this much predicts 0.02 for every image: "absent", at 98 %. Nearly all absences count and hardly a presence,
    so that the unlabeled loss teaches absence alone; `mask_rate`, the share of all pairs, is high and says little. An
    `absence_threshold` above the share of images without the finding, 0.995 say, lets only those count in which it is
    less likely than in others; a lower `threshold` lets in more that have it.

    For masks, ours too, each voxel has a pseudo-label and counts by itself, so that the strong view may change
    intensities only: it must show each voxel in the same place. What holds of rare findings holds of small classes:
    most voxels that count are background, padding included, and `mask_rate`, the share of voxels, says little.

    Args:
        network: images ``(B, C, *spatial)`` to logits ``(B, K)``, or ``(B, K, *spatial)`` for masks.
        threshold: confidence that a pseudo-label must reach to count, in [0, 1] (tau, Eq. 4); of findings a number, or
            one for each.
        weight: weight of the unlabeled loss (lambda_u, Sec. 2.3).
        alignment: distribution alignment of the weak predictions (Sec. 2.5), off by default; none for masks.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        task: see `SSLMethod`.
        absence_threshold: of findings, what the confidence in their absence must reach instead, a number or one for
            each; None: `threshold`.

    Raises:
        ValueError: if a threshold is not in [0, 1], or there are several and no findings, or `alignment` is for another
            task.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel", "segmentation")
    threshold: float | Tensor

    def __init__(
        self,
        network: nn.Module,
        threshold: float | Sequence[float] = 0.95,
        weight: float = 1.0,
        alignment: DistributionAlignment | None = None,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        task: Task = "multiclass",
        absence_threshold: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, task)
        self._check_task(alignment=alignment)
        self.threshold = checked_threshold(threshold, absence_threshold, task)
        self.weight, self.alignment = weight, alignment

    def forward(self, batch: Batch) -> Output:
        return weak_to_strong(self, batch, self.threshold, self.weight, self.alignment)

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        if self.alignment is not None:
            self.alignment.update(gather(output["mean_probs"].unsqueeze(0)).mean(dim=0))
        super().after_step(batch, output)

    @property
    def confidence_threshold(self) -> float | list[Any]:
        return self.threshold.tolist() if isinstance(self.threshold, Tensor) else self.threshold


def weak_to_strong(
    method: SSLMethod,
    batch: Batch,
    threshold: float | Tensor,
    weight: float,
    alignment: DistributionAlignment | None = None,
    normalization: Normalization = "batch",
    temperature: float | None = None,
) -> Output:
    """The step of FixMatch and of what is built on it: pseudo-labels of weak views teach strong views.

    Returns:
        ``loss`` and its parts, ``mask_rate``, the ``confidence`` of the weak views (``(B,)``, of findings ``(B, K)``,
        of masks ``(B, *spatial)``) and, with an alignment, the ``mean_probs`` to update it with.
    """
    labeled, unlabeled = batch["labeled"], batch["unlabeled"]
    output: Output = {}
    with torch.no_grad():  # targets carry no gradient: a third of the step is saved
        probs = method.probabilities(method.network(unlabeled["weak"]))
        if alignment is not None:
            probs, output["mean_probs"] = alignment(probs)
    images = torch.cat([labeled["image"], unlabeled["strong"]])
    logits, logits_strong = method.network(images).float().split([len(labeled["image"]), len(unlabeled["strong"])])
    supervised = method.criterion(logits, labeled["label"])  # Eq. 3
    unsupervised, mask = pseudo_label_loss(  # Eq. 4
        logits_strong, probs, threshold, normalization, temperature, task=method.task
    )
    return {
        "loss": supervised + weight * unsupervised,
        "supervised": supervised,
        "unsupervised": unsupervised,
        "mask_rate": mask.mean(),
        "confidence": confidence_of(probs, method.task),
        **output,
    }
