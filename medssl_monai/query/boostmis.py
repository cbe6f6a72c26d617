"""BoostMIS's query (Zhang et al., CVPR 2022, https://arxiv.org/abs/2203.02533): unstable and uncertain samples.

Two selectors look at the samples that the learner could not pseudo-label: AUS, by how much the prediction gives way to
a small adversarial shift of the representation, and BUS, by density-weighted entropy, balanced over the predicted
classes. Their union is the query.

Multi-label, which the paper does not treat: findings are independent of each other, so that divergence and entropy are
sums over them; a sample counts as pseudo-labeled if all of its findings are; its predicted class is its most probable
finding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl_monai.query.base import PoolOutputs, Query
from medssl_monai.query.uncertainty import Findings, predictive_entropy, refuse_masks
from medssl_monai.task import Task


def unit_rows(rows: Tensor, tiny: float = 1e-8) -> Tensor:
    """Each row over its L2 norm plus `tiny`, as in the released code: a zero row stays zero."""
    flat = rows.flatten(1)
    return (flat / (flat.norm(dim=1, keepdim=True) + tiny)).view_as(rows)


def adversarial_instability(
    logits_of: Callable[[Tensor], Tensor],
    inputs: Tensor,
    direction: Tensor,
    xi: float = 10.0,
    radius: float = 1.0,
    power_iterations: int = 1,
    tiny: float = 1e-8,
    task: Task = "multiclass",
) -> tuple[Tensor, Tensor]:
    """Virtual adversarial direction, and how far the prediction moves along it (Miyato et al. 2018, Alg. 1).

    Args:
        logits_of: `inputs` to logits ``(B, K)``.
        inputs: ``(B, ...)``; representations or images.
        direction: start of the power iteration, rows of norm 1, shaped as `inputs`.
        xi: length of the step that the gradient is taken at.
        radius: L2 norm of the final shift, per sample (epsilon; tau in the paper).
        power_iterations: improvements of the direction.
        tiny: added to the norm of each gradient. The released code takes the gradient of the batch mean, which amounts
            to B times as much; ours does not depend on the batch.
        task: ``multilabel``: the divergence is the sum of those of the findings, each present or absent.

    Returns:
        The direction, shaped as `inputs`, rows of norm 1 (0 where the gradient vanishes), and the divergence
        ``KL(p(x) || p(x + radius * direction))`` in nats, ``(B,)``.
    """

    def log_probs(x: Tensor) -> Tensor:
        logits = logits_of(x)
        if task == "multilabel":
            return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=1)
        return logits.log_softmax(dim=1)

    with torch.no_grad():
        log_p = log_probs(inputs)
    p = log_p.exp()

    def divergence(shifted: Tensor) -> Tensor:
        return (p * (log_p - log_probs(shifted))).sum(dim=1)

    for _ in range(power_iterations):
        direction = direction.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(divergence(inputs + xi * direction).sum(), direction)
        direction = unit_rows(gradient, tiny)
    with torch.no_grad():
        return direction.detach(), divergence(inputs + radius * direction).clamp_min(0.0)


class Instability:
    """AUS: virtual adversarial instability of the representation, or of the image.

    The networks run in evaluation mode, so no BatchNorm statistics move. At the embedding, the head alone is asked,
    in float64: with ``xi = 10`` a saturated head has gradients that float32 cannot hold. Scores are of the image as it
    is, not of one random weak view as in the paper, so that a query depends on the seed through the directions only.

    Args:
        level: shift the ``embedding`` (paper and code) or the ``image``.
        xi: see `adversarial_instability`.
        radius: likewise; the paper's value is not known, the code has 1.
        power_iterations: likewise.
        chunk: rows at once; bounds the memory.
    """

    def __init__(
        self,
        level: Literal["embedding", "image"] = "embedding",
        xi: float = 10.0,
        radius: float = 1.0,
        power_iterations: int = 1,
        chunk: int = 4096,
    ) -> None:
        if level not in ("embedding", "image"):
            raise ValueError(f"`level` must be 'embedding' or 'image', got {level!r}.")
        self.level, self.xi, self.radius = level, xi, radius
        self.power_iterations, self.chunk = power_iterations, chunk

    def __call__(self, outputs: PoolOutputs, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Scores of `rows` ``(n,)``, which must be in the order of their index: random starts are tied to it.

        Raises:
            ValueError: if the network shows no embedding, or the outputs have no images.
        """
        if outputs.network is None or (self.level == "embedding" and outputs.embedding is None):
            raise ValueError("instability of the embedding needs a network with `embed` and `head`.")
        if self.level == "image" and outputs.images is None:
            raise ValueError("instability of the image needs the images of the pool.")
        logits_of = deepcopy(outputs.network).eval()
        if self.level == "embedding":
            logits_of = logits_of.get_submodule("head").double().cpu()
        scores = []
        for part in torch.split(rows, self.chunk if self.level == "embedding" else 64):
            if self.level == "embedding":
                inputs = outputs.embedding[part].double()  # type: ignore[index]  # checked above
            else:
                inputs = outputs.images(outputs.index[part])  # type: ignore[misc]  # checked above
            start = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype) - 0.5
            start = unit_rows(start).to(inputs.device)
            _, score = adversarial_instability(
                logits_of, inputs, start, self.xi, self.radius, self.power_iterations, task=outputs.task
            )
            scores.append(score.double().cpu())
        return torch.cat(scores) if scores else torch.zeros(0, dtype=torch.double)


def nearest_neighbors(features: Tensor, neighbors: int, chunk_elements: int = 2**21) -> tuple[Tensor, Tensor]:
    """Cosine k-nearest neighbours without an N x N matrix.

    A cosine is computed once for both of its samples, block by block, and a block is sorted for those of them only
    whose best so far it can improve.

    Args:
        features: ``(N, D)``.
        neighbors: M, the sample itself included; cut to N.
        chunk_elements: similarities held at once.

    Returns:
        Indices and cosines of the ``M - 1`` others, ``(N, M - 1)`` each, closest first.
    """
    unit = F.normalize(features, dim=1)
    others = max(0, min(neighbors, len(unit)) - 1)
    index = torch.zeros(len(unit), others, dtype=torch.long)
    cosine = torch.full((len(unit), others), -torch.inf, dtype=unit.dtype)
    if others == 0:
        return index, cosine

    def improve(rows: Tensor, columns: Tensor, similarity: Tensor) -> None:
        better = (similarity.amax(dim=1) > cosine[rows, -1]).nonzero().squeeze(1)
        best = similarity[better].topk(min(others, len(columns)), dim=1)
        rows = rows[better]
        both = torch.cat([cosine[rows], best.values], dim=1).topk(others, dim=1)
        cosine[rows] = both.values
        index[rows] = torch.cat([index[rows], columns[best.indices]], dim=1).gather(1, both.indices)

    blocks = torch.split(torch.arange(len(unit)), max(1, math.isqrt(chunk_elements)))
    for position, rows in enumerate(blocks):
        for columns in blocks[position:]:
            similarity = unit[rows] @ unit[columns].T
            if rows is columns:
                similarity.fill_diagonal_(-torch.inf)  # a twin must not push the sample itself into its list
            else:
                improve(columns, rows, similarity.T)
            improve(rows, columns, similarity)
    return index, cosine


def graph_degree(neighbor_index: Tensor, cosine: Tensor) -> Tensor:
    """Degree of every node of the binary graph that joins two samples if either is a neighbour of the other.

    Args:
        neighbor_index: ``(N, M - 1)``.
        cosine: ``(N, M - 1)``; only positive ones join.
    """
    n = len(neighbor_index)
    source = torch.arange(n).unsqueeze(1).expand_as(neighbor_index)
    joined = cosine > 0
    low = torch.minimum(source, neighbor_index)[joined]
    high = torch.maximum(source, neighbor_index)[joined]
    edges = torch.unique(low * n + high)
    return torch.bincount(edges // n, minlength=n) + torch.bincount(edges % n, minlength=n)


class DensityEntropy:
    """BUS: entropy weighted with the density about the sample, balanced over predicted classes.

    Args:
        density: ``degree`` of the neighbour graph (the repaired line of the released code; the paper's expression is
            not known), ``mean_sim``: mean cosine to the neighbours (information density, Settles & Craven 2008), or
            ``none``: plain entropy.
        neighbors: M, the sample itself included; the paper's value is not known, 10 is our proposal.
        balanced: take ``K // C`` of every predicted class; else the K best of all.
        fill: top up to K from the ranking of all, where a class has too few.
        findings: multi-label: ``sum`` of their entropies, or the ``max``; see `medssl_monai.query.entropy`.
    """

    def __init__(
        self,
        density: Literal["degree", "mean_sim", "none"] = "degree",
        neighbors: int = 10,
        balanced: bool = True,
        fill: bool = True,
        findings: Findings = "sum",
    ) -> None:
        if density not in ("degree", "mean_sim", "none"):
            raise ValueError(f"`density` must be 'degree', 'mean_sim' or 'none', got {density!r}.")
        if neighbors < 2:
            raise ValueError(f"`neighbors` counts the sample itself and must be at least 2, got {neighbors}.")
        self.density, self.neighbors, self.balanced, self.fill = density, neighbors, balanced, fill
        self.findings = findings

    def __call__(self, outputs: PoolOutputs, rows: Tensor) -> Tensor:
        """Scores of `rows` ``(n,)``.

        Raises:
            ValueError: if a density is wanted and the network shows no embedding.
        """
        entropy = predictive_entropy(outputs.probs[rows].double(), outputs.task, self.findings)
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
        """K is `budget`, per selector; a pool with fewer candidates gives what it has.

        K is cut to the number of candidates, also in `Query.limit`: what is fed back to the threshold is how much the
        selectors overlap, not that the pool is nearly used up.

        Raises:
            ValueError: for masks.
        """
        refuse_masks(outputs, "BoostMISQuery")
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
            predicted = outputs.probs[rows].argmax(dim=1)
            rankings["uncertain"] = score.argsort(descending=True, stable=True)
            lists["uncertain"] = self.density_entropy.choose(score, predicted, outputs.probs.shape[1], budget)
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
    """First of each, second of each, ...; every value once."""
    columns = [chosen.tolist() for chosen in lists.values()]
    longest = max((len(column) for column in columns), default=0)
    return list(dict.fromkeys(column[place] for place in range(longest) for column in columns if place < len(column)))
