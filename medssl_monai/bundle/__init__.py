"""What the configurations of the bundles call, and runs of a bundle from Python."""

from medssl_monai.bundle.data import cache_dir, feature_size, load_data, load_images
from medssl_monai.bundle.describe import DescribeBundle
from medssl_monai.bundle.facts import channels_of, classes_of, image_size_of, mask_classes_of
from medssl_monai.bundle.metadata import metadata_of
from medssl_monai.bundle.overrides import check_command_line
from medssl_monai.bundle.run import output_dir, workflow
from medssl_monai.bundle.shipped import copy_bundle, shipped_bundles
from medssl_monai.bundle.trained import check_trained, warn_untrained
from medssl_monai.bundle.weights import kind_of_weights

__all__ = [
    "DescribeBundle",
    "cache_dir",
    "channels_of",
    "check_command_line",
    "check_trained",
    "classes_of",
    "copy_bundle",
    "feature_size",
    "image_size_of",
    "kind_of_weights",
    "load_data",
    "load_images",
    "mask_classes_of",
    "metadata_of",
    "output_dir",
    "shipped_bundles",
    "warn_untrained",
    "workflow",
]
