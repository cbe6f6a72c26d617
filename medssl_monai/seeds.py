"""Seeds that follow from the seed of a run."""

from __future__ import annotations

STRIDE = 1_000_003
"""A prime above any number of epochs, so that no two runs with small seeds share a draw."""


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Return the seed of an epoch.

    What an epoch draws follows from the seed and the epoch alone. Hence no state of a generator has to be saved, and a
    resumed run draws what an uninterrupted one would.

    Args:
        seed: of the run.
        epoch: from 0 on; 0 is before training.
    """
    return seed * STRIDE + epoch


def seed_of_part(seed: int, part: int) -> int:
    """Return the seed of a draw from one part of the pool; with one seed for all, each would draw the same images.

    Args:
        seed: of the run.
        part: its position among the parts.
    """
    return seed + STRIDE * part
