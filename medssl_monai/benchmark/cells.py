"""The cells that follow from a grid, data x method x query x labels x seed, and the command line of each."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import medssl_monai
from medssl_monai.benchmark.data import GridData, data_of
from medssl_monai.benchmark.grid import AXES, Grid, Schedule
from medssl_monai.benchmark.hashes import code_sha256, config_sha256, contents, digest
from medssl_monai.bundle.shipped import shipped_bundles


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Stage A: a run on images alone, once for all cells of the same data and seed, whatever their labels.

    Args:
        name: for people.
        overrides: of the bundle's configuration, ``train.yaml`` with ``pretrain.yaml`` on top.
        datalist: see `Cell`; likewise `hash` and `kind`.
    """

    name: str
    overrides: dict[str, Any]
    datalist: str
    hash: str
    kind: str
    overlay = "pretrain"

    @property
    def folder(self) -> str:
        """Where it lives, below the output folder."""
        return f"pretrained/{self.hash}"

    @property
    def weights(self) -> str:
        """The file that cells start from, below the output folder."""
        return f"{self.folder}/bundle/models/pretrained.pt"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run.

    Args:
        data: name of the data; likewise `method`, `query` and `labels`.
        schedule: what `labels` names, in numbers of labels.
        overlay: name of the bundle's configuration file on top of ``train.yaml``.
        overrides: of the bundle's configuration, without folders.
        datalist: path; relative to the output folder if it was prepared there.
        pretraining: whose weights it starts from.
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
    overlay: str | None
    overrides: dict[str, Any]
    datalist: str
    pretraining: Pretraining | None
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


def plan(grid: Grid, out_dir: str | Path) -> list[Cell]:
    """Return the cells of a grid in the order in which they are run: all combinations with the first seed come first.

    Data that a recipe describes are prepared, unless they have been. Cells that come down to the same configuration
    have the same hash, and one run.
    """
    out_dir = Path(out_dir)

    @functools.cache
    def prepared(data: str, seed: int, groups: float | None) -> GridData:
        return data_of(data, seed, groups, grid, out_dir)

    @functools.cache
    def common(overlay: str | None) -> dict[str, str]:
        config = config_sha256(grid.bundle, overlay)
        return {"config": config, "version": medssl_monai.__version__, "code": code_sha256()}

    @functools.cache
    def pretraining(data: str, name: str, seed: int) -> Pretraining:
        return _pretraining(data, name, seed, prepared(data, seed, None), common("pretrain"), grid)

    wanted = {key: None for row in grid.rows for key in itertools.product(*(row[axis] for axis in AXES))}
    cells = []
    for data, method, query, labels, seed in sorted(wanted, key=lambda key: grid.seeds.index(key[-1])):
        how, schedule = grid.method[method], grid.labels[labels]
        found = prepared(data, seed, schedule.groups)
        if schedule.groups:
            schedule = replace(schedule, start=found.labels, end=found.labels)
        before = pretraining(data, how.pretrain, seed) if how.pretrain else None
        kind = {**grid.overrides, **(grid.data[data].get("overrides") or {}), **how.overrides}
        overrides = {
            **kind,
            **grid.query[query],
            "labels": None if schedule.groups else 0 if schedule.cold_start else schedule.start,
            "rounds": schedule.rounds,
            "query::budget": schedule.budget,
            **({"query::cold_start": schedule.start} if schedule.cold_start else {}),
            "seed": seed,
        }
        same, start = common(how.overlay), {"pretrain": before.hash} if before else {}
        cells.append(
            Cell(
                data=data,
                method=method,
                query=query,
                labels=labels,
                seed=seed,
                schedule=schedule,
                overlay=how.overlay,
                overrides=overrides,
                datalist=found.path,
                pretraining=before,
                note=str(grid.data[data].get("note", "")),
                hash=digest({**same, "data": found.identity, "overrides": contents(overrides), **start}),
                kind=digest({**same, "data": found.family, "overrides": contents(kind)}),
            )
        )
    return cells


def _pretraining(
    data: str, name: str, seed: int, found: GridData, common: Mapping[str, str], grid: Grid
) -> Pretraining:
    from monai.bundle import ConfigParser

    keys = list(ConfigParser.load_config_file(str(grid.bundle / "configs" / "pretrain.yaml")))
    shared = {**grid.overrides, **(grid.data[data].get("overrides") or {})}
    kind = {key: value for key, value in shared.items() if not _says(keys, key)} | grid.pretrain[name]
    overrides = {**kind, "labels": None, "seed": seed}
    return Pretraining(
        name=f"{data}, pre-training {name}, seed {seed}",
        overrides=overrides,
        datalist=found.path,
        hash=digest({**common, "data": found.identity, "overrides": contents(overrides)}),
        kind=digest({**common, "data": found.family, "overrides": contents(kind)}),
    )


def _says(keys: Iterable[str], name: str) -> bool:
    """Say whether one of the keys of a configuration is this one, above or below it."""
    parts = re.split("::|#", name)
    return any(all(a == b for a, b in zip(key.split("::"), parts, strict=False)) for key in keys)


def arguments(run: Cell | Pretraining, folder: str, **changes: Any) -> list[str]:
    """Return what follows ``python`` on the command line of a cell or a pre-training, to be run in the output folder.

    Args:
        run: which one.
        folder: where bundle and results of the run are, below the output folder.
        changes: of the overrides.
    """
    values = {**run.overrides, "datalist": run.datalist, "output_dir": f"{folder}/run", **changes}
    if isinstance(run, Cell) and run.pretraining:
        values["pretrained"] = run.pretraining.weights
    bundle = f"{folder}/bundle"
    # MONAI drops an override by None, and takes the expression
    flags = [part for name, value in values.items() for part in (f"--{name}", "$None" if value is None else str(value))]
    files = [f"{bundle}/configs/{name}.yaml" for name in ("train", run.overlay) if name]
    config = ["--config_file", str(files) if run.overlay else files[0], "--bundle_root", bundle]
    return ["-m", "monai.bundle", "run", *config, *flags]


def command(run: Cell | Pretraining, grid: Grid) -> str:
    """Return a cell or a pre-training as one line for a shell in the output folder, from the bundle to the figures."""
    name = grid.bundle.name if grid.bundle.parent == shipped_bundles() else None
    copy = ["medssl", "bundle", name] if name else ["cp", "-r", str(grid.bundle)]
    line = shlex.join(["python", *arguments(run, run.folder)])
    return f"{shlex.join([*copy, f'{run.folder}/bundle'])} && OMP_NUM_THREADS={grid.threads} {line}"
