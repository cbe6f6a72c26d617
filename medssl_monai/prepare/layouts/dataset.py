"""A data set as it came: its images with their labels, and what was left out of it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl_monai import limits
from medssl_monai.data.datalist import Item
from medssl_monai.files import write_atomically
from medssl_monai.png import save_png
from medssl_monai.prepare.layouts.conventions import SUFFIX

Array = NDArray[Any]
Findings = dict[str, list[str]]
"""Reason to what it applies to: ids, or rows of the table."""
LONGEST_NAME = 100
EACH_ITS_OWN = "every file its own: nothing keeps images of one patient in one section"


@dataclass
class Dataset:
    """The images that a layout reads, with their labels and groups, and what it left out.

    Attributes:
        items: ``image`` relative to the output folder, ``id``, ``group`` and, where known, ``label``, ``labeled``,
            ``mask``, ``slice`` and ``meta``.
        classes: names in the order of their index.
        sections: the publisher's section by id.
        pixels: images to write, by id; the others lie where their item says.
        copies: files to copy into the folder that is the item's ``image``, by that image: DICOM series that share
            their folder with others.
        files: names of the files for `pixels` without suffix, in lower case.
        again: how often names of `pixels` came again.
        dropped: what is not in `items`, by reason.
        noted: what is, but not as the source says, by reason.
        quarantine: files that cannot be used: ``id``, ``image``, ``reason``.
        passed_over: files below the source that are no images, relative to it, by reason.
        rows: rows of the table, and how many of them are of images here.
        grouping: what the groups are.
        features: the items are rows of feature tables, not images.
        synthetic: the images are phantoms.
        unlabeled: ids of items of a second source, which are for training only.
        masked: ids of items of a second source, which is split by itself.
    """

    items: list[Item] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    sections: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, Array] = field(default_factory=dict)
    copies: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    again: Counter[str] = field(default_factory=Counter)
    dropped: Findings = field(default_factory=dict)
    noted: Findings = field(default_factory=dict)
    quarantine: list[dict[str, str]] = field(default_factory=list)
    passed_over: Findings = field(default_factory=dict)
    rows: tuple[int, int] = (0, 0)
    grouping: str = EACH_ITS_OWN
    features: bool = False
    synthetic: bool = False
    unlabeled: set[str] = field(default_factory=set)
    masked: set[str] = field(default_factory=set)

    def add(self, kind: Literal["dropped", "noted"], reason: str, *what: str) -> None:
        """Add to a list of the report."""
        if what:
            getattr(self, kind).setdefault(reason, []).extend(what)

    def add_once(self, kind: Literal["dropped", "noted"], reason: str, what: str) -> None:
        """Do as `add`, but not twice in a row: the slices of a volume share a row of the table."""
        if getattr(self, kind).get(reason, [""])[-1] != what:
            self.add(kind, reason, what)

    def add_pixels(self, pixels: Array, name: str, group: str, label: Any, section: str | None) -> str:
        """Add an image that is no file yet; returns its id, which is `name`, with a number if that is taken.

        Args:
            pixels: ``(H, W)``, uint8 or uint16, or ``(H, W, 3)``, uint8.
            name: the publisher's name of it.
            group: patient, lesion or the name.
            label: class index (negative: unknown), multi-hot values, or None.
            section: the publisher's, or None.
        """
        unique = name
        while unique in self.pixels:
            self.again[name] += 1
            unique = f"{name}~{self.again[name] + 1}"
        safe = re.sub(r"[^\w.~-]", "_", SUFFIX.sub("", unique), flags=re.ASCII)[:LONGEST_NAME]
        if safe.lower() in self.files:  # ids may differ in what a file name cannot hold
            safe += "-" + hashlib.sha256(unique.encode()).hexdigest()[:8]
        self.files.add(safe.lower())
        item: Item = {"image": f"images/{safe}.png", "id": unique, "group": group}
        values = [] if label is None else np.atleast_1d(label).tolist()
        if len(values) > 1:
            item["label"] = [int(value) for value in values]
        elif values and values[0] >= 0:
            item["label"] = int(values[0])
        if section:
            self.sections[unique] = section
        self.items.append(item)
        self.pixels[unique] = pixels
        return unique


def write_png(path: Path, pixels: Array) -> None:
    """Write an image that came as an array."""
    write_atomically(path, lambda file: save_png(file, pixels, compress_level=1), synced=False)


def numbered(items: Iterable[Item]) -> tuple[str, ...]:
    """Return class names ``0``, ``1``, ... for labels that have no others."""
    labels = [item["label"] for item in items if not isinstance(item.get("label"), str | None)]
    count = max((len(label) if isinstance(label, list) else label + 1 for label in labels), default=0)
    limits.check("max_classes", count, "the source")
    return tuple(str(k) for k in range(count))
