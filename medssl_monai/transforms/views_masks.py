"""Random views for segmentation, in which images and masks stay aligned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.transforms.augment import Affine, Views, affine_grid, to_unit
from medssl_monai.unknown import UNKNOWN


class MaskViews:
    """Images and masks moved alike; strong views of unlabeled images are where their weak views are.

    Labeled images and their masks become their ``weak`` view. An unlabeled image becomes its ``weak`` view and, on top
    of that, its ``strong`` view, which changes grey values only: both have the same geometry, so that a prediction for
    the one is a target for the other, voxel by voxel.

    Args:
        weak: moves images and masks.
        strong: changes grey values and leaves every voxel at its place. None: weak views only.
    """

    def __init__(self, weak: Affine, strong: nn.Module | None = None) -> None:
        self.weak, self.strong = weak, strong

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]], generator: torch.Generator) -> dict[str, Any]:
        """Replace the images of every stream, without gradient and in float32, and the masks of labeled ones.

        Args:
            batch: streams with ``image`` ``(B, C, *spatial)``, uint8 or in [0, 1]; those with ``label``
                ``(B, *spatial)``, -1 where nobody labeled, are labeled.
            generator: on the device of the images.
        """
        result: dict[str, Any] = {}
        with torch.no_grad():
            for name, stream in batch.items():
                images = to_unit(stream["image"])
                rest = {key: value for key, value in stream.items() if key != "image"}
                grid = affine_grid(self.weak.matrix(images, generator), images.shape[2:])
                weak = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
                if "label" in stream:
                    result[name] = {**rest, "image": weak, "label": _moved(stream["label"], grid)}
                elif self.strong is None:
                    result[name] = {**rest, "weak": weak}
                else:
                    result[name] = {**rest, "weak": weak, "strong": self.strong(weak, generator)}
        return result


def _moved(masks: Tensor, grid: Tensor) -> Tensor:
    """Masks ``(B, *spatial)`` at the points of `grid`, the nearest voxel; unknown where there is none."""
    known = (masks - UNKNOWN).unsqueeze(1).float()  # what is outside becomes 0, which is then unknown
    moved = F.grid_sample(known, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.squeeze(1).round().long() + UNKNOWN


class JointViews:
    """Views of images with classes, and others of images with masks, for methods that learn both.

    Args:
        classes: of the streams ``labeled`` and ``unlabeled``.
        masks: of the streams ``segmented`` and ``unsegmented``.
    """

    def __init__(self, classes: Views, masks: MaskViews) -> None:
        self.classes, self.masks = classes, masks

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]], generator: torch.Generator) -> dict[str, Any]:
        """Replace the images of every stream, see `MaskViews`; those of classes draw first."""
        of_masks = {name: stream for name, stream in batch.items() if name in ("segmented", "unsegmented")}
        of_classes = {name: stream for name, stream in batch.items() if name not in of_masks}
        return {**self.classes(of_classes, generator), **self.masks(of_masks, generator)}
