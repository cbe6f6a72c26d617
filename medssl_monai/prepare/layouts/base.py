"""What a layout is asked for, and what it hands back."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl_monai import limits
from medssl_monai.data.datalist import Item, Key
from medssl_monai.data.patients import as_written, same_patient
from medssl_monai.files import write_atomically
from medssl_monai.options import Options
from medssl_monai.png import save_png
from medssl_monai.prepare.pseudonym import load_key, pseudonym

Array = NDArray[Any]
Findings = dict[str, list[str]]
"""Reason to what it applies to: ids, or rows of the table."""

SECTION_NAMES = {
    **{"train": "training", "training": "training", "test": "testing", "testing": "testing"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
}
CONTRADICTION = "\0"
"""In place of a cell: rows of one image contradict each other there."""
EMPTY = {"", "na", "n/a", "nan", "none", "null", "?"}
"""Cells that say nothing, in lower case."""
SUFFIX = re.compile(r"\.(png|jpe?g|dcm|dicom|ima|nii|nii\.gz)$", re.IGNORECASE)
KERMANY = re.compile(r"(?P<patient>person\d+|(?:NORMAL2-)?IM-\d+)[_-]")
LONGEST_NAME = 100
EACH_ITS_OWN = "every file its own: nothing keeps images of one patient in one section"


@dataclass
class Names:
    """Ids and groups in place of what may name a person.

    Args:
        clear: keep paths and the groups of tables as they are, for images that are public anyway.
        key_file: see `medssl_monai.prepare.pseudonym.load_key`.
        as_written: groups whose names differ in case, blanks, ``^`` or leading zeros are not one.

    Attributes:
        spellings: how each group was written, in the order in which the spellings came.
    """

    clear: bool = False
    key_file: str | Path | None = None
    as_written: bool = False
    spellings: dict[str, dict[str, None]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> bytes:
        """Made when first needed."""
        return load_key(self.key_file)

    def file(self, path: str, uid: str = "") -> str:
        """Id of a file, by its path relative to the source or, wherever it lies, by its DICOM UID."""
        return path if self.clear else pseudonym(self.key, "file", uid or path)

    def group(self, text: str) -> str:
        """Group of a cell in a table: the same for all spellings of one patient, and for DICOM files of theirs."""
        return self._group(text, self.clear)

    def patient(self, patient_id: str) -> str:
        """Group of a DICOM PatientID, which is never shown."""
        return self._group(patient_id, False)

    def _group(self, text: str, shown: bool) -> str:
        text = as_written(text)
        key = text if self.as_written else same_patient(text)
        if key not in self._names:
            self._names[key] = text if shown else pseudonym(self.key, "patient", key)
        self.spellings.setdefault(self._names[key], {})[text] = None
        return self._names[key]


@dataclass(frozen=True)
class Request(Options):
    """What the caller said, of which source, and where to write; a layout decides what they left open."""

    source: Path
    out_dir: Path
    names: Names = field(default_factory=Names)

    @property
    def mask_key(self) -> Key:
        """Where masks go: with names for their classes beside the labels, else in their place."""
        return "mask" if self.mask_classes else "label"


@dataclass
class Found:
    """What a layout holds.

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
        """`add`, but for what the list ends with already: the slices of a volume share a row."""
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
    """Class names ``0``, ``1``, ... for labels that have no others."""
    labels = [item["label"] for item in items if not isinstance(item.get("label"), str | None)]
    count = max((len(label) if isinstance(label, list) else label + 1 for label in labels), default=0)
    limits.check("max_classes", count, "the source")
    return tuple(str(k) for k in range(count))


def first(header: Sequence[str], *names: str) -> str | None:
    """The first of the names that the header has, as it is or but for case, blanks, ``_`` and ``-``.

    Raises:
        ValueError: if several columns are called so but for these.
    """
    for name in names:
        same = [column for column in header if _letters(column) == _letters(name)]
        if len(same) > 1:
            raise ValueError(f"the columns {same[0]!r} and {same[1]!r} may both be {name!r}; rename or remove one.")
        if same:
            return same[0]
    return None


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def relative(path: Path, folder: Path) -> str:
    """Path as seen from `folder`; absolute where there is no way, as between drives."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return str(path.resolve())
