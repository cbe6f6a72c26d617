"""Copies of an image: one of them is used."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.data.copies import near_copies, picture
from medssl_monai.data.datalist import SECTIONS, Item, Key
from medssl_monai.files import sha256
from medssl_monai.kinds import Kind, Label, Masks
from medssl_monai.prepare.labels import kind_in
from medssl_monai.prepare.layouts.dataset import Array, Dataset
from medssl_monai.prepare.sources import UNLABELED
from medssl_monai.readers.reader import ClinicalReader


def drop_copies(dataset: Dataset, root: Path) -> None:
    """Keep the first of equal images, or the first that has a label; of copies with different labels keep none.

    A mask beside the label of any of them is a mask of the one that is kept; of different ones none is.
    """
    kinds: dict[Key, Kind] = {"label": kind_in(dataset), "mask": Masks()}
    groups: dict[str, list[Item]] = defaultdict(list)
    for item, digest in zip(dataset.items, _digests(dataset, root), strict=True):
        groups[digest].append(item)
    gone = set()
    for copies in groups.values():
        labels, masks = (
            {_comparable(kind, item[key], root) for item in copies if len(copies) > 1 and item.get(key) is not None}
            for key, kind in kinds.items()
        )
        keep = next((item for item in copies if item.get("label") is not None), copies[0])
        reason = "exact copy of another image"
        if len(labels) > 1:
            keep, reason = {}, "exact copies with different labels"
        if len(masks) > 1:
            dataset.add("noted", "exact copies with different masks, of which none is used", *(i["id"] for i in copies))
            keep.pop("mask", None)
        elif mask := next((item["mask"] for item in copies if item.get("mask") is not None), None):
            keep.setdefault("mask", mask)
        for item in copies:
            if item is not keep:
                dataset.add("dropped", reason, item["id"])
                gone.add(item["id"])
    dataset.items = [item for item in dataset.items if item["id"] not in gone]


def _comparable(kind: Kind, label: Any, root: Path) -> str:
    """Return a label as a text; for a mask, a hash of its file."""
    file = kind.file(Label(label))
    if file is None:
        return str(label)
    path = root / file
    return sha256(path) if path.is_file() else str(path)


def _digests(dataset: Dataset, root: Path) -> Iterator[str]:
    """Yield a hash of each image's content and slice; files of a size that no other has are not read."""
    files = {item["image"] for item in dataset.items if item["id"] not in dataset.pixels}
    parts = {name: dataset.copies.get(name) or _parts(root / name) for name in files}
    sizes = {name: tuple(path.stat().st_size for path in paths) for name, paths in parts.items()}
    count = Counter(sizes.values())
    hashes = {
        name: " ".join(map(sha256, parts[name])) if count[size] > 1 else f"size {size}" for name, size in sizes.items()
    }
    for item in dataset.items:
        pixels = dataset.pixels.get(item["id"])
        if pixels is None:
            yield f"{hashes[item['image']]}#{item.get('slice')}"
        else:
            yield f"{pixels.shape}{hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()}"


def _parts(path: Path) -> tuple[Path, ...]:
    """Return the file, or the files of a folder (a DICOM series)."""
    return tuple(sorted(part for part in path.iterdir() if part.is_file())) if path.is_dir() else (path,)


def drop_recurring(dataset: Dataset, sections: dict[str, list[Item]], root: Path) -> None:
    """Take images of the second source out of the training section that show what another section is to measure."""
    measured = [item for name in SECTIONS[1:] for item in sections.get(name, ())]
    joined = [item for item in sections["training"] if item["id"] in dataset.unlabeled]
    items, thumbnails = [], []
    for item, pixels in _arrays([*measured, *joined], root):
        shown = picture(pixels).thumbnail
        if shown is not None:
            items.append(item)
            thumbnails.append(shown)
    numbers: dict[str, int] = {}
    files = [numbers.setdefault(item["image"], len(numbers)) for item in items]
    gone = {
        items[j]["id"]
        for i, j, _ in near_copies(thumbnails, files)
        if items[i]["id"] not in dataset.unlabeled and items[j]["id"] in dataset.unlabeled
    }
    dataset.add("dropped", f"{UNLABELED}: near copy of an image that is not in the training section", *sorted(gone))
    sections["training"] = [item for item in sections["training"] if item["id"] not in gone]


def _arrays(items: Iterable[Item], root: Path) -> Iterator[tuple[Item, Array]]:
    """Yield each image that can be read, ``(C, x, y[, z])``; each file is read once."""
    of_file: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        of_file[item["image"]].append(item)
    for name, same in of_file.items():
        try:
            array, _ = ClinicalReader(nan="background").get_data([root / name])
        except (OSError, ValueError):  # reported when the images are read for training
            continue
        yield from ((item, array[..., item["slice"]] if "slice" in item else array) for item in same)
