"""The masks that labels name, read once, on the grid of the images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from medssl_monai.data.datalist import Item
from medssl_monai.data.images import ImageDataset
from medssl_monai.transforms.masks import UNLABELED
from medssl_monai.unknown import UNKNOWN

logger = logging.getLogger(__name__)


class Masks:
    """Masks by sample, decoded when they are first asked for, and kept as uint8.

    Only masks of known labels are ever asked for, so that a hidden mask is not even read. A sample's mask is read again
    when its label names another file.

    Args:
        datalist: item ``i`` is sample ``i``: image and slice that its mask belongs to.
        transform: deterministic dictionary transform of ``image`` and ``label``, both paths, and what else the item
            says; its ``label`` must be whole numbers ``(1, *spatial)`` on the grid of the images, 255 where nobody
            labeled, as from `medssl_monai.data.LoadMaskd`.
        on_bad_file: see `ImageDataset`; a mask that is skipped is listed in `unreadable` and is unknown everywhere.
        cache_dir: see `ImageDataset`.
    """

    def __init__(
        self,
        datalist: Sequence[Item],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        on_bad_file: Literal["stop", "skip"] = "stop",
        cache_dir: str | Path | None = None,
    ) -> None:
        self.datalist, self.transform = datalist, _AsImage(transform)
        self.on_bad_file, self.cache_dir = on_bad_file, cache_dir
        self.unreadable: dict[int, str] = {}
        self._rows: dict[int, Tensor] = {}
        self._tried: dict[int, str] = {}
        self._read: Mapping[int, str] = {}

    def read(self, paths: Mapping[int, str]) -> None:
        """Decode those of `paths`, by position, that are not there yet; the same object is looked through once.

        Raises:
            ValueError: if files cannot be read, or do not fit their images (it names all of them, by id), unless they
                are to be skipped.
        """
        if paths is self._read:
            return
        new = [i for i, path in paths.items() if self._tried.get(i) != path]
        if new:
            self._decode(paths, new)
            self._warn_of_nothing(paths)
        self._read = paths

    def _warn_of_nothing(self, paths: Mapping[int, str]) -> None:
        rows = [self._rows[i] for i in paths if i in self._rows]
        if rows and not any(((row > 0) & (row < UNLABELED)).any() for row in rows):
            logger.warning(
                f"none of the {len(rows)} masks that are known shows anything but background: there is nothing to "
                "learn but that. Label an image that shows a class, or see whether the files are the right ones."
            )

    def _decode(self, paths: Mapping[int, str], new: Sequence[int]) -> None:
        data = [{**self.datalist[i], "image": [paths[i], self.datalist[i]["image"]]} for i in new]
        rows = ImageDataset(data, self.transform, on_bad_file=self.on_bad_file, cache_dir=self.cache_dir)
        try:
            masks = rows.images
        except ValueError as error:
            raise ValueError(f"masks: {error}") from None
        for row, i in enumerate(new):
            self.unreadable.pop(i, None)
            self._rows.pop(i, None)
            self._tried[i] = paths[i]
            if row in rows.unreadable:
                self.unreadable[i] = f"mask: {rows.unreadable[row]}"
            else:
                self._rows[i] = masks[row, 0]

    def targets(self, paths: Mapping[int, str], index: Sequence[int]) -> Tensor:
        """Return classes ``(B, *spatial)``, long, of the samples `index`; -1 where nobody labeled.

        Args:
            paths: of the known labels, by position; those that are not in here are unknown everywhere.
            index: positions.

        Raises:
            ValueError: if no mask is known, so that there is no shape; see also `read`.
        """
        self.read(paths)
        if not self._rows:
            raise ValueError("no mask is known; label an image first.")
        nothing = torch.full_like(next(iter(self._rows.values())), UNLABELED)
        known = [self._rows[i] if i in paths and i in self._rows else nothing for i in index]  # read just now
        classes = torch.stack(known).long()
        return classes.masked_fill_(classes == UNLABELED, UNKNOWN)


class _AsImage:
    """A transform for an `ImageDataset` whose images are the masks: grey values in [0, 1] that are classes."""

    def __init__(self, transform: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.transform = transform

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        mask, image = data["image"]
        item = {**data, "image": image, "label": mask}
        return {"image": torch.as_tensor(self.transform(item)["label"]).float() / 255}
