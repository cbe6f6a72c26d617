"""Contrast an image with further views of it and with other images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class JointContrast(NamedTuple):
    """What `joint_contrastive_loss` is made of.

    Attributes:
        positive: logit of the query's own keys, ``(B,)``: that of their mean, and `spread`.
        negative: logits of the negatives, ``(B, K)``.
        spread: half the variance of the own keys' logit, times the strength, ``(B,)``.
    """

    positive: Tensor
    negative: Tensor
    spread: Tensor

    @property
    def infonce(self) -> Tensor:
        """Cross-entropy of finding the positive among all logits, ``(B,)``."""
        return torch.logaddexp(self.positive, self.negative.logsumexp(dim=1)) - self.positive

    @property
    def losses(self) -> Tensor:
        """The loss of each query, ``(B,)``."""
        return self.infonce + self.spread


def joint_contrastive_loss(
    query: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float = 0.07,
    strength: float = 1.0,
    renormalise: bool = False,
) -> JointContrast:
    """Contrast each query with infinitely many keys, in closed form (Cai et al., NeurIPS 2020, arXiv 2009.14776).

    The keys of an image are taken for draws of a Gaussian with their mean mu and covariance Sigma. Jensen's inequality
    then bounds the expected InfoNCE over all keys by ``log(exp(q mu / T + s) + sum_j exp(q n_j / T)) - q mu / T`` with
    ``s = strength * q Sigma q / (2 T^2)``. A strength of 1 is the bound; 0, and one key per image for any strength, is
    InfoNCE against the mean key, as in MoCo (He et al., CVPR 2020).

    ``q mu`` and ``q Sigma q`` are mean and variance of the projections ``q k_m``, so that no matrix is needed; the
    variance is divided by their number. All is computed in float32 or better, also under autocast: at a temperature of
    0.07 the quadratic term is multiplied by about 100.

    Args:
        query: unit vectors ``(B, D)``; carry the gradient.
        keys: unit vectors of further views of the same images, ``(B, M, D)``; constants.
        negatives: unit vectors, or means of such, of other images, ``(K, D)``; constants.
        temperature: divides all logits (T), greater than 0.
        strength: of the second-order term (lambda), at least 0; 1 is a factor of about 100 at a temperature of 0.07,
            so begin with little.
        renormalise: bring the mean key to unit length again; the released code does not.

    Raises:
        ValueError: if `temperature` or `strength` is out of its range.
    """
    if temperature <= 0.0:
        raise ValueError(f"`temperature` must be greater than 0, got {temperature}.")
    if strength < 0.0:
        raise ValueError(f"`strength` must not be negative, got {strength}.")
    with torch.autocast(query.device.type, enabled=False):
        query = _full_precision(query) / temperature
        keys, negatives = _full_precision(keys.detach()), _full_precision(negatives.detach())
        projections = torch.bmm(keys, query.unsqueeze(2)).squeeze(2)  # (B, M)
        spread = 0.5 * strength * projections.var(dim=1, correction=0)
        mean = (query * mean_key(keys, renormalise)).sum(dim=1)
        return JointContrast(mean + spread, query @ negatives.T, spread)


def mean_key(keys: Tensor, renormalise: bool = False) -> Tensor:
    """Mean of each image's keys ``(B, M, D)``, ``(B, D)``: the positive, and what the queue takes in."""
    mean = _full_precision(keys).mean(dim=1)
    return F.normalize(mean, dim=1) if renormalise else mean


def _full_precision(vectors: Tensor) -> Tensor:
    return vectors.float() if vectors.dtype in (torch.float16, torch.bfloat16) else vectors


class KeyQueue(nn.Module):
    """The last keys of all images, as negatives (MoCo, He et al., CVPR 2020); first in, first out.

    Rows and place are persistent buffers, so that a resumed run goes on with the same negatives. It starts with random
    unit vectors. Under several processes hand `update` the keys of all of them, and the queues stay alike.

    Args:
        length: keys kept (K); it need not be a multiple of the batch.
        dim: of a key (D).

    Raises:
        ValueError: if `length` is less than 1.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"`length` counts keys and must be at least 1, got {length}.")
        first = torch.randn(length, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("keys", F.normalize(first, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))  # the row that is oldest, and next

    @torch.no_grad()
    def update(self, keys: Tensor) -> None:
        """Put `keys` ``(B, D)`` in place of the oldest; of more than fit, the last ones stay."""
        length = len(self.keys)
        late = max(0, len(keys) - length)
        place = (self.pointer + torch.arange(late, len(keys), device=self.keys.device)) % length
        self.keys.index_copy_(0, place, keys[late:].to(self.keys.dtype))
        self.pointer.copy_((self.pointer + len(keys)) % length)
