"""Segmentation networks that show an embedding, on MONAI's U-Nets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

Pooling = Literal["gap", "2x2"]
POOLED_SIZE: dict[str, int] = {"gap": 1, "2x2": 2}


def pooled(features: Tensor, pooling: Pooling) -> Tensor:
    """Features ``(B, C, *spatial)`` as vectors: means over the whole image, or over its halves along each axis.

    Args:
        features: 2-D or 3-D.
        pooling: ``gap``: one mean of each channel, ``(B, C)``; ``2x2``: four of them, eight in volumes, those of a
            channel next to each other, ``(B, 4C)`` or ``(B, 8C)``.
    """
    pool = F.adaptive_avg_pool2d if features.ndim == 4 else F.adaptive_avg_pool3d
    return pool(features, POOLED_SIZE[pooling]).flatten(1)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a U-Net are, by the names of its modules (`torch.nn.Module.get_submodule`).

    Args:
        bottleneck: its output ``(B, C, *spatial)`` is the coarsest.
        decoder: everything behind the bottleneck but `output`.
        output: the last layer, which alone depends on the number of classes.
        divisor: along each axis, what the size of an image must be a multiple of.
        pads: sizes in between are padded within the network, so that they only must be at least `divisor`.
    """

    bottleneck: str
    decoder: Sequence[str]
    output: str
    divisor: Sequence[int]
    pads: bool = False


class SegmentationNetwork(nn.Module):
    """A U-Net with its bottleneck, as a vector, exposed.

    Args:
        unet: images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``, as MONAI's `UNet`, `BasicUNet` or `DynUNet`.
        pooling: of the bottleneck, see `pooled`; no parameter depends on it.
        layout: of `unet`; None: found out, for the three classes above.

    Raises:
        ValueError: if `pooling` is neither, `layout` does not fit, or `unet` has several outputs.
        TypeError: if `unet` is of another class and has no `layout`.

    Attributes:
        num_classes: K, the channels of the output.
    """

    def __init__(self, unet: nn.Module, pooling: Pooling = "gap", layout: Layout | None = None) -> None:
        super().__init__()
        if pooling not in POOLED_SIZE:
            raise ValueError(f"`pooling` must be one of {list(POOLED_SIZE)}, got {pooling!r}.")
        self.unet, self.pooling, self.layout = unet, pooling, layout or _layout(unet)
        for name in (self.layout.bottleneck, *self.layout.decoder, self.layout.output):
            if name not in dict(unet.named_modules(remove_duplicate=False)):
                raise ValueError(f"`layout` names {name!r}, and {type(unet).__name__} has no such module.")
        convolutions = [m for m in unet.get_submodule(self.layout.output).modules() if isinstance(m, _ConvNd)]
        if not convolutions:
            raise ValueError(f"{self.layout.output!r}, the `output` that `layout` names, has no convolution.")
        self.num_classes = convolutions[-1].out_channels
        self.divisor, self.pads = list(self.layout.divisor), self.layout.pads

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K, *spatial)``.

        Raises:
            ValueError: if the network cannot take images of this size; it names the divisor.
        """
        size = images.shape[2:]
        for length, divisor in zip(size, self.divisor):  # noqa: B905 - TorchScript knows no `strict`
            if length < divisor or (length % divisor != 0 and not self.pads):
                wanted = "at least" if self.pads else "multiples of"
                raise ValueError(
                    f"images of {list(size)} do not fit this network, whose sides must be {wanted} {self.divisor}; "
                    "resize or pad them, or give the network fewer levels."
                )
        return self.unet(images)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)``, for clusters and query strategies; of the encoder alone, half of a pass or less."""

        def stop(module: nn.Module, inputs: Any, features: Tensor) -> None:
            raise _BottleneckReached(pooled(features.float(), self.pooling))

        with self.unet.get_submodule(self.layout.bottleneck).register_forward_hook(stop):
            try:
                self(images)
            except _BottleneckReached as reached:
                return reached.embedding
        raise self._not_reached()

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, D)`` and logits ``(B, K, *spatial)`` of one pass."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, features: Tensor) -> None:
            found.append(pooled(features.float(), self.pooling))  # at once: what follows may work in place

        with self.unet.get_submodule(self.layout.bottleneck).register_forward_hook(keep):
            logits = self(images)
        if not found:
            raise self._not_reached()
        return found[0], logits

    def _not_reached(self) -> ValueError:
        name, bottleneck = type(self.unet).__name__, self.layout.bottleneck
        return ValueError(f"{name} does not pass {bottleneck!r}, the `bottleneck` that `layout` names.")

    def names_of(self, part: Literal["decoder", "output"]) -> list[str]:
        """Names in ``state_dict()`` of everything in `decoder` or `output`, under all their names.

        `DynUNet` has each of its modules under two.
        """
        names = self.layout.decoder if part == "decoder" else [self.layout.output]
        modules = [self.unet.get_submodule(name) for name in names]
        found = {id(tensor) for module in modules for tensor in module.state_dict(keep_vars=True).values()}
        return [name for name, tensor in self.state_dict(keep_vars=True).items() if id(tensor) in found]


class _BottleneckReached(Exception):  # noqa: N818 - no error
    """Ends a pass."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding = embedding


def _layout(unet: nn.Module) -> Layout:
    if type(unet) is UNet:
        block: Any = unet.model
        name, decoder = "model", []
        while True:  # down, the next block within a skip connection, up
            decoder.append(f"{name}.2")
            block, name = block[1].submodule, f"{name}.1.submodule"
            if type(block) is not nn.Sequential:
                # It has no layer of its own for the output: the last step up makes it.
                return Layout(name, decoder[1:], decoder[0], _product(unet.strides, unet.dimensions))
    if type(unet) is BasicUNet:
        decoder = [f"upcat_{level}" for level in (4, 3, 2, 1)]
        return Layout("down_4", decoder, "final_conv", [16] * (unet.final_conv.weight.ndim - 2), pads=True)
    if type(unet) is DynUNet:
        if unet.deep_supervision:
            raise ValueError("a DynUNet with `deep_supervision` has several outputs; build it without.")
        return Layout("bottleneck", ["upsamples"], "output_block", _product(unet.strides, unet.spatial_dims))
    raise TypeError(
        f"where {type(unet).__name__} has its bottleneck, decoder and output is not known; pass "
        "`layout` (medssl_monai.networks.Layout) with the names of these modules."
    )


def _product(strides: Iterable[int | Sequence[int]], dims: int) -> list[int]:
    """Along each axis."""
    rows = [[stride] * dims if isinstance(stride, int) else list(stride) for stride in strides]
    return [math.prod(axis) for axis in zip(*rows, strict=True)]


def _grouped(width: int) -> tuple[str, dict[str, int]]:
    return "group", {"num_groups": math.gcd(8, width)}


def small_unet(
    num_classes: int,
    in_channels: int = 1,
    spatial_dims: int = 2,
    width: int = 16,
    dropout: float = 0.1,
    levels: int | Sequence[int] = 4,
    pooling: Pooling = "gap",
) -> SegmentationNetwork:
    """Return a U-Net for small images and volumes that trains in minutes on two cores.

    A `dyn_unet`: MONAI's `BasicUNet` halves each axis four times, which is too much for a volume of eight slices, and
    its `UNet` has no layer at full resolution.

    Args:
        num_classes: K.
        in_channels: C.
        spatial_dims: 2 or 3.
        width: channels at full resolution; each level doubles them.
        dropout: see `dyn_unet`.
        levels: resolutions, at least 3; or how many along each axis, of which the largest is at least 3: a thin axis
            is halved last, so that ``[4, 4, 2]`` suits 64 x 64 x 8. A side must be a multiple of ``2 ** (levels - 1)``.
        pooling: see `pooled`.

    Raises:
        ValueError: if `levels` does not fit.
    """
    per_axis = [levels] * spatial_dims if isinstance(levels, int) else list(levels)
    depth = max(per_axis)
    if len(per_axis) != spatial_dims or depth < 3 or min(per_axis) < 1:
        raise ValueError(
            f"`levels` must be at least 3, or one number for each of {spatial_dims} axes, the largest of at least 3, "
            f"got {levels}."
        )
    strides = [[2 if level > depth - own else 1 for own in per_axis] for level in range(depth)]
    filters = [width * 2**level for level in range(depth)]
    return dyn_unet(num_classes, in_channels, spatial_dims, strides, filters, dropout=dropout, pooling=pooling)


def dyn_unet(
    num_classes: int,
    in_channels: int = 1,
    spatial_dims: int = 3,
    strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2),
    filters: Sequence[int] | None = None,
    kernel_size: int | Sequence[int | Sequence[int]] = 3,
    dropout: float = 0.0,
    pooling: Pooling = "gap",
) -> SegmentationNetwork:
    """MONAI's `DynUNet`, the network of nnU-Net (Isensee et al., Nature Methods 18:203-211, 2021), with group norm.

    Group norm (Wu & He, ECCV 2018; eight groups) has no running statistics: student and teacher normalise alike in
    training and evaluation, an averaged copy has nothing but weights to average, distorted or unlabeled images in a
    batch leave the others alone, and one volume is a batch. Instance norm, nnU-Net's, has all this too, but brings
    every channel to the same mean, and the means of the bottleneck are what `pooled` asks for.

    Args:
        num_classes: K.
        in_channels: C.
        spatial_dims: 2 or 3.
        strides: of each level, the first being 1; all axes alike, or one number for each.
        filters: channels of each level, multiples of the first (or of eight); None: nnU-Net's, from 32 doubled to at
            most 512, in volumes 320.
        kernel_size: of all levels, or of each.
        dropout: probability behind each convolution but the last one (MONAI's own has it there too, on the logits).
            Some queries need it; on a CPU a step takes a quarter longer.
        pooling: see `pooled`.
    """
    kernels = [kernel_size] * len(strides) if isinstance(kernel_size, int) else list(kernel_size)
    unet = DynUNet(
        spatial_dims,
        in_channels,
        num_classes,
        kernels,
        strides,
        strides[1:],
        filters=filters,
        dropout=dropout or None,
        norm_name=_grouped(filters[0] if filters else 32),
    )
    if dropout:
        unet.output_block = UnetOutBlock(spatial_dims, unet.filters[0], num_classes)
        unet.output_block.apply(unet.initialize_weights)
    return SegmentationNetwork(unet, pooling)


def basic_unet(
    num_classes: int,
    in_channels: int = 1,
    spatial_dims: int = 2,
    features: Sequence[int] = (32, 32, 64, 128, 256, 32),
    dropout: float = 0.0,
    pooling: Pooling = "gap",
) -> SegmentationNetwork:
    """MONAI's `BasicUNet` (Falk et al., Nature Methods 16:67-70, 2019), with group norm as in `dyn_unet`.

    Args:
        num_classes: K.
        in_channels: C.
        spatial_dims: 2 or 3.
        features: channels of the five levels, and of the last step up; multiples of eight, or all of one number.
        dropout: probability behind each convolution but the last one.
        pooling: see `pooled`.
    """
    norm = _grouped(math.gcd(*features))
    unet = BasicUNet(spatial_dims, in_channels, num_classes, features, norm=norm, dropout=dropout)
    return SegmentationNetwork(unet, pooling)
