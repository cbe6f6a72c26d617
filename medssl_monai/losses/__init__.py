"""Losses that several methods share."""

from medssl_monai.losses.pseudo_label import DistributionAlignment, Normalization, pseudo_label_loss

__all__ = ["DistributionAlignment", "Normalization", "pseudo_label_loss"]
