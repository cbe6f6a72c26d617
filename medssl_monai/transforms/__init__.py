"""Transforms that MONAI lacks: random views of batches on the device, and reading of clinical files."""

from medssl_monai.transforms.augment import (
    Affine,
    BiasField,
    Brightness,
    Compose,
    Contrast,
    Cutout,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    RandomSubset,
    Views,
    to_unit,
)
from medssl_monai.transforms.load import Channelsd, TakeSliced

__all__ = [
    "Affine",
    "BiasField",
    "Brightness",
    "Channelsd",
    "Compose",
    "Contrast",
    "Cutout",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "RandomSubset",
    "TakeSliced",
    "Views",
    "to_unit",
]
