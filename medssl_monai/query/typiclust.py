"""TypiClust (Hacohen et al., ICML 2022, https://arxiv.org/abs/2202.02794): with few labels, ask for what is typical."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.clustering import nearest_center
from medssl_monai.query.base import Chosen, EmbeddingQuery
from medssl_monai.query.clusters import fit_centers
from medssl_monai.query.neighbors import nearest_neighbors


def typicality(features: Tensor, neighbors: int) -> Tensor:
    """Inverse mean distance to the nearest neighbours on the unit sphere (Hacohen et al. 2022, Sec. 3), ``(N,)``.

    Euclidean. Block by block, without an N x N matrix.

    Args:
        features: ``(N, D)``; rows are scaled to norm 1.
        neighbors: how many, the sample itself not counted; cut to the ``N - 1`` others.
    """
    _, cosine = nearest_neighbors(features, neighbors + 1)
    distance = (2.0 - 2.0 * cosine).clamp_min(0.0).sqrt()
    return 1.0 / (distance.sum(dim=1) / max(1, distance.shape[1]) + 1e-5)  # copies of an image have a finite one


class TypiClust(EmbeddingQuery):
    """The most typical sample of the largest cluster that has the fewest labels, one after the other.

    There are as many clusters as there will be labels, so that each query of a cold start covers as many different
    clusters as it has samples. Embeddings are scaled to norm 1. Neighbours are those in the pool, as in the paper's
    definition; the released code looks within the cluster.

    Args:
        neighbors: of the typicality.
        max_clusters: limit of the number of clusters, as in the released code.
        min_size: clusters smaller than this come last; the released code leaves them out.
        encoder: see `medssl_monai.query.EmbeddingQuery`.
    """

    score = "typicality"

    def __init__(
        self, neighbors: int = 20, max_clusters: int = 500, min_size: int = 5, encoder: nn.Module | None = None
    ) -> None:
        for name, value in (("neighbors", neighbors), ("max_clusters", max_clusters)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        super().__init__(encoder)
        self.neighbors, self.max_clusters, self.min_size = neighbors, max_clusters, min_size

    def choose(self, features: Tensor, labeled: Tensor, budget: int, generator: torch.Generator) -> Chosen:
        """Choose typical samples; their score is the `typicality`, and `generator` seeds k-means."""
        features = F.normalize(features, dim=1)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        centers, _ = fit_centers(features, min(int(labeled.sum()) + budget, self.max_clusters), seed)
        _, cluster = nearest_center(features, centers)
        typical = typicality(features, self.neighbors)
        sizes = cluster.bincount(minlength=len(centers)).tolist()
        labels = cluster[labeled].bincount(minlength=len(centers)).tolist()
        ranking = typical.argsort(descending=True, stable=True)
        ranking = ranking[~labeled[ranking]]
        left = [ranking[cluster[ranking] == k].tolist()[::-1] for k in range(len(centers))]  # the best one last
        rows: list[int] = []
        while len(rows) < budget:
            open_clusters = (k for k in range(len(centers)) if left[k])
            k = min(open_clusters, key=lambda k: (sizes[k] < self.min_size, labels[k], -sizes[k]))
            rows.append(left[k].pop())
            labels[k] += 1
        reason = [f"typical of {sizes[k]} images" for k in cluster[rows].tolist()]
        return torch.tensor(rows), reason, typical[rows]
