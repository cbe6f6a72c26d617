"""The U-Net of SSAL."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.networks.segmentation import Layout, Pooling, SegmentationNetwork


def ssal_unet(
    num_classes: int,
    in_channels: int = 1,
    spatial_dims: int = 2,
    width: int = 64,
    pooling: Pooling = "2x2",
) -> SegmentationNetwork:
    """Return the U-Net of SSAL's code (Zhao et al., EMBC 2022, arXiv 2205.07021): 17 million parameters in 2-D.

    Batch norm has running statistics: features must be taken in evaluation mode, where the released script leaves the
    network in training mode; an averaged copy averages them, too; and unlabeled images in a batch move them.
    `medssl_monai.networks.small_unet` is without.

    Args:
        num_classes: K; stage 1, restoration, has as many as images have channels.
        in_channels: C.
        spatial_dims: 2 or 3; the released one is 2-D.
        width: channels at full resolution; D is ``8 * width`` times the parts that are pooled.
        pooling: see `medssl_monai.networks.segmentation.pooled`; the setting of the released experiment.

    Raises:
        ValueError: if `spatial_dims` is neither.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"`spatial_dims` must be 2 or 3, got {spatial_dims}.")
    unet = SSALUNet(num_classes, in_channels, spatial_dims, width)
    layout = Layout("encoder.4", ["decoder"], "output", [16] * spatial_dims, pads=True)
    return SegmentationNetwork(unet, pooling, layout)


class SSALUNet(nn.Module):
    """Four max-poolings down, four linear interpolations up, and two convolutions with batch norm at each stop.

    An interpolation goes to the size of what it is joined to, so that sides need not be multiples of 16.
    """

    def __init__(self, num_classes: int, in_channels: int, spatial_dims: int, width: int) -> None:
        super().__init__()
        down = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        up = [down[-1], 4 * width, 2 * width, width, width]
        self.encoder = nn.ModuleList(
            _two_convolutions(before, after, after, spatial_dims) for before, after in pairwise([in_channels, *down])
        )
        joined = [(below + beside, after) for (below, after), beside in zip(pairwise(up), down[3::-1], strict=True)]
        self.decoder = nn.ModuleList(
            _two_convolutions(before, before // 2, after, spatial_dims) for before, after in joined
        )
        self.output = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(width, num_classes, 1)
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def forward(self, images: Tensor) -> Tensor:
        features, beside = images, []
        for level, block in enumerate(self.encoder):
            features = block(self._halved(features) if level > 0 else features)
            beside.append(features)
        beside.pop()
        for block in self.decoder:
            skip = beside.pop()
            features = F.interpolate(features, size=skip.shape[2:], mode=self.mode, align_corners=True)
            features = block(torch.cat([skip, features], dim=1))
        return self.output(features)

    def _halved(self, features: Tensor) -> Tensor:
        return F.max_pool2d(features, 2) if features.ndim == 4 else F.max_pool3d(features, 2)


def _two_convolutions(before: int, between: int, after: int, spatial_dims: int) -> nn.Sequential:
    convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    for start, end in pairwise([before, between, after]):
        layers += [convolution(start, end, 3, padding=1, bias=False), norm(end), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
