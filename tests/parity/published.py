"""What published code does and papers do not say: what golden files hold, and no method offers.

BoostMIS: https://github.com/wannature/BoostMIS, revision 638debb, whose loss later revisions deleted.
MultiMix: https://github.com/ayaanzhaque/MultiMix, revision af552e4.
SSAL: https://github.com/jacobzhaoziyuan/SAAL, revision df27c2f.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl_monai.methods.boostmis import adaptive_threshold


def boostmis_batch_size_threshold(
    batch_size: int, previous_batch_size: int, share: float, alpha: float = 0.9, beta: float = 0.05
) -> Tensor:
    """The threshold of the released BoostMIS loss, a scalar in float64.

    The code overwrites the number of confident samples by the size of the batch, so that the ratio is 1 unless the
    batch shrinks: FixMatch with a constant threshold. It starts with a previous size of 1.
    """
    count, previous = torch.tensor(batch_size, dtype=torch.double), torch.tensor(previous_batch_size)
    return adaptive_threshold(count, previous, share, alpha, beta)


def class_learning_status(selected_label: Tensor, num_classes: int, warmup: bool) -> Tensor:
    """Per class, pseudo-labels so far over those of the most frequent class, ``(K,)`` in float64.

    FlexMatch's status (Zhang et al., NeurIPS 2021, Eq. 5 to 6 and 11), which BoostMIS's code computes and never uses.

    Args:
        selected_label: last accepted pseudo-label of every sample, -1: none yet, ``(N,)``.
        num_classes: K.
        warmup: let the samples without a pseudo-label count as a class of their own, so that the status grows slowly.
    """
    counts = torch.bincount(selected_label + 1, minlength=num_classes + 1).double()
    largest = counts.max() if warmup else counts[1:].max()
    return counts[1:] / largest.clamp_min(1.0)


def class_threshold(status: Tensor, threshold: float, shape: Literal["linear", "lowlimit", "concave"]) -> Tensor:
    """Threshold per class from its `status` ``a`` in [0, 1]; the three lines that BoostMIS's code has commented out.

    ``linear``: ``p (a + 1) / 2``; ``lowlimit``: ``p / (2 - a)``; ``concave``: ``p (ln(a + 1) + 1/2) / (ln 2 + 1/2)``.
    """
    if shape == "linear":
        return threshold * (status + 1.0) / 2.0
    if shape == "lowlimit":
        return threshold / (2.0 - status)
    return threshold * (torch.log(status + 1.0) + 0.5) / (math.log(2.0) + 0.5)


def multimix_consistency(labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """The consistency term of MultiMix's code, a scalar: 0 for masks, whatever they are, and so is its gradient.

    The divergence of two softmaxes over the channels, and its mean over all elements. Masks have one channel there, of
    which a softmax is 1. Of K channels it is a K-th of `medssl_monai.losses.MaskConsistency`'s. The code computes the
    same of class logits, of labeled images and strong views, and leaves it out of the sum.

    Args:
        labeled: logits ``(B, C, ...)``; the one of the foreground, for masks as published.
        unlabeled: likewise, of the same shape; image i is compared with image i.
    """
    log_p, log_q = labeled.log_softmax(dim=1), unlabeled.log_softmax(dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").mean()


def ssal_quotas(sizes: Sequence[int], budget: int) -> list[int]:
    """Samples per cluster by the released rule: shares rounded one by one, and the last cluster gets what is left.

    Halves are rounded to even. What is left may be negative.
    """
    rounded = [round(size / sum(sizes) * budget) for size in sizes[:-1]]
    return [*rounded, budget - sum(rounded)]


def ssal_selection(distance: Tensor, quotas: Sequence[int]) -> Tensor:
    """The samples of the pool that are nearest to each center, members of its cluster or not; some more than once.

    A negative quota counts as 0, so that there may be more samples than the budget.

    Args:
        distance: of every sample to every center, ``(N, K)``.
        quotas: K values.

    Returns:
        Rows, those of the first center first, nearest first.
    """
    ranked = distance.float().argsort(dim=0, stable=True)
    return torch.cat([ranked[: max(quota, 0), k] for k, quota in enumerate(quotas)])
