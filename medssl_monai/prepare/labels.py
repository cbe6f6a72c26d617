"""What the label of an item says, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence

from medssl_monai.data.datalist import FLAGS, Item
from medssl_monai.prepare.layouts.dataset import Dataset


def is_labeled(item: Item) -> bool:
    """Return whether an item has a label, or a mask beside it, be it hidden."""
    return any(item.get(key) is not None for key in FLAGS)


def strata(item: Item) -> list[int]:
    """Return the strata that an item is in: its class, or its findings.

    -1 stands for a multi-hot label without any finding, 0 for a mask as the label, -2 for a mask beside the label.
    """
    label, mask = item.get("label"), [-2] * (item.get("mask") is not None)
    if isinstance(label, list):
        return ([k for k, value in enumerate(label) if value == 1] or [-1]) + mask
    return mask if label is None else [0 if isinstance(label, str) else label, *mask]


def class_of(item: Item) -> int | list[int]:
    """Return the label of an item to balance a draw by; all masks are of one class."""
    label = item["label"]
    return 0 if isinstance(label, str) else label


def one_against_rest(dataset: Dataset, positive: str, names: Sequence[str]) -> None:
    """Make labels binary, in place: class 1 for `positive`, 0 for every other.

    Multi-hot labels become that finding; where it is unknown, there is no label.

    Args:
        dataset: the images.
        positive: one of the classes.
        names: of the two resulting classes, if the caller gave some.

    Raises:
        ValueError: if the labels are masks, or `positive` is none of the classes.
    """
    if any(isinstance(item.get("label"), str) for item in dataset.items):
        raise ValueError("the labels are masks, and `positive` is for classes of images; leave one of them out.")
    if positive not in dataset.classes:
        raise ValueError(f"`positive` {positive!r} is none of the classes {list(dataset.classes)}.")
    index = dataset.classes.index(positive)
    dataset.classes = tuple(names or ("other", positive))
    if len(dataset.classes) != 2:
        raise ValueError(f"with `positive` there are two classes, the others first; got {list(dataset.classes)}.")
    for item in dataset.items:
        label = item.get("label")
        if isinstance(label, list) and label[index] < 0:
            del item["label"]
        elif label is not None:
            item["label"] = label[index] if isinstance(label, list) else int(label == index)
