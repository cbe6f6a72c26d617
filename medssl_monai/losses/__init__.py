"""Losses that several methods share."""

from medssl_monai.losses.contrastive import JointContrast, KeyQueue, joint_contrastive_loss
from medssl_monai.losses.findings import FindingCrossEntropy
from medssl_monai.losses.imbalance import BalancedCrossEntropy, class_weights
from medssl_monai.losses.joint import MaskConsistency, SmoothDiceLoss
from medssl_monai.losses.masks import MaskLoss, dice_scores
from medssl_monai.losses.pseudo_label import (
    DistributionAlignment,
    Normalization,
    QueueAlignment,
    sharpen,
    weighted_mean,
)

__all__ = [
    "BalancedCrossEntropy",
    "DistributionAlignment",
    "FindingCrossEntropy",
    "JointContrast",
    "KeyQueue",
    "MaskConsistency",
    "MaskLoss",
    "Normalization",
    "QueueAlignment",
    "SmoothDiceLoss",
    "class_weights",
    "dice_scores",
    "joint_contrastive_loss",
    "sharpen",
    "weighted_mean",
]
