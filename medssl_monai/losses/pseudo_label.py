"""Learning from one's own confident predictions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Normalization = Literal["batch", "selected"]


def pseudo_label_loss(
    logits_strong: Tensor,
    probs_weak: Tensor,
    threshold: float | Tensor,
    normalization: Normalization = "batch",
    temperature: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the strong view against the confident predictions on the weak view (FixMatch, Eq. 4).

    Args:
        logits_strong: ``(B, K)``; carries the gradient.
        probs_weak: class probabilities ``(B, K)``; a constant.
        threshold: confidence that counts, in [0, 1]; a number or ``(B,)``.
        normalization: divide the sum by the size of the batch (FixMatch, Eq. 4; released BoostMIS code) or by the
            number of selected samples (BoostMIS paper). They differ by the share of selected samples.
        temperature: None: one-hot targets; else soft targets ``probs ** (1 / temperature)``, normalised.

    Returns:
        The loss, exactly 0 if nothing is confident, and the mask ``(B,)`` of selected samples as floats.

    Raises:
        ValueError: if `normalization` is neither.
    """
    if normalization not in ("batch", "selected"):
        raise ValueError(f"`normalization` must be 'batch' or 'selected', got {normalization!r}.")
    confidence, pseudo_label = probs_weak.detach().max(dim=1)
    mask = (confidence >= threshold).to(logits_strong.dtype)
    if temperature is None:
        losses = F.cross_entropy(logits_strong, pseudo_label, reduction="none")
    else:
        target = F.normalize(probs_weak.detach().pow(1.0 / temperature), p=1.0, dim=1)
        losses = F.cross_entropy(logits_strong, target.to(logits_strong.dtype), reduction="none")
    total = (losses * mask).sum()
    return total / (len(mask) if normalization == "batch" else mask.sum().clamp_min(1.0)), mask


class DistributionAlignment(nn.Module):
    """Pull predictions towards the class frequencies of the labeled samples (ReMixMatch, Sec. 3.1).

    ``probs * target / running mean of probs``, normalised; the mean starts with the first batch.

    Args:
        target: class frequencies, ``(K,)``, sum 1.
        decay: share of the old mean kept per batch.
    """

    target: Tensor
    mean: Tensor

    def __init__(self, target: Tensor | list[float], decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("target", torch.as_tensor(target))
        self.register_buffer("mean", torch.full_like(self.target, torch.nan))

    def forward(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned probabilities, and the mean to hand to `update` after the step; both without gradient."""
        batch = probs.detach().mean(dim=0).to(self.mean.dtype)
        mean = torch.where(self.mean.isnan(), batch, self.mean * self.decay + batch * (1.0 - self.decay))
        aligned = probs.detach() * (self.target / mean.clamp_min(1e-12))
        return F.normalize(aligned, p=1.0, dim=1), mean

    def update(self, mean: Tensor) -> None:
        """Store the mean that `forward` returned."""
        self.mean.copy_(mean)
