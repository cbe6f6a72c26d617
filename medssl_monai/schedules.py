"""Weights and learning rates that change while training: pure functions of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""Optimizer steps taken so far to a factor or weight."""


def constant(value: float = 1.0) -> Schedule:
    """Return the same at every step."""
    return lambda step: value


def sigmoid_rampup(peak: float, length: int) -> Schedule:
    """Rise from ``peak * exp(-5)`` to `peak` within `length` steps (Laine & Aila, ICLR 2017, Sec. 3).

    Raises:
        ValueError: if `length` is less than 1.
    """
    if length < 1:
        raise ValueError(f"`length` counts optimizer steps and must be at least 1, got {length}.")

    def weight(step: int) -> float:
        return peak * math.exp(-5.0 * (1.0 - min(step / length, 1.0)) ** 2)

    return weight


def linear_rampup(peak: float, length: int) -> Schedule:
    """Rise from 0 to `peak` within `length` steps, by the same amount at each.

    Raises:
        ValueError: if `length` is less than 1.
    """
    if length < 1:
        raise ValueError(f"`length` counts optimizer steps and must be at least 1, got {length}.")
    return lambda step: peak * min(step / length, 1.0)


def cosine_decay(total: int, warmup: int = 0, warmup_start: float = 0.0) -> Schedule:
    """Learning-rate factor ``cos(7 pi t / 16)`` with ``t`` the share of steps done (FixMatch, Sec. 2.4).

    Likewise in the released code of BoostMIS and TEAR. The last factor is ``cos(7 pi / 16) = 0.195``, not 0.

    Args:
        total: optimizer steps of the whole run, warm-up included.
        warmup: steps of a rise to 1 before the decay begins.
        warmup_start: first factor of the rise, which is then by the same ratio at each step (TEAR code, 5e-4); 0: by
            the same amount.

    Raises:
        ValueError: if `total` is not greater than `warmup`, or `warmup_start` is not in [0, 1].
    """
    if not 0 <= warmup < total:
        raise ValueError(f"`total` must be greater than `warmup`, got {total} and {warmup} steps.")
    if not 0.0 <= warmup_start <= 1.0:
        raise ValueError(f"`warmup_start` is a factor and must be in [0, 1], got {warmup_start}.")

    def factor(step: int) -> float:
        if step < warmup:
            share = step / warmup
            return warmup_start ** (1.0 - share) if warmup_start else share
        return max(0.0, math.cos(math.pi * 7.0 / 16.0 * (step - warmup) / (total - warmup)))

    return factor
