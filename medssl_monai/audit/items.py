"""Every item of a datalist, with the picture that was found in its file."""

from __future__ import annotations

import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.data.copies import Picture, picture
from medssl_monai.data.datalist import SECTIONS, Datalist, Item, load_datalist
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError

Array = NDArray[Any]
Sections = dict[str, Datalist]
THREADS = 8


@dataclass(frozen=True)
class Entry:
    """An item of a section, with the picture in its file, or the reason why there is none."""

    item: Item
    section: str
    picture: Picture | str


def load_sections(datalist: str | Path, dataset_dir: str | Path | None) -> Sections:
    """Return the items of each section that the datalist has, leaks and all."""
    sections: Sections = {}
    for section in SECTIONS:
        try:
            sections[section] = load_datalist(datalist, section, dataset_dir, allow_leaks=True)
        except KeyError:
            continue
    return sections


def read_all(sections: Sections) -> list[Entry]:
    """Return all items in order; each file is read once, by several threads."""
    from tqdm import tqdm

    wanted: dict[str, list[int | None]] = defaultdict(list)
    for item in itertools.chain(*sections.values()):
        wanted[item["image"]].append(item.get("slice"))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        results = threads.map(pictures_of, wanted, wanted.values())
        bar = tqdm(results, "read images", len(wanted), leave=False, disable=not sys.stderr.isatty())
        found = {image: iter(pictures) for image, pictures in zip(wanted, bar, strict=True)}
    return [Entry(item, section, next(found[item["image"]])) for section, items in sections.items() for item in items]


def pictures_of(image: str, slices: Sequence[int | None]) -> list[Picture | str]:
    """Return the picture of each slice of a file (None: of the whole file), or the reason why it cannot be read."""
    try:
        array = read(image)
        return [_picture(array, k) for k in slices]
    except UnreadableImageError as error:
        reason = error.reason
    except FileNotFoundError:
        reason = "is not there; mend its path in the datalist, or set `dataset_dir`."
    except Exception as error:  # a decoder may fail in any way, and one file must not stop the audit
        reason = f"cannot be read ({type(error).__name__}); copy it anew, or take it out of the datalist."
    return [reason] * len(slices)


def _picture(array: Array, k: int | None) -> Picture | str:
    try:
        return picture(slice_of(array, k))
    except IndexError:
        return f"has no slice {k}, counted from 0; mend `slice` in the datalist."


def read(image: str) -> Array:
    """Return an image ``(C, x, y[, z])``, or a table of features as ``(1, 1, D, rows)``."""
    if image.endswith(".npy"):
        return np.load(image, mmap_mode="r", allow_pickle=False).T[None, None]
    array, _ = ClinicalReader(nan="background").get_data([Path(image)])
    return array


def slice_of(array: Array, k: int | None) -> Array:
    """Return the slice `k` of an image, or the image itself if `k` is None."""
    volume = array if array.ndim == 4 else array[..., None]
    return array if k is None else volume[..., k]
