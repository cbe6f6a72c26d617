"""Data with known faults, for the tests of the audit."""

import numpy as np


def pixels(seed, size=40):
    rng = np.random.default_rng(seed)
    values = sum(np.kron(rng.normal(0, 1, (size // side,) * 2), np.ones((side, side))) for side in (2, 4, 8))
    return (40 + 170 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


def clean(count=4, start=0):
    return [{"seed": start + k, "label": k % 2} for k in range(count)]
