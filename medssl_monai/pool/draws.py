"""Which of the labels that are there a simulated experiment begins with: plain numbers in, positions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

Draw = Literal["balanced", "stratified"]
Strata = Sequence[tuple[int, ...]]
"""The strata that each label belongs to, see `medssl_monai.kinds.Kind.strata`."""


def balanced_draw(strata: Strata, count: int, seed: int) -> list[int]:
    """Return positions of `count` labels, as many of each stratum as there are, in ascending order.

    A stratum with too few gives all it has, and the others fill up. A label of several strata, such as several
    findings, is drawn for each of them in turn; what else an image shows is not counted, so that findings which come
    with others are chosen more often.

    Raises:
        ValueError: if `count` is negative or there are fewer labels than `count`.
    """
    order = _shuffled(len(strata), count, seed)
    queues: dict[int, list[int]] = {}
    for position in reversed(order):  # popped from the end
        for stratum in strata[position]:
            queues.setdefault(stratum, []).append(position)
    chosen: set[int] = set()
    while len(chosen) < count:
        for stratum in sorted(queues, key=lambda k: (k < 0, str(k))):
            queue = queues[stratum]
            while queue and queue[-1] in chosen:
                queue.pop()
            if queue and len(chosen) < count:
                chosen.add(queue.pop())
    return sorted(chosen)


def stratified_draw(strata: Strata, count: int, seed: int) -> list[int]:
    """Return positions of `count` labels, of each stratum its share (largest remainders), in ascending order.

    A stratum whose share is less than one label has one, as long as there are as many labels as strata.

    Raises:
        ValueError: if `count` is negative or there are fewer labels than `count`; if a label is in several strata.
    """
    order = _shuffled(len(strata), count, seed)
    if any(len(own) != 1 for own in strata):
        raise ValueError("a stratified draw needs one class per image, and a label here has several; draw balanced.")
    members: dict[int, list[int]] = {}
    for position in order:
        members.setdefault(strata[position][0], []).append(position)
    share = {key: count * len(positions) / len(strata) for key, positions in members.items()}
    least = 1 if count >= len(share) else 0
    number = {key: max(least, int(wanted)) for key, wanted in share.items()}
    while (left := count - sum(number.values())) != 0:  # a minimum of one may have given too many
        step = 1 if left > 0 else -1
        keys = [key for key in sorted(share, key=str) if step > 0 or number[key] > least]
        number[max(keys, key=lambda key: step * (share[key] - number[key]))] += step
    return sorted(position for key, positions in members.items() for position in positions[: number[key]])


DRAWS: dict[str, Callable[[Strata, int, int], list[int]]] = {"balanced": balanced_draw, "stratified": stratified_draw}


def _shuffled(size: int, count: int, seed: int) -> list[int]:
    if not 0 <= count <= size:
        raise ValueError(f"{count} labels are asked for, and {size} are there.")
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
