"""Queries for classes and masks at once: which image to annotate next, and with what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from medssl_monai.data.datalist import Key
from medssl_monai.query.base import PoolOutputs, Query
from medssl_monai.query.uncertainty import refuse_masks

COSTS: Mapping[Key, float] = MappingProxyType({"label": 1.0, "mask": 10.0})
"""A mask takes as long to draw as ten images take to classify."""

ROUNDING = 1e-9
"""Share of the budget by which costs such as 0.1, which binary numbers do not hold exactly, may add up to more."""


class Offer(NamedTuple):
    """One annotation that could be bought."""

    position: int
    kind: Key
    loss: float
    cost: float
    value: float


class JointQuery:
    """Class or mask, whichever of an image promises more for what it costs to annotate.

    Ours, and not published; its parts are standard in decision theory (Settles, "Active learning literature survey",
    2009: Sec. 3, and on labels that differ in cost): the loss that the network expects by its own probabilities, and
    its ratio to the cost. An image has a class to offer, or a mask, or both, as far as they are unknown. Each offer has
    the

    - loss that is expected if the prediction stays as it is: of a class `expected_error`, of a mask
      `expected_dice_loss`; between 0 and 1, in the metric that the annotation is for;
    - value, this loss by the cost of the annotation.

    Offers are taken by falling value, of an image not more than one per query, while they fit into the budget. One that
    does not fit is passed over: a mask that is too dear leaves the rest of the budget to classes, also to the class of
    the same image.

    The loss that an annotation really saves is unknown; the expected one, all of the present loss, stands for it. It is
    as good as the network's probabilities: an image of which the network is sure and wrong has no value, and one that
    nobody could tell has much. Both ask for representative images beside it, such as `AfterColdStart` and `Clusters`
    at the start.

    Without `PoolOutputs.beside` there are classes only, and the query is the one of the highest expected error.

    Args:
        costs: of a ``label`` and of a ``mask``, in the unit of the budget; such as minutes.
        worth: points of Dice that count as much as one point of accuracy.

    Raises:
        ValueError: if a cost is missing, of something else or not above 0, or `worth` is not above 0; of a query, if
            the outputs themselves are of masks.
    """

    def __init__(self, costs: Mapping[Key, float] = COSTS, worth: float = 1.0) -> None:
        if set(costs) != set(get_args(Key)) or not all(0 < cost < math.inf for cost in costs.values()):
            raise ValueError(f"`costs` has one above 0 for each of {get_args(Key)}, got {dict(costs)}.")
        if not 0 < worth < math.inf:
            raise ValueError(f"`worth` is what accuracy counts in Dice and must be above 0, got {worth}.")
        self.costs, self.worth = dict(costs), worth
        prices = ", ".join(f"{kind} {cost:g}" for kind, cost in self.costs.items())
        self.__name__ = f"JointQuery ({prices}; worth {worth:g})"

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        """The query; `budget` is what its annotations may cost together. Reads no label and draws nothing."""
        refuse_masks(outputs, "JointQuery")
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
            ["expected error" if offer.kind == "label" else "expected Dice loss" for offer in chosen.values()],
            {
                name: torch.tensor([getattr(offer, name) for offer in chosen.values()], dtype=torch.double)
                for name in ("value", "loss", "cost")
            },
            limit=_most(offers, affordable),
            kind=None if outputs.beside is None else [offer.kind for offer in chosen.values()],
        )

    def _offers(self, outputs: PoolOutputs) -> Iterator[Offer]:
        """Classes, then masks, each in the order of their index."""
        rows = outputs.unlabeled
        losses = expected_error(outputs.probs[rows], outputs.task == "multilabel")
        yield from self._priced("label", outputs.index[rows], losses, self.worth)
        if outputs.beside is not None:
            for rows, probs in outputs.beside.maps(outputs.beside.unlabeled):
                yield from self._priced("mask", outputs.beside.index[rows], expected_dice_loss(probs))

    def _priced(self, kind: Key, index: Tensor, losses: Tensor, worth: float = 1.0) -> Iterator[Offer]:
        cost = self.costs[kind]
        for position, loss in zip(index.tolist(), losses.tolist(), strict=True):
            yield Offer(position, kind, loss, cost, worth * loss / cost)


def expected_error(probs: Tensor, findings: bool = False) -> Tensor:
    """How often the predicted class is wrong, if the probabilities are right: one less that of the predicted class.

    Args:
        probs: ``(B, K)``, of classes or of findings.
        findings: each is there or not; the mean over the findings.

    Returns:
        ``(B,)`` in float64, in [0, 1].
    """
    probs = probs.double()
    return torch.minimum(probs, 1.0 - probs).mean(dim=1) if findings else 1.0 - probs.amax(dim=1)


def expected_dice_loss(probs: Tensor) -> Tensor:
    """Dice loss of predicted masks, if the probabilities are right: a mean over the classes but the background.

    Of a class with the voxels ``A`` that are predicted to be of it it is ``1 - 2 E|A and Y| / (|A| + E|Y|)``: the ratio
    of expectations over true masks ``Y``, in place of the expectation of the ratio, needs the probability of each voxel
    and nothing of how they depend on each other. Where no voxel is predicted to be of a class, that would be 1 however
    improbable the class is, and images that lack a structure would come first. There, Dice is 1 if the class is truly
    absent and 0 if it is not (`medssl_monai.metrics.segmentation`), and the loss is the chance that there is any of it:
    that of its most probable voxel, which is as low as it can be.

    Args:
        probs: of each voxel, ``(B, K, *spatial)``.

    Returns:
        ``(B,)``, in [0, 1].
    """
    probs = probs.flatten(2)
    predicted = torch.zeros_like(probs).scatter_(1, probs.argmax(dim=1, keepdim=True), 1.0)
    size, overlap = predicted.sum(dim=2), (probs * predicted).sum(dim=2)
    loss = torch.where(size > 0, 1.0 - 2.0 * overlap / (size + probs.sum(dim=2)), probs.amax(dim=2))
    return loss[:, 1:].mean(dim=1)


def _most(offers: list[Offer], affordable: float) -> int:
    """How many images could be asked for: the cheapest offers of all, one of each image."""
    cheapest: dict[int, float] = {}
    for offer in offers:
        cheapest[offer.position] = min(offer.cost, cheapest.get(offer.position, math.inf))
    totals = torch.tensor(sorted(cheapest.values()), dtype=torch.double).cumsum(dim=0)
    return int((totals <= affordable).sum())
