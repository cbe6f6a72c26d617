"""Pools whose embeddings and head are given."""

from __future__ import annotations

import torch
from torch import nn

from medssl_monai.kinds import Classes
from medssl_monai.networks import EmbeddingClassifier
from medssl_monai.query import PoolOutputs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.double)


def linear(classes=3, dim=6, seed=4):
    head = nn.Linear(dim, classes).double().requires_grad_(False)
    head.weight.copy_(randn(classes, dim, seed=seed))
    head.bias.copy_(randn(classes, seed=seed + 1))
    return head


def pool_of(features, head, threshold=None):
    """Outputs of a pool whose embeddings and head are given; nothing is labeled."""
    network = EmbeddingClassifier(nn.Identity(), features.shape[1], head.out_features)
    network.head = head
    kept = head(features.to(head.weight.dtype)).softmax(dim=1)
    nothing = torch.zeros(len(features), dtype=torch.bool)
    limit = None if threshold is None else Classes().threshold(threshold)
    return PoolOutputs(
        torch.arange(len(features)), nothing, kept, embedding=features, network=network.eval(), threshold=limit
    )
