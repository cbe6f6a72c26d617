"""FreeMatch (Wang et al., ICLR 2023, https://arxiv.org/abs/2205.07246)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.methods.fixmatch import rows, shape_of_means, weak_to_strong

TINY = 1e-12


class Status(NamedTuple):
    """How far learning is.

    Attributes:
        confidence: mean confidence (tau_t, Eq. 5), ``(*cases)``.
        expected: mean outcome (p tilde, Eq. 6), ``(*cases, S)``.
        decided: share of each decided state (h tilde, Eq. 10), ``(*cases, S)``.
    """

    confidence: Tensor
    expected: Tensor
    decided: Tensor

    def thresholds(self) -> Threshold:
        """Return the mean confidence, less where a state is expected less often than another (Eq. 7)."""
        relative = self.expected / self.expected.amax(dim=-1, keepdim=True)
        return Threshold(relative * self.confidence.unsqueeze(-1))


class FreeMatch(SSLMethod):
    """FixMatch with thresholds that follow the mean prediction, and a loss against predicting some classes alone.

    The threshold of a class is the running mean of the confidence, times how often the class is expected compared with
    the most frequent one; both running means begin at ``1 / S`` and take in the weak views of the batch before these
    are weighed (Eq. 5 to 7). There is no threshold to choose. The fairness loss (Eq. 9 to 11) is minus the
    cross-entropy between two distributions over classes: the running mean of predictions, and the mean prediction of
    the strong views that count; each is divided by how often its predictions decide for the class.

    The paper has one class per image. Findings are ours: each has its two states as classes, with means of its own, and
    the fairness loss is the mean over findings. Of a rare finding the threshold of "present" becomes low, so that all
    predicted presences count. Masks are ours, too: voxels are samples and share their means, so that small structures
    have low thresholds; see `medssl_monai.methods.FixMatch` on views of masks.

    In several processes, a step weighs its own part of the batch by that part, and the means over all are stored. A
    class that no strong view is decided for is left out of the fairness loss (the released code adds a constant there,
    which has no gradient); without any view that counts the loss is 0.

    Args:
        network: see `medssl_monai.methods.FixMatch`.
        weight: weight of the unlabeled loss (w_u; paper 1).
        fairness_weight: weight of the fairness loss (w_f; paper 0.01 or 0.05).
        momentum: share of the old means kept per step (lambda; paper 0.999); less for runs of few thousand steps.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`; it needs names, since a mean is kept for each state.

    Raises:
        ValueError: if `momentum` is not in [0, 1), or `kind` has no names.
    """

    confidence: Tensor
    expected: Tensor
    decided: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: float = 1.0,
        fairness_weight: float = 0.01,
        momentum: float = 0.999,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` is a share and must be at least 0 and less than 1, got {momentum}.")
        self.weight, self.fairness_weight, self.momentum = weight, fairness_weight, momentum
        equal = torch.full(shape_of_means(self.kind), 1.0 / self.kind.states)
        self.register_buffer("confidence", equal[..., 0].clone())
        self.register_buffer("expected", equal.clone())
        self.register_buffer("decided", equal.clone())

    @property
    def status(self) -> Status:
        """The means over past batches."""
        return Status(self.confidence, self.expected, self.decided)

    def forward(self, batch: Batch) -> Output:
        output, strong = weak_to_strong(self, batch, self.weights, self.weight)
        fairness = self._fairness(strong, output)
        return {**output, "loss": output["loss"] + self.fairness_weight * fairness, "fairness": fairness}

    def weights(self, outcomes: Tensor) -> Tensor:
        return self.kind.confident(outcomes, self._with(self._seen(outcomes)).thresholds()).float()

    def _seen(self, outcomes: Tensor) -> Status:
        """Return the means of a batch."""
        outcomes = rows(self.kind, outcomes)
        decided = self.kind.one_hot(self.kind.decide(outcomes))
        return Status(*(part.mean(dim=0) for part in (self.kind.confidence(outcomes), outcomes, decided)))

    def _with(self, seen: Status) -> Status:
        return Status(*(torch.lerp(new, old, self.momentum) for old, new in zip(self.status, seen, strict=True)))

    def _fairness(self, strong: Tensor, output: Output) -> Tensor:
        status, outcomes = self._with(self._seen(output["outcomes"])), rows(self.kind, self.kind.outcomes(strong))
        counted = output["weights"].reshape(outcomes.shape[:-1]).unsqueeze(-1)
        decided = (self.kind.one_hot(self.kind.decide(outcomes)) * counted).sum(dim=0)
        wanted = _normalized(status.expected / status.decided.clamp_min(TINY))
        found = _normalized((outcomes * counted).sum(dim=0) * torch.where(decided > 0, 1.0 / decided.clamp_min(1), 0.0))
        return torch.where(decided > 0, wanted * found.clamp_min(TINY).log(), 0.0).sum(dim=-1).mean()

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        seen = Status(*(gather(part.unsqueeze(0)).mean(dim=0) for part in self._seen(output["outcomes"])))
        for stored, new in zip(self.status, self._with(seen), strict=True):
            stored.copy_(new)
        super().after_step(batch, output)

    def thresholds(self) -> Mapping[str, Threshold]:
        return {"label": self.status.thresholds()}


def _normalized(values: Tensor) -> Tensor:
    return values / values.sum(dim=-1, keepdim=True).clamp_min(TINY)
