"""A grid file, read and checked.

- ``name``: of the benchmark.
- ``bundle``: a shipped bundle or, relative to the file, the folder of one.
- ``threads``: of each cell, default 1.
- ``overrides``: values of the bundle's configuration for all cells.
- ``data``: by name, one of ``datalist`` (a path), ``prepare`` (arguments of
  `medssl_monai.prepare.prepare.prepare`, with ``source``), both relative to the file, and ``phantom`` (arguments of
  `medssl_monai.phantoms.make_phantom`); ``overrides``, for example of the
  views; ``note``, shown wherever figures are. With ``folds`` and ``fold: seed`` in a recipe, cells of seed k
  validate on fold k (modulo the number of folds), and all seeds draw the same folds.
- ``pretrain``: by name, overrides of a run of the bundle's ``pretrain.yaml`` that comes first, once per data and
  seed (and fold), whatever the labels. Overrides of all cells and of the data count for it too, but for what
  ``pretrain.yaml`` says itself.
- ``method`` and ``query``: overrides by name. In a method ``pretrain`` names the entry of that section whose
  weights become `pretrained`, and ``overlay`` a configuration file of the bundle on top of ``train.yaml``
  (``probe``).
- ``labels``: by name, ``start``, ``end`` and ``rounds``, perhaps ``cold_start``, see `Schedule`; or ``groups``, the
  share of the training section's groups (patients) of which all labels are known, the others' none, in one round
  without a query. Needs data with a recipe; the same groups for all seeds, but for folds, and the smaller share is
  part of the larger.
- ``seeds``: a list of whole numbers; a seed decides initial labels, weights, order and views.
- ``rows``: which combinations are wanted, each a mapping from axis to one name or a list; what a row does not name
  is taken in full. Default: all combinations.
- ``baselines``: by name, ``method`` and ``query`` that all others on the same data are compared with.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.bundle.overrides import check_overrides, nested
from medssl_monai.bundle.shipped import shipped_bundles
from medssl_monai.options import option_names
from medssl_monai.phantoms import make_phantom

AXES = ("data", "method", "query", "labels", "seeds")
DECIDED = {  # by the axes, or by where a cell lives
    "datalist": "data",
    "labels": "labels",
    "rounds": "labels",
    "max_epochs": "labels",
    "query::budget": "labels",
    "query::cold_start": "labels",
    "seed": "seeds",
    "bundle_root": "",
    "output_dir": "",
    "ckpt_dir": "",
}
DECIDED_BEFORE = {
    name: axis for name, axis in DECIDED.items() if name not in ("rounds", "max_epochs") and "::" not in name
}
"""Likewise of a pre-training."""


@dataclass(frozen=True)
class Schedule:
    """How the number of labels grows.

    Args:
        start: labels of the first round, a class-balanced draw; with `cold_start`, the answer to a first query.
        end: labels of the last round.
        rounds: how often is trained; there is a query between one and the next.
        groups: the share of the training section's groups (patients) that show their labels, in place of a number of
            labels; `start` and `end` then depend on the data, and are 0 in a `Grid`.
        cold_start: begin without any label, and let the query choose the first ones, too.
    """

    start: int
    end: int
    rounds: int
    groups: float | None = None
    cold_start: bool = False

    @property
    def budget(self) -> int:
        """Labels per query."""
        return (self.end - self.start) // max(1, self.rounds - 1)


@dataclass(frozen=True)
class Method:
    """What a grid calls a method.

    Args:
        overrides: of the bundle's configuration.
        pretrain: name of the pre-training whose weights it starts from.
        overlay: name of the bundle's configuration file on top of ``train.yaml``.
    """

    overrides: dict[str, Any]
    pretrain: str | None = None
    overlay: str | None = None


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked; see `load_grid`."""

    name: str
    folder: Path
    bundle: Path
    threads: int
    overrides: dict[str, Any]
    data: dict[str, dict[str, Any]]
    pretrain: dict[str, dict[str, Any]]
    method: dict[str, Method]
    query: dict[str, dict[str, Any]]
    labels: dict[str, Schedule]
    seeds: list[int]
    rows: list[dict[str, list[Any]]]
    baselines: dict[str, tuple[str, str]]


def load_grid(path: str | Path) -> Grid:
    """Return what a grid file says; its keys are described at the top of this module.

    Raises:
        FileNotFoundError: if there is no such file, or no such bundle.
        ValueError: with the key that is wrong and what was meant, perhaps.
    """
    path = Path(path)
    content = _read(path)
    overrides = [("overrides", content.get("overrides") or {})]
    overrides += [(f"query, {name}", entry) for name, entry in content["query"].items()]
    for name, entry in content["data"].items():
        _check_data(entry, f"{path}, data, {name}")
        overrides.append((f"data, {name}, overrides", entry.get("overrides") or {}))
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"{path}: 'seeds' must be a list of whole numbers, got {seeds!r}.")
    bundle = _find_bundle(str(content["bundle"]), path.parent)
    before = _read_pretrain(content.get("pretrain") or {}, bundle, f"{path}, pretrain")
    method = {
        str(name): _read_method(entry, before, bundle, f"{path}, method, {name}")
        for name, entry in content["method"].items()
    }
    grid = Grid(
        name=str(content["name"]),
        folder=path.parent.resolve(),
        bundle=bundle,
        threads=int(content.get("threads", 1)),
        overrides=content.get("overrides") or {},
        data={str(name): entry for name, entry in content["data"].items()},
        pretrain=before,
        method=method,
        query={str(name): entry for name, entry in content["query"].items()},
        labels={str(name): _schedule(entry, f"{path}, labels, {name}") for name, entry in content["labels"].items()},
        seeds=seeds,
        rows=[],
        baselines={},
    )
    for number, row in enumerate(content.get("rows") or [{}]):
        grid.rows.append(_read_row(row, grid, f"{path}, rows[{number}]"))
        _check_shares(grid.rows[-1], grid, f"{path}, rows[{number}]")
    for name, arm in (content.get("baselines") or {}).items():
        where = f"{path}, baselines, {name}"
        _check_keys(arm, {"method", "query"}, {"method", "query"}, where)
        grid.baselines[name] = (_named(arm["method"], grid.method, where), _named(arm["query"], grid.query, where))
    config = nested(load_config(grid.bundle))
    for where, values in overrides:
        _check_overrides(values, config, f"{path}, {where}")
    return grid


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a grid file that has all sections and no other."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"there is no grid file {path}; benchmarks/boostmis/grid.yaml is an example.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    known = {"name", "bundle", "threads", "overrides", "pretrain", *AXES, "rows", "baselines"}
    _check_keys(content, known, {"name", "bundle", *AXES}, str(path))
    for axis in ("data", "method", "query", "labels"):
        _check_keys(content[axis], None, set(), f"{path}, {axis}")
        if not content[axis]:
            raise ValueError(f"{path}: {axis!r} is empty; name at least one.")
    return dict(content)


def _check_data(entry: Any, where: str) -> None:
    _check_keys(entry, {"datalist", "prepare", "phantom", "overrides", "note"}, set(), where)
    if len({"datalist", "prepare", "phantom"} & set(entry)) != 1:
        raise ValueError(
            f"{where}: give either 'datalist' (a path), 'prepare' (how to make one) or 'phantom' (its kind)."
        )
    if "phantom" in entry:
        options = set(inspect.signature(make_phantom).parameters) - {"folder", "progress"}
        _check_keys(entry["phantom"], options, {"kind"}, f"{where}, phantom")
    if "prepare" in entry:
        options = {"source", *option_names()}
        _check_keys(entry["prepare"], options, {"source"}, f"{where}, prepare")
        _check_fold(entry["prepare"], f"{where}, prepare")


def load_config(bundle: Path, overlay: str | None = None) -> dict[str, Any]:
    """Return a bundle's ``train.yaml``, with an overlay on top."""
    from monai.bundle import ConfigParser

    files = [str(bundle / "configs" / f"{name}.yaml") for name in ("train", overlay) if name]
    return dict(ConfigParser.load_config_files(files))


def _find_bundle(name: str, folder: Path) -> Path:
    for bundle in (shipped_bundles() / name, (folder / name).resolve()):
        if (bundle / "configs" / "train.yaml").is_file():
            return bundle
    raise FileNotFoundError(f"there is no bundle {name!r}, neither among those shipped nor beside the grid file.")


def _check_fold(recipe: Mapping[str, Any], where: str) -> None:
    fold, folds = recipe.get("fold"), recipe.get("folds")
    if isinstance(fold, str) and (fold != "seed" or type(folds) is not int or folds < 2):
        raise ValueError(
            f"{where}: `fold` is a number, or 'seed' for one fold per seed, which needs `folds`, how many there are; "
            f"got fold {fold!r} of {folds!r}."
        )


def _read_pretrain(section: Any, bundle: Path, where: str) -> dict[str, dict[str, Any]]:
    _check_keys(section, None, set(), where)
    if not section:
        return {}
    _check_overlay("pretrain", bundle, where)
    config = nested(load_config(bundle, "pretrain"))
    for name, overrides in section.items():
        _check_overrides(overrides, config, f"{where}, {name}", DECIDED_BEFORE)
    return {str(name): overrides for name, overrides in section.items()}


def _read_method(entry: Any, before: Mapping[str, Any], bundle: Path, where: str) -> Method:
    _check_keys(entry, None, set(), where)
    overrides = {key: value for key, value in entry.items() if key not in ("pretrain", "overlay")}
    pretrain, overlay = entry.get("pretrain"), entry.get("overlay")
    if pretrain is not None:
        pretrain = _named(pretrain, before, f"{where}, pretrain")
        if "pretrained" in overrides:
            raise ValueError(f"{where}: leave 'pretrained' out, since 'pretrain' decides it.")
    if overlay is not None:
        _check_overlay(overlay, bundle, where)
    _check_overrides(overrides, nested(load_config(bundle, overlay)), where)
    return Method(overrides, pretrain, overlay)


def _check_overlay(name: Any, bundle: Path, where: str) -> None:
    names = sorted(path.stem for path in (bundle / "configs").glob("*.yaml") if path.stem != "train")
    if name not in names:
        raise ValueError(f"{where}: the bundle has no overlay {name!r}{_hint(name, names)}; there are {names}.")


def _check_shares(row: Mapping[str, Sequence[Any]], grid: Grid, where: str) -> None:
    """Refuse labels by group for data whose labels are not for the grid to hide."""
    for data, labels in itertools.product(row["data"], row["labels"]):
        recipe = grid.data[data].get("prepare")
        if grid.labels[labels].groups and (recipe is None or {"labels", "label_list"} & set(recipe)):
            raise ValueError(
                f"{where}: the labels {labels!r} are a share of the groups, for data that 'prepare' makes without "
                f"'labels' and 'label_list'; {data!r} is not."
            )


def _schedule(entry: Any, where: str) -> Schedule:
    if isinstance(entry, Mapping) and "groups" in entry:
        _check_keys(entry, {"groups"}, set(), where)
        share = entry["groups"]
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f"{where}: `groups` is a share above 0 and up to 1, got {share!r}.")
        return Schedule(start=0, end=0, rounds=1, groups=float(share))
    needed = {"start", "end", "rounds"}
    _check_keys(entry, {*needed, "cold_start"}, needed, where)
    if any(type(entry[key]) is not int for key in needed) or type(entry.get("cold_start", False)) is not bool:
        raise ValueError(
            f"{where}: start, end and rounds must be whole numbers, cold_start true or false, got {entry}."
        )
    schedule = Schedule(**entry)
    if schedule.rounds < 1 or schedule.start < 1 or schedule.end < schedule.start:
        raise ValueError(f"{where}: needs 1 <= start <= end and rounds >= 1, got {entry}.")
    if schedule.start + schedule.budget * (schedule.rounds - 1) != schedule.end:
        raise ValueError(
            f"{where}: {schedule.rounds - 1} queries of equal size cannot bring {schedule.start} labels to "
            f"{schedule.end}; choose an `end` that is `start` plus a multiple of `rounds` - 1."
        )
    return schedule


def _read_row(row: Any, grid: Grid, where: str) -> dict[str, list[Any]]:
    _check_keys(row, set(AXES), set(), where)
    full: dict[str, list[Any]] = {}
    for axis in AXES:
        known = getattr(grid, axis)
        chosen = row.get(axis, list(known))
        chosen = chosen if isinstance(chosen, list) else [chosen]
        full[axis] = [_named(name, known, f"{where}, {axis}") for name in chosen]
    return full


def _named(name: Any, known: Iterable[Any], where: str) -> Any:
    names = list(known)
    if name in names:
        return name
    if str(name) in names:  # YAML reads 2040 as a number
        return str(name)
    raise ValueError(f"{where}: there is no {name!r}{_hint(name, names)}; there are {names}.")


def _check_overrides(
    overrides: Any, config: Mapping[str, Any], where: str, decided: Mapping[str, str] = DECIDED
) -> None:
    _check_keys(overrides, None, set(), where)
    for name in overrides:
        if (plain := name.replace("#", "::")) in decided:
            axis = decided[plain]
            how = f"the axis {axis!r} decides it" if axis else "every cell has a folder of its own"
            raise ValueError(f"{where}: leave {name!r} out, since {how}.")
    try:
        check_overrides(overrides, config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_keys(content: Any, known: set[str] | None, required: set[str], where: str) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a mapping of names to values, got {content!r}.")
    for key in content:
        if known is not None and key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{_hint(key, sorted(known))}; known are {sorted(known)}.")
    if missing := sorted(required - set(content)):
        raise ValueError(f"{where}: the key {missing[0]!r} is missing.")


def _hint(name: Any, names: Sequence[Any]) -> str:
    near = difflib.get_close_matches(str(name), [str(known) for known in names], n=1)
    return f", did you mean {near[0]!r}?" if near else ""
