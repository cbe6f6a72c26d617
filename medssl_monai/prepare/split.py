"""Sections by group: those of the publisher, new ones, or folds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from medssl_monai.data.datalist import SECTIONS, Item
from medssl_monai.options import Options
from medssl_monai.prepare.labels import is_labeled, kind_in, strata
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.sources import MASKED
from medssl_monai.prepare.stratify import stratify

DEFAULT_SPLIT = (0.8, 0.2, 0.0)


class Split(NamedTuple):
    """Where the items of a source go.

    Attributes:
        section_of: section by id.
        names: of the sections that there are, in order.
        how: they came about, in words.
    """

    section_of: dict[str, str]
    names: list[str]
    how: str


def split_into_sections(dataset: Dataset, options: Options, given: bool) -> tuple[dict[str, list[Item]], str]:
    """Return the items by section, and how they came there, in words.

    A source of masks is split by itself, but for groups that the first source has as well.

    Args:
        dataset: all sources together.
        options: ``split``, ``folds``, ``fold``, ``seed`` and ``allow_leaks``.
        given: the first source brings its sections, and no others are wanted.

    Raises:
        ValueError: if the split tears groups apart, or there are too few groups for it.
    """
    section_of: dict[str, str] = {}
    section_of_group: dict[str, str] = {}
    names: set[str] = set()
    hows = []
    for masked in (False, True):
        published = {name: section for name, section in dataset.sections.items() if (name in dataset.masked) == masked}
        items = [item for item in dataset.items if (item["id"] in dataset.masked) == masked]
        if masked and not items:
            continue
        part = replace(dataset, items=items, sections=published)
        split = _folded(part, options) if options.folds is not None else _split(part, options, given and not masked)
        for item in items:
            section = section_of_group.get(item["group"]) if masked else None
            section_of[item["id"]] = section or split.section_of.get(item["id"], "training")
        section_of_group = {
            i["group"]: section_of[i["id"]] for i in reversed(items) if i["id"] not in dataset.unlabeled
        }
        names |= set(split.names)
        hows.append(f"of the {MASKED} source: {split.how}" if masked else split.how)
    return _sections(dataset, section_of, [name for name in SECTIONS if name in names]), "; ".join(hows)


def _split(dataset: Dataset, options: Options, given: bool) -> Split:
    """Return the source's sections if they are wanted, or keep groups together; else new ones, by group."""
    labeled = [item for item in dataset.items if is_labeled(item)]
    torn = _torn_groups(dataset)
    if given and torn and not options.allow_leaks:
        raise ValueError(
            f"the split that was asked for puts {len(torn)} groups into several sections, for example {torn[0]!r}; "
            "correct it, give `split` for a new one by group, or pass `allow_leaks`."
        )
    if given or (options.split is None and dataset.sections and (options.allow_leaks or not torn)):
        section_of = dataset.sections
        names, how = [name for name in SECTIONS if name in section_of.values()], "as given by the source"
        how += f"; {len(torn)} groups are in several sections" if torn else ""
        if not given and names == ["training", "testing"]:
            section_of, names = _with_validation(dataset, options.seed)
            how += "; validation taken from its training section, by group"
    else:
        shares = _shares(DEFAULT_SPLIT if options.split is None else options.split)
        names = [name for name, share in zip(SECTIONS, shares, strict=True) if share > 0] if labeled else ["training"]
        place = stratify(labeled, dict(zip(SECTIONS, shares, strict=True)), names, options.seed)
        section_of = {item["id"]: place.get(item["group"], names[0]) for item in dataset.items}
        how = f"new, by group, shares {shares}" + (", since the source's tears groups apart" if torn else "")
    return Split(section_of, names, how)


def _folded(dataset: Dataset, options: Options) -> Split:
    """Return one fold for validation, and the others for training."""
    folds = options.folds or 0
    testing = {name: "testing" for name, section in dataset.sections.items() if section == "testing"}
    rest = [item for item in dataset.items if item["id"] not in testing]
    groups_of_rest = {item["group"] for item in rest if item["id"] not in dataset.unlabeled}
    torn = groups_of_rest & {item["group"] for item in dataset.items if item["id"] in testing}
    if torn and not options.allow_leaks:
        raise ValueError(
            f"the source has {len(torn)} groups in its testing section and elsewhere, for example {min(torn)!r}; give "
            "`split` for a new split by group, or pass `allow_leaks`."
        )
    labeled = [item for item in rest if is_labeled(item)]
    groups = {item["group"] for item in labeled}
    if len(groups) < folds:
        raise ValueError(f"{len(groups)} groups with a label cannot fill {folds} folds; ask for fewer `folds`.")
    numbers = [str(number) for number in range(folds)]
    fold_of = stratify(labeled, dict.fromkeys(numbers, 1 / folds), numbers, options.seed, damped=True)
    section_of = {
        item["id"]: "validation" if fold_of.get(item["group"]) == str(options.fold) else "training" for item in rest
    } | testing
    names = [name for name in SECTIONS if name != "testing" or testing]
    how = f"fold {options.fold} of {folds}, by group, for validation"
    return Split(section_of, names, how + ("; testing as given by the source" if testing else ""))


def _sections(dataset: Dataset, section_of: Mapping[str, str], names: Sequence[str]) -> dict[str, list[Item]]:
    """Return the items by section; outside of training, items without a label are of no use, and are reported."""
    section_of_group = {
        i["group"]: section_of.get(i["id"], "training") for i in dataset.items if i["id"] not in dataset.unlabeled
    }
    sections: dict[str, list[Item]] = {name: [] for name in names}
    for item in dataset.items:
        joined = item["id"] in dataset.unlabeled
        section = section_of_group.get(item["group"], "training") if joined else section_of.get(item["id"], "training")
        if section != "training" and not is_labeled(item):
            dataset.add("dropped", "no label, and its group is not in the training section", item["id"])
        else:
            sections.setdefault(section, []).append(item)
    for name in SECTIONS[1:]:
        absent = set(range(len(dataset.classes))) - {k for item in sections.get(name, ()) for k in strata(item)}
        if name in sections and absent and kind_in(dataset).cases is not None:
            dataset.add(
                "noted", f"classes that the {name} section lacks", *(dataset.classes[k] for k in sorted(absent))
            )
    return sections


def _with_validation(dataset: Dataset, seed: int) -> tuple[dict[str, str], list[str]]:
    """Return the publisher's sections, with part of the training section for validation in the default proportion."""
    training = [item for item in dataset.items if dataset.sections.get(item["id"]) == "training"]
    shares = dict(zip(SECTIONS[:2], DEFAULT_SPLIT, strict=False))
    place = stratify([item for item in training if is_labeled(item)], shares, SECTIONS[:2], seed)
    section_of = dataset.sections | {item["id"]: place.get(item["group"], "training") for item in training}
    return section_of, [name for name in SECTIONS if name in section_of.values()]


def _torn_groups(dataset: Dataset) -> list[str]:
    sections: dict[str, set[str]] = defaultdict(set)
    for item in dataset.items:
        if item["id"] not in dataset.unlabeled:
            sections[item["group"]].add(dataset.sections.get(item["id"], ""))
    return [group for group, places in sections.items() if len(places) > 1]


def _shares(split: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in split)
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"`split` must be three shares (training, validation, testing) that add up to 1, got {split}.")
    return shares
