"""BoostMIS (Zhang et al., CVPR 2022, https://arxiv.org/abs/2203.02533): the learner.

The active part is in `medssl_monai.query.boostmis`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.losses.pseudo_label import DistributionAlignment, Normalization
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.methods.fixmatch import weak_to_strong


def adaptive_threshold(count: Tensor, previous: Tensor, share: float | Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * min(1, Count_t / Count_{t-1}) + beta * N_A / (2 K)`` (Sec. 3.2 of the paper).

    The ratio is 1 where `previous` is 0, which includes the first time (our choice, the paper does not say).

    Args:
        count: confident samples now (Count_t).
        previous: confident samples before (Count_{t-1}).
        share: size of the last query over the largest size that it could have had (N_A / (2 K)), in [0, 1].
        alpha: weight of the ratio.
        beta: weight of the share.
    """
    ratio = torch.where(previous > 0, (count / previous.clamp_min(1)).clamp_max(1.0), torch.ones_like(count) * 1.0)
    return alpha * ratio + beta * share


class AdaptiveThreshold(nn.Module):
    """The confidence threshold that follows the state of learning and of annotation.

    It remembers the last confidence of every unlabeled sample, and once per `period` compares how many are above
    ``alpha + beta`` with how many were. Both counts are over the samples that were unlabeled at both times, so that
    annotating confident samples does not lower the threshold. The rule only ever lowers FixMatch's threshold.

    The paper has one class per image and one threshold for all classes. For findings, ours: each has a threshold of its
    own, by the count of images of whose presence or absence the learner is sure; the share of the query is common to
    all. Of a rare finding nearly all of these are absences, so that its threshold hardly moves.

    Args:
        num_samples: length of the datalist, N.
        shape: of the outcomes of a sample, ``(*cases, S)``: each case has a threshold.
        alpha: see `adaptive_threshold`; the paper's value is not known, the code has 0.9.
        beta: likewise, 0.05.
        period: optimizer steps from one comparison to the next, the unit of t, which the paper does not give; one
            epoch is our proposal.
        scope: count over the ``epoch`` (all samples, last confidence known) or over each ``batch``, every step; what is
            counted in one period, or batch, sets the threshold of the next.
        last_step: optimizer step from which on the threshold is ``alpha + beta`` (T_max, which the code lacks); None:
            never.
        minimum: lower bound. The literal rule falls to about ``beta`` and accepts everything when no sample is
            confident any more; default: ``max(1 / S, 0.5)``, and of findings 0.75, since every prediction reaches 0.5.
            0 is the literal rule.
        query_size: size of the last query and its largest possible size; (0, 0) before the first, which counts as a
            share of 1 (the code passes the same).

    Raises:
        ValueError: if a value is out of its range.
    """

    confidence: Tensor
    previous: Tensor
    count: Tensor
    value: Tensor
    share: Tensor

    def __init__(
        self,
        num_samples: int,
        shape: Sequence[int],
        alpha: float = 0.9,
        beta: float = 0.05,
        period: int = 1,
        scope: Literal["epoch", "batch"] = "epoch",
        last_step: int | None = None,
        minimum: float | None = None,
        query_size: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        if alpha < 0 or beta < 0 or alpha + beta > 1:
            raise ValueError(f"`alpha` + `beta` is a probability, and neither is negative; got {alpha} and {beta}.")
        if period < 1:
            raise ValueError(f"`period` counts optimizer steps and must be at least 1, got {period}.")
        if scope not in ("epoch", "batch"):
            raise ValueError(f"`scope` must be 'epoch' or 'batch', got {scope!r}.")
        self.alpha, self.beta, self.period, self.scope, self.last_step = alpha, beta, period, scope, last_step
        self.shape, cases = tuple(shape), tuple(shape[:-1])
        default = 0.75 if cases else max(1.0 / shape[-1], 0.5)
        self.minimum = default if minimum is None else minimum
        if not 0.0 <= self.minimum <= 1.0:
            raise ValueError(f"`minimum` is a probability and must be in [0, 1], got {minimum}.")
        self.register_buffer("confidence", torch.full((num_samples, *cases), torch.nan))  # row = batch["index"]
        self.register_buffer("previous", torch.full((num_samples, *cases), torch.nan))
        self.register_buffer("count", torch.zeros(cases))  # of the last batch, for scope "batch"
        self.register_buffer("share", torch.ones(()))
        self.register_buffer("value", torch.full(cases, alpha + beta))
        self.set_query_size(query_size)
        self.value.copy_(self._bounded(alpha + beta * self.share))

    def _bounded(self, value: Tensor) -> Tensor:
        return value.clamp_min(min(self.minimum, self.alpha + self.beta))

    def at(self, step: int) -> Tensor:
        """Return the threshold for optimizer step `step` (eps_t) on the device, a scalar, or ``(K,)`` of findings."""
        if self.last_step is not None and step >= self.last_step:
            return torch.full_like(self.value, self.alpha + self.beta)
        return self.value

    def update(self, index: Tensor, confidence: Tensor, step: int) -> None:
        """Take in the confidence of samples `index` ``(B,)``.

        Args:
            index: positions in the datalist.
            confidence: ``(B,)``, or ``(B, K)`` of findings.
            step: optimizer steps before this one.
        """
        bar = self.alpha + self.beta
        if self.scope == "batch":
            count = (confidence > bar).sum(dim=0).to(self.count.dtype)
            self.value.copy_(self._bounded(adaptive_threshold(count, self.count, self.share, self.alpha, self.beta)))
            self.count.copy_(count)
            return
        # an index that was drawn twice keeps its larger confidence: the same on every device and for every order
        rows = index.view(-1, *[1] * (confidence.ndim - 1)).expand_as(confidence)
        self.confidence.scatter_reduce_(0, rows, confidence.to(self.confidence.dtype), "amax", include_self=False)
        if (step + 1) % self.period == 0:
            both = ~self.confidence.isnan() & ~self.previous.isnan()
            count, before = ((both & (part > bar)).sum(dim=0) for part in (self.confidence, self.previous))
            self.value.copy_(self._bounded(adaptive_threshold(count, before, self.share, self.alpha, self.beta)))
            self.previous.copy_(self.confidence)

    def forget(self, index: Tensor) -> None:
        """Leave samples out of the counts, because they are labeled now."""
        index = index.to(self.confidence.device)
        self.confidence[index] = torch.nan
        self.previous[index] = torch.nan

    def set_query_size(self, query_size: tuple[int, int]) -> None:
        """Feed back the size of a query (N_A) and its largest possible size (K times the active selectors)."""
        returned, possible = query_size
        self.share.fill_(min(1.0, returned / possible) if possible else 1.0)


class BoostMIS(SSLMethod):
    """FixMatch with a threshold that adapts to learning and annotation.

    BatchNorm as in `medssl_monai.methods.FixMatch`; the deployed network has averaged parameters and BatchNorm
    statistics, where the released code copies the student's (see `medssl_monai.networks.EMATeacher`).

    Args:
        network: classifier; images ``(B, C, *spatial)`` to logits ``(B, K)``.
        threshold: see `AdaptiveThreshold`.
        weight: weight of the unlabeled loss (lambda_u).
        normalization: ``batch`` as the released code, ``selected`` as the paper; see
            `medssl_monai.losses.weighted_mean`.
        temperature: None: hard pseudo-labels (paper and code); else soft targets.
        alignment: distribution alignment, off as in the code.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`; of findings each has its own threshold, and pairs of an image and a finding are learnt
            from as in `medssl_monai.methods.FixMatch`, rare findings included.

    Raises:
        ValueError: if `threshold` or `alignment` is for labels of another shape.
    """

    needs_fixed_cases: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        threshold: AdaptiveThreshold,
        weight: float = 1.0,
        normalization: Normalization = "batch",
        temperature: float | None = None,
        alignment: DistributionAlignment | None = None,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        self.check_shape(threshold=threshold, alignment=alignment)
        self.threshold, self.weight, self.alignment = threshold, weight, alignment
        self.normalization, self.temperature = normalization, temperature

    def forward(self, batch: Batch) -> Output:
        output, _ = weak_to_strong(
            self, batch, self._weights, self.weight, self.alignment, self.normalization, self.temperature
        )
        return {**output, "threshold": self.threshold.at(self.steps_done).mean()}  # of findings, for the log

    def _weights(self, outcomes: Tensor) -> Tensor:
        return self.kind.confident(outcomes, self.thresholds()["label"]).float()

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        index, confidence = gather(batch["unlabeled"]["index"]), gather(output["confidence"])  # equal on all ranks
        self.threshold.update(index, confidence, self.steps_done)
        if self.alignment is not None:
            self.alignment.update(gather(output["mean_outcomes"].unsqueeze(0)).mean(dim=0))
        super().after_step(batch, output)

    @torch.no_grad()
    def on_query(self, index: Tensor, query_size: tuple[int, int]) -> None:
        self.threshold.forget(index)
        self.threshold.set_query_size(query_size)

    def thresholds(self) -> Mapping[str, Threshold]:
        return {"label": Threshold(self.threshold.at(self.steps_done).unsqueeze(-1))}
