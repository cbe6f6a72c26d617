"""SSAL's query (Zhao et al., EMBC 2022, https://arxiv.org/abs/2205.07021): what is typical of each cluster of a pool.

It needs no label and no trained classifier, only embeddings, and so can ask for the first labels of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medssl_monai.clustering import nearest_center
from medssl_monai.query.base import Chosen, EmbeddingQuery


def fit_centers(
    features: Tensor, num_clusters: int, seed: int = 0, restarts: int = 1, start: Tensor | None = None
) -> tuple[Tensor, int]:
    """Centers of scikit-learn's k-means, iterated until no sample changes its cluster or 300 times, in one thread.

    Args:
        features: ``(N, D)``.
        num_clusters: K; cut to the number of distinct rows.
        seed: of k-means++.
        restarts: how often it starts; the centers with the smallest sum of squared distances win.
        start: centers to start from, ``(K, D)``, in place of k-means++; once.

    Returns:
        Centers ``(K, D)`` in float64, and how many iterations they took.
    """
    from sklearn.cluster import KMeans  # here: it takes a second, and few need it
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points = features.double().numpy()
    num_clusters = min(num_clusters, len(np.unique(points, axis=0)))
    first = "k-means++" if start is None else start.double().numpy()
    model = KMeans(num_clusters, init=first, n_init=restarts if start is None else 1, tol=0.0, random_state=seed)
    with threadpool_limits(1):  # threads add up in any order, and a sum decides who is nearest
        model.fit(points)
    return torch.from_numpy(model.cluster_centers_), int(model.n_iter_)


def apportion(
    weights: Sequence[float], budget: int, present: Sequence[int] = (), least: Sequence[int] = ()
) -> list[int]:
    """Share `budget` out, unit by unit, each to the one of K that is furthest below its share of the whole.

    The whole is what is `present` and the budget. With nothing present, this is the method of largest remainders
    (Hamilton's). Computed anew for a larger whole, that method can give less than before (the Alabama paradox); adding
    to what is present cannot. Nobody gets more than its share, rounded up, so that no cluster is asked for more than it
    has as long as the weights are its sizes. Equals: the first one.

    Args:
        weights: what the shares are in proportion to, K values of at least 0.
        budget: how many units.
        present: units that each has already; default: none.
        least: units that each shall have before shares count; default: 0.

    Returns:
        What each gets on top of `present`; the sum is `budget`.
    """
    present, least = list(present) or [0] * len(weights), list(least) or [0] * len(weights)
    have, one, whole = list(present), sum(weights), sum(present) + budget
    for _ in range(budget):
        below = [(have[k] < least[k], weight * whole - one * have[k]) for k, weight in enumerate(weights)]
        have[below.index(max(below))] += 1  # integers stay exact, so that equals are equal
    return [units - before for units, before in zip(have, present, strict=True)]


def nearest_members(cluster: Tensor, distance: Tensor, counts: Sequence[int], taken: Tensor | None = None) -> Tensor:
    """Return the samples nearest to the center of their own cluster: the first cluster first, and the nearest first.

    Args:
        cluster: of each sample, ``(N,)``.
        distance: to the center of that cluster, ``(N,)``; equals, in float32: the smaller row. The members of a pair
            are as far from their mean as each other, but for the last digits of float64.
        counts: how many of each cluster, K values.
        taken: samples to pass over, ``(N,)`` bool.

    Returns:
        Rows ``(n,)``, distinct.
    """
    free = torch.ones_like(cluster, dtype=torch.bool) if taken is None else ~taken
    order = distance.float().argsort(stable=True)
    order = order[free[order]]
    return torch.cat([order[cluster[order] == k][:count] for k, count in enumerate(counts)])


class Clusters(EmbeddingQuery):
    """SSAL: the samples nearest to the centers of k-means, of each cluster in proportion to its size.

    Members of a cluster only, each once, and exactly as many as the budget; the released code ranks the whole pool for
    every center and so picks some samples twice, others of another cluster, and now and then more than the budget. The
    shares are those of all labels together, these and those before, so that queries in several rounds go on along the
    same ranking and nothing is given back. That holds as long as the embeddings stay the same: those of the network
    that is being trained do not, those of an `encoder` of its own do.

    Args:
        num_clusters: K; cut to the number of distinct embeddings. The released code has 10; how it was chosen is not
            known.
        encoder: see `medssl_monai.query.EmbeddingQuery`.
        min_per_cluster: labels that each cluster gets first, as far as the budget goes; 0: small ones may get none.
        restarts: of k-means.
        seed: of k-means; not the generator's, which is another one in every round.
    """

    score = "distance"

    def __init__(
        self,
        num_clusters: int = 10,
        encoder: nn.Module | None = None,
        min_per_cluster: int = 0,
        restarts: int = 10,
        seed: int = 0,
    ) -> None:
        for name, value, smallest in (
            ("num_clusters", num_clusters, 1), ("min_per_cluster", min_per_cluster, 0), ("restarts", restarts, 1)
        ):  # fmt: skip
            if value < smallest:
                raise ValueError(f"`{name}` must be at least {smallest}, got {value}.")
        super().__init__(encoder)
        self.num_clusters, self.min_per_cluster = num_clusters, min_per_cluster
        self.restarts, self.seed = restarts, seed

    def choose(self, features: Tensor, labeled: Tensor, budget: int, generator: torch.Generator) -> Chosen:
        """Choose in the order of the clusters; read which samples are labeled, and neither a label nor `generator`.

        The score is the distance to the center of the cluster.
        """
        centers, _ = fit_centers(features, self.num_clusters, self.seed, self.restarts)
        distance, cluster = nearest_center(features, centers)  # of the final centers, not of those one step before
        sizes = cluster.bincount(minlength=len(centers)).tolist()
        known = cluster[labeled].bincount(minlength=len(centers)).tolist()
        least = [min(self.min_per_cluster, size) for size in sizes]
        rows = nearest_members(cluster, distance, apportion(sizes, budget, known, least), labeled)
        reason = [f"cluster {k}" for k in cluster[rows].tolist()]
        return rows, reason, distance[rows]
