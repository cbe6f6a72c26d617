"""Learning from one's own confident predictions: means and alignments of numbers, whatever they are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Normalization = Literal["batch", "selected"]


def weighted_mean(losses: Tensor, weights: Tensor, normalization: Normalization = "batch") -> Tensor:
    """Return the weighted sum of losses over their number (FixMatch, Eq. 4), exactly 0 if nothing counts.

    Args:
        losses: of each case, ``(B, *cases)``; carry the gradient.
        weights: what each counts, of the same shape.
        normalization: divide by the number of cases (``batch``; FixMatch, Eq. 4; released BoostMIS code) or by the sum
            of the weights (``selected``; BoostMIS paper). They differ by the share of selected cases.

    Raises:
        ValueError: if `normalization` is neither.
    """
    if normalization not in ("batch", "selected"):
        raise ValueError(f"`normalization` must be 'batch' or 'selected', got {normalization!r}.")
    weights = weights.flatten().to(losses.dtype)
    total = (losses.flatten() * weights).sum()
    return total / (len(weights) if normalization == "batch" else weights.sum().clamp_min(1.0))


def sharpen(outcomes: Tensor, temperature: float) -> Tensor:
    """Return ``outcomes ** (1 / temperature)``, normalised over the last dimension; without gradient."""
    return F.normalize(outcomes.detach().pow(1.0 / temperature), p=1.0, dim=-1)


class DistributionAlignment(nn.Module):
    """Pull predictions towards the frequencies of the labeled samples (ReMixMatch, Sec. 3.1).

    ``outcomes * target / running mean of outcomes``, normalised; the mean starts with the first batch. Of findings,
    absent and present are the two states of each (ours): a finding that is predicted less often than it is found among
    the labeled images gains. That helps rare ones against fading away, and needs labels of images drawn at random.

    Args:
        target: frequency of each state, ``(*cases, S)``, with a sum of 1 over the states; of several cases each in
            (0, 1).
        decay: share of the old mean kept per batch.

    Raises:
        ValueError: if a state of one of several cases is in no or in every image of the target.
    """

    target: Tensor
    mean: Tensor

    def __init__(self, target: Tensor | list[float], decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        target = torch.as_tensor(target)
        if target.ndim > 1 and not bool(((target > 0) & (target < 1)).all()):
            raise ValueError(
                f"`target` must be greater than 0 and less than 1 in every state, got {target.tolist()}: what no "
                "labeled image has, or each, would have one pseudo-label for all."
            )
        self.register_buffer("target", target)
        self.register_buffer("mean", torch.full_like(self.target, torch.nan))

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*cases, S)``."""
        return tuple(self.target.shape)

    def forward(self, outcomes: Tensor) -> tuple[Tensor, Tensor]:
        """Return aligned outcomes ``(B, *cases, S)``, and the mean to hand to `update` after the step; no gradient."""
        outcomes = outcomes.detach()
        batch = outcomes.mean(dim=0).to(self.mean.dtype)
        mean = torch.where(self.mean.isnan(), batch, self.mean * self.decay + batch * (1.0 - self.decay))
        aligned = outcomes * (self.target / mean.clamp_min(1e-12))
        return F.normalize(aligned, p=1.0, dim=-1), mean

    def update(self, mean: Tensor) -> None:
        """Store the mean that `forward` returned."""
        self.mean.copy_(mean)


class QueueAlignment(nn.Module):
    """Divide predictions by their mean over the last batches (released code of TEAR, where it is on by default).

    ``outcomes / mean over the queue``, normalised; the batch itself is in the queue. Without a `labeled_target` the
    predictions are pulled towards equal frequencies, which real data seldom have; of findings, which would each be in
    half of the images, that is refused. Of findings, absent and present are the two states of each (ours).

    Args:
        shape: of the outcomes of a sample, ``(*cases, S)``.
        length: batches in the queue.
        labeled_target: also multiply by the mean prediction of the last `length` labeled batches, normalise and sharpen
            (the "standard" form of the released code, off there; ReMixMatch, Sec. 3.1).
        temperature: of the sharpening, greater than 0; 1 is none.

    Raises:
        ValueError: if a value is out of its range, or several cases have no `labeled_target`.
    """

    queue: Tensor
    count: Tensor

    def __init__(
        self, shape: Sequence[int], length: int = 32, labeled_target: bool = False, temperature: float = 0.5
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"`length` counts batches and must be at least 1, got {length}.")
        if temperature <= 0.0:
            raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
        if len(shape) > 1 and not labeled_target:
            raise ValueError(
                "without `labeled_target` every finding would be taken to be in half of the images: set it, or leave "
                "the alignment out; FixMatch and BoostMIS take a `DistributionAlignment` as well."
            )
        self.labeled_target, self.temperature, self.shape = labeled_target, temperature, tuple(shape)
        self.register_buffer("queue", torch.full((length, 1 + labeled_target, *shape), torch.nan))  # nan: empty
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # batches so far; modulo length: the next row

    def forward(self, outcomes: Tensor, labeled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return aligned outcomes, and the row to hand to `update` after the step; both without gradient.

        Args:
            outcomes: of unlabeled images, ``(B, *cases, S)``.
            labeled: of labeled images, ``(B', *cases, S)``, for `labeled_target`.

        Raises:
            ValueError: if `labeled` is needed and missing.
        """
        if self.labeled_target and labeled is None:
            raise ValueError("alignment to the labeled predictions needs those of labeled images.")
        parts = [outcomes, labeled] if self.labeled_target else [outcomes]
        means = [part.detach().mean(dim=0) for part in parts if part is not None]
        row = torch.stack([mean.to(self.queue.dtype) for mean in means])
        return self._by_mean(outcomes, self._pushed(row).nanmean(dim=0)), row

    def align(self, outcomes: Tensor) -> Tensor:
        """Return outcomes aligned by what is in the queue alone; an empty queue counts as a mean of 1."""
        return self._by_mean(outcomes, self.queue.nanmean(dim=0).nan_to_num(nan=1.0))

    def _by_mean(self, outcomes: Tensor, mean: Tensor) -> Tensor:
        """Align by mean outcomes ``(1 or 2, *cases, S)``: of unlabeled and of labeled images."""
        outcomes = outcomes.detach() / mean[0].clamp_min(1e-12)
        if not self.labeled_target:
            return F.normalize(outcomes, p=1.0, dim=-1)
        return sharpen(F.normalize(outcomes * mean[1], p=1.0, dim=-1), self.temperature)

    def update(self, row: Tensor) -> None:
        """Put the row that `forward` returned in place of the oldest."""
        self.queue.copy_(self._pushed(row))
        self.count += 1

    def _pushed(self, row: Tensor) -> Tensor:
        place = torch.arange(len(self.queue), device=self.queue.device) == self.count % len(self.queue)
        return torch.where(place.view(-1, *[1] * row.ndim), row, self.queue)
