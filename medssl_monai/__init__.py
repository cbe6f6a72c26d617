"""Label-efficient learning for medical images on MONAI. For research, not a medical device."""

__version__ = "0.1.0.dev0"
