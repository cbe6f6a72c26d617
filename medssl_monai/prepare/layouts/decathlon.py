"""The ``dataset.json`` of the Medical Segmentation Decathlon."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medssl_monai.files import read_json
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.files import image_files
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.layouts.table import join
from medssl_monai.tables import Table

NNUNET = {"channel_names", "file_ending"}
"""What nnU-Net's second version writes, and the Decathlon does not."""


def fits(source: Path) -> bool:
    """Return whether a source is such a file, or a folder that holds one."""
    return _file(source).is_file() and _file(source).name == "dataset.json"


def read(request: Request) -> Dataset:
    """Read images and masks of the list ``training``; the publisher's ``test`` has no masks and is left out.

    Raises:
        ValueError: if the file is not of that form, names a file twice or outside its folder, or images of several
            channels.
    """
    path = _file(request.source)
    content = read_json(path)
    _refuse_channels(content, path)
    pairs = _pairs(content.get("training"), path)
    table = Table(["image", "mask"], [(n, {"image": i, "mask": m}) for n, (i, m) in enumerate(pairs, start=1)])
    root = path.parent
    files = [name for pair in pairs for name in pair if (root / name).is_file()]
    if not files and any((root / image.replace(".nii", "_0000.nii")).is_file() for image, _ in pairs):
        raise ValueError(
            f"{path} names images such as {pairs[0][0]!r} without the number of their channel, as raw data of nnU-Net "
            "(`nnUNet_raw`) do, which are not read. Of a single channel, rename the images without `_0000`."
        )
    whole = replace(request, masks="mask", volumes=True, classes=request.classes or _classes(content, path))
    dataset = join(table, root, files, whole, replace(request.names, clear=True))
    listing, listed = image_files(root), {os.path.normpath(name) for name in files}
    others = [name for name in listing.images if name not in listed]
    dataset.passed_over = listing.unused([path.name], {"not in the training list": others})
    test = content.get("test")
    if isinstance(test, list) and test:
        dataset.add("dropped", "test image of the publisher, without a mask", f"{len(test)} images")
    return dataset


def _refuse_channels(content: dict[str, Any], path: Path) -> None:
    if NNUNET & set(content):
        raise ValueError(
            f"{path} belongs to raw data of nnU-Net (`nnUNet_raw`), which are not read. Of a single channel, rename "
            "the images without `_0000`, and pass their folder, with that of the masks as `--masks`."
        )
    channels = content.get("modality")
    if isinstance(channels, dict | list) and len(channels) > 1:
        raise ValueError(
            f"{path} tells of images with {len(channels)} channels (`modality`), several sequences in one file, which "
            "are not read; write the channel to learn from to files of three dimensions, and keep one `modality`."
        )


def _pairs(entries: Any, path: Path) -> list[tuple[str, str]]:
    """Return image and mask of each entry, relative to the folder of the file; none of them twice."""
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} is no dataset.json of the Decathlon: it has no list `training`.")
    pairs = []
    for number, entry in enumerate(entries, start=1):
        names: list[Any] = [entry.get(key) for key in ("image", "label")] if isinstance(entry, dict) else [None]
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{path}: entry {number} of `training` must have one `image` and one `label`, as texts.")
        for name in names:
            if PureWindowsPath(name).anchor or "\\" in name or "\0" in name or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{path}: entry {number} of `training` names {name!r}, which is not below its folder.")
        image, mask = (PurePosixPath(name).as_posix() for name in names)
        pairs.append((image, mask))
    name, count = Counter(name for pair in pairs for name in pair).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path} names {name!r} {count} times in `training`; each image and mask belongs there once.")
    return pairs


def _classes(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Return the names of the classes, by the numbers that the masks hold."""
    names = content.get("labels", {})
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else None
    if numbers is None or set(names) != set(numbers) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(
            f"{path} must name the classes of the masks by their number, without gaps: "
            '`"labels": {"0": "background", "1": "tumour"}`.'
        )
    return tuple(names[number] for number in numbers)


def _file(source: Path) -> Path:
    return source / "dataset.json" if source.is_dir() else source
