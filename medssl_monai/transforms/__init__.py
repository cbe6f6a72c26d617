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
from medssl_monai.transforms.invert import InvertProbabilitiesd, ToFileAxesd
from medssl_monai.transforms.load import Channelsd, TakeSliced
from medssl_monai.transforms.masks import UNLABELED, PadToSized
from medssl_monai.transforms.mri import KnownSpacingd, N4BiasFieldCorrectiond, RobustIntensityd
from medssl_monai.transforms.outcomes import Outcomesd
from medssl_monai.transforms.restoration import (
    BezierIntensity,
    InPainting,
    LocalShuffle,
    OutPainting,
    RestorationViews,
)
from medssl_monai.transforms.views_contrastive import KeyViews, ResizedCrop
from medssl_monai.transforms.views_masks import JointViews, MaskViews

__all__ = [
    "UNLABELED",
    "Affine",
    "BezierIntensity",
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
    "InPainting",
    "InvertProbabilitiesd",
    "JointViews",
    "KeyViews",
    "KnownSpacingd",
    "LoadFeaturesd",
    "LocalShuffle",
    "MaskViews",
    "N4BiasFieldCorrectiond",
    "OutPainting",
    "Outcomesd",
    "PadToSized",
    "RandomSubset",
    "ResizedCrop",
    "RestorationViews",
    "RobustIntensityd",
    "TakeSliced",
    "ToFileAxesd",
    "Views",
    "to_unit",
]
