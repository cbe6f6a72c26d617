"""Weights and learning rates that change while training: pure functions of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""Optimizer steps taken so far to a factor or weight."""


def constant(value: float = 1.0) -> Schedule:
    """The same at every step."""
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


def cosine_decay(total: int, warmup: int = 0) -> Schedule:
    """Learning-rate factor ``cos(7 pi t / 16)`` with ``t`` the share of steps done (FixMatch, Sec. 2.4; BoostMIS code).

    The last factor is ``cos(7 pi / 16) = 0.195``, not 0.

    Args:
        total: optimizer steps of the whole run, warm-up included.
        warmup: steps of a linear rise from 0 before the decay begins.

    Raises:
        ValueError: if `total` is not greater than `warmup`.
    """
    if not 0 <= warmup < total:
        raise ValueError(f"`total` must be greater than `warmup`, got {total} and {warmup} steps.")

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        return max(0.0, math.cos(math.pi * 7.0 / 16.0 * (step - warmup) / (total - warmup)))

    return factor
