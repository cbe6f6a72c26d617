"""What a query strategy gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from medssl_monai.losses.pseudo_label import Threshold, confident
from medssl_monai.task import Task


@dataclass(frozen=True)
class PoolOutputs:
    """Predictions for a pool; row r belongs to sample ``index[r]``.

    Args:
        index: positions in the datalist, ``(N,)`` long.
        labeled: whether the sample is labeled, ``(N,)`` bool.
        probs: class probabilities, or those of each finding, ``(N, K)``.
        embedding: ``(N, D)``, or None if the network shows none.
        network: what predicted, in evaluation mode; has ``head`` (embeddings to logits) if there is an embedding.
        images: gives the images ``(B, C, *spatial)`` of positions ``(B,)``, for strategies that look at them again.
        threshold: confidence from which on the learner pseudo-labels by itself, or None; of findings see
            `medssl_monai.losses.pseudo_label.confident`.
        task: what the probabilities are of.
    """

    index: Tensor
    labeled: Tensor
    probs: Tensor
    embedding: Tensor | None = None
    network: nn.Module | None = None
    images: Callable[[Tensor], Tensor] | None = None
    threshold: Threshold | None = None
    task: Task = "multiclass"

    def __len__(self) -> int:
        return len(self.index)

    @property
    def doubtful(self) -> Tensor:
        """Which samples the learner does not pseudo-label, or not all findings of, ``(N,)``; all without threshold."""
        if self.threshold is None:
            return torch.ones(len(self), dtype=torch.bool)
        sure = confident(self.probs, self.threshold, self.task)
        return ~(sure.all(dim=1) if sure.ndim > 1 else sure)


@dataclass(frozen=True)
class Query:
    """The samples to annotate, best first.

    Args:
        index: positions in the datalist, ``(n,)`` long, distinct.
        reason: why each was chosen, n words.
        scores: by name, ``(n,)`` each.
        limit: how many could have been returned at most; n for strategies that always fill their budget.
    """

    index: Tensor
    reason: list[str]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    limit: int = -1

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> tuple[int, int]:
        """Samples returned, and samples possible."""
        return len(self), len(self) if self.limit < 0 else self.limit


class QueryStrategy(Protocol):
    """``strategy(outputs, budget, generator) -> query``: which unlabeled samples to annotate, best first."""

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query: ...


def name_of(strategy: QueryStrategy) -> str:
    """Name of a strategy for people, with the arguments that `functools.partial` has bound."""
    function = getattr(strategy, "func", strategy)
    bound = ", ".join(f"{name}={value}" for name, value in getattr(strategy, "keywords", {}).items())
    return getattr(function, "__name__", type(function).__name__) + (f" ({bound})" if bound else "")


def top_unlabeled(outputs: PoolOutputs, score: Tensor, budget: int, name: str) -> Query:
    """The `budget` unlabeled samples with the highest score ``(N,)``; ties go to the smaller index."""
    rows = (~outputs.labeled).nonzero().squeeze(1)
    rows = rows[outputs.index[rows].argsort()]
    rows = rows[score[rows].argsort(descending=True, stable=True)[:budget]]
    return Query(outputs.index[rows], [name] * len(rows), {name: score[rows]})
