"""What labels of the audited images say, whatever their kind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from medssl_monai.audit.items import pictures_of
from medssl_monai.data.copies import Picture
from medssl_monai.data.datalist import Datalist, Key
from medssl_monai.kinds import Kind, Label, Masks, chosen_kind


def kinds_of(sections: Mapping[str, Datalist]) -> dict[Key, Kind]:
    """Return the kind of each part of the labels of all sections."""
    data = next(iter(sections.values()))
    values = [item["label"] for items in sections.values() for item in items if item.get("label") is not None]
    return {"label": chosen_kind(data.label_kind, values, data.classes), "mask": Masks(data.mask_classes)}


def any_conflict(kind: Kind, labels: Iterable[Any]) -> bool:
    """Whether two labels of one image cannot both be right: what they say differs, or the pixels of their files.

    A label that is missing or a file that cannot be read contradicts nothing.
    """
    told = {json.dumps(label): Label(label) for label in labels if label is not None}
    files = {file for label in told.values() if (file := kind.file(label)) is not None}
    if len({digest for file in files if (digest := _digest(file)) is not None}) > 1:
        return True
    return any(kind.contradict(first, second) for first, second in itertools.combinations(told.values(), 2))


def label_text(kind: Kind, label: Any) -> str | None:
    """Return a label in words, None if there is no label."""
    return None if label is None else kind.shown(Label(label))


def _digest(path: str) -> str | None:
    """Return a hash of the pixels of a mask; None if it cannot be read."""
    found = pictures_of(path, [None])[0]
    return found.digest if isinstance(found, Picture) else None
