"""Published lists of the images that count as labeled, with the split that belongs to them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medssl_monai.data.datalist import Item
from medssl_monai.names import natural
from medssl_monai.prepare.layouts.conventions import SECTION_NAMES, SUFFIX, first
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.tables import Table, lines_of

PUBLISHED = {"tear350": 349, "tear600": 599, "tear800": 799, "tear1200": 1199, "tear2000": 2000}
"""How many lines the lists of TEAR (Yang et al., MICCAI 2022; github.com/CityU-AIM-Group/TEAR) have."""
ISIC2018 = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")
"""Order of the one-hot labels in TEAR's lists, which is that of the ISIC 2018 challenge."""
NAMED = re.compile(r"(?P<who>[a-z]+)(?P<budget>\d+)")
Label = str | list[int] | None


@dataclass(frozen=True)
class LabelList:
    """A published list of labeled images, with those of its images that are here.

    Attributes:
        name: as it was asked for, without folders.
        ids: items on the list.
        here: how many of its images there are.
        size: how many it names; None: not known.
        sections: section by id, of a list with a split of its own; images in none of its sections are left out.
    """

    name: str
    ids: frozenset[str]
    here: int
    size: int | None
    sections: dict[str, str] = field(default_factory=dict)

    def apply_split(self, dataset: Dataset) -> None:
        """Put the list's own split in place of the source's; it may tear groups apart."""
        gone = [item["id"] for item in dataset.items if item["id"] not in self.sections]
        dataset.add("dropped", f"image in no section of {self.name}", *gone)
        dataset.items = [item for item in dataset.items if item["id"] in self.sections]
        dataset.sections = {item["id"]: self.sections[item["id"]] for item in dataset.items}

    def hide_others(self, items: Iterable[Item]) -> str:
        """Hide the labels of a training section but for those on the list; returns a line that says how many are."""
        shown = 0
        for item in items:
            if item.get("label") is None:
                continue
            if item["id"] in self.ids:
                shown += 1
            else:
                item["labeled"] = False
        of = f"of the {self.size} images" if self.size else "images"
        return f"{self.name}: {self.here} {of} on the list are here, {shown} of them labeled in the training section"


def read(label_list: str, dataset: Dataset) -> LabelList:
    """Find the images of a list among those of a layout, before copies are dropped.

    Args:
        label_list: a file, or the name of a list that columns of the table carry: ``tear350`` for the items with 350
            in ``tear_labelled`` (``350;800``), split as in ``tear_split``. A file has an image a line, by name with or
            without suffix; TEAR's one-hot label may follow. A ``.csv`` has columns ``image`` and, if need be,
            ``label``. If ``Val.txt`` and ``Test.txt`` lie beside it, as in TEAR's folder, they are its split, with the
            file and its ``Train_unl350.txt`` as the training section.
        dataset: the images; those without a label get the list's, other differences are noted.

    Raises:
        ValueError: if there is no such list, a CSV file has no column of images, or no image of the list is here.
    """
    path = Path(label_list)
    chosen = _from_file(path, dataset) if path.is_file() else _from_columns(label_list, dataset)
    if not chosen.ids:
        raise ValueError(f"none of the images on {chosen.name} is here; is it a list of another data set?")
    return chosen


def _from_columns(name: str, dataset: Dataset) -> LabelList:
    match = NAMED.fullmatch(name)
    who, budget = (match["who"], match["budget"]) if match else ("", "")
    budgets: dict[str, set[str]] = defaultdict(set)
    sections, ids = {}, set()
    for item in dataset.items:
        meta = item.get("meta", {})
        for column in (column for column in meta if column.endswith("_labelled")):
            budgets[column.removesuffix("_labelled")] |= set(meta[column].split(";"))
        if budget in meta.get(f"{who}_labelled", "").split(";"):
            ids.add(item["id"])
        section = meta.get(f"{who}_split", "").lower()
        if section in SECTION_NAMES:
            sections[item["id"]] = SECTION_NAMES[section]
    if budget not in budgets.get(who, ()):
        known = [f"{owner}{one}" for owner, all_of in budgets.items() for one in sorted(all_of, key=natural)]
        raise ValueError(f"{name!r} is neither a file nor a list that the table knows; it knows {known or 'none'}.")
    return LabelList(name, frozenset(ids), len(ids), PUBLISHED.get(name), sections)


def _from_file(path: Path, dataset: Dataset) -> LabelList:
    by_name: dict[str, list[Item]] = defaultdict(list)
    for item in dataset.items:
        for name in {_stem(item["image"]), _stem(item["id"])}:
            by_name[name].append(item)
    for name in [name for name, items in by_name.items() if len({item["image"] for item in items}) > 1]:
        del by_name[name]
    lines = _lines(path)
    ids, here = set(), 0
    for number, name, label in lines:
        items = by_name.get(_stem(name), [])
        here += bool(items)
        if not items:
            dataset.add(
                "noted", f"image of {path.name} that is not here, or whose name is not unique", f"line {number}"
            )
        ids |= {item["id"] for item in items}
        _compare(items, _index(label, dataset.classes), label is not None, path.name, number, dataset)
    return LabelList(path.name, frozenset(ids), here, len(lines), _sections_beside(path, by_name))


def _lines(path: Path) -> list[tuple[int, str, Label]]:
    """Return line number, name and label of each image."""
    if path.suffix.lower() == ".csv":
        table = Table.read(path)
        image = first(table.header, "image", "file", "filename", "name", "image_id", "id")
        label = first(table.header, "label", "class")
        if image is None:
            raise ValueError(f"{path.name} has no column 'image', only {table.header}; name the column of images so.")
        return [(number, row[image], (label and row[label]) or None) for number, row in table.rows]
    lines: list[tuple[int, str, Label]] = []
    for number, line in enumerate(lines_of(path), start=1):
        name, *rest = line.split() or [""]
        if rest and set(rest) <= {"0", "1"} and rest.count("1") == 1:
            lines.append((number, name, [int(value) for value in rest]))
        elif line.strip():
            lines.append((number, line.strip(), None))
    return lines


def _index(label: Label, classes: Sequence[str]) -> int | None:
    """Return the class index of a listed label, in the classes of the source; None if it is none of them."""
    if isinstance(label, list):
        lower = [name.lower() for name in classes]
        known = len(label) == len(ISIC2018) and set(lower) == set(ISIC2018)
        return lower.index(ISIC2018[label.index(1)]) if known else None
    if label in classes:
        return classes.index(label or "")
    return {str(k): k for k in range(len(classes))}.get(label or "")


def _compare(items: Sequence[Item], index: int | None, labeled: bool, name: str, number: int, dataset: Dataset) -> None:
    if labeled and index is None:
        dataset.add("noted", f"label of {name} that is none of the source's classes", f"line {number}")
    for item in items if index is not None else ():
        if item.setdefault("label", index) != index:
            dataset.add("noted", f"label that differs from {name}, and was kept", item["id"])


def _sections_beside(path: Path, by_name: dict[str, list[Item]]) -> dict[str, str]:
    files = {path.with_name("Val.txt"): "validation", path.with_name("Test.txt"): "testing"}
    if not all(file.is_file() for file in files):
        return {}
    files |= {path: "training", path.with_name(path.name.replace("Train", "Train_unl")): "training"}
    sections: dict[str, str] = {}
    for file, section in files.items():
        for number, name, _ in _lines(file) if file.is_file() else ():
            for item in by_name.get(_stem(name), []):
                if sections.setdefault(item["id"], section) != section:
                    raise ValueError(
                        f"{file.name}, line {number}: the {section} image {name!r} is on the list of the "
                        f"{sections[item['id']]} section as well; take it off one of them."
                    )
    return sections


def _stem(name: str) -> str:
    return SUFFIX.sub("", PurePosixPath(name.replace("\\", "/")).name)
