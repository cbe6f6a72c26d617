"""Groups dealt to sections, or put in order, so that each class gets its share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.prepare.labels import strata
from medssl_monai.prepare.layouts.dataset import Array


def stratify(
    items: Sequence[Item], shares: dict[str, float], names: Sequence[str], seed: int, damped: bool = False
) -> dict[str, str]:
    """Deal groups to sections, in random order, each to the section that still lacks most of its classes.

    This is the iterative stratification of Sechidis et al. (2011) with groups for samples; rare classes weigh more.

    Args:
        items: with labels.
        shares: of the sections, by name.
        names: of the sections that must not stay empty.
        seed: decides the order.
        damped: count the square root of a group's images of a class, since images of one patient resemble each other,
            and deal large groups first. No class is then left to one patient where several have it, and sections
            differ in size.

    Returns:
        Section by group.

    Raises:
        ValueError: if there are too few groups for the sections.
    """
    keys = sorted({k for item in items for k in strata(item)})
    counts: dict[str, Array] = {}
    for item in items:
        row = counts.setdefault(item["group"], np.zeros(len(keys)))
        for k in strata(item):
            row[keys.index(k)] += 1
    if items and len(counts) < len(names):
        raise ValueError(f"{len(counts)} groups cannot fill {len(names)} sections; set a share of `split` to 0.")
    groups = list(counts)  # in the order of the items: names that depend on a key must not decide
    order = np.random.default_rng(seed).permutation(len(groups))
    if damped:
        order = np.array(sorted(order, key=lambda position: -counts[groups[position]].sum()))
        counts = {group: np.sqrt(row) for group, row in counts.items()}
    total = sum(counts.values(), np.zeros(len(keys)))
    need = {name: shares[name] * total for name in names}
    place: dict[str, str] = {}
    for position in order:
        row = counts[groups[position]]
        best = max(names, key=lambda name: (round(float(row / total @ need[name]), 9), float(need[name].sum())))
        place[groups[position]] = best
        need[best] = need[best] - row
    empty = [name for name in names if name not in place.values()]
    if items and empty:
        raise ValueError(f"no group was left for {empty[0]!r}: give it a larger share of `split`, or 0.")
    return place


def spread(items: Sequence[Item], seed: int, choice: int = 32) -> list[str]:
    """Order all groups so that every beginning holds each class in about its share of the groups.

    Next is always the one of the first `choice` left, in a random order, after which the numbers of groups by class are
    closest to their shares, by the chi-square distance.
    """
    keys = sorted({k for item in items for k in strata(item)})
    rows: dict[str, Array] = {}  # in the order of the items: names that depend on a key must not decide
    for item in items:
        row = rows.setdefault(item["group"], np.zeros(len(keys)))
        row[[keys.index(k) for k in strata(item)]] = 1
    left = [list(rows)[position] for position in np.random.default_rng(seed).permutation(len(rows))]
    total = sum(rows.values(), np.zeros(len(keys)))
    order: list[str] = []
    have = np.zeros(len(keys))
    while left:
        wanted = total * (len(order) + 1) / len(rows)
        nearest = min(left[:choice], key=lambda group: float(((have + rows[group] - wanted) ** 2 / total).sum()))
        left.remove(nearest)
        order.append(nearest)
        have = have + rows[nearest]
    return order
