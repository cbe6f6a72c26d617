"""Learning findings that are present, absent or unknown."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.unknown import UNKNOWN


class FindingCrossEntropy(nn.Module):
    """Mean binary cross-entropy over the findings that are known; the others have neither loss nor gradient.

    Every known pair of an image and a finding counts alike, so that an image of which little is known counts little. A
    batch of which nothing is known has a loss of 0, with a graph. Each process takes the mean over its own batch.
    """

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits ``(B, K)`` and labels ``(B, K)``: 1 present, 0 absent, -1 unknown.

        Raises:
            ValueError: if the label is not one value per finding.
        """
        losses, known = known_losses(logits, label)
        return losses.sum() / known.sum().clamp_min(1)


def known_losses(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of each finding, 0 where it is unknown, and which are known, bool; all are ``(B, K)``.

    Raises:
        ValueError: if the label is not one value per finding.
    """
    if label.shape != logits.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} need as many labels, 1, 0 or {UNKNOWN} for each finding, got "
            f"{tuple(label.shape)}; if each image has one class, the labels are of another kind."
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    known = label != UNKNOWN
    losses = F.binary_cross_entropy_with_logits(logits, (label > 0).to(logits.dtype), reduction="none")
    return torch.where(known, losses, 0.0), known
