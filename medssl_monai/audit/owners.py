"""Patients and volumes with items in more than one section."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

from medssl_monai.audit.items import Sections
from medssl_monai.data.datalist import Item, patient_of
from medssl_monai.data.patients import listed


def _spellings(sections: Sections) -> dict[str, dict[str, None]]:
    """Return how each patient is spelled, in the order of the spellings, unless groups are to be kept apart."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for items in sections.values():
        for item in items:
            found[patient_of(item, items.groups_as_written)][str(item["group"])] = None
    return found


def merged_groups(sections: Sections) -> list[str]:
    """Return the patients that are spelled in several ways, in words."""
    images = Counter(patient_of(item, items.groups_as_written) for items in sections.values() for item in items)
    return listed(_spellings(sections), images)


def patients(sections: Sections) -> Callable[[Item], str]:
    """Return a function that names the patient of an item: one name for all spellings."""
    names = {text: " = ".join(texts) for texts in _spellings(sections).values() for text in texts}
    return lambda item: names[str(item["group"])]


def volume(item: Item) -> str | None:
    """Return the file of a slice; rows of a table of features are images of their own."""
    return item["image"] if "slice" in item and not item["image"].endswith(".npy") else None


def shared(sections: Sections, owner: Callable[[Item], str | None], named: bool = True) -> dict[str, Any]:
    """Return the owners of items in more than one section.

    Args:
        sections: items by section.
        owner: names the owner of an item; None: it has none.
        named: whether the result says their names.

    Returns:
        ``count``; ``pairs``, for each two sections the number of owners and of their items; ``list``, by owner.
    """
    counts = {section: Counter(filter(None, map(owner, items))) for section, items in sections.items()}
    pairs = []
    for first, second in itertools.combinations(counts, 2):
        both = counts[first].keys() & counts[second].keys()
        items = {section: sum(counts[section][name] for name in both) for section in (first, second)}
        pairs += [{"sections": [first, second], "count": len(both), "items": items}] * bool(both)
    shared = [name for name, times in Counter(itertools.chain(*counts.values())).items() if times > 1]
    listed = [
        {**({"name": name} if named else {}), "items": {s: c[name] for s, c in counts.items() if name in c}}
        for name in shared
    ]
    return {"count": len(shared), "pairs": pairs, "list": listed}


def owner_leaks(result: Mapping[str, Any], sections: Mapping[str, Sized]) -> Iterator[str]:
    """Yield a sentence for each two sections that share patients or volumes."""
    for key, owners in (("shared_groups", "groups (patients, lesions)"), ("shared_volumes", "volumes")):
        for pair in result[key]["pairs"]:
            concerned = " and ".join(f"{n} of {len(sections[name])} {name}" for name, n in pair["items"].items())
            yield f"{owners} in both {' and '.join(pair['sections'])}: {pair['count']}, with {concerned} images."
