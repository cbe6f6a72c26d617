"""Tables of features, ``*-features.npy`` with ``*-targets.npy``, as BoostMIS published its MESCC data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai import limits
from medssl_monai.files import read_json
from medssl_monai.names import natural
from medssl_monai.prepare.layouts.conventions import SECTION_NAMES
from medssl_monai.prepare.layouts.dataset import EACH_ITS_OWN, Array, Dataset, numbered
from medssl_monai.prepare.layouts.npy import read_npy
from medssl_monai.prepare.layouts.paths import relative
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.tables import Table

FEATURES, TARGETS, ITEMS, DESCRIPTION = "-features.npy", "-targets.npy", "-items.csv", "features.json"


def fits(source: Path) -> bool:
    """Return whether a folder holds such tables."""
    return source.is_dir() and any(source.glob(f"*{FEATURES}"))


def read(request: Request) -> Dataset:
    """Read ``NAME-features.npy`` ``(N, D)`` and ``NAME-targets.npy``, ``(N,)`` or one-hot ``(N, K)``; -1: unlabeled.

    An item is a row: ``image`` is the file and ``slice`` the row. NAME is the publisher's section if it is train,
    val or test. `medssl_monai.bundle.features.write_features` adds ``NAME-items.csv`` with ``id`` and ``group`` by row;
    without it every row is its own group; and ``features.json`` with the names of the classes.

    Raises:
        ValueError: if tables do not fit together.
    """
    if request.table or request.id_column or request.group_column or request.split_column:
        raise ValueError("feature tables bring ids and groups in NAME-items.csv; leave `table` and the columns out.")
    dataset, widths, names = Dataset(features=True), set(), replace(request.names, clear=True)
    for path in sorted(request.source.glob(f"*{FEATURES}"), key=lambda path: natural(path.name)):
        stem = path.name.removesuffix(FEATURES)
        features = _load(path, 2)
        targets = _targets(path.with_name(stem + TARGETS), len(features))
        rows = _items(path.with_name(stem + ITEMS), stem, len(features))
        widths.add(features.shape[1])
        bad = set(np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist())
        for k, ((name, group), target) in enumerate(zip(rows, targets, strict=True)):
            if k in bad:
                dataset.add("dropped", "row with values that are not finite", name)
                continue
            owner = names.group(group) if group != name else group
            item = {"image": relative(path, request.out_dir), "id": name, "group": owner, "slice": k}
            if target >= 0:
                item["label"] = target
            dataset.items.append(item)
            if section := SECTION_NAMES.get(stem.lower()):
                dataset.sections[name] = section
    name, count = next(iter(Counter(item["id"] for item in dataset.items).most_common(1)), ("", 0))
    if count > 1:
        raise ValueError(
            f"{request.source}: the feature tables have {count} rows of the id {name!r}; ids must be unique."
        )
    if len(widths) > 1:
        raise ValueError(f"the feature tables differ in width: {sorted(widths)}; they must come from one network.")
    if len(dataset.sections) < len(dataset.items):
        dataset.sections = {}
    grouped = any(item["group"] != item["id"] for item in dataset.items)
    dataset.grouping = "as in NAME-items.csv" if grouped else EACH_ITS_OWN.replace("file", "row")
    content = _description(request.source / DESCRIPTION)
    dataset.classes = request.classes or tuple(content.get("classes", ())) or numbered(dataset.items)
    if beyond := [item["id"] for item in dataset.items if item.get("label", 0) >= len(dataset.classes)]:
        raise ValueError(
            f"{request.source}: the target of {beyond[0]!r} is none of the {len(dataset.classes)} classes; name all."
        )
    dataset.synthetic = bool(content.get("synthetic", False))
    return dataset


def _description(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.exists() else {}
    names = content.get("classes", []) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path.name} must be an object with a list of texts as `classes`; write it anew.")
    return dict(content)


def _load(path: Path, *dimensions: int) -> Array:
    array = read_npy(path)
    if array.ndim not in dimensions or array.dtype.kind not in "biuf":
        many = " or ".join(map(str, dimensions))
        raise ValueError(f"{path.name} must hold numbers in {many} dimensions, got {array.dtype} {array.shape}.")
    return array


def _targets(path: Path, count: int) -> list[int]:
    if not path.exists():
        return [-1] * count
    targets = _load(path, 1, 2)
    if targets.ndim == 2 and targets.shape[1] > 1:
        if not np.isin(targets, (0, 1)).all() or not (targets.sum(axis=1) == 1).all():
            raise ValueError(f"{path.name} has {targets.shape[1]} columns that are not one-hot; keep the one to learn.")
        targets = targets.argmax(axis=1)
    targets = targets.reshape(-1)
    if len(targets) != count:
        raise ValueError(f"{path.name} has {len(targets)} targets for {count} rows of features.")
    if targets.dtype.kind == "f" and not (np.isfinite(targets) & (targets == np.floor(targets))).all():
        raise ValueError(f"{path.name} must hold class indices, or -1 for unlabeled.")
    if len(targets) and (targets.min() < -1 or targets.max() >= limits.limit("max_classes")):
        raise ValueError(
            f"{path.name} must hold class indices, or -1 for unlabeled, got {targets.min()} and {targets.max()}."
        )
    return [int(target) for target in targets]


def _items(path: Path, stem: str, count: int) -> list[tuple[str, str]]:
    if not path.exists():
        return [(f"{stem}_{k:06d}",) * 2 for k in range(count)]
    table = Table.read(path)
    if not {"id", "group"} <= set(table.header) or len(table.rows) != count:
        raise ValueError(f"{path.name} must have the columns id and group and {count} rows; write both files anew.")
    empty = next((number for number, row in table.rows if not (row["id"] and row["group"])), None)
    if empty is not None:
        raise ValueError(f"{path.name}, line {empty}: there is no id or no group; write both files anew.")
    return [(row["id"], row["group"]) for _, row in table.rows]
