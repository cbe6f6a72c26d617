"""Several strategies in one: one after the other, or each for a part of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import Query, QueryStrategy, name_of, of_first_part
from medssl_monai.query.clusters import apportion


class AfterColdStart:
    """One strategy until there are enough labels for the predictions to mean something, then another.

    Args:
        first: asks while fewer than `labels` samples are labeled; such as `medssl_monai.query.Clusters`.
        then: asks from then on; such as `medssl_monai.query.mask_entropy`.
        labels: how many are enough. With 1, only the very first query is left to `first`.
    """

    def __init__(self, first: QueryStrategy, then: QueryStrategy, labels: int = 1) -> None:
        self.first, self.then, self.labels = first, then, labels
        self.__name__ = f"{name_of(first)}, from {labels} labels on {name_of(then)}"

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        cold = int(outputs.labeled.sum()) < self.labels
        return (self.first if cold else self.then)(outputs, budget, generator)


class Mixed:
    """Parts of the budget for several strategies, such as two thirds typical and one third uncertain samples.

    They are asked one after the other; to each, what those before it chose counts as labeled, so that no sample is
    chosen twice. The query has their answers by turns, in proportion, and no scores, which could not be compared.

    Args:
        strategies: each must fill the budget that it is given.
        shares: of the budget, in any unit, one for each; rounded by `medssl_monai.query.clusters.apportion`.

    Raises:
        ValueError: if there is not one share above 0 for each strategy.
    """

    def __init__(self, strategies: Sequence[QueryStrategy], shares: Sequence[float]) -> None:
        if not strategies or len(strategies) != len(shares) or min(shares) <= 0:
            raise ValueError(
                f"Mixed needs a share above 0 for each strategy, got {list(shares)} for {len(strategies)} of them."
            )
        self.strategies, self.shares = list(strategies), list(shares)
        parts = (f"{share:g} {name_of(strategy)}" for strategy, share in zip(strategies, shares, strict=True))
        self.__name__ = " + ".join(parts)

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        """Return the query.

        Raises:
            ValueError: if a strategy gives more or fewer samples than it was asked for, or asks for several parts.
        """
        budget = min(budget, len(outputs.unlabeled))
        chosen: list[tuple[float, int, str]] = []
        for strategy, count in zip(self.strategies, apportion(self.shares, budget), strict=True):
            part = of_first_part(strategy(outputs, count, generator), strategy)
            if len(part) != count:
                raise ValueError(
                    f"{name_of(strategy)} chose {len(part)} samples where {count} were asked for; wrap it in "
                    "`medssl_monai.query.budget.ExactBudget` to mix it."
                )
            places = [(place + 0.5) / count for place in range(count)]
            chosen += zip(places, part.index.tolist(), part.reason, strict=True)
            outputs = replace(outputs, labeled=outputs.labeled | torch.isin(outputs.index, part.index))
        chosen.sort(key=lambda entry: entry[0])
        index = torch.tensor([index for _, index, _ in chosen], dtype=torch.long)
        return Query(index, [reason for _, _, reason in chosen])
