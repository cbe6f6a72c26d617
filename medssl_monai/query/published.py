"""What published code of queries does and no strategy should: kept for parity tests.

SSAL: https://github.com/jacobzhaoziyuan/SAAL, revision df27c2f.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
