"""Queries of an exact size, so that runs with different strategies end with equally many labels."""

from __future__ import annotations

from dataclasses import replace

import torch

from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import Query, QueryStrategy, name_of, of_first_part


class ExactBudget:
    """Make a strategy return exactly `budget` samples, as long as it finds so many.

    BoostMIS's union of two lists holds K to 2 K samples, less if few are left below the learner's threshold. Cutting
    the union for K = `budget` would not do, since the list that is balanced over the classes has its classes one after
    the other. So the strategy is asked with the smallest K whose answer is long enough, and what is too much at its
    end, rarely more than two samples, is dropped; `Query.limit` is that of this K, so that the overlap of the lists is
    fed back to BoostMIS's threshold as without an exact budget. If no K is enough, the strategy is asked again for
    what is missing, of all unlabeled samples, whatever the threshold; these have the reason ``filled``.

    The strategy is asked about ``log2(budget)`` times, each time with the same randomness.

    Args:
        strategy: its answer grows with its budget, by and large.
    """

    def __init__(self, strategy: QueryStrategy) -> None:
        self.strategy = strategy
        self.__name__ = f"exactly the budget of {name_of(strategy)}"

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        state = generator.get_state()
        wanted = min(budget, int((~outputs.labeled).sum()))
        asked = more = self._smallest(outputs, wanted, generator, state)
        while len(asked) < wanted and (asked is more or len(more)):
            taken = outputs.labeled | torch.isin(outputs.index, asked.index)
            others = replace(outputs, labeled=taken, threshold=None)
            more = self._smallest(others, wanted - len(asked), generator, state)
            asked = Query(
                torch.cat([asked.index, more.index]),
                [*asked.reason, *["filled"] * len(more)],
                {name: torch.cat([score, more.scores[name]]) for name, score in asked.scores.items()},
                limit=asked.size[1] + more.size[1],
            )
        return asked

    def _smallest(self, outputs: PoolOutputs, wanted: int, generator: torch.Generator, state: torch.Tensor) -> Query:
        """Return the answer for the smallest K that gives `wanted` samples, cut to these; else all that can be had."""

        def ask(budget: int) -> Query:
            generator.set_state(state)
            return of_first_part(self.strategy(outputs, budget, generator), self.strategy)

        too_few, enough, most = 0, wanted, int((~outputs.labeled).sum())
        answer = ask(enough)
        while len(answer) < wanted and enough < most:
            too_few, enough = enough, min(2 * enough, most)
            answer = ask(enough)
        while len(answer) >= wanted and enough - too_few > 1:
            middle = (too_few + enough) // 2
            smaller = ask(middle)
            if len(smaller) >= wanted:
                enough, answer = middle, smaller
            else:
                too_few = middle
        scores = {name: score[:wanted] for name, score in answer.scores.items()}
        return Query(answer.index[:wanted], answer.reason[:wanted], scores, limit=answer.size[1])
