"""Networks and what wraps them."""

from medssl_monai.networks.ema import EMATeacher
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
from medssl_monai.networks.pretrained import describe, load_weights, prepare_network, weights_metadata
from medssl_monai.networks.projection import ProjectedClassifier, ProjectionNetwork

__all__ = [
    "EMATeacher",
    "EmbeddingClassifier",
    "ProjectedClassifier",
    "ProjectionNetwork",
    "densenet121",
    "describe",
    "feature_head",
    "leaky",
    "load_weights",
    "prepare_network",
    "resnet18",
    "resnet50",
    "small_convnet",
    "small_resnet",
    "weights_metadata",
]
