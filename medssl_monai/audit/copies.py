"""Equal and nearly equal images, and what their labels say."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medssl_monai.audit.items import Array, Entry
from medssl_monai.audit.labels import any_conflict, label_text
from medssl_monai.data.copies import Picture, near_copies
from medssl_monai.data.datalist import Key
from medssl_monai.kinds import Kind, Label


class Copies:
    """Sets of equal images, and pairs of nearly equal ones, with what their labels say.

    Args:
        entries: all items with their pictures.
        kinds: of the labels, by part.
    """

    def __init__(self, entries: Iterable[Entry], kinds: Mapping[Key, Kind]) -> None:
        self.kinds = kinds
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
            conflicts = (any_conflict(kind, [e.item.get(key) for e in same]) for key, kind in self.kinds.items())
            listed.append(
                {
                    "crossing": len(by_section) > 1,
                    "conflict": any(conflicts),
                    "items": [self._name(entry) for entry in same],
                }
            )
        return {**_ranked(listed), "images": sum(map(len, sets)), "repeats": dict(repeats)}

    def near(self) -> dict[str, Any]:
        """Return the pairs of nearly equal images."""
        listed = []
        for first, second, score in self.pairs:
            pairs = itertools.product(*(_differing(self.sets[digest]) for digest in (first, second)))
            facts = [(a.section != b.section, self._contradict(a, b), a, b) for a, b in pairs]
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

    def _contradict(self, first: Entry, second: Entry) -> bool:
        labels = [Label(entry.item["label"]) for entry in (first, second) if entry.item.get("label") is not None]
        return len(labels) == 2 and self.kinds["label"].contradict(labels[0], labels[1])

    def _name(self, entry: Entry) -> dict[str, Any]:
        label = label_text(self.kinds["label"], entry.item.get("label"))
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


def copies_text(kind: str, source: str, section: str, images: int, of: int, copies: int) -> str:
    """Return a sentence about the images of a section that have copies in another."""
    return f"{kind} copies in {source} of {section} images: {images} of {of} images, {copies} copies."
