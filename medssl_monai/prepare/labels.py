"""What the label of an item says, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence

from medssl_monai.data.datalist import FLAGS, Item
from medssl_monai.kinds import DEFAULT, Kind, Label, kind_named, kind_of
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.unknown import UNKNOWN


def is_labeled(item: Item) -> bool:
    """Return whether an item has a label, or a mask beside it, be it hidden."""
    return any(item.get(key) is not None for key in FLAGS)


def kind_in(dataset: Dataset, word: str = "") -> Kind:
    """Return the kind of the labels of a data set, as the caller names it or as the first label looks.

    Raises:
        ValueError: if the caller names none that there is.
    """
    if word:
        return kind_named(word, dataset.classes)
    return kind_of((item.get("label") for item in dataset.items), dataset.classes) or DEFAULT(dataset.classes)


def strata(item: Item) -> list[int]:
    """Return the strata that an item is in, by its label (`medssl_monai.kinds.Kind.strata`); -2: a mask beside it."""
    label, mask = item.get("label"), [-2] * (item.get("mask") is not None)
    kind = kind_of([label])
    return [*(kind.strata(Label(label)) if kind else ()), *mask]


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
    kind = kind_in(dataset)
    if kind.cases is None:
        raise ValueError("the labels are masks, and `positive` is for classes of images; leave one of them out.")
    if positive not in dataset.classes:
        raise ValueError(f"`positive` {positive!r} is none of the classes {list(dataset.classes)}.")
    index = dataset.classes.index(positive)
    dataset.classes = tuple(names or ("other", positive))
    if len(dataset.classes) != 2:
        raise ValueError(f"with `positive` there are two classes, the others first; got {list(dataset.classes)}.")
    for item in dataset.items:
        if item.get("label") is None:
            continue
        states = kind.targets({0: Label(item.pop("label"))}, [0])[0]
        state = int(states[index]) if kind.case_names else int(states == index)
        if state != UNKNOWN:
            item["label"] = state
