"""Class imbalance in the loss of the labeled images; sampling against it is in `medssl_monai.pool.pool_loader`."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.losses.findings import known_losses


class Counts(Protocol):
    """Says how often each state is known."""

    def counts(self, device: torch.device | str = "cpu") -> Tensor:
        """Return counts ``(*cases, S)`` long, on `device`, without waiting for it while no label changes."""


def class_weights(count: Tensor, weighting: float) -> Tensor:
    """``1 / E_n`` of each class with ``E_n = (1 - beta^n) / (1 - beta)``, shaped as `count` (Cui et al., CVPR 2019).

    Scaled so that the mean over the labeled samples is 1, whatever their imbalance, so that neither learning rate nor
    weight of the unlabeled loss needs another value (the paper's weights have the sum K). A class without a label has
    the weight that one label would give it.

    Args:
        count: labels per class, ``(..., K)``, floating; each row of the last dimension is weighted by itself.
        weighting: beta in (0, 1]; 1 is the limit ``1 / n``, inverse frequency.
    """
    effective = count.clamp_min(1.0)
    if weighting < 1.0:
        effective = -torch.expm1(effective * math.log(weighting))  # 1 / (1 - beta) cancels below
    total = count.sum(dim=-1, keepdim=True).clamp_min(1.0)  # a row without labels is not weighted
    return total / (count / effective).sum(dim=-1, keepdim=True).clamp_min(1.0) / effective


class BalancedCrossEntropy(nn.Module):
    """Cross-entropy in which rare classes count more; the `criterion` of any method.

    The frequencies are those of the labels that are known at this moment, so a query changes them and a resumed
    run has them again; a class without a label counts as if it had one. There is no state of its own.

    Findings of multi-hot labels are corrected one by one, each with absent and present as its two classes: presence and
    absence have weights, whose mean over its known labels is 1, and a logit is shifted by ``tau * log(present /
    absent)``. All findings count alike otherwise, and unknown ones not at all (`FindingCrossEntropy`).

    Only the labeled images are corrected; the loss of the unlabeled ones is as before. It feels the correction through
    its targets, though: the network now predicts as if all classes were equally frequent, so pseudo-labels, confidence
    and predictions lean towards rare classes, and its probabilities are not calibrated where some classes are rare. A
    `DistributionAlignment` to the labeled frequencies would pull pseudo-labels back.

    Each of weighting 1, logit adjustment 1 and balanced sampling makes up for the whole imbalance; two of them
    overshoot. The other form of logit adjustment, at prediction, is not offered: the deployed network knows no
    frequencies. Who does can divide the probabilities of a network trained without correction by them.

    Args:
        labels: counts them: `medssl_monai.pool.Labels`.
        weighting: strength of class weights in [0, 1] (beta, see `class_weights`): 0 is none, 1 inverse frequency; with
            few labels it shows only near 1, as in 0.99.
        logit_adjustment: tau, at least 0, in ``softmax(logits + tau * log(frequency))`` (Menon et al., ICLR 2021,
            https://arxiv.org/abs/2007.07314, Eq. 10): 0 is none, 1 what the theory asks for.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(self, labels: Counts, weighting: float = 0.0, logit_adjustment: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= weighting <= 1.0:
            raise ValueError(f"`weighting` must be in [0, 1], got {weighting}.")
        if not 0.0 <= logit_adjustment < math.inf:
            raise ValueError(f"`logit_adjustment` must be at least 0 and finite, got {logit_adjustment}.")
        self.labels, self.weighting, self.logit_adjustment = labels, weighting, logit_adjustment

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits ``(B, K)`` and classes ``(B,)`` or findings ``(B, K)``: 1, 0, -1 unknown."""
        if label.ndim > 1:
            return self._of_findings(logits, label)
        count = self._counts(logits, (logits.shape[1],))
        if self.logit_adjustment:
            logits = logits + self.logit_adjustment * count.clamp_min(1.0).log()  # a common factor cancels
        if not self.weighting:
            return F.cross_entropy(logits, label)
        losses = F.cross_entropy(logits, label, reduction="none")
        # over the batch, not over its weights as in torch: a batch of one class would count as if it were not weighted
        return (losses * class_weights(count, self.weighting)[label]).mean()

    def _counts(self, logits: Tensor, shape: tuple[int, ...]) -> Tensor:
        count = self.labels.counts(logits.device)
        if count.shape != shape:
            raise ValueError(
                f"the labels that are counted have the states {tuple(count.shape)}, and a loss of logits "
                f"{tuple(logits.shape)} and these targets needs {shape}; give it the labels that are learnt."
            )
        return count.to(torch.promote_types(logits.dtype, torch.float32))

    def _of_findings(self, logits: Tensor, label: Tensor) -> Tensor:
        count = self._counts(logits, (logits.shape[1], 2))  # absent, present
        if self.logit_adjustment:
            logits = logits + self.logit_adjustment * count.clamp_min(1.0).log().diff(dim=1).squeeze(1)
        losses, known = known_losses(logits, label)
        if self.weighting:
            absent, present = class_weights(count, self.weighting).unbind(dim=1)
            losses = losses * torch.where(label > 0, present, absent)
        return losses.sum() / known.sum().clamp_min(1)
