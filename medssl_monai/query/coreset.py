"""Core-set selection (Sener & Savarese, ICLR 2018, https://arxiv.org/abs/1708.00489): nothing far from a label."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl_monai.clustering import nearest_center
from medssl_monai.query.base import Chosen, EmbeddingQuery


class CoreSet(EmbeddingQuery):
    """k-center greedy (Sener & Savarese 2018, Alg. 1): always the sample that is farthest from all that are labeled.

    The distance is Euclidean, between embeddings. The largest distance left is at most twice the smallest that any
    choice could reach. Outliers are far from everything: they are asked for early. With no label to start from, the
    first sample is the one nearest to the mean of the pool. One distance per sample is kept, never N x N.

    Args:
        encoder: see `medssl_monai.query.EmbeddingQuery`.
    """

    score = "distance"

    def choose(self, features: Tensor, labeled: Tensor, budget: int, generator: torch.Generator) -> Chosen:
        """Choose distant samples; their score is the distance to what was labeled or chosen before, or to the mean."""
        taken = labeled.clone()
        nearest = torch.full((len(features),), torch.inf, dtype=features.dtype)
        for centers in torch.split(features[taken], 256) if bool(taken.any()) else ():
            nearest = torch.minimum(nearest, nearest_center(features, centers)[0])
        rows: list[int] = []
        scores: list[Tensor] = []
        while len(rows) < budget:
            if bool(taken.any()):
                row = int(nearest.masked_fill(taken, -1.0).argmax())
                scores.append(nearest[row])
            else:
                to_mean = _distance(features, features.mean(dim=0))
                row = int(to_mean.argmin())
                scores.append(to_mean[row])
            rows.append(row)
            taken[row] = True
            nearest = torch.minimum(nearest, _distance(features, features[row]))
        first = [] if bool(labeled.any()) else ["nearest to the mean"]
        return torch.tensor(rows), first + ["far from labels"] * (budget - len(first)), torch.stack(scores)


def _distance(features: Tensor, point: Tensor) -> Tensor:
    """Euclidean distance of each row to one point, ``(N,)``."""
    return nearest_center(features, point.unsqueeze(0))[0]
