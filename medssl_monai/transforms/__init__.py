"""Transforms that MONAI lacks: random views of batches on the device, clinical files, and MR images."""

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
from medssl_monai.transforms.features import FeatureDropout, FeatureNoise, LoadFeaturesd
from medssl_monai.transforms.load import Channelsd, TakeSliced
from medssl_monai.transforms.mri import KnownSpacingd, N4BiasFieldCorrectiond, RobustIntensityd
from medssl_monai.transforms.views_contrastive import KeyViews, ResizedCrop

__all__ = [
    "Affine",
    "BiasField",
    "Brightness",
    "Channelsd",
    "Compose",
    "Contrast",
    "Cutout",
    "FeatureDropout",
    "FeatureNoise",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "KeyViews",
    "KnownSpacingd",
    "LoadFeaturesd",
    "N4BiasFieldCorrectiond",
    "RandomSubset",
    "ResizedCrop",
    "RobustIntensityd",
    "TakeSliced",
    "Views",
    "to_unit",
]
