"""Uncertainty sampling."""

from __future__ import annotations

import torch

from medssl_monai.query.base import PoolOutputs, Query, top_unlabeled


def entropy(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
    """Highest predictive entropy, in nats (Settles 2009, Sec. 3.1)."""
    return top_unlabeled(outputs, torch.special.entr(outputs.probs).sum(dim=1), budget, "entropy")


def margin(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
    """Smallest gap between the two most probable classes (Scheffer et al. 2001)."""
    first, second = outputs.probs.topk(2, dim=1).values.unbind(dim=1)
    return top_unlabeled(outputs, second - first, budget, "margin")


def random(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
    """Uniformly at random: the baseline that every other strategy has to beat."""
    score = torch.empty(len(outputs))
    score[outputs.index.argsort()] = torch.rand(len(outputs), generator=generator)  # tied to the sample, not to its row
    return top_unlabeled(outputs, score, budget, "random")
