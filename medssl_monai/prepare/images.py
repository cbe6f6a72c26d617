"""Images that are still to be written, and their channels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from medssl_monai.data.datalist import Item
from medssl_monai.prepare.layouts.dataset import Dataset, write_png
from medssl_monai.prepare.layouts.series import put_series
from medssl_monai.readers.reader import ClinicalReader


def channels(folder: Path, items: Iterable[Item], sample: int = 8) -> tuple[str, ...]:
    """Return the names of the channels: colours if any of the first `sample` images has differing ones, else one."""
    for item in itertools.islice(items, sample):
        try:
            array, meta = ClinicalReader(nan="background").get_data([folder / item["image"]])
        except (OSError, ValueError):  # reported when the images are read for training
            continue
        if meta["colour"] and not (array[:3] == array[:1]).all():
            return ("red", "green", "blue")
    return ("image",)


def write_images(dataset: Dataset, folder: Path) -> None:
    """Write what layouts left to be written: pixels as PNG files, and series into folders of their own."""
    for item in dataset.items:
        path = folder / item["image"]
        if item["id"] in dataset.pixels:
            write_png(path, dataset.pixels[item["id"]])
    for image in dataset.copies.keys() & {item["image"] for item in dataset.items}:
        put_series(folder / image, dataset.copies[image])
