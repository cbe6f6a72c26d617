"""The report of what became of the sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import Item
from medssl_monai.data.patients import listed
from medssl_monai.kinds import Kind, Label
from medssl_monai.options import Options
from medssl_monai.prepare.labels import kind_in, strata
from medssl_monai.prepare.layouts.dataset import Dataset, Findings
from medssl_monai.prepare.layouts.files import by_suffix, in_words
from medssl_monai.prepare.sources import Sources, source_sha256

SHOWN = 5
"""Files that are named in a message."""


def make_report(
    dataset: Dataset,
    sources: Sources,
    sections: Mapping[str, Sequence[Item]],
    options: Options,
    split: str,
    label_list: str | None,
) -> dict[str, Any]:
    """Return what ``prepare_report.json`` holds.

    Args:
        dataset: all sources together.
        sources: what they were asked for.
        sections: items by section.
        options: what the caller said.
        split: how the sections came about.
        label_list: how many images of a published list are here, or None.
    """
    images, kind = Counter(item["group"] for item in dataset.items), kind_in(dataset, options.label_kind)
    with_masks = bool(options.mask_classes)
    return {
        "layout": sources.layout.name,
        "source_sha256": source_sha256(sources.first),
        "unlabeled_sha256": source_sha256(sources.unlabeled) if sources.unlabeled else None,
        **({"masked_sha256": source_sha256(sources.masked)} if sources.masked else {}),
        "seed": options.seed,
        "rows": dict(zip(("of the table", "of images here"), dataset.rows, strict=True)),
        "groups": dataset.grouping,
        "merged_groups": listed(sources.first.names.spellings, images),
        "split": split,
        "label_list": label_list,
        "classes": list(dataset.classes),
        **({"mask_classes": list(options.mask_classes)} if with_masks else {}),
        "sections": {name: _summary(items, kind, with_masks) for name, items in sections.items()},
        "dropped": {why: {"count": len(what), "items": what} for why, what in dataset.dropped.items()},
        "noted": {why: {"count": len(what), "items": what} for why, what in dataset.noted.items()},
        "unused": by_suffix(dataset.passed_over),
    }


def _summary(items: Sequence[Item], kind: Kind, with_masks: bool) -> dict[str, Any]:
    count = Counter(k for item in items for k in strata(item))
    per_class = {} if kind.cases is None else {name: count[k] for k, name in enumerate(kind.names)}
    labels = [(Label(item["label"]), item.get("labeled", True)) for item in items if item.get("label") is not None]
    nothing = sum(kind.strata(label) == (-1,) and kind.certain(label) for label, _ in labels)
    masked = sum(item.get("mask") is not None and item.get("masked", True) for item in items)
    return {
        "items": len(items),
        "groups": len({item["group"] for item in items}),
        "labeled": sum(kind.known(label) and shown for label, shown in labels),
        "classes": {**per_class, "no finding": nothing} if nothing else per_class,
        **({"masked": masked} if with_masks else {}),
    }


def why_empty(source: Path, dataset: Dataset) -> str:
    """Return what to say of a source without usable images: why there is none."""
    reasons = "; ".join(f"{Path(bad['image']).name} {bad['reason']}" for bad in dataset.quarantine[:SHOWN])
    more = f"; and {len(dataset.quarantine) - SHOWN} more" if len(dataset.quarantine) > SHOWN else ""
    rest = in_words(by_suffix(dataset.passed_over))
    reasons = "; ".join(filter(None, (f"{reasons}{more}", rest and f"unused: {rest}")))
    return f"{source} holds no usable image; dropped: {counts_text(dataset.dropped)}. {reasons}".rstrip(". ") + "."


def counts_text(findings: Findings) -> str:
    """Return how often each reason applies, in words."""
    return ", ".join(f"{len(what)} x {why}" for why, what in findings.items()) or "nothing"
