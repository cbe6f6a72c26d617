"""Uncertainty sampling, of images whose predictions are kept."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import Query, top_unlabeled

Reduction = Literal["sum", "max"]
"""How the uncertainties of an image's cases, such as its findings, become one: their sum, or the largest."""


def entropy(outputs: PoolOutputs, budget: int, generator: torch.Generator, reduction: Reduction = "sum") -> Query:
    """Highest predictive entropy, in nats (Settles 2009, Sec. 3.1).

    Of several findings each has the entropy of a coin. Their sum is the entropy of all answers together, if findings
    were independent; it prefers images of which little is clear. The largest alone prefers images with one open
    question, however clear the rest is. With many rare findings neither is known to beat `random`: compare.

    Args:
        outputs: see `PoolOutputs`.
        budget: how many.
        generator: not used.
        reduction: over the cases of an image, where it has several: their ``sum``, or the ``max``.

    Raises:
        ValueError: if there are no predictions of whole images, or `reduction` is neither.
    """
    score = reduced(state_entropy(outputs.outcomes("entropy")), reduction)
    return top_unlabeled(outputs, score, budget, "entropy")


def margin(outputs: PoolOutputs, budget: int, generator: torch.Generator, reduction: Reduction = "sum") -> Query:
    """Smallest gap between the two most probable states (Scheffer et al. 2001).

    The gap of a finding is that between present and absent; see `entropy` for the arguments and errors.
    """
    first, second = outputs.outcomes("margin").topk(2, dim=-1).values.unbind(dim=-1)
    return top_unlabeled(outputs, reduced(second - first, reduction), budget, "margin")


def random(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
    """Return samples drawn uniformly at random: the baseline that every other strategy has to beat."""
    score = torch.empty(len(outputs))
    score[outputs.index.argsort()] = torch.rand(len(outputs), generator=generator)  # tied to the sample, not to its row
    return top_unlabeled(outputs, score, budget, "random")


def state_entropy(outcomes: Tensor) -> Tensor:
    """Return the entropy of each case ``(...)`` in nats, from outcomes ``(..., S)``."""
    return torch.special.entr(outcomes).sum(dim=-1)


def reduced(cases: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Return one value ``(N,)`` for each image from those of its cases ``(N, *cases)``.

    Raises:
        ValueError: if `reduction` is neither ``sum`` nor ``max``.
    """
    if reduction not in ("sum", "max"):
        raise ValueError(f"`reduction` must be 'sum' or 'max', got {reduction!r}.")
    if cases.ndim == 1:
        return cases
    return cases.flatten(1).sum(dim=1) if reduction == "sum" else cases.flatten(1).amax(dim=1)
