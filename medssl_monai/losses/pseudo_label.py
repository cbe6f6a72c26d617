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
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the strong view against the confident predictions on the weak view (FixMatch, Eq. 4).

    Args:
        logits_strong: ``(B, K)``; carries the gradient.
        probs_weak: class probabilities ``(B, K)``; a constant.
        threshold: confidence that counts, in [0, 1]; a number or ``(B,)``.
        normalization: divide the sum by the size of the batch (FixMatch, Eq. 4; released BoostMIS code) or by the
            number of selected samples (BoostMIS paper). They differ by the share of selected samples.
        temperature: None: one-hot targets; else soft targets ``probs ** (1 / temperature)``, normalised.
        targets: class probabilities ``(B, K)`` to learn in their place; `probs_weak` then only selects.

    Returns:
        The loss, exactly 0 if nothing is confident, and the mask ``(B,)`` of selected samples as floats.

    Raises:
        ValueError: if `normalization` is neither.
    """
    if normalization not in ("batch", "selected"):
        raise ValueError(f"`normalization` must be 'batch' or 'selected', got {normalization!r}.")
    confidence, pseudo_label = probs_weak.detach().max(dim=1)
    mask = (confidence >= threshold).to(logits_strong.dtype)
    if targets is None and temperature is not None:
        targets = sharpen(probs_weak, temperature)
    if targets is None:
        losses = F.cross_entropy(logits_strong, pseudo_label, reduction="none")
    else:
        losses = F.cross_entropy(logits_strong, targets.detach().to(logits_strong.dtype), reduction="none")
    total = (losses * mask).sum()
    return total / (len(mask) if normalization == "batch" else mask.sum().clamp_min(1.0)), mask


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """``probs ** (1 / temperature)``, normalised; without gradient."""
    return F.normalize(probs.detach().pow(1.0 / temperature), p=1.0, dim=1)


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


class QueueAlignment(nn.Module):
    """Divide predictions by their mean over the last batches (released code of TEAR, where it is on by default).

    ``probs / mean over the queue``, normalised; the batch itself is in the queue. Without a `labeled_target` the
    predictions are pulled towards equal frequencies, which real data seldom have.

    Args:
        num_classes: K.
        length: batches in the queue.
        labeled_target: also multiply by the mean prediction of the last `length` labeled batches, normalise and sharpen
            (the "standard" form of the released code, off there; ReMixMatch, Sec. 3.1).
        temperature: of the sharpening, greater than 0; 1 is none.

    Raises:
        ValueError: if a value is out of its range.
    """

    queue: Tensor
    count: Tensor

    def __init__(
        self, num_classes: int, length: int = 32, labeled_target: bool = False, temperature: float = 0.5
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"`length` counts batches and must be at least 1, got {length}.")
        if temperature <= 0.0:
            raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
        self.labeled_target, self.temperature = labeled_target, temperature
        self.register_buffer("queue", torch.full((length, 1 + labeled_target, num_classes), torch.nan))  # nan: empty
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # batches so far; modulo length: the next row

    def forward(self, probs: Tensor, labeled_probs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Aligned probabilities, and the row to hand to `update` after the step; both without gradient.

        Args:
            probs: of unlabeled images, ``(B, K)``.
            labeled_probs: of labeled images, ``(B', K)``, for `labeled_target`.

        Raises:
            ValueError: if `labeled_probs` are needed and missing.
        """
        if self.labeled_target and labeled_probs is None:
            raise ValueError("alignment to the labeled predictions needs `labeled_probs`.")
        parts = [probs, labeled_probs] if self.labeled_target else [probs]
        row = torch.stack([part.detach().mean(dim=0).to(self.queue.dtype) for part in parts if part is not None])
        return self._by_mean(probs, self._pushed(row).nanmean(dim=0)), row

    def align(self, probs: Tensor) -> Tensor:
        """Aligned probabilities by what is in the queue alone; an empty queue counts as a mean of 1."""
        return self._by_mean(probs, self.queue.nanmean(dim=0).nan_to_num(nan=1.0))

    def _by_mean(self, probs: Tensor, mean: Tensor) -> Tensor:
        """Align `probs` ``(B, K)`` by mean predictions ``(1 or 2, K)``: of unlabeled and of labeled images."""
        probs = probs.detach() / mean[0].clamp_min(1e-12)
        if not self.labeled_target:
            return F.normalize(probs, p=1.0, dim=1)
        return sharpen(F.normalize(probs * mean[1], p=1.0, dim=1), self.temperature)

    def update(self, row: Tensor) -> None:
        """Put the row that `forward` returned in place of the oldest."""
        self.queue.copy_(self._pushed(row))
        self.count += 1

    def _pushed(self, row: Tensor) -> Tensor:
        place = torch.arange(len(self.queue), device=self.queue.device) == self.count % len(self.queue)
        return torch.where(place[:, None, None], row, self.queue)
