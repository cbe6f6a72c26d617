"""k-means on the device of the features, without randomness and without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_center(features: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest center, and which one it is; the first one of several.

    Args:
        features: ``(N, D)``.
        centers: ``(C, D)``.

    Returns:
        Distance and index, ``(N,)`` each.
    """
    # not by matrix products: their rounding could tell equal centers apart
    distance, label = torch.cdist(features, centers, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    return distance, label


def cluster_means(features: Tensor, label: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Mean of the features of each cluster, and how many they are; differentiable.

    Args:
        features: ``(N, D)``.
        label: cluster of each row, ``(N,)``.
        num_clusters: C.

    Returns:
        Means ``(C, D)``, 0 for an empty cluster, and counts ``(C,)``, floating.
    """
    # a product: sums by index have no fixed order on CUDA
    member = (label == torch.arange(num_clusters, device=label.device).unsqueeze(1)).to(features.dtype)
    count = member.sum(dim=1)
    return member @ features / count.clamp_min(1.0).unsqueeze(1), count


def kmeans(features: Tensor, centers: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm; an empty cluster keeps its center.

    It does not look whether the centers still move. Once they do not, more iterations change nothing.

    Args:
        features: ``(N, D)``.
        centers: where to start, ``(C, D)``.
        iterations: how often the centers move.

    Returns:
        The cluster of each row ``(N,)``, and the centers ``(C, D)`` that it is the nearest of.
    """
    for _ in range(iterations):
        means, count = cluster_means(features, nearest_center(features, centers)[1], len(centers))
        centers = torch.where(count.unsqueeze(1) > 0, means, centers)
    return nearest_center(features, centers)[1], centers


def initial_centers(features: Tensor, num_clusters: int) -> Tensor:
    """Rows to start from: each the one that lowers the sum of squared distances most, given those before it.

    k-means++ (Arthur & Vassilvitskii, SODA 2007) with every row as a candidate in place of a random one.

    Args:
        features: ``(N, D)``, N at least C.
        num_clusters: C.

    Returns:
        Centers ``(C, D)``.
    """
    squared = torch.cdist(features, features).square()
    nearest = torch.full_like(squared[0], torch.inf)
    rows = []
    for _ in range(num_clusters):
        row = torch.minimum(squared, nearest).sum(dim=1).argmin().view(1)
        nearest = torch.minimum(nearest, squared.index_select(0, row).squeeze(0))
        rows.append(row)
    return features[torch.cat(rows)]


def refill(features: Tensor, centers: Tensor) -> Tensor:
    """Move the centers of empty clusters to the rows that are farthest from theirs, each to another.

    Centers that start the next k-means would otherwise stay lost once the features have moved away from them.

    Args:
        features: ``(N, D)``, N at least C.
        centers: ``(C, D)``.
    """
    distance, label = nearest_center(features, centers)
    empty = ~(label == torch.arange(len(centers), device=label.device).unsqueeze(1)).any(dim=1)
    farthest = distance.topk(len(centers)).indices
    row = farthest[(empty.cumsum(dim=0) - 1).clamp_min(0)]
    return torch.where(empty.unsqueeze(1), features[row], centers)


def match(similarity: Tensor) -> Tensor:
    """Return a column for each row, each once, with the largest sum of similarities (Kuhn 1955); waits for the device.

    Args:
        similarity: ``(C, C)``.

    Returns:
        Columns ``(C,)``.
    """
    from scipy.optimize import linear_sum_assignment

    columns = linear_sum_assignment(similarity.detach().cpu().double().numpy(), maximize=True)[1]
    return torch.as_tensor(columns, device=similarity.device)
