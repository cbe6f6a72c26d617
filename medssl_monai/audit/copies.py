"""Equal and nearly equal images, and what their labels say."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from medssl_monai.audit.items import Array, Entry, pictures_of
from medssl_monai.audit.labels import contradict, label_text
from medssl_monai.data.copies import Picture, near_copies
from medssl_monai.data.datalist import FLAGS


class Copies:
    """Sets of equal images, and pairs of nearly equal ones, with what their labels say.

    Args:
        entries: all items with their pictures.
        classes: names of the classes.
    """

    def __init__(self, entries: Iterable[Entry], classes: Sequence[str]) -> None:
        self.classes = classes
        self.sets: dict[str, list[Entry]] = defaultdict(list)
        thumbnails: dict[str, Array] = {}
        for entry in entries:
            if isinstance(entry.picture, Picture) and not entry.picture.blank:
                self.sets[entry.picture.digest].append(entry)
                if entry.picture.thumbnail is not None:
                    thumbnails[entry.picture.digest] = entry.picture.thumbnail
        numbers: dict[str, int] = {}
        files = [numbers.setdefault(self.sets[digest][0].item["image"], len(numbers)) for digest in thumbnails]
        digests = list(thumbnails)
        near = near_copies(list(thumbnails.values()), files)
        self.pairs = [(digests[i], digests[j], score) for i, j, score in near]
        self.neighbours: dict[str, list[str]] = {digest: [] for digest in self.sets}
        for first, second, _ in self.pairs:
            self.neighbours[first].append(second)
            self.neighbours[second].append(first)

    def exact(self) -> dict[str, Any]:
        """Return the sets of equal images."""
        sets = [same for same in self.sets.values() if len(same) > 1]
        listed, repeats = [], Counter[str]()
        for same in sets:
            by_section = Counter(entry.section for entry in same)
            repeats.update({section: count - 1 for section, count in by_section.items() if count > 1})
            answers = [[_comparable(entry.item.get(key)) for entry in same] for key in FLAGS]
            pairs = itertools.chain(*(itertools.combinations(_distinct(given), 2) for given in answers))
            listed.append(
                {
                    "crossing": len(by_section) > 1,
                    "conflict": any(itertools.starmap(contradict, pairs)),
                    "items": [self._name(entry) for entry in same],
                }
            )
        return {**_ranked(listed), "images": sum(map(len, sets)), "repeats": dict(repeats)}

    def near(self) -> dict[str, Any]:
        """Return the pairs of nearly equal images."""
        listed = []
        for first, second, score in self.pairs:
            pairs = itertools.product(*(_differing(self.sets[digest]) for digest in (first, second)))
            facts = [
                (a.section != b.section, contradict(a.item.get("label"), b.item.get("label")), a, b) for a, b in pairs
            ]
            crossing, conflict, a, b = max(facts, key=lambda fact: fact[:2])  # the pair with most to say
            same = a.item["group"] == b.item["group"]
            listed.append(
                {
                    "crossing": crossing,
                    "conflict": conflict,
                    "same_group": same,
                    "score": score,
                    "items": [self._name(a), self._name(b)],
                }
            )
        return _ranked(listed)

    def recurring(self, sections: Sequence[str]) -> list[dict[str, Any]]:
        """Return, for each two sections, which images of the second have copies in the first, and how many."""
        result = []
        for first, second in itertools.combinations(sections, 2):
            images: list[dict[str, Any]] = []
            for digest, same in self.sets.items():
                here = [entry.item["id"] for entry in same if entry.section == second]
                copies = {
                    kind: [entry.item["id"] for d in digests for entry in self.sets[d] if entry.section == first]
                    for kind, digests in (("exact", [digest]), ("near", self.neighbours[digest]))
                    if here
                }
                images += [{"id": name, **copies} for name in here if any(copies.values())]
            counts = {
                kind: {
                    "images": sum(bool(image[kind]) for image in images),
                    "copies": len({name for image in images for name in image[kind]}),
                }
                for kind in ("exact", "near")
            }
            result.append({"from": first, "in": second, **counts, "list": images})
        return result

    def _name(self, entry: Entry) -> dict[str, Any]:
        label = label_text(entry.item.get("label"), self.classes)
        if entry.item.get("mask") is not None:
            label = f"{label}, mask" if label else "mask"
        return {"id": entry.item["id"], "section": entry.section, "group": entry.item["group"], "label": label}


def _ranked(listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return totals, and the list with what matters most first; of equal weight, the order stays."""
    listed = sorted(listed, key=lambda entry: (not entry["conflict"], not entry["crossing"]))
    totals = {kind: sum(entry[kind] for entry in listed) for kind in ("crossing", "conflict")}
    return {"count": len(listed), **totals, "list": listed}


def _differing(same: Iterable[Entry]) -> list[Entry]:
    """Return one entry of each section and label."""
    return list({(entry.section, json.dumps(entry.item.get("label"))): entry for entry in same}.values())


def _distinct(labels: Iterable[Any]) -> list[Any]:
    return list({json.dumps(label): label for label in labels}.values())


def _comparable(label: Any) -> Any:
    """Return a label of which equal ones mean the same: for a mask, a hash of its pixels."""
    if not isinstance(label, str):
        return label
    found = pictures_of(label, [None])[0]
    return ("mask", found.digest) if isinstance(found, Picture) else None


def copies_text(kind: str, source: str, section: str, images: int, of: int, copies: int) -> str:
    """Return a sentence about the images of a section that have copies in another."""
    return f"{kind} copies in {source} of {section} images: {images} of {of} images, {copies} copies."
