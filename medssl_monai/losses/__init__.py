"""Losses that several methods share."""

from medssl_monai.losses.contrastive import JointContrast, KeyQueue, joint_contrastive_loss
from medssl_monai.losses.imbalance import BalancedCrossEntropy, class_weights
from medssl_monai.losses.joint import MaskConsistency, SmoothDiceLoss
from medssl_monai.losses.masks import MaskLoss, dice_scores
from medssl_monai.losses.multilabel import MultiLabelCrossEntropy
from medssl_monai.losses.pseudo_label import DistributionAlignment, Normalization, QueueAlignment, pseudo_label_loss

__all__ = [
    "BalancedCrossEntropy",
    "DistributionAlignment",
    "JointContrast",
    "KeyQueue",
    "MaskConsistency",
    "MaskLoss",
    "MultiLabelCrossEntropy",
    "Normalization",
    "QueueAlignment",
    "SmoothDiceLoss",
    "class_weights",
    "dice_scores",
    "joint_contrastive_loss",
    "pseudo_label_loss",
]
