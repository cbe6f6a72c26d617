"""What a query strategy gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from medssl_monai.pool.outputs import PoolOutputs


@dataclass(frozen=True)
class Query:
    """The samples to annotate, best first.

    Args:
        index: positions in the datalist, ``(n,)`` long, distinct.
        reason: why each was chosen, n words.
        scores: by name, ``(n,)`` each.
        limit: how many could have been returned at most; n for strategies that always fill their budget.
        part: which part of the labels to annotate each with, n keys such as ``label``; None: the first.
    """

    index: Tensor
    reason: list[str]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    limit: int = -1
    part: list[str] | None = None

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


def of_first_part(query: Query, strategy: QueryStrategy) -> Query:
    """Return the query, which must not ask for several parts of the labels at once.

    Raises:
        ValueError: if it does.
    """
    if query.part is not None:
        raise ValueError(
            f"{name_of(strategy)} asks for several parts of the labels, and its budget is in units of cost and not in "
            "samples; use it by itself."
        )
    return query


def top_unlabeled(outputs: PoolOutputs, score: Tensor, budget: int, name: str) -> Query:
    """Return the `budget` unlabeled samples with the highest score ``(N,)``; ties go to the smaller index."""
    rows = outputs.unlabeled
    rows = rows[score[rows].argsort(descending=True, stable=True)[:budget]]
    return Query(outputs.index[rows], [name] * len(rows), {name: score[rows]})


Chosen = tuple[Tensor, list[str], Tensor]
"""Rows ``(n,)`` in the order of the query, why each was chosen, and scores ``(n,)``."""


class EmbeddingQuery(ABC):
    """A strategy that looks at embeddings and at what is labeled, and at no prediction; a subclass says what to choose.

    Args:
        encoder: a pre-trained network with `embed`, which embeds in place of the one that is queried; copied, so that
            training changes nothing. Images go in as they are, without distortion and in the order of their index.

    Attributes:
        score: what the query calls its scores.
    """

    score: ClassVar[str]

    def __init__(self, encoder: nn.Module | None = None) -> None:
        self.encoder = deepcopy(encoder)

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        """Return the query, of `budget` samples or of all that are unlabeled.

        Raises:
            ValueError: if there are no embeddings, see `PoolOutputs.features`.
        """
        budget = min(budget, len(outputs.unlabeled))
        if budget <= 0:
            return Query(torch.zeros(0, dtype=torch.long), [], {self.score: torch.zeros(0)})
        order = outputs.index.argsort()
        features, labeled = outputs.features(self.encoder)[order], outputs.labeled[order]
        rows, reason, scores = self.choose(features, labeled, budget, generator)
        return Query(outputs.index[order[rows]], reason, {self.score: scores})

    @abstractmethod
    def choose(self, features: Tensor, labeled: Tensor, budget: int, generator: torch.Generator) -> Chosen:
        """Choose unlabeled samples, given in the order of their index.

        Args:
            features: ``(N, D)``, float64.
            labeled: ``(N,)`` bool.
            budget: n, at least 1, and at most as many as are unlabeled.
            generator: where chance decides.
        """
