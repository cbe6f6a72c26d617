"""What would make figures from a datalist too good, or wrong: leaks, copies, contradictions, shifts."""

from __future__ import annotations

import datetime
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from medssl_monai import __version__
from medssl_monai.audit.copies import Copies
from medssl_monai.audit.items import load_sections, read_all
from medssl_monai.audit.labels import kinds_of, label_text
from medssl_monai.audit.leaks import RESULT, state
from medssl_monai.audit.owners import merged_groups, patients, shared, volume
from medssl_monai.audit.page import write_audit_page
from medssl_monai.audit.previews import previews
from medssl_monai.audit.shift import intensity_shift, label_shift
from medssl_monai.audit.verdict import judge
from medssl_monai.data.copies import Picture
from medssl_monai.data.datalist import Datalist
from medssl_monai.files import read_json, sha256, write_json
from medssl_monai.kinds import Kind

PAGE = "audit.html"


def audit(
    datalist: str | Path, out_dir: str | Path | None = None, dataset_dir: str | Path | None = None
) -> dict[str, Any]:
    """Search in and between all sections of a datalist for what makes figures too good, or wrong.

    It finds groups (patients, lesions) and volumes in more than one section; exact copies, by decoded pixels; near
    copies (see `medssl_monai.data.copies.near_copies`); copies with labels that contradict each other; and shifts of
    labels and intensities between sections (`medssl_monai.audit.shift`). Images of one grey value are equal without
    being copies, and are listed apart. Files that cannot be read are listed and stop nothing. A volume without
    ``slice`` counts as one image: for near copies, the average along its last axis.

    Every file is read once. In memory are 1 to 7 kB of each image, and the files that are being read.

    Args:
        datalist: file with any of the sections training, validation and testing.
        out_dir: where ``audit.json`` and ``audit.html`` go; None: nowhere. They name ids and groups, and no paths; the
            page shows images, and is as confidential as they are.
        dataset_dir: folder that relative paths start from; default: that of the file.

    Returns:
        What ``audit.json`` holds: ``leaks`` (what stops a training), ``errors`` and ``warnings`` in words, and what
        they rest on under ``sections``, ``merged_groups``, ``shared_groups``, ``shared_volumes``, ``exact_copies``,
        ``near_copies``, ``recurring``, ``label_shift``, ``intensity_shift``, ``unreadable`` and ``blank``.

    Raises:
        FileNotFoundError: if there is no datalist.
        ValueError: if an item of it is not valid.
    """
    start = time.monotonic()
    sections = load_sections(datalist, dataset_dir)
    data = next(iter(sections.values()))
    entries = read_all(sections)
    kinds = kinds_of(sections)
    copies = Copies(entries, kinds)
    intensities: dict[str, dict[str, list[tuple[float, ...]]]] = {name: defaultdict(list) for name in sections}
    for entry in entries:
        if isinstance(entry.picture, Picture):
            intensities[entry.section][entry.item["group"]].append(entry.picture.intensities)
    result: dict[str, Any] = {
        "format": 1,
        "package": f"medssl_monai {__version__}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "datalist": {"name": data.name, "sha256": sha256(datalist), "synthetic": data.synthetic},
        "files_sha256": state(sections),
        "sections": {name: _summary(items, kinds["label"]) for name, items in sections.items()},
        "merged_groups": merged_groups(sections),
        "shared_groups": shared(sections, patients(sections)),
        "shared_volumes": shared(sections, volume, named=False),
        "exact_copies": copies.exact(),
        "near_copies": copies.near(),
        "recurring": copies.recurring(list(sections)),
        "label_shift": label_shift(sections, kinds["label"]),
        "intensity_shift": intensity_shift(intensities),
        "unreadable": [
            {"id": entry.item["id"], "section": entry.section, "reason": entry.picture}
            for entry in entries
            if isinstance(entry.picture, str)
        ]
        + _set_aside(datalist),
        "blank": [e.item["id"] for e in entries if isinstance(e.picture, Picture) and e.picture.blank],
    }
    result = {**judge(result, sections), **result, "seconds": round(time.monotonic() - start, 1)}
    if out_dir is not None:
        write_audit_page(Path(out_dir) / PAGE, result, previews(result, entries))
        write_json(Path(out_dir) / RESULT, result)
    return result


def _set_aside(datalist: str | Path) -> list[dict[str, Any]]:
    """Return the files that `medssl_monai.prepare` could not read and left out."""
    aside = read_json(datalist).get("quarantine", [])
    return [{"id": bad["id"], "section": "none", "reason": bad["reason"]} for bad in aside]


def _summary(data: Datalist, kind: Kind) -> dict[str, Any]:
    labels = Counter(label_text(kind, item.get("label")) or "no label" for item in data)
    masked = sum(item.get("mask") is not None and item.get("masked", True) for item in data)
    return {
        "items": len(data),
        "groups": len({item["group"] for item in data}),
        "labeled": sum(item.get("label") is not None and item.get("labeled", True) for item in data),
        **({"masked": masked} if data.mask_classes else {}),
        "labels": dict(labels.most_common()),
    }
