"""Losses that several methods share."""

from medssl_monai.losses.imbalance import BalancedCrossEntropy, class_weights
from medssl_monai.losses.pseudo_label import DistributionAlignment, Normalization, QueueAlignment, pseudo_label_loss

__all__ = [
    "BalancedCrossEntropy",
    "DistributionAlignment",
    "Normalization",
    "QueueAlignment",
    "class_weights",
    "pseudo_label_loss",
]
