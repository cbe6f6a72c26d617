"""Images that are copies of each other: equal pixels, or one picture resized, re-encoded or made brighter.

Near copies are found in two steps. The *detail* of coarse thumbnails (what a blur takes away) is compared for all
pairs by blocked matrix products, and the nearest few of each image are candidates. A candidate pair is then compared at
the size of the smaller image, and accepted if it differs no more than an image differs from its own JPEG copy at that
size: small, flat or noisy pictures, which a JPEG changes a lot, need less agreement than clear ones. A fixed threshold
does not separate copies from other people's chest radiographs; this one does (``benchmarks/audit``).
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]

COARSE = 16  # side on which all pairs are compared
NEIGHBOURS = 8  # candidates per image
COARSE_SIMILARITY = 0.7  # of candidates; of planted copies that were found, the least was 0.77
SMALLEST = 8  # side in pixels of what is compared
SIDES = (32, 48)  # of thumbnails: half the image's side, but no less and no more than this
FINE, BLUR = 0.7, 3.0  # in pixels of a thumbnail: detail is what the first blur leaves and the second takes away
JPEG_QUALITY = 50
SLACK, MARGIN = 0.02, 1.2
MOST_NOISE = 0.1  # of a picture that JPEG changes more than this, copies cannot be told from others
PERCENTILE_PIXELS = 10_000  # of an image, evenly spread
_BLOCK = 2**25  # similarities, or pixels, held at once


@dataclass(frozen=True)
class Picture:
    """What is kept of an image to find its copies.

    Attributes:
        digest: hash of shape and pixel values, whatever the file and data type they came in; grey stored as three
            equal channels counts as grey.
        thumbnail: ``(1 or 3, h, w)``, uint8, of at most 48 x 48; None for what has no picture: a single grey value, or
            a row of a table, or fewer than 8 x 8 pixels. Volumes are averaged along their last axis.
        blank: whether all pixels are equal.
        intensities: mean, standard deviation, and percentiles 1 and 99 of the pixel values.
    """

    digest: str
    thumbnail: Array | None
    blank: bool
    intensities: tuple[float, float, float, float]


def picture(array: Array) -> Picture:
    """Describe an image ``(C, x, y)``, a volume ``(C, x, y, z)`` or a row ``(C, n)``; NaN counts as 0."""
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.issubdtype(array.dtype, np.integer):
        values = np.nan_to_num(values, posinf=0.0, neginf=0.0) + 0.0  # no -0.0, which has other bytes than 0.0
    if len(values) == 3 and (values == values[:1]).all():
        values = values[:1]
    low, high = float(values.min()), float(values.max())
    digest = hashlib.blake2b(values.data, digest_size=16, person=str(values.shape).encode()[:16]).hexdigest()
    some = values.reshape(-1)[:: 1 + values.size // PERCENTILE_PIXELS]
    intensities = (float(values.mean()), float(values.std()), *np.percentile(some, [1, 99]).tolist())
    shown = low < high and values.ndim > 2 and min(values.shape[1:3]) >= SMALLEST
    thumbnail = _thumbnail(values, array.dtype == np.uint8) if shown else None
    return Picture(digest, thumbnail, low == high, intensities)


def near_copies(thumbnails: Sequence[Array], files: Sequence[int]) -> list[tuple[int, int, float]]:
    """Return the pairs that show one picture, best first.

    Found are copies of 0.5 to 2 times the size, JPEG files of quality 50 and better, and changes of brightness,
    contrast or gamma by a tenth, also together. Cropped, turned and mirrored copies are not. An image is compared with
    its 8 nearest only, so of a larger set of copies not all pairs are listed. Time grows with the square of the number
    of images (10,000: seconds), memory in proportion to it.

    Args:
        thumbnails: of distinct pictures, from `picture`.
        files: number of the file that each is from; slices of one volume resemble each other and are not compared.

    Returns:
        Positions i < j, and the correlation of the details of the two.
    """
    if len(thumbnails) < 2:
        return []
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, j in _candidates(thumbnails, torch.as_tensor(files)).tolist():
        shapes = zip(thumbnails[i].shape, thumbnails[j].shape, strict=True)
        groups[tuple(min(sizes) for sizes in shapes)].append((i, j))
    found: list[tuple[int, int, float]] = []
    for shape, pairs in groups.items():
        noise: dict[int, Tensor] = {}
        step = max(1, _BLOCK // (4 * int(np.prod(shape))))
        for start in range(0, len(pairs), step):
            found += _verified(thumbnails, pairs[start : start + step], shape, noise)
    return sorted(found, key=lambda pair: (-pair[2], pair))


def _thumbnail(values: Array, eight_bits: bool) -> Array:
    values = values.mean(axis=-1) if values.ndim == 4 else values
    values = values if len(values) in (1, 3) else values.mean(axis=0, keepdims=True)
    sides = [min(max(side // 2, SIDES[0]), side, SIDES[1]) for side in values.shape[1:]]
    small = _resize(torch.from_numpy(values), sides).numpy()
    if not eight_bits:
        small = (small - small.min()) * (255 / max(float(np.ptp(small)), 1e-12))
    return small.round().clip(0, 255).astype(np.uint8)


def _resize(image: Tensor, sides: Sequence[int]) -> Tensor:
    if image.shape[1:] == tuple(sides):
        return image
    resized: Tensor = F.interpolate(image[None], tuple(sides), mode="bilinear", antialias=True, align_corners=False)[0]
    return resized


def _candidates(thumbnails: Sequence[Array], files: Tensor) -> Tensor:
    """Return pairs ``(M, 2)``, i < j, of images among whose nearest neighbours the other is."""
    grey = (torch.from_numpy(image).float().mean(dim=0, keepdim=True) for image in thumbnails)
    coarse = _inner(torch.stack([_resize(image, (COARSE, COARSE)) for image in grey]))
    detail = _unit(coarse - _blurred(coarse, BLUR / 2))
    count, pairs = min(NEIGHBOURS, len(detail) - 1), []
    step = max(1, _BLOCK // len(detail))
    for start in range(0, len(detail), step):
        rows = torch.arange(start, min(start + step, len(detail)))
        similarity = detail[rows] @ detail.T
        similarity[files[rows, None] == files] = -1
        best, columns = similarity.topk(count, dim=1)
        near = best > COARSE_SIMILARITY
        pairs.append(torch.stack([rows[:, None].expand_as(columns)[near], columns[near]], dim=1))
    return torch.cat(pairs).sort(dim=1).values.unique(dim=0)  # type: ignore[no-untyped-call]


def _verified(
    thumbnails: Sequence[Array], pairs: Sequence[tuple[int, int]], shape: tuple[int, ...], noise: dict[int, Tensor]
) -> list[tuple[int, int, float]]:
    """Return the pairs that are copies, compared as images of `shape`; `noise` keeps what JPEG does to each."""
    positions = sorted({position for pair in pairs for position in pair})
    images = torch.stack([_fit(thumbnails[position], shape) for position in positions])
    views = _views(images)
    row = {position: k for k, position in enumerate(positions)}
    first, second = (torch.tensor([row[pair[side]] for pair in pairs]) for side in (0, 1))
    apart = torch.stack([1 - (view[first] * view[second]).sum(dim=1) for view in views], dim=1)
    possible = (apart <= MARGIN * (SLACK + MOST_NOISE)).all(dim=1).nonzero().flatten().tolist()
    unknown = sorted({position for k in possible for position in pairs[k]} - noise.keys())
    if unknown:
        rows = torch.tensor([row[position] for position in unknown])
        copies = _views(torch.stack([_as_jpeg(image) for image in images[rows]]))
        changes = [1 - (view[rows] * copy).sum(dim=1) for view, copy in zip(views, copies, strict=True)]
        noise.update(zip(unknown, torch.stack(changes, dim=1).clamp(max=MOST_NOISE), strict=True))
    found = []
    for k in possible:
        i, j = pairs[k]
        if (apart[k] <= MARGIN * (SLACK + torch.maximum(noise[i], noise[j]))).all():
            found.append((i, j, round(1 - float(apart[k, 1]), 4)))
    return found


def _views(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images ``(N, C, h, w)`` as vectors whose products are correlations: of the whole, and of the detail."""
    images = _blurred(_inner(images), FINE)
    return _unit(images), _unit(images - _blurred(images, BLUR))


def _fit(thumbnail: Array, shape: tuple[int, ...]) -> Tensor:
    image = torch.from_numpy(thumbnail).float()
    image = image if len(image) == shape[0] else image.mean(dim=0, keepdim=True)
    return _resize(image, shape[1:])


def _inner(images: Tensor) -> Tensor:
    """Cut off the outermost pixels, where ways to resize differ and some leave a black line."""
    return images[..., 1:-1, 1:-1]


def _blurred(images: Tensor, blur: float) -> Tensor:
    rows, columns = (_blur_matrix(side, blur).T for side in images.shape[2:])
    return ((images @ columns).mT @ rows).mT  # a matrix on the right makes one large product of many small ones


@cache
def _blur_matrix(side: int, blur: float) -> Tensor:
    from scipy.ndimage import gaussian_filter1d

    return torch.from_numpy(gaussian_filter1d(np.eye(side, dtype=np.float32), blur, axis=0, mode="nearest"))


def _unit(images: Tensor) -> Tensor:
    """Return vectors ``(N, D)`` of mean 0 and length 1."""
    vectors = images.flatten(1)
    return F.normalize(vectors - vectors.mean(dim=1, keepdim=True))


def _as_jpeg(image: Tensor) -> Tensor:
    from PIL import Image

    pixels = image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as copy:
        return torch.from_numpy(np.asarray(copy, dtype=np.float32)).reshape(pixels.shape).permute(2, 0, 1)
