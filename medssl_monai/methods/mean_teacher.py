"""Mean Teacher (Tarvainen & Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from medssl_monai.kinds import Kind
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.networks.ema import EMATeacher
from medssl_monai.schedules import Schedule, sigmoid_rampup


class MeanTeacher(SSLMethod):
    """Agree with an exponential moving average of yourself.

    The teacher predicts in evaluation mode, with averaged BatchNorm statistics. Predictions are compared as
    outcomes, and the mean is over all cases: over all findings, rare or not, and over all voxels of masks, which the
    strong view must show in the same place as the weak one.

    Args:
        network: images ``(B, C, *spatial)`` to logits ``(B, K)``, or ``(B, K, *spatial)`` for masks.
        decay: share of the old teacher kept at each step (alpha).
        weight: schedule of the consistency weight over optimizer steps (w(t)); default: rise to 1 in 1000 steps.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`.
    """

    teacher: EMATeacher

    def __init__(
        self,
        network: nn.Module,
        decay: float = 0.99,
        weight: Schedule | None = None,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        self.weight = weight or sigmoid_rampup(peak=1.0, length=1000)

    def forward(self, batch: Batch) -> Output:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        with torch.no_grad():
            earlier = self.kind.outcomes(self.teacher(unlabeled["weak"]))
        images = torch.cat([labeled["image"], unlabeled["strong"]])
        logits, logits_strong = self.network(images).float().split([len(labeled["image"]), len(unlabeled["strong"])])
        supervised = self.criterion(logits, labeled["label"])
        consistency = F.mse_loss(self.kind.outcomes(logits_strong), earlier)  # J, Sec. 2
        return {
            "loss": supervised + self.weight(self.steps_done) * consistency,
            "supervised": supervised,
            "consistency": consistency,
        }
