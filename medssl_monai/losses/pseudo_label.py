"""Learning from one's own confident predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.losses.multilabel import from_outcomes, outcomes
from medssl_monai.task import Task

Normalization = Literal["batch", "selected"]
Threshold = float | Tensor | Sequence[float] | Sequence[Sequence[float]]
"""What `confident` takes."""


def pseudo_label_loss(
    logits_strong: Tensor,
    probs_weak: Tensor,
    threshold: Threshold,
    normalization: Normalization = "batch",
    temperature: float | None = None,
    targets: Tensor | None = None,
    task: Task = "multiclass",
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the strong view against the confident predictions on the weak view (FixMatch, Eq. 4).

    Of findings, each pair of an image and a finding is a sample of its own, with the classes absent and present: it is
    selected by itself, and the loss is the binary cross-entropy over the pairs. That is our reading; the paper has one
    class per image. Of masks each voxel is a sample, which the strong view must show in the same place.

    Args:
        logits_strong: ``(B, K)``, of masks ``(B, K, *spatial)``; carries the gradient.
        probs_weak: probabilities of the classes or findings, shaped as `logits_strong`; a constant.
        threshold: confidence that counts, in [0, 1]; see `confident`.
        normalization: divide the sum by the number of samples (FixMatch, Eq. 4; released BoostMIS code) or by that of
            selected samples (BoostMIS paper). They differ by the share of selected samples.
        temperature: None: one-hot targets; else soft targets ``probs ** (1 / temperature)``, normalised.
        targets: probabilities to learn in their place, of the same shape; `probs_weak` then only selects.
        task: what the probabilities are of.

    Returns:
        The loss, exactly 0 if nothing is confident, and the mask of selected samples as floats: ``(B,)``, of findings
        ``(B, K)``, of masks ``(B, *spatial)``.

    Raises:
        ValueError: if `normalization` is neither.
    """
    if normalization not in ("batch", "selected"):
        raise ValueError(f"`normalization` must be 'batch' or 'selected', got {normalization!r}.")
    selected = confident(probs_weak.detach(), threshold, task)
    if task == "multilabel":
        logits_strong = F.pad(logits_strong.unsqueeze(2), (1, 0)).flatten(0, 1)  # their softmax is the sigmoid
        probs_weak = outcomes(probs_weak, task).flatten(0, 1)
        targets = None if targets is None else outcomes(targets, task).flatten(0, 1)
        task = "multiclass"
    pseudo_label = probs_weak.detach().max(dim=1).indices
    mask = selected.flatten().to(logits_strong.dtype)
    if targets is None and temperature is not None:
        targets = from_outcomes(sharpen(outcomes(probs_weak, task), temperature), task)
    if targets is None:
        losses = F.cross_entropy(logits_strong, pseudo_label, reduction="none")
    else:
        losses = F.cross_entropy(logits_strong, targets.detach().to(logits_strong.dtype), reduction="none")
    total = (losses.flatten() * mask).sum()
    return total / (len(mask) if normalization == "batch" else mask.sum().clamp_min(1.0)), mask.view(selected.shape)


def confidence_of(probs: Tensor, task: Task = "multiclass") -> Tensor:
    """Probability of the pseudo-label ``(B,)``, of each voxel's ``(B, *spatial)``, of each finding's ``(B, K)``."""
    return outcomes(probs, task).amax(dim=-1)


def confident(probs: Tensor, threshold: Threshold, task: Task = "multiclass") -> Tensor:
    """Whose pseudo-label counts, bool: ``(B,)``, of findings ``(B, K)``, of masks ``(B, *spatial)``.

    The pseudo-label of a finding is its more probable state, whatever the thresholds; absent if both are as probable.

    Args:
        probs: of the classes or findings, ``(B, K)``; of masks ``(B, K, *spatial)``.
        threshold: confidence that counts: a number, or one for each class or finding, ``(K,)``; of findings also one of
            their absence and one for their presence, ``(2, K)`` or ``(2, 1)``. The predicted class picks its own; the
            size of the batch plays no part.
        task: what the probabilities are of.

    Raises:
        ValueError: if there is not one threshold for each class or finding.
    """
    if not isinstance(threshold, (int, float)):
        threshold = torch.as_tensor(threshold, dtype=probs.dtype, device=probs.device)
        if threshold.ndim and threshold.shape[-1] not in (1, probs.shape[1]):
            raise ValueError(
                f"there are {threshold.shape[-1]} thresholds for {probs.shape[1]} classes or findings: give K, or one."
            )
        if threshold.ndim == 2:
            threshold = torch.where(probs > 0.5, threshold[1], threshold[0])
        elif threshold.ndim == 1 and task != "multilabel":
            threshold = threshold.expand(probs.shape[1])[probs.argmax(dim=1)]
    return torch.ge(confidence_of(probs, task), cast(float | Tensor, threshold))


def checked_threshold(
    threshold: float | Tensor | Sequence[float],
    absence_threshold: float | Tensor | Sequence[float] | None = None,
    task: Task = "multiclass",
) -> float | nn.Buffer:
    """Thresholds as `confident` takes them and as a module keeps them: a number, or a buffer that is no state.

    Args:
        threshold: a number; of findings also one for each, K numbers.
        absence_threshold: of findings, for their absence, where `threshold` is for their presence only; None: for both.
        task: what is predicted.

    Raises:
        ValueError: if a threshold is not in [0, 1], or of a kind that only findings have.
    """
    given = {"threshold": threshold, "absence_threshold": absence_threshold}
    tensors = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in given.items() if value is not None}
    for name, value in tensors.items():
        if not bool(((value >= 0.0) & (value <= 1.0)).all()):
            raise ValueError(f"`{name}` is a probability and must be in [0, 1], got {given[name]}.")
    if absence_threshold is None and isinstance(threshold, (int, float)):
        return threshold
    if task != "multilabel":
        raise ValueError(
            f"one class per image or voxel has one threshold, a number, got {threshold} and for absence "
            f"{absence_threshold}; more of them need the task 'multilabel'."
        )
    if absence_threshold is None:
        return nn.Buffer(tensors["threshold"].clone(), persistent=False)
    absent, present = tensors["absence_threshold"].view(-1), tensors["threshold"].view(-1)
    findings = max(len(absent), len(present))
    if not {len(absent), len(present)} <= {1, findings}:
        raise ValueError(
            f"`threshold` is for {len(present)} findings and `absence_threshold` for {len(absent)}: give K, or one."
        )
    return nn.Buffer(torch.stack([absent.expand(findings), present.expand(findings)]), persistent=False)


def _refuse_masks(task: Task) -> None:
    if task == "segmentation":
        raise ValueError(
            "predictions of masks are not aligned: how many voxels a class has differs from image to image. Leave the "
            "alignment out."
        )


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    """``probs ** (1 / temperature)``, normalised over the last dimension; without gradient."""
    return F.normalize(probs.detach().pow(1.0 / temperature), p=1.0, dim=-1)


class DistributionAlignment(nn.Module):
    """Pull predictions towards the class frequencies of the labeled samples (ReMixMatch, Sec. 3.1).

    ``probs * target / running mean of probs``, normalised; the mean starts with the first batch. Of findings, absent
    and present are the two classes of each (ours): a finding that is predicted less often than it is found among the
    labeled images gains. That helps rare ones against fading away, and needs labels of images drawn at random.

    Args:
        target: class frequencies, ``(K,)``, sum 1; of findings the share of images that have them, each in (0, 1).
        decay: share of the old mean kept per batch.
        task: what the probabilities are of.

    Raises:
        ValueError: if a finding is in no or in every image of the target, or for masks.
    """

    target: Tensor
    mean: Tensor

    def __init__(self, target: Tensor | list[float], decay: float = 0.999, task: Task = "multiclass") -> None:
        super().__init__()
        _refuse_masks(task)
        self.decay, self.task = decay, task
        target = torch.as_tensor(target)
        if task == "multilabel" and not bool(((target > 0) & (target < 1)).all()):
            raise ValueError(
                f"`target` must be greater than 0 and less than 1 for every finding, got {target.tolist()}: what no "
                "labeled image has, or each, would have one pseudo-label for all."
            )
        self.register_buffer("target", outcomes(target, task))
        self.register_buffer("mean", torch.full_like(self.target, torch.nan))

    def forward(self, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned probabilities ``(B, K)``, and the mean to hand to `update` after the step; both without gradient."""
        probs = outcomes(probs.detach(), self.task)
        batch = probs.mean(dim=0).to(self.mean.dtype)
        mean = torch.where(self.mean.isnan(), batch, self.mean * self.decay + batch * (1.0 - self.decay))
        aligned = probs * (self.target / mean.clamp_min(1e-12))
        return from_outcomes(F.normalize(aligned, p=1.0, dim=-1), self.task), mean

    def update(self, mean: Tensor) -> None:
        """Store the mean that `forward` returned."""
        self.mean.copy_(mean)


class QueueAlignment(nn.Module):
    """Divide predictions by their mean over the last batches (released code of TEAR, where it is on by default).

    ``probs / mean over the queue``, normalised; the batch itself is in the queue. Without a `labeled_target` the
    predictions are pulled towards equal frequencies, which real data seldom have; of findings, which would each be in
    half of the images, that is refused. Of findings, absent and present are the two classes of each (ours).

    Args:
        num_classes: K.
        length: batches in the queue.
        labeled_target: also multiply by the mean prediction of the last `length` labeled batches, normalise and sharpen
            (the "standard" form of the released code, off there; ReMixMatch, Sec. 3.1).
        temperature: of the sharpening, greater than 0; 1 is none.
        task: what the probabilities are of.

    Raises:
        ValueError: if a value is out of its range, findings have no `labeled_target`, or for masks.
    """

    queue: Tensor
    count: Tensor

    def __init__(
        self,
        num_classes: int,
        length: int = 32,
        labeled_target: bool = False,
        temperature: float = 0.5,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        _refuse_masks(task)
        if length < 1:
            raise ValueError(f"`length` counts batches and must be at least 1, got {length}.")
        if temperature <= 0.0:
            raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
        if task == "multilabel" and not labeled_target:
            raise ValueError(
                "without `labeled_target` every finding would be taken to be in half of the images: set it, or leave "
                "the alignment out; FixMatch and BoostMIS take a `DistributionAlignment` as well."
            )
        self.labeled_target, self.temperature, self.task = labeled_target, temperature, task
        shape = outcomes(torch.zeros(length, 1 + labeled_target, num_classes), task).shape
        self.register_buffer("queue", torch.full(shape, torch.nan))  # nan: empty
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
        means = [outcomes(part.detach(), self.task).mean(dim=0) for part in parts if part is not None]
        row = torch.stack([mean.to(self.queue.dtype) for mean in means])
        return self._by_mean(probs, self._pushed(row).nanmean(dim=0)), row

    def align(self, probs: Tensor) -> Tensor:
        """Aligned probabilities by what is in the queue alone; an empty queue counts as a mean of 1."""
        return self._by_mean(probs, self.queue.nanmean(dim=0).nan_to_num(nan=1.0))

    def _by_mean(self, probs: Tensor, mean: Tensor) -> Tensor:
        """Align `probs` ``(B, K)`` by mean outcomes ``(1 or 2, K[, 2])``: of unlabeled and of labeled images."""
        probs = outcomes(probs.detach(), self.task) / mean[0].clamp_min(1e-12)
        if not self.labeled_target:
            return F.normalize(probs, p=1.0, dim=-1)
        aligned = sharpen(F.normalize(probs * mean[1], p=1.0, dim=-1), self.temperature)
        return from_outcomes(aligned, self.task)

    def update(self, row: Tensor) -> None:
        """Put the row that `forward` returned in place of the oldest."""
        self.queue.copy_(self._pushed(row))
        self.count += 1

    def _pushed(self, row: Tensor) -> Tensor:
        place = torch.arange(len(self.queue), device=self.queue.device) == self.count % len(self.queue)
        return torch.where(place.view(-1, *[1] * row.ndim), row, self.queue)
