"""Nearest neighbours in a pool, block by block."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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
