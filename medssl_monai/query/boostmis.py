"""BoostMIS's query (Zhang et al., CVPR 2022, https://arxiv.org/abs/2203.02533): unstable and uncertain samples.

Two selectors look at the samples that the learner could not pseudo-label: AUS, by how much the prediction gives way to
a small adversarial shift of the representation, and BUS, by density-weighted entropy, balanced over the predicted
classes. Their union is the query.

The paper has one class per image. Of several findings, each is taken for independent of the others, so that divergence
and entropy are sums over them; a sample counts as pseudo-labeled if all of its findings are; its predicted class is its
most probable finding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import Query
from medssl_monai.query.instability import Instability
from medssl_monai.query.neighbors import graph_degree, nearest_neighbors
from medssl_monai.query.uncertainty import Reduction, reduced, state_entropy


class DensityEntropy:
    """BUS: entropy weighted with the density about the sample, balanced over predicted classes.

    Args:
        density: ``degree`` of the neighbour graph (the repaired line of the released code; the paper's expression is
            not known), ``mean_sim``: mean cosine to the neighbours (information density, Settles & Craven 2008), or
            ``none``: plain entropy.
        neighbors: M, the sample itself included; the paper's value is not known, 10 is our proposal.
        balanced: take ``K // C`` of every predicted class; else the K best of all.
        fill: top up to K from the ranking of all, where a class has too few.
        reduction: over the cases of an image, see `medssl_monai.query.entropy`.
    """

    def __init__(
        self,
        density: Literal["degree", "mean_sim", "none"] = "degree",
        neighbors: int = 10,
        balanced: bool = True,
        fill: bool = True,
        reduction: Reduction = "sum",
    ) -> None:
        if density not in ("degree", "mean_sim", "none"):
            raise ValueError(f"`density` must be 'degree', 'mean_sim' or 'none', got {density!r}.")
        if neighbors < 2:
            raise ValueError(f"`neighbors` counts the sample itself and must be at least 2, got {neighbors}.")
        self.density, self.neighbors, self.balanced, self.fill = density, neighbors, balanced, fill
        self.reduction: Reduction = reduction

    def __call__(self, outputs: PoolOutputs, rows: Tensor) -> Tensor:
        """Scores of `rows` ``(n,)``.

        Raises:
            ValueError: if a density is wanted and the network shows no embedding.
        """
        entropy = reduced(state_entropy(outputs.outcomes("DensityEntropy")[rows].double()), self.reduction)
        if self.density == "none":
            return entropy
        if outputs.embedding is None:
            raise ValueError("density needs embeddings, but the network has no `embed` method.")
        return entropy * self.weight(outputs.embedding[rows]).double()

    def weight(self, features: Tensor) -> Tensor:
        """Density of each row of `features` ``(n, D)``."""
        index, cosine = nearest_neighbors(features, self.neighbors)
        if self.density == "degree":
            return graph_degree(index, cosine)
        return cosine.mean(dim=1) if cosine.shape[1] else cosine.new_zeros(len(cosine))

    def choose(self, score: Tensor, predicted: Tensor, num_classes: int, budget: int) -> Tensor:
        """Positions of the query, ``(n,)``: classes in order, best first within, then what fills up."""
        order = score.argsort(descending=True, stable=True)
        if not self.balanced:
            return order[:budget]
        per_class = budget // num_classes
        chosen = torch.cat([order[predicted[order] == k][:per_class] for k in range(num_classes)])
        if self.fill and len(chosen) < budget:
            rest = order[~torch.isin(order, chosen)]
            chosen = torch.cat([chosen, rest[: budget - len(chosen)]])
        return chosen


class BoostMISQuery:
    """The union of the unstable and the uncertain samples; between K and 2 K of them.

    Args:
        instability: AUS; None switches it off.
        density_entropy: BUS; None switches it off.
        pool: ``unselected``: samples below the learner's threshold (paper), by the averaged network on the image as it
            is; ``all``: every unlabeled one (code).
        exact_budget: top the union up, alternately with the next best of each selector, so that annotators always
            get K per selector.

    Raises:
        ValueError: if both selectors are off.
    """

    def __init__(
        self,
        instability: Instability | None = None,
        density_entropy: DensityEntropy | None = None,
        pool: Literal["unselected", "all"] = "unselected",
        exact_budget: bool = False,
    ) -> None:
        if instability is None and density_entropy is None:
            raise ValueError("BoostMISQuery needs at least one of `instability` and `density_entropy`.")
        if pool not in ("unselected", "all"):
            raise ValueError(f"`pool` must be 'unselected' or 'all', got {pool!r}.")
        self.instability, self.density_entropy = instability, density_entropy
        self.pool, self.exact_budget = pool, exact_budget

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        """Return the query; K is `budget`, per selector, and a pool with fewer candidates gives what it has.

        K is cut to the number of candidates, also in `Query.limit`: what is fed back to the threshold is how much the
        selectors overlap, not that the pool is nearly used up.

        Raises:
            ValueError: if there are no predictions of whole images.
        """
        probabilities = outputs.kind.probabilities(outputs.outcomes("BoostMISQuery"))
        rows = outputs.unlabeled
        if self.pool == "unselected":
            rows = rows[outputs.doubtful[rows]]
        budget = min(budget, len(rows))
        lists: dict[str, Tensor] = {}  # positions in `rows`, best first
        rankings: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        if self.instability is not None:
            scores["instability"] = self.instability(outputs, rows, generator)
            rankings["unstable"] = scores["instability"].argsort(descending=True, stable=True)
            lists["unstable"] = rankings["unstable"][:budget]
        if self.density_entropy is not None:
            scores["density_entropy"] = score = self.density_entropy(outputs, rows)
            predicted = probabilities[rows].argmax(dim=1)
            rankings["uncertain"] = score.argsort(descending=True, stable=True)
            lists["uncertain"] = self.density_entropy.choose(score, predicted, probabilities.shape[1], budget)
        limit = min(budget * len(lists), len(rows))
        members = {name: set(chosen.tolist()) for name, chosen in lists.items()}
        union = _interleave(lists)
        if self.exact_budget:
            union = list(dict.fromkeys([*union, *_interleave(rankings)]))[:limit]
        reason = []
        for position in union:
            names = [name for name in lists if position in members[name]]
            reason.append("both" if len(names) == 2 else names[0] if names else "filled")
        position_of = torch.tensor(union, dtype=torch.long)
        return Query(
            outputs.index[rows[position_of]],
            reason,
            {name: score[position_of] for name, score in scores.items()},
            limit=budget * len(lists),
        )


def _interleave(lists: dict[str, Tensor]) -> list[int]:
    """Return the first of each, the second of each, ...; every value once."""
    columns = [chosen.tolist() for chosen in lists.values()]
    longest = max((len(column) for column in columns), default=0)
    return list(dict.fromkeys(column[place] for place in range(longest) for column in columns if place < len(column)))
