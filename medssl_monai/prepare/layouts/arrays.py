"""``.npz`` files: MedMNIST's, and plain ones with ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai import limits
from medssl_monai.prepare.layouts.check_masks import classes_of
from medssl_monai.prepare.layouts.conventions import EMPTY, KERMANY, SECTION_NAMES
from medssl_monai.prepare.layouts.dataset import EACH_ITS_OWN, Array, Dataset, numbered, write_png
from medssl_monai.prepare.layouts.npy import read_member
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.layouts.zips import Archive

PNEUMONIA_MNIST = ("normal", "pneumonia")


def has_array(name: str) -> Callable[[Path], bool]:
    """Return a test whether a file is a ``.npz`` with an array of that name; it raises ValueError if damaged."""

    def fits(source: Path) -> bool:
        if source.suffix.lower() != ".npz" or not source.is_file():
            return False
        with Archive(source) as archive:
            return f"{name}.npy" in archive.members

    return fits


def read_medmnist(request: Request) -> Dataset:
    """Read MedMNIST: ``train_images``, ``train_labels`` and so on, perhaps ``train_ids``, empty where not known.

    Raises:
        ValueError: if arrays are missing, damaged, of another type or shape than they must be, or do not fit together.
    """
    dataset = Dataset()
    with _opened(request) as arrays:
        for prefix in ("train", "val", "test"):
            if f"{prefix}_images" not in arrays.names:
                continue
            images = arrays.images(f"{prefix}_images")
            labels = arrays.labels(f"{prefix}_labels", len(images))
            ids = [f"{prefix}_{position:06d}" for position in range(len(images))]
            if f"{prefix}_ids" in arrays.names:
                ids = arrays.texts(f"{prefix}_ids", len(images))
            for position, (pixels, label, name) in enumerate(zip(images, labels, ids, strict=True)):
                if not name:
                    dataset.add("dropped", "no id, hence no group", f"{prefix}_images[{position}]")
                    continue
                patient = KERMANY.match(name)
                group = patient["patient"] if patient else name
                dataset.add_pixels(pixels, name, group, label, SECTION_NAMES[prefix])
    kermany = bool(dataset.items) and all(KERMANY.match(item["id"]) for item in dataset.items)
    dataset.grouping = "patient, read from the file name in ids" if kermany else EACH_ITS_OWN
    dataset.classes = request.classes or (PNEUMONIA_MNIST if kermany else numbered(dataset.items))
    _check_labels(dataset, request.source.name)
    return dataset


def read_arrays(request: Request) -> Dataset:
    """Read ``images``, ``ids``, and perhaps ``labels``, ``label_names``, ``split`` and an array of groups.

    If an array of masks is asked for, these are the labels, and the classes of images go to ``meta``, unless masks are
    to be beside labels.

    Raises:
        ValueError: if arrays are missing, damaged, of another type or shape than they must be, or do not fit together.
    """
    dataset = Dataset()
    with _opened(request) as arrays:
        images = arrays.images("images")
        ids = arrays.texts("ids", len(images))
        count = Counter(ids)
        twice = next((name for name in ids if not name or count[name] > 1), None)
        if twice is not None:
            raise ValueError(
                f"{arrays.file}: the array 'ids' has {twice!r} for {count[twice]} images; give each its own."
            )
        group = request.group_column or next((name for name in ("patients", "lesion_ids") if name in arrays.names), "")
        owners = arrays.texts(group, len(images)) if group else ids
        labels = arrays.labels("labels", len(images)) if "labels" in arrays.names else [None] * len(images)
        split = arrays.texts("split", len(images)) if "split" in arrays.names else [""] * len(images)
        names = tuple(arrays.texts("label_names", None)) if "label_names" in arrays.names else ()
        masks = arrays.masks(str(request.masks), images) if request.masks else None
    groups = replace(request.names, clear=True)
    for pixels, name, owner, label, section in zip(images, ids, owners, labels, split, strict=True):
        if section.lower() not in {*SECTION_NAMES, *EMPTY}:
            raise ValueError(
                f"{request.source.name}: the array 'split' has {section!r} for {name!r}, which is neither train, val "
                "nor test."
            )
        owner = name if not group or owner.lower() in EMPTY else groups.group(owner)
        dataset.add_pixels(pixels, name, owner, label, SECTION_NAMES.get(section.lower()))
    dataset.grouping = f"array {group!r}" if group else EACH_ITS_OWN
    if not request.masks or request.mask_classes:
        dataset.classes = request.classes or names or numbered(dataset.items)
        _check_labels(dataset, request.source.name)
    if masks is not None:
        _add_masks(dataset, masks, names, request)
    return dataset


def _add_masks(dataset: Dataset, masks: Array, names: tuple[str, ...], request: Request) -> None:
    """Write a mask for each image as a PNG file; of two classes the second is 255 there, to be seen."""
    values = {int(value) for value in np.unique(masks)}
    classes, key = request.mask_classes or request.classes or classes_of(values, request.source), request.mask_key
    if key == "label":
        dataset.classes = classes
    visible = 255 if len(classes) == 2 and values <= {0, 1} else 1
    for item, mask in zip(dataset.items, masks, strict=True):
        label = item.get("label")
        if isinstance(label, int) and key == "label":
            item["meta"] = {"label": names[label] if label < len(names) else str(label)}
        item[key] = item["image"].replace("images/", "masks/", 1)
        write_png(request.out_dir / item[key], mask * np.uint8(visible))


def _check_labels(dataset: Dataset, file: str) -> None:
    """Refuse labels that are none of the classes."""
    count = len(dataset.classes)
    for item in dataset.items:
        label = item.get("label")
        if (isinstance(label, list) and len(label) != count) or (isinstance(label, int) and label >= count):
            raise ValueError(
                f"{file}: the label {label} of {item['id']!r} does not fit the {count} names of classes "
                f"{list(dataset.classes)[:20]}; name all classes in their order."
            )


class _Arrays:
    """The arrays of a file; each is checked when it is read.

    Attributes:
        file: name of the file.
        names: of its arrays.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive, self.file = archive, archive.name
        self.names = {name.removesuffix(".npy") for name in archive.members if name.endswith(".npy")}

    def read(self, name: str) -> Array:
        if name not in self.names:
            raise ValueError(f"{self.file} has no array {name!r}, only {sorted(self.names)[:30]}.")
        return read_member(self._archive, name)

    def images(self, name: str) -> Array:
        """Return images ``(N, H, W)`` or ``(N, H, W, 3)``, uint8; grey images may be uint16."""
        array = self.read(name)
        where, shape = f"{self.file}: the array {name!r}", array.shape
        if array.ndim == 4 and shape[3] == 1:
            array = array[..., 0]
        if array.ndim > 4 or (array.ndim == 4 and array.shape[3] > 4):
            raise ValueError(
                f"{where} holds volumes, or more channels than colours have: its shape is {shape}. Of a .npz, images "
                "(N, H, W) and (N, H, W, 3) are read. Write each volume to a NIfTI file, and prepare their folder with "
                "`--volumes`."
            )
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or 0 in shape[1:]:
            raise ValueError(f"{where} must hold images (N, H, W) or (N, H, W, 3), got the shape {shape}.")
        limits.check_voxels(shape[1:], f"{where}: an image")
        if array.dtype == np.bool_:
            return array * np.uint8(255)
        if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 3):
            return array
        mend = "(255 * images).round()" if array.dtype.kind == "f" else "images"
        raise ValueError(
            f"{where} holds values of the type {array.dtype}, and images are uint8, or uint16 if they are grey; bring "
            f"them to this range yourself and save them anew, for example `{mend}.astype(np.uint8)` for values from 0 "
            f"to {1 if array.dtype.kind == 'f' else 255}."
        )

    def labels(self, name: str, count: int) -> Array:
        """Return class indices ``(N,)``, below 0: unknown; or findings ``(N, K)`` of 1, 0 and -1."""
        array = self.read(name)
        where = f"{self.file}: the array {name!r}"
        if array.ndim not in (1, 2) or len(array) != count or 0 in array.shape[1:]:
            raise ValueError(
                f"{where} must hold a label, or K findings, of {count} images, got the shape {array.shape}."
            )
        if array.dtype.kind not in "biuf" or not _whole(array):
            raise ValueError(f"{where} holds other labels than whole numbers; give every class its index, -1: unknown.")
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        findings = array.shape[1] if array.ndim == 2 else 0
        if low < -1 or (findings and high > 1):
            most = f"its {findings} findings must be 1, 0 or -1" if findings else "a label must be an index or -1"
            raise ValueError(f"{where} has values from {low} to {high}, and {most}, for unknown.")
        limits.check("max_classes", findings or high + 1, where)
        return array.astype(np.int64)

    def masks(self, name: str, images: Array) -> Array:
        """Return masks ``(N, H, W)``, uint8, of the size of the images."""
        array = self.read(name)
        where = f"{self.file}: the array {name!r} of masks"
        if array.shape not in (images.shape[:3], (*images.shape[:3], 1)):
            raise ValueError(f"{where} must have the shape {images.shape[:3]} of its images, got {array.shape}.")
        if (
            array.dtype.kind not in "biuf"
            or not _whole(array)
            or array.min(initial=0) < 0
            or array.max(initial=0) > 255
        ):
            raise ValueError(
                f"{where} holds other values than whole numbers from 0 to 255; give every class its index."
            )
        return array.reshape(images.shape[:3]).astype(np.uint8)

    def texts(self, name: str, count: int | None) -> list[str]:
        """Return as many texts as there are images, without blanks around them; whole numbers are texts as well."""
        array = self.read(name)
        where = f"{self.file}: the array {name!r}"
        if array.dtype.kind not in "SUiu":
            raise ValueError(f"{where} holds {array.dtype}, and must hold texts or whole numbers; save it so.")
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1 or count not in (None, len(array)):
            raise ValueError(f"{where} must hold a text for each of the {count} images, got the shape {array.shape}.")
        try:
            values: Sequence[Any] = array.tolist()
            texts = [(value.decode() if isinstance(value, bytes) else str(value)).strip() for value in values]
            "".join(texts).encode()  # fails for halves of characters
        except (ValueError, SystemError) as error:
            raise ValueError(f"{where} holds texts that are none ({error}); save it anew, in UTF-8.") from None
        return texts


def _whole(array: Array) -> bool:
    """Return whether all values are finite whole numbers."""
    return array.dtype.kind != "f" or bool((np.isfinite(array) & (array == np.floor(array))).all())


@contextmanager
def _opened(request: Request) -> Iterator[_Arrays]:
    if request.table or request.split_column or request.id_column:
        raise ValueError("a .npz brings ids and split itself; leave `table`, `id_column` and `split_column` out.")
    with Archive(request.source) as archive:
        yield _Arrays(archive)
