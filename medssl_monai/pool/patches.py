"""Patches of images that are too large for a network to train on whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from medssl_monai.data.images import ImageDataset
from medssl_monai.pool.labels import Labels


class PatchDataset(Randomizable, Dataset[dict[str, Any]]):
    """One random patch of an image at every access, with the patch of its mask if there are labels.

    Positions are uniform; in the share `foreground` of the patches with a mask, the centre is as near as it gets to a
    voxel of a class that is drawn among those, without the background, that the mask has. Rare classes are thus seen
    (as in nnU-Net, Isensee et al., Nature Methods 2021, there a third).

    `MultiStreamLoader` seeds it for every epoch.

    Args:
        dataset: images ``(C, *spatial)`` of one size.
        size: of the patches; an axis shorter than that gives all it has.
        labels: give the masks; None: images only.
        foreground: share of the patches that show foreground, in [0, 1]; raise it for small structures, as a lesion is.

    Raises:
        ValueError: if `foreground` is no share, or `size` has another number of axes than the images.
    """

    def __init__(self, dataset: ImageDataset, size: Sequence[int], labels: Labels | None, foreground: float) -> None:
        if not 0.0 <= foreground <= 1.0:
            raise ValueError(f"`foreground` is a share in [0, 1], got {foreground}.")
        self.dataset, self.size, self.labels, self.foreground = dataset, tuple(size), labels, foreground
        self.set_random_state(0)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.__getitems__([index])
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        images = self.dataset.images
        if len(self.size) != images.ndim - 2:
            raise ValueError(f"patches of the size {list(self.size)} do not fit images {list(images.shape[2:])}.")
        size = [min(wanted, length) for wanted, length in zip(self.size, images.shape[2:], strict=True)]
        index = torch.as_tensor(indices)
        masks = None if self.labels is None else self.labels.targets(index)
        boxes = [self._box(size, images.shape[2:], None if masks is None else masks[row]) for row in range(len(index))]
        batch = {"image": torch.stack([images[i][:, *box] for i, box in zip(indices, boxes, strict=True)])}
        if masks is not None:
            batch["label"] = torch.stack([mask[box] for mask, box in zip(masks, boxes, strict=True)])
        return {**batch, "index": index}

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return it: the batch is whole already."""
        return batch

    def _box(self, size: Sequence[int], whole: Sequence[int], mask: Tensor | None) -> tuple[slice, ...]:
        start = [int(self.R.randint(length - side + 1)) for side, length in zip(size, whole, strict=True)]
        if mask is not None and self.R.rand() < self.foreground:
            classes = torch.unique(mask[mask > 0])
            if len(classes):
                places = (mask == classes[self.R.randint(len(classes))]).nonzero()
                centre = places[self.R.randint(len(places))].tolist()
                start = [
                    min(max(at - side // 2, 0), length - side)
                    for at, side, length in zip(centre, size, whole, strict=True)
                ]
        return tuple(slice(begin, begin + side) for begin, side in zip(start, size, strict=True))
