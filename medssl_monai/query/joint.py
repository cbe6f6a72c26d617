"""Queries for several parts of the labels at once: which image to annotate next, and with what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from medssl_monai.data.datalist import FLAGS
from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import Query

COSTS: Mapping[str, float] = MappingProxyType({"label": 1.0, "mask": 10.0})
"""A mask takes as long to draw as ten images take to classify."""

ROUNDING = 1e-9
"""Share of the budget by which costs such as 0.1, which binary numbers do not hold exactly, may add up to more."""


class Offer(NamedTuple):
    """One annotation that could be bought."""

    position: int
    part: str
    reason: str
    loss: float
    cost: float
    value: float


class JointQuery:
    """Class or mask, whichever of an image promises more for what it costs to annotate.

    Ours, and not published; its ingredients are standard in decision theory (Settles, "Active learning literature
    survey", 2009: Sec. 3, and on labels that differ in cost): the loss that the network expects by its own
    probabilities, and its ratio to the cost. An image has to offer each part of its labels that is unknown: a class, or
    a mask, or both. Each offer has the

    - loss that is expected if the prediction stays as it is (`medssl_monai.kinds.Kind.expected_loss`): of a class the
      expected error, of a mask the expected Dice loss; between 0 and 1, in the metric that the annotation is for;
    - value, this loss by the cost of the annotation.

    Offers are taken by falling value, of an image not more than one per query, while they fit into the budget. One that
    does not fit is passed over: a mask that is too dear leaves the rest of the budget to classes, also to the class of
    the same image.

    The loss that an annotation really saves is unknown; the expected one, all of the present loss, stands for it. It is
    as good as the network's probabilities: an image of which the network is sure and wrong has no value, and one that
    nobody could tell has much. Both ask for representative images beside it, such as `AfterColdStart` and `Clusters`
    at the start.

    Where there is one part alone, the query is the one of the highest expected loss.

    Args:
        costs: of each part, such as a ``label`` and a ``mask``, in the unit of the budget; such as minutes.
        worth: what a point of the first part's metric counts in points of the others', such as accuracy in Dice.

    Raises:
        ValueError: if a cost is missing or not above 0, or `worth` is not above 0.
    """

    def __init__(self, costs: Mapping[str, float] = COSTS, worth: float = 1.0) -> None:
        if not FLAGS.keys() <= costs.keys() or not all(0 < cost < math.inf for cost in costs.values()):
            raise ValueError(f"`costs` has one above 0 for each of {tuple(FLAGS)}, got {dict(costs)}.")
        if not 0 < worth < math.inf:
            raise ValueError(f"`worth` is what accuracy counts in Dice and must be above 0, got {worth}.")
        self.costs, self.worth = dict(costs), worth
        prices = ", ".join(f"{part} {cost:g}" for part, cost in self.costs.items())
        self.__name__ = f"JointQuery ({prices}; worth {worth:g})"

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        """Return the query; `budget` is what its annotations may cost together. Reads no label and draws nothing.

        Raises:
            ValueError: if a part has no cost.
        """
        if lost := outputs.parts.keys() - self.costs.keys():
            raise ValueError(f"`costs` has none for {min(lost)!r}, which the labels have as well; add it.")
        offers = list(self._offers(outputs)) if budget > 0 else []
        affordable = budget * (1 + ROUNDING)
        chosen: dict[int, Offer] = {}
        spent = 0.0
        for offer in sorted(offers, key=lambda offer: (-offer.value, offer.position)):
            if offer.position not in chosen and spent + offer.cost <= affordable:
                chosen[offer.position] = offer
                spent += offer.cost
        return Query(
            torch.tensor(list(chosen), dtype=torch.long),
            [offer.reason for offer in chosen.values()],
            {
                name: torch.tensor([getattr(offer, name) for offer in chosen.values()], dtype=torch.double)
                for name in ("value", "loss", "cost")
            },
            limit=_most(offers, affordable),
            part=[offer.part for offer in chosen.values()] if outputs.others else None,
        )

    def _offers(self, outputs: PoolOutputs) -> Iterator[Offer]:
        """Yield the offers of each part in turn, in the order of their index."""
        for part, own in outputs.parts.items():
            cost, worth = self.costs[part], self.worth if own is outputs else 1.0
            for rows, outcomes in own.outcomes_of(own.unlabeled):
                losses = own.kind.expected_loss(outcomes).tolist()
                for position, loss in zip(own.index[rows].tolist(), losses, strict=True):
                    yield Offer(position, part, own.kind.expected, loss, cost, worth * loss / cost)


def _most(offers: list[Offer], affordable: float) -> int:
    """Return how many images could be asked for: the cheapest offers of all, one of each image."""
    cheapest: dict[int, float] = {}
    for offer in offers:
        cheapest[offer.position] = min(offer.cost, cheapest.get(offer.position, math.inf))
    totals = torch.tensor(sorted(cheapest.values()), dtype=torch.double).cumsum(dim=0)
    return int((totals <= affordable).sum())
