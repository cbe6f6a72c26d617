"""The bootstrap that draws whole groups: whom a sample belongs to decides what is drawn together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def check_bootstrap(group: Sequence[str], samples: int, level: float, resamples: int) -> None:
    """Refuse arguments that are out of their range.

    Raises:
        ValueError: if there are not as many groups as samples, or a number is out of its range.
    """
    if len(group) != samples:
        raise ValueError(f"`group` must name the group of each of {samples} samples, got {len(group)}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}.")


def draw_groups(group: Sequence[str], resamples: int, seed: int) -> tuple[Integers, Integers]:
    """How often each of G groups is drawn, ``(resamples, G)``, which says all about a resample; each sample's group."""
    names, member = np.unique(np.asarray(group, dtype=str), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return draws, member


def interval(values: Floats, level: float) -> tuple[float, float] | None:
    """Percentiles of what the resamples gave ``(resamples,)``; None if it is undefined in more than 5 % of them."""
    defined = values[np.isfinite(values)]
    if len(defined) < 0.95 * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_intervals(
    values: Floats, group: Sequence[str], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[tuple[float, float] | None]:
    """Intervals of the means of M columns ``(N, M)`` over what is defined, that is not NaN, of each.

    None for a column that is undefined, here or in more than 5 % of the resamples, and for all if there are fewer than
    two groups. See `medssl_monai.metrics.bootstrap_intervals`.

    Raises:
        ValueError: as `check_bootstrap`.
    """
    check_bootstrap(group, len(values), level, resamples)
    if len(set(map(str, group))) < 2:
        return [None] * values.shape[1]
    draws, member = draw_groups(group, resamples, seed)
    defined = np.isfinite(values)
    total, count = np.zeros((2, draws.shape[1], values.shape[1]))
    np.add.at(total, member, np.where(defined, values, 0.0))
    np.add.at(count, member, defined)
    with np.errstate(invalid="ignore"):
        means = (draws @ total) / (draws @ count)
    return [interval(means[:, k], level) if defined[:, k].any() else None for k in range(values.shape[1])]
