"""TEAR's estimate of the loss of unlabeled images, and targets as soft as that says (`medssl_monai.methods.tear`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Discrepancy = Literal["l2", "tv", "kl", "logits"]
Relaxation = Literal["exp", "sigmoid", "none"]
Previous = Literal["ema", "snapshot", "bank"]


def discrepancy(probs: Tensor, previous: Tensor, kind: Discrepancy = "l2") -> Tensor:
    """How far two predictions of one image are apart, ``(B,)``; in [0, 1] but for ``logits``.

    ``l2``: ``||q - q'|| / sqrt(2)``, the root of the score of Temporal Output Discrepancy (Huang et al., ICCV 2021);
    ``tv``: half the sum of absolute differences; ``kl``: ``min(1, sqrt(KL(q' || q) / 2))``, a bound of ``tv``
    (Pinsker); ``logits``: ``||z - z'|| / sqrt(2)`` of the logits less their mean.

    Args:
        probs: of the present model (q), ``(B, K)``; the last axis is that of the classes, and further ones are kept.
        previous: of the earlier model (q'), likewise.
        kind: see above. The "emd" of the released code needs an order of the classes, and is left out.
    """
    if kind == "tv":
        return 0.5 * (probs - previous).abs().sum(dim=-1)
    if kind == "kl":
        tiny = torch.finfo(probs.dtype).tiny
        divergence = (torch.xlogy(previous, previous) - previous * probs.clamp_min(tiny).log()).sum(dim=-1)
        return (divergence.clamp_min(0.0) / 2.0).sqrt().clamp_max(1.0)
    if kind == "logits":
        probs, previous = (_centered_logits(part) for part in (probs, previous))
    return (probs - previous).norm(dim=-1) / math.sqrt(2.0)


def _centered_logits(probs: Tensor) -> Tensor:
    logits = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    return logits - logits.mean(dim=-1, keepdim=True)


def estimate_loss(score: Tensor, gamma: float | Tensor = 1.0, delta: float = 1e-6) -> Tensor:
    """``-ln(1 - s)`` with ``s = min(1 - delta, gamma * score)``: an estimate of the unknown cross-entropy, ``(B,)``.

    Ours. One SGD step of rate ``eta`` on an image of class y moves its logits by ``eta * K (1_y - p)``, with K the
    tangent kernel; so ``||dz|| <= kappa (1 - p_y)`` with ``kappa = sqrt(2) * eta * ||K||``, and the loss ``-ln p_y`` is
    at least ``-ln(1 - ||dz|| / kappa)``; equal for a linear model of two classes. For a deep network kappa is not
    known, hence probabilities, whose distance is bounded, and a free `gamma`.

    Args:
        score: `discrepancy`, ``(B,)``.
        gamma: with ``logits``, ``sqrt(2) / kappa``.
        delta: keeps the estimate finite.
    """
    return -torch.log1p(-(gamma * score).clamp_max(1.0 - delta))


def label_weight(loss: Tensor, relaxation: Relaxation, minimum: float, gamma: float = 1.0) -> Tensor:
    """Probability that the target leaves to the pseudo-label, in [`minimum`, 1], ``(B,)``.

    Ours; the figure only shows that it falls, and that all other classes gain alike. ``exp``: ``exp(-loss)``, the
    probability of the true class of which `loss` is the cross-entropy; ``sigmoid``: ``2 / (1 + exp(gamma * loss))``,
    after a helper that the released code defines and does not use; ``none``: 1, hard pseudo-labels.

    Args:
        loss: `estimate_loss`, ``(B,)``.
        relaxation: see above.
        minimum: lower bound.
        gamma: of the sigmoid.
    """
    if relaxation == "none":
        return torch.ones_like(loss)
    weight = torch.exp(-loss) if relaxation == "exp" else 2.0 * torch.sigmoid(-gamma * loss)
    return weight.clamp(minimum, 1.0)


def relaxed_targets(pseudo_label: Tensor, weight: Tensor, num_classes: int) -> Tensor:
    """Targets ``(..., K)``: `weight` ``(...)`` on the pseudo-label ``(...)``, the rest in equal parts on the others."""
    rest = ((1.0 - weight) / (num_classes - 1)).unsqueeze(-1).expand(*weight.shape, num_classes)
    return rest.scatter(-1, pseudo_label.unsqueeze(-1), weight.unsqueeze(-1))


class AdaPL(nn.Module):
    """Adaptive pseudo-labels: the more a prediction has moved in training, the softer its pseudo-label.

    Of this the released code has only options: a discrepancy (default squared difference), a minimum weight of 0.5, a
    gamma from 1 to 4 and the EMA teacher as the earlier model. Estimate and relaxation are our proposal: see
    `estimate_loss` and `label_weight`.

    Predictions are compared as they are, not after distribution alignment, and in evaluation mode on both sides:
    BatchNorm over a batch, or dropout, would make equal weights disagree. An index that is drawn twice in a batch keeps
    the larger estimate, and in the bank the larger probability of each class, normalised.

    Of findings, each has an estimate and a weight of its own, as one of two classes, absent and present. ``l2`` and
    ``tv`` are then the same, ``|q - q'|``, and with ``exp`` a pseudo-label keeps ``1 - gamma |q - q'|``.

    Args:
        num_samples: length of the datalist, N.
        shape: of the outcomes of a sample, ``(*cases, S)`` with at least two states.
        discrepancy: see the function. ``logits`` needs `gamma` to be one over learning rate times kernel norm.
        relaxation: see `label_weight`.
        previous: ``ema``: the averaged teacher, which with a decay of 0.999 is some 1000 steps old (released code);
            ``snapshot``: the parameters of one step before with the present BatchNorm statistics, as the paper's
            theta_(t-1) read literally, whose distance is of the order of the learning rate, so that it needs a large
            `gamma`; ``bank``: the student's last prediction of the same sample, which was of another random view.
        gamma: factor of the score; for ``sigmoid``, of the estimate instead.
        minimum_weight: least probability that a target leaves to the pseudo-label (w_min), greater than ``1 / K``, so
            that it stays the most probable class; the default does not do for two classes, nor for findings.
        history_decay: share of the old estimate kept in the running mean of a sample's estimates; 0: the last one.

    Raises:
        ValueError: if a value is out of its range.
    """

    estimate: Tensor
    bank: Tensor

    def __init__(
        self,
        num_samples: int,
        shape: Sequence[int],
        discrepancy: Discrepancy = "l2",
        relaxation: Relaxation = "exp",
        previous: Previous = "ema",
        gamma: float = 1.0,
        minimum_weight: float = 0.5,
        history_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("discrepancy", discrepancy, ("l2", "tv", "kl", "logits"))
        check_choice("relaxation", relaxation, ("exp", "sigmoid", "none"))
        check_choice("previous", previous, ("ema", "snapshot", "bank"))
        if shape[-1] < 2:
            raise ValueError(f"`shape` must end with at least 2 states, got {tuple(shape)}: a target gives to others.")
        if gamma <= 0.0:
            raise ValueError(f"`gamma` must be greater than 0, got {gamma}.")
        sample = torch.full(tuple(shape), torch.nan)  # nan: never seen
        if not 1.0 / sample.shape[-1] < minimum_weight <= 1.0:
            raise ValueError(
                f"`minimum_weight` must be greater than 1 / K = {1 / sample.shape[-1]:.3g} and at most 1, got "
                f"{minimum_weight}: else a target can become uniform; for two classes take 0.75, say, and so for "
                "findings, which are absent or present."
            )
        if not 0.0 <= history_decay < 1.0:
            raise ValueError(
                f"`history_decay` is the share of the old mean and must be in [0, 1), got {history_decay}."
            )
        self.shape = tuple(shape)
        self.discrepancy, self.relaxation, self.previous = discrepancy, relaxation, previous
        self.gamma, self.minimum_weight, self.history_decay = gamma, minimum_weight, history_decay
        self.register_buffer("estimate", sample[..., 0].expand(num_samples, *sample.shape[:-1]).clone())
        rows = num_samples if previous == "bank" else 0
        self.register_buffer("bank", sample.expand(rows, *sample.shape).clone())  # row = batch["index"], of both

    def forward(self, outcomes: Tensor, index: Tensor, previous: Tensor | None = None) -> Tensor:
        """Return the estimated loss of each case, ``(B, *cases)``; change nothing.

        It is nan where nothing is known yet.

        Args:
            outcomes: of the student in evaluation mode, ``(B, *cases, S)``.
            index: samples, ``(B,)``; -1 for one that is not in the datalist and has no history.
            previous: of the earlier model, likewise; None: from the bank.
        """
        known = index >= 0
        rows = index.clamp_min(0)
        if previous is None:
            earlier = F.normalize(self.bank[rows], p=1.0, dim=-1)
            earlier = torch.where(_per_row(known, earlier), earlier, torch.nan)
        else:
            earlier = previous
        score = discrepancy(outcomes, earlier, self.discrepancy)
        estimate = estimate_loss(score, 1.0 if self.relaxation == "sigmoid" else self.gamma)
        mean = torch.lerp(estimate, self.estimate[rows].to(estimate.dtype), self.history_decay)
        return torch.where(_per_row(known, mean) & ~mean.isnan(), mean, estimate)

    def weight(self, estimate: Tensor) -> Tensor:
        """Probability of the pseudo-label for an `estimate`, shaped as that; 1 where nothing is known."""
        return label_weight(estimate.nan_to_num(nan=0.0), self.relaxation, self.minimum_weight, self.gamma)

    def update(self, index: Tensor, estimate: Tensor, outcomes: Tensor) -> None:
        """Store what `forward` returned and was given, for samples `index` ``(B,)`` of all processes."""
        memories = [(self.estimate, estimate)]
        if self.previous == "bank":
            memories.append((self.bank, outcomes))
        for memory, new in memories:
            rows = _per_row(index, new).expand_as(new)
            memory.scatter_reduce_(0, rows, new.to(memory.dtype), "amax", include_self=False)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """`values` ``(B,)`` as ``(B, 1, ...)``, with as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
