"""A grid file, and the cells that follow from it: data x method x query x labels x seed."""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import itertools
import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medssl_monai
from medssl_monai.bundle import check_overrides, fingerprint, nested, shipped_bundles
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.prepare import prepare
from medssl_monai.files import sha256

logger = logging.getLogger(__name__)

AXES = ("data", "method", "query", "labels", "seeds")
DECIDED = {  # by the axes, or by where a cell lives
    "datalist": "data",
    "labels": "labels",
    "rounds": "labels",
    "max_epochs": "labels",
    "query::budget": "labels",
    "seed": "seeds",
    "bundle_root": "",
    "output_dir": "",
    "ckpt_dir": "",
}
NOT_RUN = ("benchmark/", "report/", "speed", "cli.py", "rounds.py", "__main__.py")
"""Parts of the package that no cell runs, or that decide none of its figures."""


@dataclass(frozen=True)
class Schedule:
    """How the number of labels grows.

    Args:
        start: labels of the first round, a class-balanced draw.
        end: labels of the last round.
        rounds: how often is trained; there is a query between one and the next.
    """

    start: int
    end: int
    rounds: int

    @property
    def budget(self) -> int:
        """Labels per query."""
        return (self.end - self.start) // max(1, self.rounds - 1)


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked; see `load_grid`."""

    name: str
    folder: Path
    bundle: Path
    threads: int
    overrides: dict[str, Any]
    data: dict[str, dict[str, Any]]
    method: dict[str, dict[str, Any]]
    query: dict[str, dict[str, Any]]
    labels: dict[str, Schedule]
    seeds: list[int]
    rows: list[dict[str, list[Any]]]
    baselines: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        data: name of the data; likewise `method`, `query` and `labels`.
        schedule: what `labels` names.
        overrides: of the bundle's configuration, without folders.
        datalist: path; relative to the output folder if it was prepared there.
        note: what the grid says of the data.
        hash: over everything that decides the result.
        kind: cells of one kind, which differ in labels, query and seed only, need about the same time per round.
    """

    data: str
    method: str
    query: str
    labels: str
    seed: int
    schedule: Schedule
    overrides: dict[str, Any]
    datalist: str
    note: str
    hash: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.data}, {self.method}, query {self.query}, labels {self.labels}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Where it lives, below the output folder."""
        return f"cells/{self.hash}"


def load_grid(path: str | Path) -> Grid:
    """Read a grid file.

    - ``name``: of the benchmark.
    - ``bundle``: a shipped bundle or, relative to the file, the folder of one.
    - ``threads``: of each cell, default 1.
    - ``overrides``: values of the bundle's configuration for all cells.
    - ``data``: by name, either ``datalist`` (a path) or ``prepare`` (arguments of
      `medssl_monai.data.prepare.prepare`, with ``source``), relative to the file; ``overrides``, for example of the
      views; ``note``, shown wherever figures are.
    - ``method`` and ``query``: overrides by name.
    - ``labels``: by name, ``start``, ``end`` and ``rounds``, see `Schedule`.
    - ``seeds``: a list of whole numbers; a seed decides initial labels, weights, order and views.
    - ``rows``: which combinations are wanted, each a mapping from axis to one name or a list; what a row does not name
      is taken in full. Default: all combinations.
    - ``baselines``: by name, ``method`` and ``query`` that all others on the same data are compared with.

    Raises:
        FileNotFoundError: if there is no such file, or no such bundle.
        ValueError: with the key that is wrong and what was meant, perhaps.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no grid file {path}; benchmarks/boostmis/grid.yaml is an example.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    known = {"name", "bundle", "threads", "overrides", *AXES, "rows", "baselines"}
    _check_keys(content, known, {"name", "bundle", *AXES}, str(path))
    for axis in ("data", "method", "query", "labels"):
        _check_keys(content[axis], None, set(), f"{path}, {axis}")
        if not content[axis]:
            raise ValueError(f"{path}: {axis!r} is empty; name at least one.")
    groups = [("overrides", content.get("overrides") or {})]
    groups += [(f"{axis}, {name}", entry) for axis in ("method", "query") for name, entry in content[axis].items()]
    for name, entry in content["data"].items():
        where = f"{path}, data, {name}"
        _check_keys(entry, {"datalist", "prepare", "overrides", "note"}, set(), where)
        if ("datalist" in entry) == ("prepare" in entry):
            raise ValueError(f"{where}: give either 'datalist' (a path) or 'prepare' (how to make one).")
        if "prepare" in entry:
            options = set(inspect.signature(prepare).parameters) - {"out_dir"}
            _check_keys(entry["prepare"], options, {"source"}, f"{where}, prepare")
        groups.append((f"data, {name}, overrides", entry.get("overrides") or {}))
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"{path}: 'seeds' must be a list of whole numbers, got {seeds!r}.")
    grid = Grid(
        name=str(content["name"]),
        folder=path.parent.resolve(),
        bundle=_find_bundle(str(content["bundle"]), path.parent),
        threads=int(content.get("threads", 1)),
        overrides=content.get("overrides") or {},
        data={str(name): entry for name, entry in content["data"].items()},
        method={str(name): entry for name, entry in content["method"].items()},
        query={str(name): entry for name, entry in content["query"].items()},
        labels={str(name): _schedule(entry, f"{path}, labels, {name}") for name, entry in content["labels"].items()},
        seeds=seeds,
        rows=[],
        baselines={},
    )
    for number, row in enumerate(content.get("rows") or [{}]):
        grid.rows.append(_read_row(row, grid, f"{path}, rows[{number}]"))
    for name, arm in (content.get("baselines") or {}).items():
        where = f"{path}, baselines, {name}"
        _check_keys(arm, {"method", "query"}, {"method", "query"}, where)
        grid.baselines[name] = (_named(arm["method"], grid.method, where), _named(arm["query"], grid.query, where))
    config = nested(_load_config(grid.bundle))
    for where, overrides in groups:
        _check_overrides(overrides, config, f"{path}, {where}")
    return grid


def plan(grid: Grid, out_dir: str | Path) -> list[Cell]:
    """The cells of a grid in the order in which they are run: all combinations with the first seed come first.

    Data that a recipe describes are prepared, unless they have been. Cells that come down to the same configuration
    have the same hash, and one run.
    """
    out_dir = Path(out_dir)
    entries = {name: _data(name, entry, grid, out_dir) for name, entry in grid.data.items()}
    common = {"config": config_sha256(grid.bundle), "version": medssl_monai.__version__, "code": code_sha256()}
    wanted = {key: None for row in grid.rows for key in itertools.product(*(row[axis] for axis in AXES))}
    cells = []
    for data, method, query, labels, seed in sorted(wanted, key=lambda key: grid.seeds.index(key[-1])):
        datalist, identity = entries[data]
        schedule = grid.labels[labels]
        kind = {**grid.overrides, **(grid.data[data].get("overrides") or {}), **grid.method[method]}
        overrides = {
            **kind,
            **grid.query[query],
            "labels": schedule.start,
            "rounds": schedule.rounds,
            "query::budget": schedule.budget,
            "seed": seed,
        }
        cells.append(
            Cell(
                data=data,
                method=method,
                query=query,
                labels=labels,
                seed=seed,
                schedule=schedule,
                overrides=overrides,
                datalist=datalist,
                note=str(grid.data[data].get("note", "")),
                hash=_digest({**common, "data": identity, "overrides": _contents(overrides)}),
                kind=_digest({**common, "data": identity, "overrides": _contents(kind)}),
            )
        )
    return cells


def arguments(cell: Cell, folder: str, **changes: Any) -> list[str]:
    """What follows ``python`` on the command line of a cell, to be run in the output folder.

    Args:
        cell: which one.
        folder: where bundle and results of the run are, below the output folder.
        changes: of the overrides.
    """
    values = {**cell.overrides, "datalist": cell.datalist, "output_dir": f"{folder}/run", **changes}
    bundle = f"{folder}/bundle"
    # MONAI drops an override by None, and takes the expression
    flags = [part for name, value in values.items() for part in (f"--{name}", "$None" if value is None else str(value))]
    config = ["--config_file", f"{bundle}/configs/train.yaml", "--bundle_root", bundle]
    return ["-m", "monai.bundle", "run", *config, *flags]


def command(cell: Cell, grid: Grid) -> str:
    """A cell as one line for a shell in the output folder, from the bundle to the figures."""
    name = grid.bundle.name if grid.bundle.parent == shipped_bundles() else None
    copy = ["medssl", "bundle", name] if name else ["cp", "-r", str(grid.bundle)]
    run = shlex.join(["python", *arguments(cell, cell.folder)])
    return f"{shlex.join([*copy, f'{cell.folder}/bundle'])} && OMP_NUM_THREADS={grid.threads} {run}"


@functools.cache
def code_sha256() -> str:
    """Hash of the sources of this package that a cell may run, whatever the commit is called or left out."""
    root = Path(medssl_monai.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(NOT_RUN):
            digest.update(f"{name}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def config_sha256(bundle: Path) -> str:
    """Hash of what a bundle's ``train.yaml`` says; comments and layout do not count."""
    return _digest(_load_config(bundle))


def _load_config(bundle: Path) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    return dict(ConfigParser.load_config_files([str(bundle / "configs" / "train.yaml")]))


def _data(name: str, entry: Mapping[str, Any], grid: Grid, out_dir: Path) -> tuple[str, dict[str, Any]]:
    """Path of a datalist, relative to the output folder if it was made there, and what of it decides a result."""
    recipe: str | None = None
    if "datalist" in entry:
        path = (grid.folder / entry["datalist"]).resolve()
        shown = str(path)
    else:
        located = {**entry["prepare"], **_paths(entry["prepare"], grid.folder)}
        recipe = _digest(_contents(located))
        folder = f"data/{name}-{recipe[:8]}"
        path, shown = out_dir / folder / "datalist.json", f"{folder}/datalist.json"
        if not path.exists():
            logger.info(f"Preparing {name}.")
            prepare(out_dir=path.parent, **located)
    leaks = bool({**grid.overrides, **(entry.get("overrides") or {})}.get("allow_leaks"))
    sections = {section: load_datalist(path, section, allow_leaks=leaks) for section in ("training", "validation")}
    training = sections["training"]
    identity = {"recipe": recipe, "classes": training.classes, "modality": training.modality}
    return shown, {**identity, **{section: items.sha256 for section, items in sections.items()}}


def _paths(recipe: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """The paths of a recipe, from the folder of the grid file on."""
    return {key: (folder / recipe[key]).resolve() for key in ("source", "table", "key_file") if key in recipe}


def _contents(values: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of values: of a file (a source, pretrained weights) its content, of a folder its name."""

    def content(value: Any) -> Any:
        if isinstance(value, Path) and value.is_dir():
            return value.name
        return fingerprint(str(value)) if isinstance(value, str | Path) else value

    return {key: content(value) for key, value in values.items()}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _find_bundle(name: str, folder: Path) -> Path:
    for bundle in (shipped_bundles() / name, (folder / name).resolve()):
        if (bundle / "configs" / "train.yaml").is_file():
            return bundle
    raise FileNotFoundError(f"there is no bundle {name!r}, neither among those shipped nor beside the grid file.")


def _schedule(entry: Any, where: str) -> Schedule:
    _check_keys(entry, {"start", "end", "rounds"}, {"start", "end", "rounds"}, where)
    if any(type(value) is not int for value in entry.values()):
        raise ValueError(f"{where}: start, end and rounds must be whole numbers, got {entry}.")
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


def _check_overrides(overrides: Any, config: Mapping[str, Any], where: str) -> None:
    _check_keys(overrides, None, set(), where)
    for name in overrides:
        if (plain := name.replace("#", "::")) in DECIDED:
            axis = DECIDED[plain]
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
