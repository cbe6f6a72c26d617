"""Random views for contrastive pre-training, on the device of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.transforms.augment import Affine, affine_grid, to_unit


class KeyViews:
    """One view of each unlabeled image as the query and several as its keys, all drawn alike.

    ``query`` is ``(B, C, *spatial)``, ``keys`` is ``(B, M, C, *spatial)``: the keys of an image stay together. Other
    streams are left as they are.

    Args:
        view: a module of `medssl_monai.transforms`, strong: what it does not change is what the network learns to see.
        num_keys: views per image that are keys (M); 1 is MoCo. S2MTS2's code has 2 for ChestX-ray14, 5 for CheXpert.

    Raises:
        ValueError: if `num_keys` is less than 1.
    """

    def __init__(self, view: nn.Module, num_keys: int = 5) -> None:
        if num_keys < 1:
            raise ValueError(f"`num_keys` must be at least 1, got {num_keys}.")
        self.view, self.num_keys = view, num_keys

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]], generator: torch.Generator) -> dict[str, Any]:
        """Replace the images of the stream ``unlabeled``, without gradient and in float32.

        Args:
            batch: ``image`` ``(B, C, *spatial)`` in the stream ``unlabeled``, uint8 or in [0, 1].
            generator: on the device of the images.
        """
        rest = {key: value for key, value in batch["unlabeled"].items() if key != "image"}
        with torch.no_grad():
            images = to_unit(batch["unlabeled"]["image"])
            query = self.view(images, generator)
            keys = self.view(images.repeat_interleave(self.num_keys, dim=0), generator)
        keys = keys.unflatten(0, (len(images), self.num_keys))
        return {**batch, "unlabeled": {**rest, "query": query, "keys": keys}}


class ResizedCrop(nn.Module):
    """Cut a box out of each image and stretch it to the full size (Szegedy et al., CVPR 2015).

    Args:
        share: least share of the area, or of the volume, in (0, 1]; uniform from there to 1. Sides are cut at the
            image's, so that of large shares a little more is left out.
        aspect: largest ratio of two sides of the box, as shares of the image's sides.
        affine: what to do with the box, in the same resampling: faster and sharper than one after the other. What it
            turns into view from beyond the box is the image there, and not a repeated border.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(self, share: float = 0.2, aspect: float = 4 / 3, affine: Affine | None = None) -> None:
        super().__init__()
        if not 0.0 < share <= 1.0:
            raise ValueError(f"`share` of the image must be in (0, 1], got {share}.")
        if aspect < 1.0:
            raise ValueError(f"`aspect` is the ratio of the longer side to the shorter and at least 1, got {aspect}.")
        self.share, self.aspect, self.affine = share, aspect, affine

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, dims = len(images), images.ndim - 2
        draw = torch.rand((count, 1 + 2 * dims), generator=generator, device=images.device)
        form, place = draw[:, 1 : 1 + dims], draw[:, 1 + dims :]
        area = self.share + (1.0 - self.share) * draw[:, :1]
        logarithm = (form - form.mean(dim=1, keepdim=True)) * math.log(self.aspect)
        side = (area ** (1.0 / dims) * logarithm.exp()).clamp_max(1.0)
        centre = (2.0 * place - 1.0) * (1.0 - side)
        if self.affine is None:
            matrix = torch.cat([torch.diag_embed(side), centre.unsqueeze(2)], dim=2)
        else:
            matrix = self.affine.matrix(images, generator) * side.unsqueeze(2)
            matrix[:, :, dims] += centre
        grid = affine_grid(matrix, images.shape[2:])
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
