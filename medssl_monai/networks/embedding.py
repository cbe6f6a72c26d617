"""Classifiers that show their embedding, on MONAI's backbones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from monai.networks.nets import DenseNet121, ResNet
from torch import Tensor, nn
from torch.nn import functional as F


class EmbeddingClassifier(nn.Module):
    """A backbone followed by a linear head, with the embedding in between exposed.

    Args:
        backbone: images ``(B, C, *spatial)`` to embeddings ``(B, D)``.
        embedding_dim: D.
        num_classes: K.
        rectified: the head takes the positive part of an embedding, which itself may be negative.
    """

    def __init__(self, backbone: nn.Module, embedding_dim: int, num_classes: int, rectified: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = (_RectifiedLinear if rectified else nn.Linear)(embedding_dim, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)``, for prototypes, contrastive losses and query strategies."""
        return self.backbone(images)

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, D)`` and logits ``(B, K)``, from one pass."""
        embedding = self.embed(images)
        return embedding, self.head(embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        return self.head(self.backbone(images))


class _RectifiedLinear(nn.Linear):
    """ReLU and linear layer in one, so that a head always has the names and sizes of a linear layer."""

    def forward(self, embedding: Tensor) -> Tensor:
        return F.linear(F.relu(embedding), self.weight, self.bias)


def small_resnet(
    num_classes: int,
    in_channels: int = 1,
    spatial_dims: int = 2,
    width: int = 16,
    stride: int = 1,
    layers: Sequence[int] = (1, 1, 1, 1),
) -> EmbeddingClassifier:
    """Return a residual network for small images (28 to 128 pixels) that trains in minutes on two cores.

    MONAI's `ResNet` with basic blocks, a 3 x 3 stem and no max-pooling, so that 28 pixels are not lost in
    the first layers.

    Args:
        num_classes: K.
        in_channels: C.
        spatial_dims: 2 or 3.
        width: channels of the first stage; each later stage doubles them. D is ``8 * width``.
        stride: of the stem; 1 for 28 pixels, 2 is four times as fast for 64 and more.
        layers: blocks per stage.
    """
    planes = [width * 2**stage for stage in range(4)]
    backbone = ResNet(
        block="basic",
        layers=list(layers),
        block_inplanes=planes,
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_size=3,
        conv1_t_stride=stride,
        no_max_pool=True,
        feed_forward=False,
        bias_downsample=False,
    )
    return EmbeddingClassifier(backbone, planes[-1], num_classes)


def small_convnet(
    num_classes: int, in_channels: int = 3, image_size: Sequence[int] = (128, 128), dropout: float = 0.5
) -> EmbeddingClassifier:
    """Return the network that TEAR's released code calls "alexnet", for 128 pixels (Yang et al., MICCAI 2022).

    Five convolutions (4 x 4, stride 2) of 32, 32, 64, 64 and 128 channels, each with ReLU and then BatchNorm; what is
    left of the image, dropout and 4096 units with ReLU, dropout and the embedding. D is 256; the head rectifies it.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: rows and columns of the images, each at least 32; five halvings leave a 32nd, rounded down.
        dropout: of both fully connected layers; our choice, the share is not known.

    Raises:
        ValueError: if `image_size` is not two numbers from 32; and from the network, for images of another size.
    """
    if len(image_size) != 2 or min(image_size) < 32:
        raise ValueError(
            "small_convnet halves 2-D images five times, so `image_size` must be two numbers of at least 32, got "
            f"{list(image_size)}; for smaller images or volumes take small_resnet."
        )
    widths, layers = [in_channels, 32, 32, 64, 64, 128], []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(after)]
    features = widths[-1] * math.prod(size // 32 for size in image_size)
    layers += [_Flatten(features), nn.Dropout(dropout), nn.Linear(features, 4096), nn.ReLU(inplace=True)]
    layers += [nn.Dropout(dropout), nn.Linear(4096, 256)]
    return EmbeddingClassifier(nn.Sequential(*layers), 256, num_classes, rectified=True)


class _Flatten(nn.Module):
    """``(B, ...)`` to ``(B, size)``, or an error that says what does not fit."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(1)
        if flat.shape[1] != self.size:
            raise ValueError(
                f"this network was built for images that leave {self.size} features, these leave {flat.shape[1]}; "
                "resize the images, or build it with their `image_size`."
            )
        return flat


def resnet18(num_classes: int, in_channels: int = 1, spatial_dims: int = 2) -> EmbeddingClassifier:
    """ResNet-18 (He et al. 2016), laid out as torchvision's; D is 512."""
    backbone = ResNet(
        block="basic",
        layers=[2, 2, 2, 2],
        block_inplanes=[64, 128, 256, 512],
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    return EmbeddingClassifier(backbone, 512, num_classes)


def resnet50(num_classes: int, in_channels: int = 3, spatial_dims: int = 2) -> EmbeddingClassifier:
    """ResNet-50 (He et al. 2016; BoostMIS's backbone), laid out as torchvision's; D is 2048."""
    backbone = ResNet(
        block="bottleneck",
        layers=[3, 4, 6, 3],
        block_inplanes=[64, 128, 256, 512],
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    return EmbeddingClassifier(backbone, 2048, num_classes)


def densenet121(num_classes: int, in_channels: int = 1, spatial_dims: int = 2) -> EmbeddingClassifier:
    """DenseNet-121 (Huang et al. 2017; usual for chest X-rays); D is 1024."""
    backbone = DenseNet121(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=1)
    backbone.class_layers.out = nn.Identity()
    return EmbeddingClassifier(backbone, 1024, num_classes)


def feature_head(num_classes: int, num_features: int) -> EmbeddingClassifier:
    """Return a linear head on features ``(B, 1, D)`` of an untrained network; each vector is standardised first."""
    backbone = nn.Sequential(nn.Flatten(), nn.LayerNorm(num_features, elementwise_affine=False))
    return EmbeddingClassifier(backbone, num_features, num_classes)
