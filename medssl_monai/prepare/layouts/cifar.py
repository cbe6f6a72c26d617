"""The small photographs that semi-supervised learning is compared on: CIFAR-10, CIFAR-100 and SVHN."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.prepare.layouts.dataset import Array, Dataset
from medssl_monai.prepare.layouts.mat import read_mat
from medssl_monai.prepare.layouts.plain_pickle import ForbiddenError, read_pickle
from medssl_monai.prepare.layouts.request import Request

CIFAR10 = {**{f"data_batch_{k}": "training" for k in range(1, 6)}, "test_batch": "testing"}
CIFAR100 = {"train": "training", "test": "testing"}
SVHN = {"train_32x32.mat": "training", "test_32x32.mat": "testing"}
SIDE = 32


def fits_cifar(source: Path) -> bool:
    """Return whether a folder has the Python batches of CIFAR-10 or CIFAR-100."""
    return (source / "data_batch_1").is_file() or all((source / name).is_file() for name in ("train", "test", "meta"))


def read_cifar(request: Request) -> Dataset:
    """Read CIFAR-10 or -100 (Krizhevsky 2009): unpacked ``cifar-10-batches-py`` or ``cifar-100-python``.

    CIFAR-100's label is the fine one of its two. Batches are pickles: see `load_batch`.

    Raises:
        ValueError: if a batch is no pickle of arrays and plain values, or lacks images or labels.
    """
    hundred = not (request.source / "data_batch_1").is_file()
    dataset = Dataset(classes=request.classes or _names(request.source / ("meta" if hundred else "batches.meta")))
    for name, section in _existing(request.source, CIFAR100 if hundred else CIFAR10, dataset):
        batch = load_batch(request.source / name)
        images, labels = batch.get("data"), batch.get("fine_labels" if hundred else "labels")
        if not isinstance(images, np.ndarray) or images.shape[1:] != (3 * SIDE**2,) or images.dtype != np.uint8:
            raise ValueError(f"{name} holds no uint8 images of {3 * SIDE**2} values each; unpack the archive anew.")
        if not isinstance(labels, list) or len(labels) != len(images):
            raise ValueError(f"{name} does not hold a label for each of its {len(images)} images.")
        names = batch.get("filenames") or [f"{name}_{k:05d}" for k in range(len(images))]
        if not isinstance(names, list) or len(names) != len(images) or not all(map(_is_text, names)):
            raise ValueError(f"{name} does not hold a file name for each of its {len(images)} images.")
        pixels = images.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        _add(dataset, pixels, labels, [_text(one) for one in names], section, name, 100 if hundred else 10)
    return dataset


def fits_svhn(source: Path) -> bool:
    """Return whether a folder has SVHN's cropped digits."""
    return any((source / name).is_file() for name in SVHN)


def read_svhn(request: Request) -> Dataset:
    """Read SVHN's cropped digits (Netzer et al. 2011): ``train_32x32.mat`` and ``test_32x32.mat``; 0 has label 10.

    Raises:
        ValueError: if a file is no MATLAB file with ``X`` and ``y``.
    """
    dataset = Dataset(classes=request.classes or tuple(str(digit) for digit in range(10)))
    for name, section in _existing(request.source, SVHN, dataset):
        content = read_mat(request.source / name, ("X", "y"))
        images, labels = content.get("X"), content.get("y")
        if images is None or labels is None or images.shape != (SIDE, SIDE, 3, labels.size) or images.dtype != np.uint8:
            raise ValueError(f"{name} does not hold uint8 images X ({SIDE}, {SIDE}, 3, N) and labels y (N, 1).")
        digits = [0 if label == 10 else int(label) if float(label).is_integer() else -1 for label in labels.ravel()]
        names = [f"{section}_{k:06d}" for k in range(labels.size)]
        _add(dataset, images.transpose(3, 0, 1, 2), digits, names, section, name, 10)
    return dataset


def load_batch(path: Path) -> dict[str, Any]:
    """Unpickle a batch, of which only arrays and plain values are accepted; a pickle can run any program otherwise.

    Returns:
        Its entries by name; Python 2 wrote the names as bytes.

    Raises:
        ValueError: if it holds anything else, or is no pickle of a dictionary.
    """
    try:
        content = read_pickle(path)
    except ForbiddenError as error:
        raise ValueError(
            f"{path.name} is a pickle that asks for {' '.join(str(error).split())}, which no CIFAR batch needs and "
            "which may do harm; it was not loaded. Download the archive anew from its publisher."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no readable pickle ({error}); unpack the archive anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is a pickle of a {type(content).__name__}, not of a dictionary as CIFAR's are.")
    return {_text(key): value for key, value in content.items()}


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes."""
    if not path.is_file():
        raise ValueError(f"{path.name}, which names the classes, is missing; unpack the archive anew.")
    content = load_batch(path)
    names = content.get("fine_label_names") or content.get("label_names")
    if not isinstance(names, list) or not all(map(_is_text, names)):
        raise ValueError(f"{path.name} holds no list of the names of the classes; unpack the archive anew.")
    return tuple(_text(name) for name in names)


def _existing(source: Path, files: dict[str, str], dataset: Dataset) -> Iterable[tuple[str, str]]:
    """Return the files that are there, with their section, and note those that are not."""
    dataset.add("noted", "file that is missing", *(name for name in files if not (source / name).is_file()))
    return [(name, section) for name, section in files.items() if (source / name).is_file()]


def _add(
    dataset: Dataset, pixels: Array, labels: Iterable[Any], names: Iterable[str], section: str, file: str, count: int
) -> None:
    for position, (image, label, name) in enumerate(zip(pixels, labels, names, strict=True)):
        valid = isinstance(label, int | np.integer) and 0 <= label < count
        if not valid:
            dataset.add("noted", f"label that is not from 0 to {count - 1}", f"{file}, image {position}")
        dataset.add_pixels(image, name, name, label if valid else None, section)
