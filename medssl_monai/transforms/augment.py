"""Random views of whole batches, on the device of the network.

Every operation takes images ``(B, C, *spatial)`` in [0, 1], 2-D or 3-D, and a `torch.Generator` on their device; it
draws its parameters per sample and returns images of the same shape in [0, 1]. Written in plain torch: kornia draws
from the global generator and has no blur or bias field for volumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_unit(images: Tensor) -> Tensor:
    """Images as a network takes them: uint8 becomes float32 in [0, 1], floats stay as they are."""
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images.float()


def _uniform(images: Tensor, low: float, high: float, generator: torch.Generator, *shape: int) -> Tensor:
    """Random numbers in [`low`, `high`), one row per image, ready to be broadcast over it."""
    size = (len(images), *(shape or (1,) * (images.ndim - 1)))
    return torch.rand(size, generator=generator, device=images.device).mul_(high - low).add_(low)


class Compose(nn.Module):
    """One operation after the other."""

    def __init__(self, operations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for operation in self.operations:
            images = operation(images, generator)
        return images


class RandomSubset(nn.Module):
    """Apply `count` of the operations to each image, drawn without replacement (RandAugment, Cubuk et al. 2020).

    Args:
        operations: applied in this order to the images that drew them.
        count: operations per image.
    """

    def __init__(self, operations: Sequence[nn.Module], count: int) -> None:
        super().__init__()
        if not 0 <= count <= len(operations):
            raise ValueError(f"`count` must be in [0, {len(operations)}], the number of operations, got {count}.")
        self.operations, self.count = nn.ModuleList(operations), count

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        rank = _uniform(images, 0.0, 1.0, generator, len(self.operations)).argsort(dim=1).argsort(dim=1)
        on_cpu = images.device.type == "cpu"
        images = images.clone() if on_cpu else images
        for position, operation in enumerate(self.operations):
            drawn = rank[:, position] < self.count
            if on_cpu:
                rows = drawn.nonzero().squeeze(1)
                if len(rows):
                    images.index_copy_(0, rows, operation(images.index_select(0, rows), generator))
            else:  # how many were drawn is not known without waiting for the device
                drawn = drawn.view(-1, *(1,) * (images.ndim - 1))
                images = torch.where(drawn, operation(images, generator), images)
        return images


class Affine(nn.Module):
    """Rotate, scale, shear, shift and flip in one resampling; the border is repeated.

    Args:
        rotate: largest angle in degrees; volumes turn about their last axis.
        shift: largest shift as a share of the image's side.
        scale: largest relative change of size.
        shear: largest shear (tangent of the angle).
        flip: spatial axes that are flipped with probability 1/2; 0 is the first.
    """

    def __init__(
        self, rotate: float = 0.0, shift: float = 0.0, scale: float = 0.0, shear: float = 0.0, flip: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.rotate, self.shift, self.scale, self.shear, self.flip = rotate, shift, scale, shear, tuple(flip)

    def matrix(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Map output to input coordinates in [-1, 1], ``(B, D, D + 1)``, in torch's order (last axis first)."""
        n, dims = len(images), images.ndim - 2
        draw = _uniform(images, -1.0, 1.0, generator, 3 + dims)
        angle = draw[:, 0] * torch.pi / 180.0 * self.rotate
        size = 1.0 + draw[:, 1] * self.scale
        matrix = torch.eye(dims, dims + 1, device=images.device).repeat(n, 1, 1)
        # the two axes of the plane are the first two spatial ones, which are the last in torch's order
        a, b = dims - 2, dims - 1
        matrix[:, a, a], matrix[:, b, b] = angle.cos() * size, angle.cos() * size
        aspect = images.shape[2] / images.shape[3]  # torch's coordinates run from -1 to 1 whatever the side
        matrix[:, a, b] = (-angle.sin() * size + draw[:, 2] * self.shear) * aspect
        matrix[:, b, a] = angle.sin() * size / aspect
        for axis in range(2, dims):
            matrix[:, dims - 1 - axis, dims - 1 - axis] = size
        if self.flip:
            sign = _uniform(images, 0.0, 1.0, generator, dims).lt(0.5).float().mul(-2.0).add(1.0)
            keep = torch.tensor([float(axis not in self.flip) for axis in range(dims)], device=images.device)
            sign = torch.where(keep.bool(), torch.ones_like(sign), sign).flip(1)
            matrix[:, :, :dims] = matrix[:, :, :dims] * sign[:, None, :]
        matrix[:, :, dims] = draw[:, 3:] * 2.0 * self.shift
        return matrix

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        grid = affine_grid(self.matrix(images, generator), images.shape[2:])
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def affine_grid(matrix: Tensor, size: Sequence[int]) -> Tensor:
    """`torch.nn.functional.affine_grid` with ``align_corners=False``, as a sum over axes: far faster on the CPU.

    Args:
        matrix: ``(B, D, D + 1)``, in torch's order.
        size: of the D spatial axes.

    Returns:
        Coordinates in [-1, 1], ``(B, *size, D)``.
    """
    dims = len(size)
    grid = matrix[:, :, dims].view(-1, dims, *(1,) * dims)
    for axis, length in enumerate(size):
        centre = (2 * torch.arange(length, device=matrix.device) + 1) / length - 1
        along = matrix[:, :, dims - 1 - axis, None] * centre  # (B, D, length)
        grid = grid + along.view(-1, dims, *(length if other == axis else 1 for other in range(dims)))
    return grid.movedim(1, -1)


class Brightness(nn.Module):
    """Add a constant of up to `amount` (share of the grey scale)."""

    def __init__(self, amount: float = 0.2) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return (images + _uniform(images, -self.amount, self.amount, generator)).clamp_(0.0, 1.0)


class Contrast(nn.Module):
    """Stretch grey values about the image's mean by a factor in ``[1 - amount, 1 + amount]``."""

    def __init__(self, amount: float = 0.5) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        factor = _uniform(images, 1.0 - self.amount, 1.0 + self.amount, generator)
        mean = images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)
        return torch.lerp(mean, images, factor).clamp_(0.0, 1.0)


class Gamma(nn.Module):
    """Raise grey values to a power in ``[1 / (1 + amount), 1 + amount]``, uniform in the logarithm."""

    def __init__(self, amount: float = 0.7) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images.pow((_uniform(images, -1.0, 1.0, generator) * torch.tensor(1.0 + self.amount).log()).exp())


class GaussianNoise(nn.Module):
    """Add white noise with a standard deviation of up to `std` (share of the grey scale)."""

    def __init__(self, std: float = 0.1) -> None:
        super().__init__()
        self.std = std

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return noise.mul_(_uniform(images, 0.0, self.std, generator)).add_(images).clamp_(0.0, 1.0)


class GaussianBlur(nn.Module):
    """Blur with a Gaussian of a standard deviation of up to `sigma` pixels, cut off at two of them."""

    def __init__(self, sigma: float = 1.5) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        radius = max(1, round(2 * self.sigma))
        sigma = _uniform(images, 0.05, max(self.sigma, 0.05), generator, 1)
        offset = torch.arange(-radius, radius + 1, device=images.device)
        kernel = F.normalize(torch.exp(-0.5 * (offset / sigma) ** 2), p=1.0, dim=1)  # (B, 2 radius + 1)
        kernel = kernel.view(*kernel.shape, *(1,) * (images.ndim - 1))
        for axis in range(2, images.ndim):  # a sum of shifted images: a grouped convolution is slower
            padding = [0] * (2 * (images.ndim - 2))
            padding[2 * (images.ndim - 1 - axis)] = padding[2 * (images.ndim - 1 - axis) + 1] = radius
            length, padded = images.shape[axis], F.pad(images, padding, mode="replicate")
            images = torch.zeros_like(images)
            for position in range(2 * radius + 1):
                images.addcmul_(padded.narrow(axis, position, length), kernel[:, position])
        return images


class BiasField(nn.Module):
    """Multiply with a smooth field, as an uneven coil would (cf. MONAI's `RandBiasField`).

    The field is interpolated from random values at the ends and in the middle of each axis.

    Args:
        amount: largest relative change.
    """

    KNOTS: ClassVar[int] = 3

    def __init__(self, amount: float = 0.4) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        dims = images.ndim - 2
        field = _uniform(images, -1.0, 1.0, generator, 1, *(self.KNOTS,) * dims)
        field = field * _uniform(images, 0.0, self.amount, generator)
        for length in images.shape[2:]:  # linear between the knots; each turn takes the first axis to the end
            place = torch.linspace(0, self.KNOTS - 1, length, device=images.device)
            near = (1.0 - (place[:, None] - torch.arange(self.KNOTS, device=images.device)).abs()).clamp_min_(0.0)
            field = torch.tensordot(field, near, dims=([2], [1]))
        return field.add_(1.0).mul(images).clamp_(0.0, 1.0)


class Cutout(nn.Module):
    """Replace a box by mid-grey (DeVries & Taylor 2017); its sides are uniform in [0, `size`] of the image's."""

    def __init__(self, size: float = 0.5) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        inside = torch.ones((), dtype=torch.bool, device=images.device)
        shape = (1,) * (images.ndim - 1)
        half = _uniform(images, 0.0, self.size / 2, generator, *shape)
        for axis, length in enumerate(images.shape[2:]):
            centre = _uniform(images, 0.0, 1.0, generator, *shape)
            view = [1] * images.ndim
            view[2 + axis] = length
            position = ((torch.arange(length, device=images.device) + 0.5) / length).view(view)
            inside = inside & ((position - centre).abs() < half)
        return images.masked_fill(inside, 0.5)


class Views:
    """The random views that a method trains on.

    Labeled images become their ``weak`` view; unlabeled ones get both, ``weak`` and ``strong``.

    Args:
        weak: a module of this file.
        strong: likewise; `weak` runs first, so that the strong view is a distortion of a weak one, as in FixMatch.
            None: weak views only, for methods that need no others.
    """

    def __init__(self, weak: nn.Module, strong: nn.Module | None = None) -> None:
        self.weak, self.strong = weak, strong

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]], generator: torch.Generator) -> dict[str, Any]:
        """Replace the images of every stream, without gradient and in float32.

        Args:
            batch: streams with ``image`` ``(B, C, *spatial)``, uint8 or in [0, 1]; those with ``label`` are labeled.
            generator: on the device of the images.
        """
        result: dict[str, Any] = {}
        with torch.no_grad():
            for name, stream in batch.items():
                images = to_unit(stream["image"])
                rest = {key: value for key, value in stream.items() if key != "image"}
                if "label" in stream:
                    result[name] = {**rest, "image": self.weak(images, generator)}
                elif self.strong is None:
                    result[name] = {**rest, "weak": self.weak(images, generator)}
                else:
                    weak, start = self.weak(torch.cat([images, images]), generator).chunk(2)
                    result[name] = {**rest, "weak": weak, "strong": self.strong(start, generator)}
        return result
