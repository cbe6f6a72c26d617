"""Images of a datalist, decoded once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medssl_monai.data.cache import ImageCache
from medssl_monai.data.datalist import Item
from medssl_monai.data.fingerprint import NotCacheableError
from medssl_monai.data.item_files import HIDDEN
from medssl_monai.data.packs import Array
from medssl_monai.data.reasons import NO_NUMBERS, reason_of, say_background

logger = logging.getLogger(__name__)

WORKERS = 8
"""Processes that decode, at most; fewer on a machine with fewer cores."""
WORTH_WORKERS = 128
"""Images from which on processes are worth their start."""


class ImageDataset(Dataset[dict[str, Any]]):
    """Images, each read, oriented, scaled and resized once, and kept as one tensor; no labels.

    Images are decoded when the first one is asked for, by several processes if there are many, and kept on disk if
    there is a cache. Batches are gathered by index (``__getitems__``), which costs next to nothing; what is random
    belongs to the views, on the device (`medssl_monai.transforms.Views`).

    Args:
        data: items with ``image`` and what else `transform` reads; one with a ``problem`` is not read.
        transform: deterministic dictionary transform; its ``image`` must be in [0, 1], ``(C, *spatial)``, of one
            size for all. It does not see labels, masks and ``group``, and must not decide by ``id`` or path.
        dtype: how to keep the images: ``uint8`` (256 grey levels, a quarter of the memory), ``float16`` or
            ``float32``.
        on_bad_file: ``stop`` with an error after all files were tried, or ``skip``: list what cannot be read in
            `unreadable` and keep a black image in its place. Let pools know, by ``pool.exclude(dataset.unreadable)``.
        cache_dir: folder of decoded images, shared by all runs (`medssl_monai.data.cache.ImageCache`); None: each run
            decodes for itself, into memory.
        patch_size: of images that are too large for a network at once: it is trained on random patches of this size
            (`medssl_monai.pool.patches`), and windows of this size go over an image that it predicts; None: whole ones.
        spacing: of the voxels that `transform` ends with, in mm per axis, if that is the same for all; None: not known.

    Raises:
        ValueError: when decoding, if files cannot be read (it names all of them) or sizes differ.
    """

    def __init__(
        self,
        data: Sequence[Item],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        dtype: Literal["uint8", "float16", "float32"] = "uint8",
        on_bad_file: Literal["stop", "skip"] = "stop",
        cache_dir: str | Path | None = None,
        patch_size: Sequence[int] | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        if on_bad_file not in ("stop", "skip"):
            raise ValueError(f"`on_bad_file` is stop or skip, got {on_bad_file!r}.")
        self.data, self.transform, self.dtype, self.on_bad_file = data, transform, dtype, on_bad_file
        if spacing is not None and not all(side > 0 for side in spacing):
            raise ValueError(f"`spacing` is in mm per axis and above 0, got {list(spacing)}.")
        self.patch_size, self.spacing = patch_size, spacing
        self.cache_dir = None if cache_dir in ("null", "None") else cache_dir  # as a command line may pass it
        self._unreadable: dict[int, str] = {}
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
        """Return the batch, which is whole already; see `medssl_monai.pool.batch_loader`."""
        return batch

    @property
    def images(self) -> Tensor:
        """Return all images, ``(N, C, *spatial)``; do not change them."""
        if self._images is None:
            self._images = self._load()
        return self._images

    @property
    def unreadable(self) -> dict[int, str]:
        """Return position to reason, without paths, of the images that cannot be read."""
        _ = self.images
        return self._unreadable

    def _load(self) -> Tensor:
        images = self._cached() if self.cache_dir and len(self) else _stack(self._rows({}), len(self))
        if self._unreadable:
            listed = "\n".join(f"  {self._name(p)}: {why}" for p, why in self._unreadable.items())
            message = f"{len(self._unreadable)} of {len(self)} images cannot be read:\n{listed}"
            if self.on_bad_file == "stop" or images is None:
                hint = "Mend these files, take their items out of the datalist, or set `on_bad_file: skip`."
                raise ValueError(f"{message}\n{hint}")
            logger.warning(message)
        return torch.zeros(0) if images is None else torch.from_numpy(images)

    def _cached(self) -> Array | None:
        try:
            return ImageCache(str(self.cache_dir), self.transform, self.dtype).images(self.data, self._rows)
        except (NotCacheableError, OSError) as error:
            cause = error.__cause__ or error  # what `write_atomically` says is not about the cache
            reason = getattr(cause, "strerror", None) or cause
            logger.warning(f"The images are not cached, but kept in memory by this run: {reason}.")
        return _stack(self._rows({}), len(self))

    def _rows(self, known: Mapping[int, Array]) -> Iterator[Array | None]:
        """Yield the images in order, None where one cannot be read; those that are not `known` are decoded."""
        from tqdm import tqdm

        self._unreadable = {}
        missing = [position for position in range(len(self)) if position not in known]
        decoder = _Decoder(self.data, self.transform, self.dtype)
        decoded = iter(tqdm(_in_parallel(decoder, missing), "read images", len(missing), False, disable=_is_quiet()))
        first: tuple[int, tuple[int, ...]] | None = None
        for position in range(len(self)):
            row = known[position] if position in known else next(decoded)
            if isinstance(row, str):
                self._unreadable[position] = row
                yield None
                continue
            first = first or (position, row.shape)
            if row.shape != first[1]:
                raise ValueError(
                    f"images differ in size: {self._name(first[0])} {first[1]}, {self._name(position)} {row.shape}; "
                    "resize them in the preprocessing."
                )
            yield row

    def _name(self, position: int) -> str:
        return str(self.data[position].get("id", position))


class _Decoder(Dataset["Array | str"]):
    """The image of an item as it is kept, or the reason why it cannot be read."""

    def __init__(self, data: Sequence[Item], transform: Callable[[dict[str, Any]], dict[str, Any]], dtype: str) -> None:
        self.data, self.transform, self.dtype = data, transform, dtype

    def __getitem__(self, position: int) -> Array | str:
        item = {key: value for key, value in self.data[position].items() if key not in HIDDEN}
        if "problem" in item:
            return str(item["problem"])
        try:
            image = self.transform(item)["image"]
            say_background(image, self.data[position], position)
            return self._pack(torch.as_tensor(image))
        except Exception as error:  # any reader may fail in any way; all failures are reported together
            return reason_of(error, self.data[position], position)

    def _pack(self, image: Tensor) -> Array:
        image = getattr(image, "as_tensor", lambda: image)().float()  # a MetaTensor would drag its history along
        if not torch.isfinite(image).all():
            raise ValueError(NO_NUMBERS)
        if self.dtype == "uint8":
            return image.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
        return image.to(getattr(torch, self.dtype)).numpy()


def _in_parallel(decoder: _Decoder, positions: list[int]) -> Iterable[Array | str]:
    """Yield what `decoder` makes of `positions`, in their order, with worker processes where they can be forked."""
    forks = "fork" in multiprocessing.get_all_start_methods() and sys.platform == "linux"
    many = len(positions) >= WORTH_WORKERS and not multiprocessing.current_process().daemon
    workers = min(WORKERS, len(os.sched_getaffinity(0))) if forks and many else 0
    return DataLoader(
        decoder,
        batch_size=None,
        sampler=positions,
        num_workers=workers,
        collate_fn=lambda row: row,
        generator=torch.Generator(),  # else it draws a seed from everybody's
        multiprocessing_context="fork" if workers else None,  # transforms need not be pickled
    )


def _is_quiet() -> bool:
    return not sys.stderr.isatty()


def _stack(rows: Iterable[Array | None], count: int) -> Array | None:
    """Return the rows as one array, zeros for None; None if there is no row."""
    images: Array | None = None
    for position, row in enumerate(rows):
        if row is not None:
            images = np.zeros((count, *row.shape), row.dtype) if images is None else images
            images[position] = row
    return images
