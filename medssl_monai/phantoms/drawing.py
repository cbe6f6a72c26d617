"""Shapes and textures that the kinds share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medssl_monai.phantoms.base import Array, Rng


def cover(inside: Array, pixel: float) -> Array:
    """Return the share of a pixel that a shape covers.

    Args:
        inside: signed distance to the edge of the shape, positive inside.
        pixel: width of the edge.
    """
    return np.clip(inside / pixel + 0.5, 0, 1)


def ellipse(x: Array, y: Array, width: Any, height: Any) -> Array:
    """Return the signed distance to an ellipse around 0 with these half axes, exact at the axes; positive inside."""
    return (1 - np.sqrt((x / width) ** 2 + (y / height) ** 2 + 1e-6)) * np.minimum(width, height)


def paint(image: Array, cover: Array, value: Any) -> None:
    """Lay a material of brightness `value` over `image`, in place."""
    image += cover * (value - image)


def smooth_noise(rng: Rng, count: int, size: int, waves: int) -> Array:
    """Draw fields ``(count, size, size)`` of mean 0, deviation about 1 and up to `waves` half waves across."""
    basis = np.cos(math.pi * np.outer(np.arange(size) + 0.5, np.arange(waves + 1)) / size).astype(np.float32)
    weights = rng.normal(0, 2.0 / (waves + 1), (count, waves + 1, waves + 1)).astype(np.float32)
    return basis @ weights @ basis.T
