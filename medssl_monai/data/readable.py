"""Images of a datalist one after the other, each with its geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset

from medssl_monai.data.datalist import Item
from medssl_monai.data.item_files import HIDDEN
from medssl_monai.data.reasons import NO_NUMBERS, reason_of, say_background


class ReadableImages(IterableDataset[dict[str, Any]]):
    """The images that can be read, of whatever size each, with the history that puts a result back on the file's grid.

    Nothing is kept, unlike in `medssl_monai.data.ImageDataset`. Iterate in one process (``num_workers`` 0), or
    `unreadable` stays in the others.

    Args:
        data: items with ``image`` and what else `transform` reads; one with a ``problem`` is not read.
        transform: deterministic dictionary transform; it does not see ``label``, ``labeled`` and ``group``.

    Attributes:
        unreadable: position to reason, without paths, of what could not be read in the last pass.

    Raises:
        ValueError: after a pass in which nothing could be read; it names all files by their id.
    """

    def __init__(self, data: Sequence[Item], transform: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.data, self.transform = data, transform
        self.unreadable: dict[int, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.unreadable = {}
        for index, item in enumerate(self.data):
            if "problem" in item:
                self.unreadable[index] = item["problem"]
                continue
            try:
                image = self.transform({key: value for key, value in item.items() if key not in HIDDEN})["image"]
            except Exception as error:  # any reader may fail in any way; all failures are reported together
                self.unreadable[index] = reason_of(error, item, index)
                continue
            if not torch.isfinite(torch.as_tensor(image)).all():
                self.unreadable[index] = NO_NUMBERS
                continue
            say_background(image, item, index)
            yield {"image": image, "index": index}
        if self.data and len(self.unreadable) == len(self.data):
            listed = "\n".join(f"  {self.data[i].get('id', i)}: {why}" for i, why in self.unreadable.items())
            raise ValueError(f"none of {len(self.data)} images can be read:\n{listed}")
