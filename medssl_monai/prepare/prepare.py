"""From images and labels as they come to a datalist: split by group, without copies, with a report on the rest.

A *layout* is one way in which data sets come (`medssl_monai.prepare.layouts`); copies, splits, hidden labels and the
report are common to all.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai import limits
from medssl_monai.data.copies import near_copies, picture
from medssl_monai.data.datalist import FLAGS, SECTIONS, Item, Key, write_datalist
from medssl_monai.data.patients import listed
from medssl_monai.files import read_json, sha256, write_json
from medssl_monai.names import check_classes
from medssl_monai.options import LabelsBy, Options
from medssl_monai.pool.pool import balanced_draw, is_known, seed_of
from medssl_monai.prepare.layouts import LAYOUTS, Layout, lists
from medssl_monai.prepare.layouts.base import Array, Findings, Found, Names, Request, relative, write_png
from medssl_monai.prepare.layouts.files import by_suffix, in_words, put_series
from medssl_monai.readers.reader import ClinicalReader

logger = logging.getLogger(__name__)

DEFAULT_SPLIT = (0.8, 0.2, 0.0)
SHOWN = 5
"""Files that are named in a message."""
UNLABELED, MASKED = "unlabeled", "masked"
"""Folder of a second source's files, and before the slash in its ids."""


def prepare(source: str | Path, out_dir: str | Path, options: Options | None = None, **changes: Any) -> Path:
    """Write ``datalist.json`` and ``prepare_report.json``.

    Args:
        source: what there is, in one of the layouts of `medssl_monai.prepare.layouts.LAYOUTS`: a folder of PNG, JPEG,
            NIfTI and DICOM files (with a `table`, with `class_folders`, or without labels), ``.npz`` and ``.zip``
            files, Decathlon, CheXpert, ChestX-ray14, CIFAR, SVHN, and feature tables. Files of a folder are used where
            they are; all others are written to `out_dir`.
        out_dir: where to write.
        options: what else there is to say.
        changes: single fields of it, by name: ``prepare(source, out_dir, table="labels.csv")``.

    Returns:
        Path of the datalist.

    Raises:
        FileNotFoundError: if there is no `source` or `table`.
        TypeError: if there is no such option.
        ValueError: if the layout is not known, columns are missing, or the split is not possible.
    """
    options = replace(options or Options(), **changes)
    with limits.raised(**options.bounds):
        return _prepare(Path(source), Path(out_dir), options)


def _prepare(source: Path, out_dir: Path, options: Options) -> Path:
    classes, positive, labels, mask_labels = options.classes, options.positive, options.labels, options.mask_labels
    masks, mask_classes, allow_leaks, seed = options.masks, options.mask_classes, options.allow_leaks, options.seed
    split, split_column, folds, fold = options.split, options.split_column, options.folds, options.fold
    keep_duplicates, labels_by = options.keep_duplicates, options.labels_by
    unlabeled, masked = options.unlabeled, options.masked
    request = Request(
        source,
        out_dir,
        Names(options.clear_names, options.key_file, options.groups_as_written),
        **{**vars(options), "classes": () if positive is not None else classes},
    )
    second = _second_request(request, unlabeled, UNLABELED) if unlabeled is not None else None
    third = None
    if masked is not None:  # its masks are its labels, until it joins
        third = _second_request(request, masked, MASKED)
        third = replace(third, label_column="label", masks=masks, classes=request.mask_classes)
        request = replace(request, masks=None, mask_classes=(), masked=None, mask_labels=None)
    layout = _layout(request)
    for other in filter(None, (second, third)):
        _layout(other)
    request.out_dir.mkdir(parents=True, exist_ok=True)  # items are found from here
    found = layout.read(request)
    shown = lists.read(request.label_list, found) if request.label_list else None
    own_split = shown is not None and bool(shown.sections) and not (split or split_column or folds)
    if shown and own_split:
        shown.apply_split(found)
    if positive is not None:
        _one_against_rest(found, positive, classes)
    if third is not None:
        _join(found, third, request, MASKED)
    if second is not None:
        _join(found, second, request, UNLABELED)
    if not keep_duplicates:
        _drop_copies(found, request.out_dir)
    if not found.items:
        raise ValueError(_why_empty(source, found))
    several = any(isinstance(item.get("label"), list) for item in found.items)
    check_classes(found.classes, "finding" if several else "class", str(source), several)
    check_classes(mask_classes, "class of masks", str(source))
    images = Counter(item["group"] for item in found.items)
    merged = listed(request.names.spellings, images)
    if mask_classes and any(isinstance(item.get("label"), str) for item in found.items):
        raise ValueError(f"the labels of {source} are masks, and classes are wanted; leave `mask_classes` out.")
    if mask_classes and not any("mask" in item for item in found.items):
        raise ValueError(f"{masked or source} holds no usable mask; noted: {_counts(found.noted)}.")
    sections, how = _all_sections(found, split, bool(split_column) or own_split, folds, fold, seed, allow_leaks)
    how = how.replace("the source", shown.name, 1) if shown and own_split else how
    training = sections.get("training", [])
    if not training and (shown or labels is not None or mask_labels is not None or second is not None):
        raise ValueError(
            "labels to show, and images without labels, are for the training section, and this split has none; give "
            "it a share, or leave them out."
        )
    label_list_line = shown.hide_others(training) if shown else None
    if labels is not None:
        hide_labels(training, labels, labels_by, seed)
    if mask_labels is not None:
        hide_labels(training, mask_labels, labels_by, seed, "mask")
    _write_images(found, request.out_dir)
    if second is not None and not found.features:
        _drop_recurring(found, sections, request.out_dir)
    path = request.out_dir / "datalist.json"
    write_datalist(
        path,
        sections,
        classes=found.classes,
        name=request.source.stem if request.source.is_file() else request.out_dir.resolve().name,
        synthetic=found.synthetic or any(is_synthetic(each.source) for each in (request, second, third) if each),
        modality=("feature",) if found.features else _modality(request.out_dir, itertools.chain(*sections.values())),
        allow_leaks=allow_leaks,
        mask_classes=mask_classes or (),
        quarantine=found.quarantine,
        **({"groups_as_written": True} if options.groups_as_written else {}),
    )
    unused = by_suffix(found.passed_over)
    report = {
        "layout": layout.name,
        "source_sha256": _source_sha256(request),
        "unlabeled_sha256": _source_sha256(second) if second else None,
        **({"masked_sha256": _source_sha256(third)} if third else {}),
        "seed": seed,
        "rows": dict(zip(("of the table", "of images here"), found.rows, strict=True)),
        "groups": found.grouping,
        "merged_groups": merged,
        "split": how,
        "label_list": label_list_line,
        "classes": list(found.classes),
        **({"mask_classes": list(mask_classes)} if mask_classes else {}),
        "sections": {name: _summary(items, found.classes, bool(mask_classes)) for name, items in sections.items()},
        "dropped": {why: {"count": len(what), "items": what} for why, what in found.dropped.items()},
        "noted": {why: {"count": len(what), "items": what} for why, what in found.noted.items()},
        "unused": unused,
    }
    write_json(request.out_dir / "prepare_report.json", report)
    for kind, findings in (("dropped", found.dropped), ("noted", found.noted)):
        if findings:
            logger.warning("%s: %s (see prepare_report.json)", kind, _counts(findings))
    if unused:
        logger.warning("unused: %s", in_words(unused))
    return path


def _layout(request: Request) -> Layout:
    for path in filter(None, (request.source, request.table)):
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}; give the path of a folder of images, a .npz or a .zip.")
    layout = next((layout for layout in LAYOUTS if layout.fits(request.source)), None)
    if layout is None:
        known = "; ".join(layout.name for layout in LAYOUTS)
        raise ValueError(f"{request.source} has no known layout; known are: {known}.")
    return layout


# a second source, without labels or of masks


def _second_request(request: Request, source: Path, name: str) -> Request:
    """The same, but of nothing that the caller said about the first source's labels and tables."""
    return Request(
        source,
        request.out_dir / name,  # files of the two may have the same names
        request.names,
        label_column="",
        ignore=request.ignore,
        volumes=request.volumes,
        keep_duplicates=request.keep_duplicates,
        groups_as_written=request.groups_as_written,
        nan=request.nan,
    )


def _join(found: Found, second: Request, request: Request, name: str) -> None:
    """Add the images of the second source, with names that the first cannot have; patients keep theirs."""
    if name == MASKED:
        second.out_dir.mkdir(parents=True, exist_ok=True)  # images are found from here, to compare masks with them
    other = _layout(second).read(second)
    if other.features != found.features:
        raise ValueError(f"one of {request.source.name} and {second.source.name} holds images, the other features.")
    for item in other.items:
        label = item.pop("label", None)
        item.pop("labeled", None)
        own, image = item["id"], item["image"]
        new = relative(second.out_dir / image, request.out_dir)
        if item["group"] == own.partition("#")[0]:
            item["group"] = f"{name}/{item['group']}"
        item |= {"id": f"{name}/{own}", "image": new}
        if name == MASKED:
            item["source"] = name
        if name == MASKED and isinstance(label, str):
            item["mask"] = relative(second.out_dir / label, request.out_dir)
        if name == MASKED and own in other.sections:
            found.sections[item["id"]] = other.sections[own]
        if own in other.pixels:
            found.pixels[item["id"]] = other.pixels[own]
        if image in other.copies:
            found.copies[new] = other.copies[image]
        getattr(found, name).add(item["id"])
        found.items.append(item)
    found.quarantine += [{**bad, "id": f"{name}/{bad['id']}"} for bad in other.quarantine]
    for reason, what in other.dropped.items():
        found.add("dropped", f"{name}: {reason}", *what)
    for reason, what in other.noted.items():
        found.add("noted", f"{name}: {reason}", *what)
    for reason, what in other.passed_over.items():
        found.passed_over[f"{name}: {reason}"] = what
    found.grouping += f"; of the {name} source: {other.grouping}"


def _drop_recurring(found: Found, sections: dict[str, list[Item]], root: Path) -> None:
    """Take images of the second source out of the training section that show what another section is to measure."""
    measured = [item for name in SECTIONS[1:] for item in sections.get(name, ())]
    joined = [item for item in sections["training"] if item["id"] in found.unlabeled]
    items, thumbnails = [], []
    for item, pixels in _arrays([*measured, *joined], root):
        shown = picture(pixels).thumbnail
        if shown is not None:
            items.append(item)
            thumbnails.append(shown)
    numbers: dict[str, int] = {}
    files = [numbers.setdefault(item["image"], len(numbers)) for item in items]
    gone = {
        items[j]["id"]
        for i, j, _ in near_copies(thumbnails, files)
        if items[i]["id"] not in found.unlabeled and items[j]["id"] in found.unlabeled
    }
    found.add("dropped", f"{UNLABELED}: near copy of an image that is not in the training section", *sorted(gone))
    sections["training"] = [item for item in sections["training"] if item["id"] not in gone]


def _arrays(items: Iterable[Item], root: Path) -> Iterator[tuple[Item, Array]]:
    """Each image that can be read, ``(C, x, y[, z])``; each file is read once."""
    of_file: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        of_file[item["image"]].append(item)
    for name, same in of_file.items():
        try:
            array, _ = ClinicalReader(nan="background").get_data([root / name])
        except (OSError, ValueError):  # reported when the images are read for training
            continue
        yield from ((item, array[..., item["slice"]] if "slice" in item else array) for item in same)


# what all layouts share


def _why_empty(source: Path, found: Found) -> str:
    reasons = "; ".join(f"{Path(bad['image']).name} {bad['reason']}" for bad in found.quarantine[:SHOWN])
    more = f"; and {len(found.quarantine) - SHOWN} more" if len(found.quarantine) > SHOWN else ""
    rest = in_words(by_suffix(found.passed_over))
    reasons = "; ".join(filter(None, (f"{reasons}{more}", rest and f"unused: {rest}")))
    return f"{source} holds no usable image; dropped: {_counts(found.dropped)}. {reasons}".rstrip(". ") + "."


def _drop_copies(found: Found, root: Path) -> None:
    """Keep the first of equal images, or the first that has a label; of copies with different labels keep none.

    A mask beside the label of any of them is a mask of the one that is kept; of different ones none is.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item, digest in zip(found.items, _digests(found, root), strict=True):
        groups[digest].append(item)
    gone = set()
    for copies in groups.values():
        labels, masks = (
            {_comparable(item[key], root) for item in copies if item.get(key) is not None} if len(copies) > 1 else set()
            for key in FLAGS
        )
        keep = next((item for item in copies if item.get("label") is not None), copies[0])
        reason = "exact copy of another image"
        if len(labels) > 1:
            keep, reason = {}, "exact copies with different labels"
        if len(masks) > 1:
            found.add("noted", "exact copies with different masks, of which none is used", *(i["id"] for i in copies))
            keep.pop("mask", None)
        elif mask := next((item["mask"] for item in copies if item.get("mask") is not None), None):
            keep.setdefault("mask", mask)
        for item in copies:
            if item is not keep:
                found.add("dropped", reason, item["id"])
                gone.add(item["id"])
    found.items = [item for item in found.items if item["id"] not in gone]


def _comparable(label: Any, root: Path) -> str:
    """A label as a text, a mask by the content of its file."""
    path = root / label if isinstance(label, str) else None
    return str(label) if path is None else sha256(path) if path.is_file() else str(path)


def _digests(found: Found, root: Path) -> Iterator[str]:
    """Hash of each image's content and slice; files of a size that no other has are not read."""
    files = {item["image"] for item in found.items if item["id"] not in found.pixels}
    parts = {name: found.copies.get(name) or _parts(root / name) for name in files}
    sizes = {name: tuple(path.stat().st_size for path in paths) for name, paths in parts.items()}
    count = Counter(sizes.values())
    hashes = {
        name: " ".join(map(sha256, parts[name])) if count[size] > 1 else f"size {size}" for name, size in sizes.items()
    }
    for item in found.items:
        pixels = found.pixels.get(item["id"])
        if pixels is None:
            yield f"{hashes[item['image']]}#{item.get('slice')}"
        else:
            yield f"{pixels.shape}{hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()}"


def _parts(path: Path) -> tuple[Path, ...]:
    """The file, or the files of a folder (a DICOM series)."""
    return tuple(sorted(part for part in path.iterdir() if part.is_file())) if path.is_dir() else (path,)


def _all_sections(
    found: Found,
    split: Sequence[float] | None,
    fixed: bool,
    folds: int | None,
    fold: int | None,
    seed: int,
    allow_leaks: bool,
) -> tuple[dict[str, list[Item]], str]:
    """Items by section, and how they came there; a source of masks is split by itself, but for groups of the other."""
    section_of: dict[str, str] = {}
    of_group: dict[str, str] = {}
    names: set[str] = set()
    hows = []
    for masked in (False, True):
        own = {name: section for name, section in found.sections.items() if (name in found.masked) == masked}
        items = [item for item in found.items if (item["id"] in found.masked) == masked]
        if masked and not items:
            continue
        part = replace(found, items=items, sections=own)
        if folds is not None and fold is not None:
            placed, there, how = _cross_validation(part, folds, fold, seed, allow_leaks)
        else:
            placed, there, how = _split(part, split, fixed and not masked, seed, allow_leaks)
        for item in items:
            section = of_group.get(item["group"]) if masked else None
            section_of[item["id"]] = section or placed.get(item["id"], "training")
        of_group = {i["group"]: section_of[i["id"]] for i in reversed(items) if i["id"] not in found.unlabeled}
        names |= set(there)
        hows.append(f"of the {MASKED} source: {how}" if masked else how)
    return _sections(found, section_of, [name for name in SECTIONS if name in names]), "; ".join(hows)


def _split(
    found: Found, split: Sequence[float] | None, fixed: bool, seed: int, allow_leaks: bool
) -> tuple[dict[str, str], list[str], str]:
    """Section by id, the sections that there are, and how they came about."""
    labeled = [item for item in found.items if _is_labeled(item)]
    torn = _torn_groups(found)
    if fixed and torn and not allow_leaks:
        raise ValueError(
            f"the split that was asked for puts {len(torn)} groups into several sections, for example {torn[0]!r}; "
            "correct it, give `split` for a new one by group, or pass `allow_leaks`."
        )
    if fixed or (split is None and found.sections and (allow_leaks or not torn)):
        section_of = found.sections
        names, how = [name for name in SECTIONS if name in section_of.values()], "as given by the source"
        how += f"; {len(torn)} groups are in several sections" if torn else ""
        if not fixed and names == ["training", "testing"]:
            section_of, names = _with_validation(found, seed)
            how += "; validation taken from its training section, by group"
    else:
        shares = _shares(DEFAULT_SPLIT if split is None else split)
        names = [name for name, share in zip(SECTIONS, shares, strict=True) if share > 0] if labeled else ["training"]
        place = _stratify(labeled, dict(zip(SECTIONS, shares, strict=True)), names, seed)
        section_of = {item["id"]: place.get(item["group"], names[0]) for item in found.items}
        how = f"new, by group, shares {shares}" + (", since the source's tears groups apart" if torn else "")
    return section_of, names, how


def _cross_validation(
    found: Found, folds: int, fold: int, seed: int, allow_leaks: bool
) -> tuple[dict[str, str], list[str], str]:
    """One fold for validation, the others for training; see `_split`."""
    testing = {name: "testing" for name, section in found.sections.items() if section == "testing"}
    rest = [item for item in found.items if item["id"] not in testing]
    own = {item["group"] for item in rest if item["id"] not in found.unlabeled}
    torn = own & {item["group"] for item in found.items if item["id"] in testing}
    if torn and not allow_leaks:
        raise ValueError(
            f"the source has {len(torn)} groups in its testing section and elsewhere, for example {min(torn)!r}; give "
            "`split` for a new split by group, or pass `allow_leaks`."
        )
    labeled = [item for item in rest if _is_labeled(item)]
    groups = {item["group"] for item in labeled}
    if len(groups) < folds:
        raise ValueError(f"{len(groups)} groups with a label cannot fill {folds} folds; ask for fewer `folds`.")
    names = [str(number) for number in range(folds)]
    place = _stratify(labeled, dict.fromkeys(names, 1 / folds), names, seed, damped=True)
    section_of = {
        item["id"]: "validation" if place.get(item["group"]) == str(fold) else "training" for item in rest
    } | testing
    there = [name for name in SECTIONS if name != "testing" or testing]
    how = f"fold {fold} of {folds}, by group, for validation" + ("; testing as given by the source" if testing else "")
    return section_of, there, how


def _sections(found: Found, section_of: Mapping[str, str], names: Sequence[str]) -> dict[str, list[Item]]:
    """Items by section; in all but training, what has no label is of no use, and is reported."""
    of_group = {i["group"]: section_of.get(i["id"], "training") for i in found.items if i["id"] not in found.unlabeled}
    sections: dict[str, list[Item]] = {name: [] for name in names}
    for item in found.items:
        joined = item["id"] in found.unlabeled
        section = of_group.get(item["group"], "training") if joined else section_of.get(item["id"], "training")
        if section != "training" and not _is_labeled(item):
            found.add("dropped", "no label, and its group is not in the training section", item["id"])
        else:
            sections.setdefault(section, []).append(item)
    for name in SECTIONS[1:]:
        absent = set(range(len(found.classes))) - {k for item in sections.get(name, ()) for k in _present(item)}
        masks = any(isinstance(item.get("label"), str) for item in found.items)
        if name in sections and absent and not masks:
            found.add("noted", f"classes that the {name} section lacks", *(found.classes[k] for k in sorted(absent)))
    return sections


def _with_validation(found: Found, seed: int) -> tuple[dict[str, str], list[str]]:
    """The publisher's sections, with part of the training section for validation in the default proportion."""
    training = [item for item in found.items if found.sections.get(item["id"]) == "training"]
    shares = dict(zip(SECTIONS[:2], DEFAULT_SPLIT, strict=False))
    place = _stratify([item for item in training if _is_labeled(item)], shares, SECTIONS[:2], seed)
    new = {item["id"]: place.get(item["group"], "training") for item in training}
    section_of = found.sections | new
    return section_of, [name for name in SECTIONS if name in section_of.values()]


def _torn_groups(found: Found) -> list[str]:
    sections: dict[str, set[str]] = defaultdict(set)
    for item in found.items:
        if item["id"] not in found.unlabeled:
            sections[item["group"]].add(found.sections.get(item["id"], ""))
    return [group for group, places in sections.items() if len(places) > 1]


def _shares(split: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in split)
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"`split` must be three shares (training, validation, testing) that add up to 1, got {split}.")
    return shares


def _stratify(
    items: Sequence[Item], shares: dict[str, float], names: Sequence[str], seed: int, damped: bool = False
) -> dict[str, str]:
    """Section of each group: groups in random order, each to the section that still lacks most of its classes.

    This is the iterative stratification of Sechidis et al. (2011) with groups for samples; rare classes weigh more.
    Damped: of a group's images of a class the square root counts, since images of one patient resemble each other, and
    large groups come first. No class is then left to one patient where several have it, and sections differ in size.
    """
    keys = sorted({k for item in items for k in _present(item)})
    counts: dict[str, Array] = {}
    for item in items:
        row = counts.setdefault(item["group"], np.zeros(len(keys)))
        for k in _present(item):
            row[keys.index(k)] += 1
    if items and len(counts) < len(names):
        raise ValueError(f"{len(counts)} groups cannot fill {len(names)} sections; set a share of `split` to 0.")
    groups = list(counts)  # in the order of the items: names that depend on a key must not decide
    order = np.random.default_rng(seed).permutation(len(groups))
    if damped:
        order = np.array(sorted(order, key=lambda position: -counts[groups[position]].sum()))
        counts = {group: np.sqrt(row) for group, row in counts.items()}
    total = sum(counts.values(), np.zeros(len(keys)))
    need = {name: shares[name] * total for name in names}
    place: dict[str, str] = {}
    for position in order:
        row = counts[groups[position]]
        best = max(names, key=lambda name: (round(float(row / total @ need[name]), 9), float(need[name].sum())))
        place[groups[position]] = best
        need[best] = need[best] - row
    empty = [name for name in names if name not in place.values()]
    if items and empty:
        raise ValueError(f"no group was left for {empty[0]!r}: give it a larger share of `split`, or 0.")
    return place


def _is_labeled(item: Item) -> bool:
    """Whether it has a label, or a mask beside it, be it hidden."""
    return any(item.get(key) is not None for key in FLAGS)


def _present(item: Item) -> list[int]:
    """Class, or findings, of an item; -1 for a multi-hot label without any, 0 for a mask; and -2 for one beside it."""
    label, beside = item.get("label"), [-2] * (item.get("mask") is not None)
    if isinstance(label, list):
        return ([k for k, value in enumerate(label) if value == 1] or [-1]) + beside
    return beside if label is None else [0 if isinstance(label, str) else label, *beside]


def hide_labels(items: list[Item], labels: int | float, by: LabelsBy, seed: int, key: Key = "label") -> None:
    """Let as many `labels` count as known, in place; the other items get ``"labeled": false``. See `prepare`.

    Args:
        items: of the training section.
        labels: how many images or groups, or which fraction of them.
        by: what is counted and drawn.
        seed: decides the draw.
        key: ``mask``: of the masks beside labels; the others get ``"masked": false``.

    Raises:
        ValueError: if there are fewer, or a fraction is not in (0, 1].
    """
    name = "labels" if key == "label" else "mask_labels"
    known = [item for item in items if item.get(key) is not None]
    units = list(dict.fromkeys(item["group"] if by == "group" else item["id"] for item in known))
    if isinstance(labels, float) and not (0 < labels <= 1):
        raise ValueError(f"`{name}` must be a whole number of items or a fraction up to 1.0, got {labels}.")
    count = round(labels * len(units)) if isinstance(labels, float) else labels
    if not 0 <= count <= len(units):
        what = "groups" if by == "group" else "items"
        raise ValueError(f"`{name}` asks for {count} {what}; the training section has {len(units)} with a {key}.")
    seed = seed_of(seed, key)
    if by == "group":
        chosen = set(_spread(known, seed)[:count])
    else:
        classes = [_class(item) if key == "label" else 0 for item in known]
        chosen = {units[position] for position in balanced_draw(classes, count, seed)}
    for item in known:
        if item["group" if by == "group" else "id"] not in chosen:
            item[FLAGS[key]] = False


def _spread(items: Sequence[Item], seed: int, choice: int = 32) -> list[str]:
    """All groups, in an order of which every beginning holds each class in about its share of the groups.

    Next is always the one of the first `choice` left, in a random order, after which the numbers of groups by class are
    closest to their shares, by the chi-square distance.
    """
    keys = sorted({k for item in items for k in _present(item)})
    rows: dict[str, Array] = {}  # in the order of the items: names that depend on a key must not decide
    for item in items:
        row = rows.setdefault(item["group"], np.zeros(len(keys)))
        row[[keys.index(k) for k in _present(item)]] = 1
    left = [list(rows)[position] for position in np.random.default_rng(seed).permutation(len(rows))]
    total = sum(rows.values(), np.zeros(len(keys)))
    order: list[str] = []
    have = np.zeros(len(keys))
    while left:
        wanted = total * (len(order) + 1) / len(rows)
        nearest = min(left[:choice], key=lambda group: float(((have + rows[group] - wanted) ** 2 / total).sum()))
        left.remove(nearest)
        order.append(nearest)
        have = have + rows[nearest]
    return order


def is_synthetic(source: Path) -> bool:
    """Whether a folder is one of phantoms; what is made of them must say so as well."""
    path = source / "datalist.json"
    return path.is_file() and bool(read_json(path).get("synthetic", False))


def _class(item: Item) -> int | list[int]:
    """A label to balance by; all masks are of one class."""
    label = item["label"]
    return 0 if isinstance(label, str) else label


def _one_against_rest(found: Found, positive: str, names: Sequence[str]) -> None:
    """Class 1 for `positive`, 0 for every other; of multi-hot labels, that finding, without those unknown."""
    if any(isinstance(item.get("label"), str) for item in found.items):
        raise ValueError("the labels are masks, and `positive` is for classes of images; leave one of them out.")
    if positive not in found.classes:
        raise ValueError(f"`positive` {positive!r} is none of the classes {list(found.classes)}.")
    index = found.classes.index(positive)
    found.classes = tuple(names or ("other", positive))
    if len(found.classes) != 2:
        raise ValueError(f"with `positive` there are two classes, the others first; got {list(found.classes)}.")
    for item in found.items:
        label = item.get("label")
        if isinstance(label, list) and label[index] < 0:
            del item["label"]
        elif label is not None:
            item["label"] = label[index] if isinstance(label, list) else int(label == index)


def _modality(folder: Path, items: Iterable[Item], sample: int = 8) -> tuple[str, ...]:
    """Names of the channels: colours if any of the first `sample` images has differing ones, else one."""
    for item in itertools.islice(items, sample):
        try:
            array, meta = ClinicalReader(nan="background").get_data([folder / item["image"]])
        except (OSError, ValueError):  # reported when the images are read for training
            continue
        if meta["colour"] and not (array[:3] == array[:1]).all():
            return ("red", "green", "blue")
    return ("image",)


def _write_images(found: Found, folder: Path) -> None:
    """What layouts left to be written: pixels as PNG files, and series into folders of their own."""
    for item in found.items:
        path = folder / item["image"]
        if item["id"] in found.pixels:
            write_png(path, found.pixels[item["id"]])
    for image in found.copies.keys() & {item["image"] for item in found.items}:
        put_series(folder / image, found.copies[image])


def _summary(items: Sequence[Item], classes: Sequence[str], beside: bool) -> dict[str, Any]:
    count = Counter(k for item in items for k in _present(item) if k >= 0)
    nothing = sum(isinstance(label := item.get("label"), list) and not any(label) for item in items)
    masks = any(isinstance(item.get("label"), str) for item in items)
    per_class = {} if masks else {name: count[k] for k, name in enumerate(classes)}
    masked = sum(item.get("mask") is not None and item.get("masked", True) for item in items)
    return {
        "items": len(items),
        "groups": len({item["group"] for item in items}),
        "labeled": sum(is_known(item.get("label")) and item.get("labeled", True) for item in items),
        "classes": {**per_class, "no finding": nothing} if nothing else per_class,
        **({"masked": masked} if beside else {}),
    }


def _source_sha256(request: Request) -> str | None:
    """Of the archive, or of a folder's tables."""
    files = [request.source] if request.source.is_file() else [request.table] if request.table else []
    hashes = [sha256(file) for file in files or sorted(request.source.glob("*.csv"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None


def _counts(findings: Findings) -> str:
    return ", ".join(f"{len(what)} x {why}" for why, what in findings.items()) or "nothing"
