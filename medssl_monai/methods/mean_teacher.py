"""Mean Teacher (Tarvainen & Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.networks.ema import EMATeacher
from medssl_monai.schedules import Schedule, sigmoid_rampup
from medssl_monai.task import Task


class MeanTeacher(SSLMethod):
    """Agree with an exponential moving average of yourself.

    The teacher predicts in evaluation mode, with averaged BatchNorm statistics. Predictions are compared as
    probabilities: of the classes, or of each finding for itself, where the mean is over all findings, rare or not. For
    masks the mean is over all voxels, and the strong view must show each in the same place as the weak one.

    Args:
        network: images ``(B, C, *spatial)`` to logits ``(B, K)``, or ``(B, K, *spatial)`` for masks.
        decay: share of the old teacher kept at each step (alpha).
        weight: schedule of the consistency weight over optimizer steps (w(t)); default: rise to 1 in 1000 steps.
        criterion: see `SSLMethod`.
        task: see `SSLMethod`.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel", "segmentation")
    teacher: EMATeacher

    def __init__(
        self,
        network: nn.Module,
        decay: float = 0.99,
        weight: Schedule | None = None,
        criterion: nn.Module | None = None,
        task: Task = "multiclass",
    ) -> None:
        super().__init__(network, decay, criterion, task)
        self.weight = weight or sigmoid_rampup(peak=1.0, length=1000)

    def forward(self, batch: Batch) -> Output:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        with torch.no_grad():
            probs_teacher = self.probabilities(self.teacher(unlabeled["weak"]))
        images = torch.cat([labeled["image"], unlabeled["strong"]])
        logits, logits_strong = self.network(images).float().split([len(labeled["image"]), len(unlabeled["strong"])])
        supervised = self.criterion(logits, labeled["label"])
        consistency = F.mse_loss(self.probabilities(logits_strong), probs_teacher)  # J, Sec. 2
        return {
            "loss": supervised + self.weight(self.steps_done) * consistency,
            "supervised": supervised,
            "consistency": consistency,
        }
