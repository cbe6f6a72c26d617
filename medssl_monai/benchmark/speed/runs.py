"""Runs of a copy of a bundle whose steps are measured."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.benchmark.speed.step import measure_step
from medssl_monai.bundle.overrides import nested
from medssl_monai.bundle.run import workflow
from medssl_monai.bundle.shipped import copy_bundle, shipped_bundles

REFERENCE: dict[str, Any] = {
    "datalist": None,
    "labels": 24,
    "image_size": [64, 64],
    "batch_size": {"labeled": 16, "unlabeled": 7 * 16},
    "method_def": "@methods::fixmatch",
    "network_def": {
        "_target_": "medssl_monai.networks.resnet18",
        "num_classes": "$len(@classes)",
        "in_channels": "@channels",
    },
}
"""What makes the shipped bundle the reference: FixMatch, ResNet-18, 64 pixels, 16 labeled and 7 x 16 unlabeled."""
PARTS = {  # of a run, by the class of the handler that does it
    "ValidationHandler": "validation",
    "QueryHandler": "query",
    "TrainingCheckpoint": "checkpoint",
    "LatestWeights": "checkpoint",
    "RoundReport": "round report",
    "EstimatorReport": "estimator report",
}


def step_of_bundle(
    bundle: str | None,
    overrides: Mapping[str, Any],
    rounds: int = 5,
    steps: int = 10,
    overlays: Sequence[str] = (),
) -> dict[str, Any]:
    """Return `measure_step` of a bundle's own trainer on its own files; see `speed` for the other arguments.

    The handlers of every step stay; validation, query, checkpoint and the report of a round are switched off.

    Args:
        bundle: see `speed`.
        overrides: see `speed`.
        rounds: see `speed`.
        steps: see `speed`.
        overlays: configuration files of the bundle on top of its ``train.yaml``.
    """
    length = {"epochs_per_round": rounds + 1, "max_epochs": rounds + 1, "epoch_length": steps}
    off = {"rounds": 1, "val_interval": rounds + 2, "query::budget": 0}
    with tempfile.TemporaryDirectory() as folder:
        run = run_of_copy(bundle, Path(folder), {**overrides, **length, **off}, overlays)
        for position, handler in enumerate(run.parser["train::handlers"]):
            if handler["_target_"].rpartition(".")[2] in PARTS:
                run.parser[f"train::handlers::{position}::_disabled_"] = True
        if run.parser.get("labels") == 0:  # a cold start's answer, without its query
            run.parser["labels"] = run.parser["query::cold_start"]
        run.initialize()
        pool, dataset, trainer = (
            run.parser.get_parsed_content(f) for f in ("pool", "train::dataset", "train::trainer")
        )
        pool.quarantine(dataset.unreadable)
        return measure_step(trainer)


def cases_of(bundle: str | None, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return arguments of `step_of_bundle` for the steps of a bundle; see `speed`.

    ``bundle`` as it is configured; ``bundle with FixMatch``, if it has ``@methods::fixmatch``; ``pre-training``, if it
    has a ``pretrain.yaml``; these ``on volumes`` as well, if it has a ``train_3d.yaml``. A step of pre-training reads
    no labels, and no FixMatch could stand in its place: its floor is forward and backward of the query network on the
    query views, and forward of the key network on the key views; of restoration, of the network on distorted images.
    """
    from monai.bundle import ConfigParser

    configs = (shipped_bundles() / "boostmis" if bundle is None else Path(bundle)) / "configs"
    config = nested(ConfigParser.load_config_files([str(configs / "train.yaml")]))
    cases: dict[str, dict[str, Any]] = {"bundle": {"overrides": {**overrides}}}
    if "fixmatch" in (config.get("methods") or {}):
        cases["bundle with FixMatch"] = {"overrides": {**overrides, "method_def": "@methods::fixmatch"}}
    if (configs / "pretrain.yaml").exists():
        values = {key: value for key, value in overrides.items() if key != "method_def"}  # it brings its method
        cases["pre-training"] = {"overrides": values, "overlays": ["pretrain.yaml"]}
    if (configs / "train_3d.yaml").exists():
        cases |= {
            f"{name} on volumes": {**case, "overlays": ["train_3d.yaml", *case.get("overlays", ())]}
            for name, case in cases.items()
        }
    return {name: {"bundle": bundle, **arguments} for name, arguments in cases.items()}


def run_of_copy(bundle: str | None, folder: Path, overrides: Mapping[str, Any], overlays: Sequence[str] = ()) -> Any:
    """Return a run of a copy of the bundle that writes to `folder` only."""
    root = folder / "bundle"
    if bundle is None:
        copy_bundle("boostmis", root)
    else:
        shutil.copytree(bundle, root, ignore=shutil.ignore_patterns("eval", "__pycache__"))
    places = {"bundle_root": str(root), "output_dir": str(folder / "run"), "ckpt_dir": str(folder / "models")}
    return workflow([root / "configs" / name for name in ("train.yaml", *overlays)], **{**overrides, **places})
