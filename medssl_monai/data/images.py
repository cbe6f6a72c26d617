"""Images of a datalist, decoded once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medssl_monai.data.datalist import Item

logger = logging.getLogger(__name__)


class ImageDataset(Dataset[dict[str, Any]]):
    """Every image read, oriented, scaled and resized once, and kept in memory as one tensor; no labels.

    Images are decoded when the first one is asked for. Batches are gathered by index (``__getitems__``), which costs
    next to nothing; what is random belongs to the views, on the device (`medssl_monai.transforms.Views`).

    Args:
        data: items with ``image`` and what else `transform` reads.
        transform: deterministic dictionary transform; its ``image`` must be in [0, 1], ``(C, *spatial)``, of one
            size for all.
        dtype: how to keep the images: ``uint8`` (256 grey levels, a quarter of the memory), ``float16`` or
            ``float32``.
        skip_unreadable: keep a black image for a file that cannot be read and list it in `unreadable`, instead of
            stopping after all files were tried.

    Attributes:
        unreadable: position to reason.

    Raises:
        ValueError: when decoding, if files cannot be read or sizes differ; it names all of them.
    """

    def __init__(
        self,
        data: Sequence[Item],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        dtype: Literal["uint8", "float16", "float32"] = "uint8",
        skip_unreadable: bool = False,
    ) -> None:
        self.data, self.transform, self.dtype, self.skip_unreadable = data, transform, dtype, skip_unreadable
        self.unreadable: dict[int, str] = {}
        self._images: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "index": index}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = torch.as_tensor(indices)
        return {"image": self.images[index], "index": index}

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch is whole already; see `medssl_monai.data.pool.batch_loader`."""
        return batch

    @property
    def images(self) -> Tensor:
        """All images, ``(N, C, *spatial)``."""
        if self._images is None:
            self._images = self._decode()
        return self._images

    def _decode(self) -> Tensor:
        from tqdm import tqdm

        images: list[Tensor | None] = []
        for position, item in enumerate(tqdm(self.data, "read images", disable=not sys.stderr.isatty(), leave=False)):
            try:
                images.append(self._store(torch.as_tensor(self.transform(dict(item))["image"])))
            except Exception as error:  # any reader may fail in any way; all failures are reported together
                self.unreadable[position] = f"{type(error).__name__}: {_root_cause(error)}"
                images.append(None)
        shapes = {tuple(image.shape) for image in images if image is not None}
        if len(shapes) > 1:
            named = {tuple(i.shape): self.data[p].get("id", p) for p, i in enumerate(images) if i is not None}
            raise ValueError(f"images differ in size, for example {named}; resize them in the preprocessing.")
        if self.unreadable:
            listed = "\n".join(f"  {self.data[p].get('id', p)}: {why}" for p, why in self.unreadable.items())
            message = f"{len(self.unreadable)} of {len(self.data)} images cannot be read:\n{listed}"
            if not self.skip_unreadable or not shapes:
                raise ValueError(f"{message}\nMend these files, or take their items out of the datalist.")
            logger.warning(message)
        blank = torch.zeros(next(iter(shapes)), dtype=getattr(torch, self.dtype)) if shapes else torch.zeros(0)
        return torch.stack([blank if image is None else image for image in images]) if images else blank

    def _store(self, image: Tensor) -> Tensor:
        image = getattr(image, "as_tensor", lambda: image)().float()  # a MetaTensor would drag its history along
        if not torch.isfinite(image).all():
            raise ValueError("the image holds NaN or infinite values")
        if self.dtype == "uint8":
            return image.clamp(0, 1).mul(255).round().to(torch.uint8)
        return image.to(getattr(torch, self.dtype))


def _root_cause(error: BaseException) -> str:
    """The first error of a chain says more than what MONAI wraps around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
