"""Distorted images for a network to restore: Models Genesis (Zhou et al., MICCAI 2019, arXiv 1908.06912), as in SSAL.

As in `medssl_monai.transforms.augment`, every operation takes whole batches ``(B, C, *spatial)`` in [0, 1], 2-D or 3-D,
on the device of the network, draws for each image by itself, and returns images in [0, 1]. Windows, curves and boxes
are those of the code that SSAL's authors released (Zhao et al., EMBC 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.transforms.augment import to_unit


class LocalShuffle(nn.Module):
    """Mix the pixels within small windows, all channels of a pixel together.

    Each axis is cut into lengths that are uniform from 1 to `size` of the image's side, so that windows cover the image
    once, and the pixels of each are permuted. The released code draws 10,000 windows anywhere in an image of 256 x 256,
    and each writes a permutation of the original over what earlier ones have left: in the end every pixel shows one of
    the last window upon it, as here, but windows are cut by later ones, so that values get lost or doubled. Here the
    histogram of each window stays as it is, and the work grows with the number of pixels, in one sort.

    Args:
        size: largest side of a window, as a share of the image's, in (0, 1]; rounded down, but at least one pixel.

    Raises:
        ValueError: if `size` is out of its range.
    """

    def __init__(self, size: float = 0.1) -> None:
        super().__init__()
        if not 0.0 < size <= 1.0:
            raise ValueError(f"`size` is a share of the image's side and must be in (0, 1], got {size}.")
        self.size = size

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        windows, within = self._windows(images, generator)
        noise = torch.rand(windows.shape, generator=generator, device=images.device, dtype=torch.float64)
        mixed = noise.add_(windows).argsort(dim=1)  # pixels window by window, in any order within each
        source = mixed.gather(1, windows + within).unsqueeze(1)
        return images.flatten(2).gather(2, source.expand(-1, images.shape[1], -1)).view_as(images)

    def _windows(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """How many pixels are in the windows before that of a pixel, and before it in its own; each ``(B, pixels)``."""
        size = images.shape[2:]
        windows = within = torch.zeros((), dtype=torch.long, device=images.device)
        widths = torch.ones_like(windows)  # product over the axes so far
        for axis, length in enumerate(size):  # windows are in the order of their axes
            view = (-1, *(length if other == axis else 1 for other in range(len(size))))
            start, width = (part.view(view) for part in self._cut(len(images), length, generator))
            windows = windows + widths * start * math.prod(size[axis + 1 :])
            within = within * width + torch.arange(length, device=images.device).view(1, *view[1:]) - start
            widths = widths * width
        shape = (len(images), *size)
        return windows.expand(shape).flatten(1), within.expand(shape).flatten(1)

    def _cut(self, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Start and width of the piece that each position of an axis is in, ``(count, length)``."""
        largest = max(1, int(self.size * length + 1e-6))
        widths = torch.randint(1, largest + 1, (count, length), generator=generator, device=generator.device)
        ends = widths.cumsum(dim=1)
        positions = torch.arange(length, device=generator.device).repeat(count, 1)
        piece = torch.searchsorted(ends, positions, right=True)
        end = ends.gather(1, piece)
        start = end - widths.gather(1, piece)
        return start, end.clamp_max(length) - start


class BezierIntensity(nn.Module):
    """Change grey values by a curve that is drawn for each image: increasing, or, as often, an inverting one."""

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.rand((len(images), 5), generator=generator, device=images.device)
        points = torch.zeros((len(images), 4, 2), device=images.device)
        points[:, 1:3] = draw[:, :4].view(-1, 2, 2)
        points[:, 3] = 1.0
        return bezier_intensity(images, points, draw[:, 4] < 0.5)


def bezier_curve(points: Tensor, samples: int = 1000) -> Tensor:
    """Points of cubic Bezier curves at even steps of the parameter, from the last control point to the first.

    Args:
        points: control points ``(B, 4, 2)``.
        samples: S.

    Returns:
        ``(B, S, 2)``.
    """
    t = torch.linspace(0.0, 1.0, samples, dtype=points.dtype, device=points.device).unsqueeze(1)
    one, two, three, four = points.unsqueeze(2).unbind(dim=1)  # each (B, 1, 2)
    return t**3 * one + 3 * t**2 * (1 - t) * two + 3 * t * (1 - t) ** 2 * three + (1 - t) ** 3 * four


def bezier_intensity(images: Tensor, points: Tensor, inverting: Tensor, samples: int = 1000) -> Tensor:
    """Grey values mapped by a cubic Bezier curve, linear between its samples.

    The samples are sorted along x. Those of an increasing map are sorted along y, too; those of an inverting one keep
    the order of the curve, from (1, 1) to (0, 0), so that values fall from 1 to 0.

    Args:
        images: ``(B, C, *spatial)`` in [0, 1].
        points: control points ``(B, 4, 2)``, the first (0, 0), the last (1, 1), all in [0, 1].
        inverting: ``(B,)``, bool.
        samples: of each curve.
    """
    x, y = bezier_curve(points, samples).unbind(dim=2)
    x = x.sort(dim=1).values.contiguous()
    y = torch.where(inverting.unsqueeze(1), y, y.sort(dim=1).values)
    values = images.flatten(1).clamp(0.0, 1.0)
    right = torch.searchsorted(x, values, right=True).clamp_(1, samples - 1)
    step = x.diff(dim=1).clamp_min_(torch.finfo(x.dtype).tiny)  # samples may coincide
    slope = y.diff(dim=1) / step
    left = right - 1
    mapped = y.gather(1, left) + (values - x.gather(1, left)) * slope.gather(1, left)
    return mapped.clamp_(0.0, 1.0).view_as(images)


class InPainting(nn.Module):
    """Up to five boxes of noise, their sides a sixth to a third of the image's; none in one image of twenty."""

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        inside = _boxes(images, lambda length: (length // 6, length // 3), 5, 0, generator)
        return torch.where(inside, _noise(images, generator), images)


class OutPainting(nn.Module):
    """Noise but for one to five boxes, their sides three to four sevenths of the image's."""

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        inside = _boxes(images, lambda length: (length - 4 * length // 7, length - 3 * length // 7), 5, 1, generator)
        return torch.where(inside, images, _noise(images, generator))


def _noise(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)


def _boxes(
    images: Tensor, sides: Callable[[int], tuple[int, int]], most: int, least: int, generator: torch.Generator
) -> Tensor:
    """Return what boxes cover, ``(B, 1, *spatial)``, bool: `least`, and up to `most` each with probability 0.95.

    They are three pixels from the border, or in the middle of an axis that is too short for that.
    """
    count, device = len(images), images.device
    draw = torch.rand((images.ndim - 2, 2, count, most), generator=generator, device=device)
    more = torch.rand((count, most), generator=generator, device=device) < 0.95
    more[:, :least] = True
    inside = more.cumprod(dim=1).bool().view(count, most, *(1,) * (images.ndim - 2))
    for axis, (length, (size, place)) in enumerate(zip(images.shape[2:], draw, strict=True)):
        low, high = (max(1, side) for side in sides(length))
        side = low + (size * (high - low + 1)).long()
        border = ((length - side) // 2).clamp_max(3)
        start = border + (place * (length - 2 * border - side + 1)).long()
        position = torch.arange(length, device=device)
        along = (position >= start.unsqueeze(2)) & (position < (start + side).unsqueeze(2))
        inside = inside & along.view(count, most, *(length if a == axis else 1 for a in range(images.ndim - 2)))
    return inside.any(dim=1, keepdim=True)


class RestorationViews:
    """Each unlabeled image, flipped at random, and a distorted copy of it: what to restore, and from what.

    ``image`` and ``distorted`` are ``(B, C, *spatial)`` in [0, 1]. Other streams are left as they are.

    Args:
        flip: probability of a flip, and of another one, up to three; each along a random axis of ``(C, *spatial)``, the
            first of which stays as it is. 0 for images with sides that must be told apart.
        shuffle: probability of `LocalShuffle`.
        intensity: probability of `BezierIntensity`, which comes next.
        painting: probability of noise, which comes last.
        outer: share of `OutPainting` in that; the rest is `InPainting`.

    Raises:
        ValueError: if a probability is not in [0, 1].
    """

    def __init__(
        self,
        flip: float = 0.4,
        shuffle: float = 0.5,
        intensity: float = 0.9,
        painting: float = 0.9,
        outer: float = 0.8,
    ) -> None:
        given = {"flip": flip, "shuffle": shuffle, "intensity": intensity, "painting": painting, "outer": outer}
        for name, value in given.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"`{name}` is a probability and must be in [0, 1], got {value}.")
        self.flip, self.shuffle, self.intensity, self.painting, self.outer = given.values()
        self.operations = LocalShuffle(), BezierIntensity(), OutPainting(), InPainting()

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]], generator: torch.Generator) -> dict[str, Any]:
        """Replace the images of the stream ``unlabeled``, without gradient and in float32.

        Args:
            batch: ``image`` ``(B, C, *spatial)`` in the stream ``unlabeled``, uint8 or in [0, 1].
            generator: on the device of the images.
        """
        images = to_unit(batch["unlabeled"]["image"])
        with torch.no_grad():
            images = _flipped(images, self.flip, generator)
            shuffle, intensity, painting, outer = torch.rand(
                (4, len(images)), generator=generator, device=images.device
            )
            paint = painting < self.painting
            drawn = [shuffle < self.shuffle, intensity < self.intensity]
            drawn += [paint & (outer < self.outer), paint & (outer >= self.outer)]
            distorted = images
            for operation, rows in zip(self.operations, drawn, strict=True):
                distorted = _where(rows, operation, distorted, generator)
        return {**batch, "unlabeled": {**batch["unlabeled"], "image": images, "distorted": distorted}}


def _where(drawn: Tensor, operation: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """`operation` on the images that drew it, ``(B,)``."""
    if images.device.type != "cpu":  # how many were drawn is not known without waiting for the device
        return torch.where(drawn.view(-1, *(1,) * (images.ndim - 1)), operation(images, generator), images)
    rows = drawn.nonzero().squeeze(1)
    return images.index_copy(0, rows, operation(images[rows], generator)) if len(rows) else images


def _flipped(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Up to three flips of each image, each along an axis of ``(C, *spatial)``; that of channels changes nothing."""
    draw = torch.rand((2, len(images), 3), generator=generator, device=images.device)
    flips = (draw[0] < probability).cumprod(dim=1)
    axes = (draw[1] * (images.ndim - 1)).long()
    for axis in range(2, images.ndim):
        odd = ((axes == axis - 1) * flips).sum(dim=1) % 2 == 1
        images = torch.where(odd.view(-1, *(1,) * (images.ndim - 1)), images.flip(axis), images)
    return images
