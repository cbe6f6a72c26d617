"""Networks and what wraps them."""

from medssl_monai.networks.ema import EMATeacher, MomentumEncoder
from medssl_monai.networks.embedding import (
    EmbeddingClassifier,
    densenet121,
    feature_head,
    resnet18,
    resnet50,
    small_convnet,
    small_resnet,
)
from medssl_monai.networks.leaky import leaky
from medssl_monai.networks.multimix import Joint, MultiMixNetwork, export_joint, multimix_classifier
from medssl_monai.networks.pretrained import describe, load_weights, prepare_network, weights_metadata
from medssl_monai.networks.projection import ProjectedClassifier, ProjectionNetwork
from medssl_monai.networks.segmentation import Layout, SegmentationNetwork, basic_unet, dyn_unet, pooled, small_unet
from medssl_monai.networks.ssal_unet import ssal_unet

__all__ = [
    "EMATeacher",
    "EmbeddingClassifier",
    "Joint",
    "Layout",
    "MomentumEncoder",
    "MultiMixNetwork",
    "ProjectedClassifier",
    "ProjectionNetwork",
    "SegmentationNetwork",
    "basic_unet",
    "densenet121",
    "describe",
    "dyn_unet",
    "export_joint",
    "feature_head",
    "leaky",
    "load_weights",
    "multimix_classifier",
    "pooled",
    "prepare_network",
    "resnet18",
    "resnet50",
    "small_convnet",
    "small_resnet",
    "small_unet",
    "ssal_unet",
    "weights_metadata",
]
