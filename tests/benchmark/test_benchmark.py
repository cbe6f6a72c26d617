"""Grids of runs: which cells there are, how they are run, and what is made of their figures."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support import ROOT

from medssl_monai.benchmark import (
    differences,
    draw_figures,
    hashes,
    load_grid,
    plan,
    process,
    read_results,
    run_benchmark,
    summarize,
)
from medssl_monai.benchmark.cells import Pretraining, command
from medssl_monai.benchmark.figures import panels_of, within_range
from medssl_monai.benchmark.forecast import forecast
from medssl_monai.benchmark.process import without_paths
from medssl_monai.benchmark.results import COLUMNS
from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.methods import AdaptiveThreshold, BoostMIS, FixMatch
from medssl_monai.metrics import evaluate_predictions
from medssl_monai.networks import small_resnet
from medssl_monai.prepare.prepare import prepare

BASELINES = {"semi-supervision": ("supervised", "random")}

FAKE = """
import json, os, pathlib, signal, sys
cell = json.loads(sys.argv[1])
folder, moods = pathlib.Path(cell["folder"]), json.loads(os.environ.get("MOODS", "{}"))
mood = moods.get(cell["name"], "")
with open("calls.txt", "a") as file:
    file.write(cell["name"] + (", probe" if cell["folder"].startswith("probes") else "") + chr(10))
(folder / "run" / "rounds").mkdir(parents=True, exist_ok=True)
(folder / "run" / "state.pt").touch()
for number in range(cell["rounds"]):
    auroc = 0.6 + 0.1 * (cell["method"] == "fixmatch") + 0.01 * cell["seed"] + 0.05 * number
    metrics = {"auroc": {"value": auroc, "low": auroc - 0.1, "high": auroc + 0.1}, "ece": {"value": 0.2}}
    labels = cell["start"] + number * cell["budget"] - (mood == "fewer labels" and number > 0)
    record = {"round": number, "labels": labels, "training": {}, "pseudo_labels": {},
              "evaluation": {"synthetic": True, "n": 20, "groups": 10, "metrics": metrics}}
    if cell["method"] == "fixmatch":
        record |= {"training": {"mask_rate": 0.5}, "pseudo_labels": {"accepted": 8, "accuracy": 0.75}}
    (folder / "run" / "rounds" / f"round_{number:02d}.json").write_text(json.dumps(record))
    if mood == "stopped":
        os.kill(os.getpid(), signal.SIGTERM)
    if mood == "out of memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "broken":
        raise OSError("cannot read '/clinic/John Smith/head 1.dcm' or /clinic/jane.dcm, nor mary.png; id case_7")
"""

FAKE_PRETRAINING = """
import json, os, pathlib, sys
run = json.loads(sys.argv[1])
with open("calls.txt", "a") as file:
    file.write(run["name"] + chr(10))
if "pre-training" in json.loads(os.environ.get("MOODS", "{}")):
    raise OSError("no space left")
pathlib.Path(run["weights"]).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(run["weights"]).touch()
"""


@pytest.fixture
def grid_file(tmp_path, toy_datalist):
    """Writes a grid: two methods, a random query, two seeds, on toy images; tiny enough to be run."""

    def _write(**changes) -> Path:
        content = {
            "name": "toy grid",
            "bundle": "boostmis",
            "overrides": {
                "device": "cpu",
                "image_size": [16, 16],
                "epochs_per_round": 1,
                "epoch_length": 2,
                "batch_size::labeled": 4,
                "batch_size::unlabeled": 6,
                "cache_dir": None,
            },
            "data": {"toy": {"datalist": str(toy_datalist)}},
            "method": {
                "supervised": {"method_def": "@methods::supervised"},
                "fixmatch": {"method_def": "@methods::fixmatch"},
            },
            "query": {"random": {"query::strategy": "@strategies::random"}},
            "labels": {"few": {"start": 6, "end": 9, "rounds": 2}},
            "seeds": [0, 1],
            "baselines": {"semi-supervision": {"method": "supervised", "query": "random"}},
            **changes,
        }
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return _write


@pytest.fixture
def fake(monkeypatch):
    """Cells are run by a few lines of Python in place of MONAI; ``MOODS`` says what befalls a cell."""

    def _arguments(cell, folder, **changes):
        if isinstance(cell, Pretraining):
            return ["-c", FAKE_PRETRAINING, json.dumps({"name": cell.name, "weights": cell.weights})]
        facts = {"name": f"{cell.method} {cell.seed}", "folder": folder, "method": cell.method, "seed": cell.seed}
        schedule = {"start": cell.schedule.start, "budget": cell.schedule.budget, "rounds": cell.schedule.rounds}
        return ["-c", FAKE, json.dumps({**facts, **schedule, **changes})]

    for module in ("forecast", "process"):
        monkeypatch.setattr(f"medssl_monai.benchmark.{module}.arguments", _arguments)

    def _moods(**moods):
        monkeypatch.setenv("MOODS", json.dumps({name.replace("_", " "): mood for name, mood in moods.items()}))

    return _moods


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


def states(result) -> dict[str, str]:
    """State by ``METHOD SEED``."""
    return {f"{name.split(', ')[1]} {name[-1]}": state for name, (state, _) in result.items()}


# ---- the grid -------------------------------------------------------------------------------------------------------


def test_cells_are_the_product_of_the_axes_with_the_first_seed_first(grid_file, tmp_path):
    cells = plan(load_grid(grid_file()), tmp_path / "out")
    assert [(c.data, c.method, c.query, c.labels, c.seed) for c in cells] == [
        ("toy", method, "random", "few", seed) for seed in (0, 1) for method in ("supervised", "fixmatch")
    ]
    assert len({c.hash for c in cells}) == 4
    assert len({c.kind for c in cells}) == 2
    assert cells[1].overrides["method_def"] == "@methods::fixmatch"
    asked = {name: cells[3].overrides[name] for name in ("labels", "rounds", "query::budget", "seed")}
    assert asked == {"labels": 6, "rounds": 2, "query::budget": 3, "seed": 1}


def test_a_cold_start_has_no_label_and_asks_for_the_first(grid_file, tmp_path):
    labels = {"cold": {"start": 6, "end": 9, "rounds": 2, "cold_start": True}}
    cell = plan(load_grid(grid_file(labels=labels)), tmp_path / "out")[0]
    asked = {name: cell.overrides[name] for name in ("labels", "rounds", "query::budget", "query::cold_start")}
    assert asked == {"labels": 0, "rounds": 2, "query::budget": 3, "query::cold_start": 6}
    labels["cold"]["cold_start"] = "yes"
    with pytest.raises(ValueError, match="cold_start true or false"):
        load_grid(grid_file(labels=labels))


def test_rows_say_which_combinations_are_wanted_each_once(grid_file, tmp_path):
    query = {"random": {}, "entropy": {"query::strategy": "@strategies::entropy"}}
    labels = {20: {"start": 6, "end": 6, "rounds": 1}, "many": {"start": 8, "end": 12, "rounds": 3}}
    rows = [
        {"method": "supervised", "query": "random", "labels": [20]},
        {"method": ["fixmatch"], "labels": "many", "seeds": 1},
        {"method": "supervised", "query": "random"},
    ]
    cells = plan(load_grid(grid_file(query=query, labels=labels, rows=rows)), tmp_path)
    assert Counter((c.method, c.query, c.labels, c.seed) for c in cells) == Counter(
        [("supervised", "random", labels, seed) for labels in ("20", "many") for seed in (0, 1)]
        + [("fixmatch", query, "many", 1) for query in ("random", "entropy")]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, "unknown key 'methods', did you mean 'method'"),
        ({"data": {"toy": {"datalists": "x"}}}, "data, toy: unknown key 'datalists', did you mean 'datalist'"),
        ({"data": {"toy": {}}}, "data, toy: give either 'datalist'"),
        ({"data": {"toy": {"datalist": "x", "phantom": {"kind": "chest"}}}}, "data, toy: give either 'datalist'"),
        ({"data": {"toy": {"phantom": {"kinds": "chest"}}}}, "toy, phantom: unknown key 'kinds', did you mean 'kind'"),
        ({"data": {"toy": {"prepare": {"source": "x", "splits": 1}}}}, "toy, prepare: unknown key 'splits', .*'split'"),
        ({"data": {"toy": {"prepare": {"split": 1}}}}, "the key 'source' is missing"),
        ({"method": {}}, "'method' is empty"),
        (
            {"method": {"new": {"method_deff": 1}}, "baselines": {}},
            "method, new: .*`--method_deff` names nothing.*`--method_def`",
        ),
        ({"query": {"new": {"query::budgets": 1}}, "baselines": {}}, "query, new: .*did you mean `--query::budget`"),
        ({"overrides": {"query::budget": 3}}, "overrides: leave 'query::budget' out, since the axis 'labels' decides"),
        ({"overrides": {"output_dir": "x"}}, "leave 'output_dir' out, since every cell has a folder of its own"),
        ({"overrides": [1]}, r"overrides must be a mapping of names to values, got \[1\]"),
        ({"method": {"new": None}, "baselines": {}}, "method, new must be a mapping"),
        ({"labels": {"few": {"start": 6, "end": 9}}}, "labels, few: the key 'rounds' is missing"),
        (
            {"labels": {"few": {"start": 6, "end": 9, "rounds": 3}}},
            "2 queries of equal size cannot bring 6 labels to 9",
        ),
        ({"labels": {"few": {"start": 6, "end": 9, "rounds": 1}}}, "cannot bring 6 labels to 9"),
        ({"labels": {"few": {"start": 9, "end": 6, "rounds": 2}}}, "needs 1 <= start <= end"),
        ({"labels": {"few": {"start": 6, "end": 9.5, "rounds": 2}}}, "must be whole numbers"),
        ({"seeds": 3}, "'seeds' must be a list of whole numbers, got 3"),
        ({"rows": [{"methods": "fixmatch"}]}, r"rows\[0\]: unknown key 'methods'"),
        ({"rows": [{}, {"method": "fixmach"}]}, r"rows\[1\], method: there is no 'fixmach', did you mean 'fixmatch'"),
        ({"baselines": {"b": {"method": "supervised", "query": "none"}}}, "baselines, b: there is no 'none'"),
        ({"baselines": {"b": {"method": "supervised"}}}, "baselines, b: the key 'query' is missing"),
        (
            {"data": {"toy": {"prepare": {"source": "x", "fold": "seed"}}}},
            "toy, prepare: `fold` is a number, or 'seed' .* needs `folds`, .*got fold 'seed' of None",
        ),
        ({"data": {"toy": {"prepare": {"source": "x", "folds": 3, "fold": "sed"}}}}, "got fold 'sed' of 3"),
        ({"labels": {"few": {"groups": 1.5}}}, "`groups` is a share above 0 and up to 1, got 1.5"),
        ({"labels": {"few": {"groups": 0.5, "rounds": 1}}}, "labels, few: unknown key 'rounds'"),
        ({"labels": {"few": {"groups": 0.5}}}, r"rows\[0\]: the labels 'few' are a share .*'toy' is not"),
        ({"pretrain": {"jcl": {"max_epoch": 2}}}, "pretrain, jcl: .*`--max_epoch` names nothing.*`--max_epochs`"),
        ({"pretrain": {"jcl": {"labels": 6}}}, "pretrain, jcl: leave 'labels' out"),
        (
            {"pretrain": {"jcl": {}}, "method": {"a": {"pretrain": "jlc"}}, "baselines": {}},
            "method, a, pretrain: there is no 'jlc', did you mean 'jcl'",
        ),
        (
            {"pretrain": {"jcl": {}}, "method": {"a": {"pretrain": "jcl", "pretrained": "x.pt"}}, "baselines": {}},
            "method, a: leave 'pretrained' out, since 'pretrain' decides it",
        ),
        ({"method": {"a": {"overlay": "prob"}}, "baselines": {}}, "a: the bundle has no overlay 'prob', .*'probe'"),
        ({"method": {"a": {"probe": "knn"}}, "baselines": {}}, "method, a: .*`--probe` names nothing"),
    ],
)
def test_a_wrong_key_or_name_is_an_error_that_says_where_and_what_was_meant(grid_file, changes, message):
    with pytest.raises(ValueError, match=message):
        load_grid(grid_file(**changes))


def test_what_is_not_there_is_an_error(grid_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no grid file"):
        load_grid(tmp_path / "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="no bundle 'boostmiss'"):
        load_grid(grid_file(bundle="boostmiss"))
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_grid(tmp_path / "broken.yaml")


def test_the_hash_changes_with_what_decides_the_result_and_with_nothing_else(
    grid_file, tmp_path, toy_datalist, monkeypatch
):
    def first(**changes):
        return plan(load_grid(grid_file(**changes)), tmp_path / "out")[0].hash

    before = first()
    overrides = yaml.safe_load(grid_file().read_text())["overrides"]
    bundle = copy_bundle("boostmis", tmp_path / "own")
    config = bundle / "configs" / "train.yaml"
    config.write_text("# a remark\n" + config.read_text())
    data, methods = {"toy": {"datalist": str(toy_datalist)}}, {"learner": {"method_def": "@methods::supervised"}}
    same = {
        "names": first(name="other", method=methods, baselines={}),
        "order": first(overrides=dict(reversed(overrides.items()))),
        "threads": first(threads=2),
        "note": first(data={"tiny": {**data["toy"], "note": "tiny"}}),
        "other seeds": first(seeds=[0, 7]),
        "a remark in the bundle": first(bundle=str(bundle)),
    }
    assert same == dict.fromkeys(same, before)

    content = json.loads(toy_datalist.read_text())
    content["training"][0]["label"] = 1 - content["training"][0]["label"]
    other = toy_datalist.with_name("other.json")
    other.write_text(json.dumps(content))
    config.write_text(config.read_text().replace("lr: 0.03", "lr: 0.04"))
    different = {
        "before": before,
        "overrides": first(overrides={**overrides, "epoch_length": 3}),
        "method": first(method={"supervised": {"method_def": "@methods::mean_teacher"}}),
        "query": first(query={"random": {"query::strategy": "@strategies::entropy"}}),
        "labels": first(labels={"few": {"start": 6, "end": 10, "rounds": 2}}),
        "seed": first(seeds=[1]),
        "datalist": first(data={"toy": {"datalist": str(other)}}),
        "bundle": first(bundle=str(bundle)),
        "of the data": first(data={"toy": {**data["toy"], "overrides": {"batch_size::labeled": 5}}}),
    }
    other.unlink()
    monkeypatch.setattr("medssl_monai.benchmark.cells.code_sha256", lambda: "other")
    different["code"] = first()
    assert len(set(different.values())) == len(different)


def test_weights_count_by_their_content(grid_file, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"one")
    path = grid_file(method={"pretrained": {"pretrained": str(weights)}}, baselines={})
    before = plan(load_grid(path), tmp_path)[0].hash
    weights.write_bytes(b"two")
    assert plan(load_grid(path), tmp_path)[0].hash != before


def test_the_hash_of_the_code_is_that_of_what_a_cell_runs(monkeypatch, tmp_path):
    package = tmp_path / "medssl_monai"
    for name in ("__init__.py", "methods/base.py", "benchmark/run.py", "cli/loop.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("one")
    monkeypatch.setattr(hashes.medssl_monai, "__file__", str(package / "__init__.py"))

    def after(name):
        (package / name).write_text("two")
        return hashes.code_sha256.__wrapped__()

    before = hashes.code_sha256.__wrapped__()
    assert after("benchmark/run.py") == after("cli/loop.py") == before
    assert after("methods/base.py") != before


def test_data_are_prepared_once_from_a_recipe(grid_file, tmp_path, toy_datalist, monkeypatch):
    for item in json.loads(toy_datalist.read_text())["training"]:
        target = tmp_path / "images" / str(item["label"]) / item["image"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(toy_datalist.with_name(item["image"]).read_bytes())
    recipe = {"source": "images", "class_folders": True, "split": [0.5, 0.5, 0.0], "clear_names": True}
    path = grid_file(data={"folder": {"prepare": recipe}})
    (cell, *_) = plan(load_grid(path), tmp_path / "out")
    assert (tmp_path / "out" / cell.datalist).is_file()
    wanted = load_grid(path)
    monkeypatch.setattr("medssl_monai.benchmark.data.prepare", None)
    assert plan(wanted, tmp_path / "out")[0].hash == cell.hash


def test_data_may_be_phantoms(grid_file, tmp_path):
    few = {"kind": "chest_joint", "patients": {"training": 6, "validation": 6}}
    path = grid_file(data={"chest": {"phantom": few}, "more": {"phantom": {**few, "seed": 1}}})
    cells = plan(load_grid(path), tmp_path / "out")
    assert len({cell.datalist for cell in cells}) == 2
    content = json.loads((tmp_path / "out" / cells[0].datalist).read_text())
    assert content["synthetic"] is True
    assert list(content["mask_classes"].values()) == ["background", "lung"]
    assert plan(load_grid(path), tmp_path / "out")[0].hash == cells[0].hash


def test_other_masks_are_other_data(grid_file, tmp_path, toy_joint):
    def hash_of(path):
        return plan(load_grid(grid_file(data={"toy": {"datalist": str(path)}})), tmp_path)[0].hash

    content = json.loads(toy_joint.read_text())
    content["mask_classes"]["1"] = "disc"
    other = toy_joint.with_name("other.json")
    other.write_text(json.dumps(content))
    assert hash_of(toy_joint) != hash_of(other)


def test_a_command_names_everything_from_the_output_folder_on(grid_file, tmp_path):
    wanted = load_grid(grid_file())
    cell = plan(wanted, tmp_path)[1]
    copy, _, start = command(cell, wanted).partition(" && ")
    assert copy == f"medssl bundle boostmis cells/{cell.hash}/bundle"
    assert start.startswith(f"OMP_NUM_THREADS=1 python -m monai.bundle run --config_file cells/{cell.hash}/bundle/")
    assert "--image_size '[16, 16]'" in start
    assert "--cache_dir '$None'" in start  # MONAI drops a plain None, and the bundle's own value would stay
    assert start.endswith(f"--output_dir cells/{cell.hash}/run")


def test_the_grid_of_the_repository_is_valid():
    wanted = load_grid(ROOT / "benchmarks" / "boostmis" / "grid.yaml")
    assert wanted.labels["20-60"].budget == 10
    on_pneumonia = [row for row in wanted.rows if row["data"] == ["pneumonia"]]
    assert {method for row in on_pneumonia for method in row["method"]} == set(wanted.method)
    assert {query for row in on_pneumonia for query in row["query"]} == set(wanted.query)


GRIDS = sorted((ROOT / "benchmarks").rglob("grid*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_grid_of_the_repository_is_read(path):
    assert load_grid(path).name.startswith(path.parent.name)


def test_there_are_grids_to_read():
    assert len(GRIDS) >= 6


@pytest.fixture
def source(tmp_path):
    """An archive of images of 20 patients, and one of others without a label."""
    rng = np.random.default_rng(0)
    ids, label, patient = np.arange(60).astype(str), np.arange(60) % 2, np.arange(60) // 3
    pixels = rng.integers(0, 255, (60, 16, 16), np.uint8)
    np.savez(tmp_path / "some.npz", images=pixels, ids=ids, labels=label, patient=patient)
    np.savez(tmp_path / "more.npz", images=rng.integers(0, 255, (9, 16, 16), np.uint8), ids=np.arange(9).astype(str))
    return {"source": "some.npz", "group_column": "patient", "folds": 4}


def test_a_seed_is_a_fold_and_a_share_of_the_groups_is_what_prepare_would_show(grid_file, tmp_path, source):
    recipe = {**source, "fold": "seed", "unlabeled": "more.npz"}
    labels = {"third": {"groups": 0.3}, "all": {"groups": 1.0}}
    path = grid_file(data={"toy": {"prepare": recipe}}, labels=labels, seeds=[0, 3, 4])
    out = tmp_path / "out"
    cells = [cell for cell in plan(load_grid(path), out) if cell.method == "supervised"]
    assert [(cell.labels, cell.seed) for cell in cells] == [(name, seed) for seed in (0, 3, 4) for name in labels]
    assert cells[0].datalist == cells[4].datalist != cells[2].datalist  # of four folds 4 is the first
    assert {cell.kind for cell in cells} == {cells[0].kind}
    assert (cells[0].overrides["labels"], cells[0].overrides["query::budget"], cells[0].overrides["seed"]) == (
        None,
        0,
        0,
    )

    own = tmp_path / "own"
    given = {"source": tmp_path / "some.npz", "unlabeled": tmp_path / "more.npz", "group_column": "patient"}
    prepare(out_dir=own, folds=4, fold=3, labels=0.3, labels_by="group", **given)
    expected, found = (json.loads(p.read_text()) for p in (own / "datalist.json", out / cells[2].datalist))
    for section in ("training", "validation"):
        assert found[section] == expected[section]
    shown = [item for item in found["training"] if "label" in item and item.get("labeled", True)]
    assert len(found["training"]) - 9 > len(shown) > 0
    assert (cells[2].schedule.start, cells[2].schedule.end, cells[2].schedule.rounds) == (len(shown), len(shown), 1)


def test_the_content_of_an_unlabeled_source_counts(grid_file, tmp_path, source):
    path = grid_file(data={"toy": {"prepare": {**source, "fold": 0, "unlabeled": "more.npz"}}})
    before = plan(load_grid(path), tmp_path / "out")[0].hash
    np.savez(tmp_path / "more.npz", images=np.zeros((1, 16, 16), np.uint8), ids=["other"])
    assert plan(load_grid(path), tmp_path / "out")[0].hash != before


PRETRAINED = {
    "supervised": {"method_def": "@methods::supervised"},
    "tuned": {"pretrain": "jcl", "method_def": "@methods::supervised"},
    "probe": {"pretrain": "jcl", "overlay": "probe", "probe": "knn"},
}


@pytest.fixture
def pretrained_grid(grid_file):
    def _write(**changes):
        labels = {"few": {"start": 6, "end": 6, "rounds": 1}, "more": {"start": 8, "end": 8, "rounds": 1}}
        return grid_file(
            **{
                "pretrain": {"jcl": {"max_epochs": 3}},
                "method": PRETRAINED,
                "labels": labels,
                "baselines": {},
                **changes,
            }
        )

    return _write


def test_a_pre_training_is_one_per_data_and_seed_and_in_the_hash(pretrained_grid, grid_file, tmp_path, monkeypatch):
    def by_name(path):
        return {(c.method, c.labels, c.seed): c for c in plan(load_grid(path), tmp_path / "out")}

    cells = by_name(pretrained_grid())
    assert len({c.pretraining.hash for c in cells.values() if c.pretraining}) == 2
    assert len({c.hash for c in cells.values()}) == 12
    first = cells["tuned", "few", 0].pretraining
    assert first is not None
    assert cells["probe", "more", 0].pretraining.hash == first.hash
    assert cells["supervised", "few", 0].pretraining is None
    # what pretrain.yaml says itself is not for the overrides of all cells
    assert first.overrides == {
        "device": "cpu", "image_size": [16, 16], "epochs_per_round": 1, "batch_size::labeled": 4, "cache_dir": None,
        "max_epochs": 3,
        "labels": None, "seed": 0,
    }  # fmt: skip
    other = by_name(pretrained_grid(pretrain={"jcl": {"max_epochs": 4}}))
    assert {key for key, cell in other.items() if cell.hash == cells[key].hash} == {
        key for key in cells if key[0] == "supervised"
    }
    (tmp_path / first.weights).parent.mkdir(parents=True)
    (tmp_path / first.weights).touch()
    monkeypatch.chdir(tmp_path)  # weights that are there must not change the hash
    assert by_name(pretrained_grid())["tuned", "few", 0].hash == cells["tuned", "few", 0].hash


def test_commands_of_a_pre_training_and_of_what_starts_from_it(pretrained_grid, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO", logger="medssl_monai.benchmark"):
        run_benchmark(pretrained_grid(seeds=[0]), out, dry_run=True)
    assert "6 not measured, and not counted" in caplog.text
    assert "1 more for pre-training, not measured" in caplog.text
    lines = (out / "commands.sh").read_text().splitlines()
    names, commands = lines[::2], lines[1::2]
    assert names[0] == "# toy, pre-training jcl, seed 0"
    assert [name.split(", ")[1] for name in names[1:]] == ["supervised"] * 2 + ["tuned", "tuned", "probe", "probe"]
    folder = commands[0].split()[3].removesuffix("/bundle")
    assert folder.startswith("pretrained/")
    assert "bundle/configs/pretrain.yaml" in commands[0] and "--pretrained" not in commands[0]
    assert commands[3].endswith(f"--pretrained {folder}/bundle/models/pretrained.pt")
    assert "bundle/configs/probe.yaml" in commands[5] and "--probe knn" in commands[5]


def test_a_pre_training_runs_once_before_its_cells_and_is_counted(pretrained_grid, fake, tmp_path, caplog):
    out, path = tmp_path / "out", pretrained_grid()
    with caplog.at_level("INFO", logger="medssl_monai.benchmark"):
        assert set(states(run_benchmark(path, out, jobs=2)).values()) == {"finished"}
    ran = calls(out)
    before = [name for name in ran if "pre-training" in name]
    assert sorted(before) == [f"toy, pre-training jcl, seed {seed}" for seed in (0, 1)]
    assert len(ran) == 2 + 12
    assert ran.index("toy, pre-training jcl, seed 0") < min(ran.index("tuned 0"), ran.index("probe 0"))
    assert "more for pre-training, by finished ones of the same data" in caplog.text
    assert "12 of 12 cells have finished." in caplog.text
    rows = table(out / "results.csv")
    named = {row["method"]: row["pretraining"] for row in rows}
    assert named["supervised"] == "" and named["tuned"] == named["probe"] != ""
    assert all(float(row["pretraining_cpu_seconds"]) >= 0 for row in rows if row["method"] == "tuned")
    assert "- 2 pre-trainings that cells start from, 0.00 CPU hours" in (out / "summary.md").read_text()
    run_benchmark(path, out)
    assert len(calls(out)) == 14


def test_cells_of_a_pre_training_that_fails_fail_with_its_reason(pretrained_grid, fake, tmp_path):
    out, path = tmp_path / "out", pretrained_grid(labels={"few": {"start": 6, "end": 9, "rounds": 2}}, seeds=[0])
    fake(**{"pre-training": "broken"})
    result = run_benchmark(path, out)
    assert states(result) == {"supervised 0": "finished", "tuned 0": "failed", "probe 0": "failed"}
    assert "its pre-training: OSError: no space left" in (out / "summary.md").read_text()
    fake()
    assert set(states(run_benchmark(path, out)).values()) == {"finished"}


def test_folds_of_different_size_are_one_row_of_the_summary(grid_file, fake, tmp_path, source):
    recipe = {**source, "fold": "seed"}
    out = tmp_path / "out"
    run_benchmark(
        grid_file(data={"toy": {"prepare": recipe}}, labels={"third": {"groups": 0.3}}, seeds=[0, 1, 2, 3]), out
    )
    found = {row["labels"] for row in table(out / "results.csv")}
    summary = [row for row in table(out / "summary.csv") if row["round"] == "0" and row["metric"] == "auroc"]
    assert [(row["method"], row["seeds"]) for row in summary] == [("supervised", "4"), ("fixmatch", "4")]
    assert min(map(int, found)) <= int(summary[0]["labels"]) <= max(map(int, found))
    assert {row["by_seed"].count(":") for row in table(out / "differences.csv")} == {4}
    page = (out / "summary.md").read_text()
    assert "labels, 30 % of the training groups (SYNTHETIC)" in page
    assert "4 folds: seed k validates on fold k, modulo 4. Measured on fold 0: 20 images of 10 groups; fold 1" in page
    assert "where it says folds, each seed validates on another fold" in page


def test_boostmis_without_its_adaptive_threshold_is_fixmatch():
    """So in the grid of the repository both names share their runs."""
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.rand(24, 1, 12, 12, generator=generator) for name in ("image", "weak", "strong")}
    labeled = {"image": images["image"][:6], "label": torch.arange(6) % 2, "index": torch.arange(6)}
    unlabeled = {"weak": images["weak"], "strong": images["strong"], "index": torch.arange(6, 30)}
    outputs = []
    for constant in (True, False):
        torch.manual_seed(0)
        network = small_resnet(2, width=2)
        network.head.weight.data.mul_(20)
        threshold = AdaptiveThreshold(num_samples=30, num_classes=2, last_step=0)
        method = BoostMIS(network, threshold) if constant else FixMatch(network, 0.95)
        outputs.append(method({"labeled": labeled, "unlabeled": unlabeled}))
        assert method.confidence_threshold == pytest.approx(0.95)
    assert 0 < float(outputs[0]["mask_rate"]) < 1
    assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in ("loss", "mask_rate"))


# ---- running --------------------------------------------------------------------------------------------------------


def test_every_cell_is_run_once_and_marked_synthetic_everywhere(grid_file, fake, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO", logger="medssl_monai.benchmark"):
        result = run_benchmark(grid_file(), out)
    names = ["supervised 0", "fixmatch 0", "supervised 1", "fixmatch 1"]
    assert states(result) == dict.fromkeys(names, "finished")
    assert calls(out) == ["supervised 0, probe", "fixmatch 0, probe", *names]
    assert "0 of 4 cells have finished, 4 open" in caplog.text
    assert "(cells: 4 by the first round of one such cell, an upper bound)" in caplog.text
    assert "2 of 4 cells have finished, 2 open" in caplog.text
    assert "(cells: 2 by finished cells of the same data and method)" in caplog.text
    assert "4 of 4 cells have finished." in caplog.text

    caplog.clear()
    run_benchmark(grid_file(), out)
    assert len(calls(out)) == 6

    rows = table(out / "results.csv")
    assert len(rows) == 4 * 2 * 2 + 2 * 2 * 2  # cells x rounds x metrics, and two more of FixMatch
    last = next(r for r in rows if (r["method"], r["seed"], r["round"], r["metric"]) == ("fixmatch", "1", "1", "auroc"))
    assert [last[name] for name in ("value", "low", "high", "n", "groups", "labels", "kind", "query", "schedule")] == [
        "0.76", "0.66", "0.86", "20", "10", "9", "SYNTHETIC", "random", "few",
    ]  # fmt: skip
    assert all(last[name] for name in ("cell", "cpu", "torch", "monai", "package", "threads", "date", "cpu_seconds"))
    for name in ("summary.csv", "differences.csv"):
        assert {row["kind"] for row in table(out / name)} == {"SYNTHETIC"}
        assert {row["metric"] for row in table(out / name)} >= {"auroc", "ece"}
    assert "SYNTHETIC" in (out / "summary.md").read_text()
    assert (out / "curves.png").stat().st_size > 10_000
    assert (out / "end.png").stat().st_size > 10_000


def test_a_cell_of_one_round_is_not_run_twice_to_be_measured(grid_file, fake, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO", logger="medssl_monai.benchmark"):
        run_benchmark(grid_file(labels={"few": {"start": 6, "end": 6, "rounds": 1}}), out)
    assert calls(out) == ["supervised 0", "fixmatch 0", "supervised 1", "fixmatch 1"]
    assert "4 not measured, and not counted" in caplog.text
    page = (out / "summary.md").read_text()
    assert "## toy: 6 labels (SYNTHETIC)" in page
    assert "Mean over the rounds" not in page
    assert "the split is the same" in page
    assert (out / "end.png").exists() and not (out / "curves.png").exists()


def test_results_name_no_path(grid_file, fake, tmp_path):
    out = tmp_path / "out"
    run_benchmark(grid_file(), out)
    for name in ("results.csv", "summary.csv", "differences.csv", "summary.md"):
        assert str(tmp_path) not in (out / name).read_text()


def test_a_failing_cell_leaves_the_others_alone_and_is_tried_again(grid_file, fake, tmp_path, caplog):
    fake(fixmatch_0="broken", supervised_1="out of memory")
    out = tmp_path / "out"
    result = run_benchmark(grid_file(), out)
    assert states(result) == {
        "supervised 0": "finished", "fixmatch 0": "failed", "supervised 1": "failed", "fixmatch 1": "finished",
    }  # fmt: skip
    reason = next(reason for name, (_, reason) in result.items() if "fixmatch" in name and name.endswith("0"))
    assert reason == "OSError: cannot read (a path) or (a path) nor (a file); id case_7"
    assert "ended by signal 9" in str(result)
    page = (out / "summary.md").read_text()
    assert "2 of 4 cells have finished, 2 failed." in page
    assert "- failed: toy, fixmatch, query random, labels few, seed 0" in page
    assert reason in page
    assert {row["method"] for row in table(out / "summary.csv")} == {"supervised", "fixmatch"}
    assert table(out / "differences.csv") == []  # no seed has both
    assert "This failed" in caplog.text  # the probe of FixMatch

    fake()
    assert set(states(run_benchmark(grid_file(), out)).values()) == {"finished"}
    assert calls(out).count("fixmatch 1") == 1
    assert calls(out).count("fixmatch 0") == 2
    assert "Open" not in (out / "summary.md").read_text()


def test_a_stopped_cell_is_interrupted_and_goes_on_in_its_folder(grid_file, fake, tmp_path, caplog):
    fake(supervised_1="stopped")
    out = tmp_path / "out"
    assert states(run_benchmark(grid_file(), out))["supervised 1"] == "interrupted"
    assert "- interrupted: toy, supervised" in (out / "summary.md").read_text()
    fake()
    with caplog.at_level("INFO", logger="medssl_monai.benchmark"):
        assert states(run_benchmark(grid_file(), out))["supervised 1"] == "finished"
    assert "3 of 4 cells have finished, 1 interrupted" in caplog.text
    resumed = {(row["method"], row["seed"]): row["resumed"] for row in table(out / "results.csv")}
    assert [key for key, value in resumed.items() if value == "True"] == [("supervised", "1")]


def test_a_cell_that_another_process_is_at_is_left_alone(grid_file, fake, tmp_path):
    out = tmp_path / "out"
    cell = plan(load_grid(grid_file()), out)[1]
    (out / cell.folder).mkdir(parents=True)
    with process.hold(out / cell.folder) as lock:
        assert lock is not None
        assert states(run_benchmark(grid_file(), out))["fixmatch 0"] == "running"
    assert "fixmatch 0" not in calls(out)
    assert states(run_benchmark(grid_file(), out))["fixmatch 0"] == "finished"


def test_a_run_that_ends_with_other_labels_than_asked_for_has_failed(grid_file, fake, tmp_path):
    fake(fixmatch_1="fewer labels")
    result = run_benchmark(grid_file(), tmp_path / "out")
    assert states(result)["fixmatch 1"] == "failed"
    assert "its rounds had [6, 8] labels, and the grid asks for [6, 9]" in str(result)


def test_a_dry_run_tells_commands_and_costs_and_runs_nothing(grid_file, fake, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO", logger="medssl_monai.benchmark"):
        result = run_benchmark(grid_file(), out, dry_run=True)
    assert set(states(result).values()) == {"open"}
    assert "4 not measured, and not counted" in caplog.text
    assert caplog.text.count("python -m monai.bundle run") == 4
    assert sorted(path.name for path in out.iterdir()) == ["commands.sh"]


def test_the_forecast_scales_with_the_rounds_that_are_left(grid_file, fake, tmp_path):
    labels = {"few": {"start": 6, "end": 9, "rounds": 2}, "more": {"start": 6, "end": 14, "rounds": 5}}
    out = tmp_path / "out"
    cells = plan(load_grid(grid_file(labels=labels)), out)
    mine = {(c.method, c.labels, c.seed): c for c in cells}
    done = {"cpu_seconds": 7200.0, "wall_seconds": 3600.0, "resumed": False}
    for key in (("supervised", "few", 0), ("supervised", "few", 1)):
        (out / mine[key].folder).mkdir(parents=True)
        (out / mine[key].folder / "done.json").write_text(json.dumps(done))
    begun = out / mine["supervised", "more", 0].folder / "run" / "rounds"
    begun.mkdir(parents=True)
    for number in range(3):
        (begun / f"round_{number:02d}.json").touch()
    text = forecast(cells, out, jobs=2)  # an hour of CPU per round: two rounds of one cell, five of the other
    assert text.startswith("2 of 8 cells have finished, 6 open; 7.00 CPU hours are left, 1.75 hours on the clock (")
    assert "4 not measured, and not counted" in text


def test_several_cells_at_a_time(grid_file, fake, tmp_path):
    assert set(states(run_benchmark(grid_file(), tmp_path / "out", jobs=3)).values()) == {"finished"}
    with pytest.raises(ValueError, match="`jobs` must be at least 1, got 0"):
        run_benchmark(grid_file(), tmp_path / "out", jobs=0)


def test_cells_of_one_configuration_share_a_run(grid_file, fake, tmp_path):
    method = {name: {"method_def": "@methods::supervised"} for name in ("supervised", "again")}
    out = tmp_path / "out"
    run_benchmark(grid_file(method=method), out)
    assert len(calls(out)) == 1 + 2
    assert {row["method"] for row in table(out / "results.csv")} == {"supervised", "again"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ValueError: `rounds` must be at least 1.", "ValueError: `rounds` must be at least 1."),
        ("OSError: [Errno 2] No such file: '/a b/c d.nii.gz'", "OSError: [Errno 2] No such file: (a path)"),
        ("X: C:\\scans\\Smith.DCM is bad", "X: (a path) is bad"),
        ("X: Smith.DCM is bad", "X: (a file) is bad"),
    ],
)
def test_reasons_have_no_paths(text, expected):
    assert without_paths(text) == expected


# ---- figures --------------------------------------------------------------------------------------------------------


def results(values: dict[tuple[str, int], list[float]], width: float | None = 0.2) -> list[dict]:
    """Rows of AUROC by round, for values by method and seed."""
    return [
        {
            "data": "d", "note": "", "kind": "real", "schedule": "s", "query": "random", "method": method,
            "seed": seed, "metric": "auroc", "round": number, "labels": 10 + number, "value": value,
            "low": None if width is None else value - width / 2, "high": None if width is None else value + width / 2,
        }
        for (method, seed), curve in values.items()
        for number, value in enumerate(curve)
    ]  # fmt: skip


T_2 = 4.302652729911275  # 97.5 % quantile of Student's distribution with two degrees of freedom
CURVES = {
    ("supervised", 0): [0.60, 0.70], ("supervised", 1): [0.62, 0.74], ("supervised", 2): [0.61, 0.66],
    ("fixmatch", 0): [0.60, 0.80], ("fixmatch", 1): [0.62, 0.78], ("fixmatch", 2): [0.61, 0.79],
}  # fmt: skip


def test_a_summary_by_hand():
    (last,) = [r for r in summarize(results(CURVES)) if (r["method"], r["round"]) == ("supervised", 1)]
    assert last["mean"] == pytest.approx(0.70)
    half = T_2 * 0.04 / 3**0.5  # standard deviation of 0.70, 0.74, 0.66
    assert [last["low"], last["high"]] == pytest.approx([0.70 - half, 0.70 + half])
    assert last["within"] == pytest.approx(0.2)
    assert (last["seeds"], last["labels"]) == (3, 11)


def test_the_mean_over_rounds_is_of_cells_first():
    (row,) = [r for r in summarize(results(CURVES)) if (r["method"], r["round"]) == ("supervised", "mean")]
    means = [0.65, 0.68, 0.635]
    assert row["mean"] == pytest.approx(statistics.fmean(means))
    assert row["high"] - row["mean"] == pytest.approx(T_2 * statistics.stdev(means) / 3**0.5)
    assert row["within"] is None


def test_differences_are_paired_by_seed():
    found = [r for r in differences(results(CURVES), BASELINES) if r["round"] == 1]
    (row,) = found
    assert row["by_seed"] == pytest.approx({0: 0.10, 1: 0.04, 2: 0.13})
    assert row["mean"] == pytest.approx(0.09)
    half = T_2 * statistics.stdev([0.10, 0.04, 0.13]) / 3**0.5
    assert [row["low"], row["high"]] == pytest.approx([0.09 - half, 0.09 + half])
    assert (row["baseline"], row["method"], row["query"]) == ("semi-supervision", "fixmatch", "random")


def test_seeds_that_only_one_side_has_are_left_out_and_counted():
    curves = {key: curve for key, curve in CURVES.items() if key not in (("fixmatch", 0), ("supervised", 1))}
    (row,) = [r for r in differences(results(curves), BASELINES) if r["round"] == 1]
    assert row["by_seed"] == pytest.approx({2: 0.13})
    assert (row["mean"], row["low"], row["seeds"]) == (pytest.approx(0.13), None, 1)


def test_one_seed_has_no_interval_and_undefined_ones_are_left_out():
    (row,) = [r for r in summarize(results({("supervised", 0): [0.6]}, width=None)) if r["round"] == 0]
    assert (row["mean"], row["low"], row["high"], row["within"], row["seeds"]) == (0.6, None, None, None, 1)


def test_a_metric_that_a_round_lacks_has_no_mean_over_rounds():
    rows = results({("supervised", 0): [0.6, 0.7]})
    rows.append({**rows[0], "metric": "ap"})
    assert {r["metric"] for r in summarize(rows) if r["round"] == "mean"} == {"auroc"}


def test_figures_of_estimated_losses_are_in_the_table(grid_file, tmp_path):
    (cell, *_) = plan(load_grid(grid_file()), tmp_path)
    accepted = {"n": 7, "loss_correlation": 0.1, "target_ece": 0.125, "hard_ece": 0.25, "accuracy": 0.75}
    judged = {"n": 20, "loss_correlation": -0.5, "target_ece": 0.9, "hard_ece": 0.9, "accepted": accepted}
    evaluation = {"synthetic": True, "n": 20, "groups": 10, "metrics": {}}
    estimator = {"validation": judged, "unlabeled": {"n": 9, "target_ece": 0.5, "accepted": {"n": 0}}}
    path = tmp_path / cell.folder / "run" / "rounds" / "round_00.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"round": 0, "labels": 6, "evaluation": evaluation, "estimator": estimator}))
    done = {"cpu_seconds": 1.0, "wall_seconds": 1.0, "resumed": False, "environment": {}}
    (tmp_path / cell.folder / "done.json").write_text(json.dumps(done))
    rows = read_results([cell], tmp_path)
    assert [(row["metric"], row["value"], row["n"]) for row in rows] == [
        ("loss_correlation", -0.5, 20), ("target_ece", 0.125, 7), ("hard_ece", 0.25, 7),
    ]  # fmt: skip
    path.write_text(json.dumps({"round": 0, "labels": 6, "evaluation": evaluation, "estimator": {"unlabeled": judged}}))
    assert {row["metric"] for row in read_results([cell], tmp_path)} == {
        "unlabeled_loss_correlation", "unlabeled_target_ece", "unlabeled_hard_ece",
    }  # fmt: skip


@pytest.fixture
def findings_record():
    """A round on three findings; of hernia there is no positive image, and of mass in one seed neither."""
    rng = np.random.default_rng(0)

    def _record(seed: int) -> dict:
        target, probs = rng.integers(0, 2, (40, 3)), rng.random((40, 3))
        target[:, 2] = 0
        if seed == 1:
            target[:, 1] = 0
        names, groups = ["effusion", "mass", "hernia"], [str(i // 2) for i in range(40)]
        evaluation = {"synthetic": True, **evaluate_predictions(probs, target, groups, names, resamples=20)}
        checked = {"accepted": 9, "accuracy": 0.8, "present": {"n": 0}, "absent": {"n": 9, "accuracy": 0.8}}
        return {"round": 1, "labels": 9, "training": {}, "pseudo_labels": checked, "evaluation": evaluation}

    return _record


def test_findings_are_rows_and_undefined_ones_are_listed_with_their_reason(grid_file, fake, tmp_path, findings_record):
    out, path = tmp_path / "out", grid_file(method={"supervised": {"method_def": "@methods::supervised"}})
    run_benchmark(path, out)
    for cell in plan(load_grid(path), out):
        record = json.dumps(findings_record(cell.seed), allow_nan=False)
        (out / cell.folder / "run" / "rounds" / "round_01.json").write_text(record)
    run_benchmark(path, out)

    rows = [row for row in table(out / "results.csv") if row["round"] == "1"]
    hernia = [row for row in rows if row["metric"] == "auroc of hernia"]
    assert [(row["value"], row["undefined"], row["n"]) for row in hernia] == [("", "no positive sample", "40")] * 2
    effusion = [row for row in rows if row["metric"] == "auroc of effusion"]
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in effusion)
    assert {row["metric"] for row in rows} >= {"auroc", "pseudo_label_accuracy", "pseudo_label_accuracy_absent"}
    assert "pseudo_label_accuracy_present" not in {row["metric"] for row in rows}

    summary = {row["metric"]: row for row in table(out / "summary.csv") if row["round"] == "1"}
    assert (summary["auroc of effusion"]["seeds"], summary["auroc of mass"]["seeds"]) == ("2", "1")
    assert "auroc of hernia" not in summary
    page = (out / "summary.md").read_text()
    assert "### At the end, AUROC by finding" in page
    assert "| finding | images | supervised + random |" in page
    assert "| hernia | 40 | undefined: no positive sample |" in page
    assert f"| mass | 40 | {float(summary['auroc of mass']['mean']):.3f}" in page


def test_one_class_per_image_has_the_table_that_it_had(grid_file, fake, tmp_path):
    run_benchmark(grid_file(), tmp_path / "out")
    assert list(table(tmp_path / "out" / "results.csv")[0]) == list(COLUMNS)
    assert "by finding" not in (tmp_path / "out" / "summary.md").read_text()


def test_a_negative_correlation_stays_inside_its_panel():
    assert within_range((-1.2, 1.2), [{"metric": "loss_correlation"}]) == (-1.02, 1.02)
    assert within_range((-0.3, 0.2), [{"metric": "loss_correlation"}]) == (-0.3, 0.2)
    assert within_range((-0.3, 1.2), [{"metric": "auroc"}]) == within_range((-0.3, 1.2), []) == (-0.02, 1.02)
    assert within_range((-3.0, 9.0), [{"metric": "hd95"}]) == (-0.02, 9.0)


def test_the_page_shows_ends_means_and_differences(grid_file, fake, tmp_path):
    note = {"toy": {**yaml.safe_load(grid_file().read_text())["data"]["toy"], "note": "patients overlap"}}
    run_benchmark(grid_file(data=note), tmp_path / "out")
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "## toy: 6 to 9 labels in 2 rounds (SYNTHETIC; patients overlap)" in page
    for name in ("results.csv", "summary.csv", "differences.csv"):
        assert {row["note"] for row in table(tmp_path / "out" / name)} == {"patients overlap"}
    assert "Measured on 20 images of 10 groups." in page
    lines = [line for line in page.splitlines() if line.startswith("| fixmatch | random | 2 |")]
    half = 12.706204736174698 * 0.01 / 2  # two seeds, 0.75 and 0.76
    assert f"| 0.755 [{0.755 - half:.3f}, {0.755 + half:.3f}] (0.200) | 0.200 [0.200, 0.200] | 0.750" in lines[0]
    assert "| 0.730 [" in lines[1]
    assert "### At the end, less supervised + random (semi-supervision)" in page
    assert "+0.100 [+0.100, +0.100]: +0.100 +0.100" in page
    assert "- 4 cells, 0.00 CPU hours" in page


def test_a_panel_names_only_the_arms_that_it_has():
    rows = [{**row, "kind": "real", "note": ""} for row in summarize(results(CURVES)) if row["round"] != "mean"]
    other = [{**row, "data": "other"} for row in rows if row["method"] == "fixmatch"]
    _, panels, colors = panels_of([*rows, *other], height=float)
    assert [len(arms) for _, _, arms in panels] == [2, 1]
    assert len(set(colors.values())) == 2


def test_without_matplotlib_the_log_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert draw_figures(summarize(results(CURVES)), tmp_path) is False
    assert "There are no figures, since Matplotlib is missing" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_nothing_finished_still_gives_a_list_of_open_cells(grid_file, fake, tmp_path):
    fake(**dict.fromkeys(("supervised_0", "supervised_1", "fixmatch_0", "fixmatch_1"), "broken"))
    run_benchmark(grid_file(), tmp_path / "out")
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "0 of 4 cells have finished, 4 failed." in page
    assert page.count("\n- failed: ") == 4
    assert table(tmp_path / "out" / "results.csv") == []


# ---- for real -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grid_that_is_killed_in_the_middle_is_finished_by_the_next_call(grid_file, tmp_path):
    exact = {"_target_": "medssl_monai.query.budget.ExactBudget", "strategy": "@strategies::boostmis"}
    uncertain = {"query::strategy": exact, "strategies::boostmis::instability": None}
    path, out = grid_file(query={"uncertain": uncertain}, baselines={}), tmp_path / "out"
    start = f"from medssl_monai.benchmark import run_benchmark; run_benchmark({str(path)!r}, {str(out)!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", start], env=environment, start_new_session=True)
    cells = plan(load_grid(path), out)
    second = out / cells[1].folder / "run" / "state.pt"
    while not second.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = (out / cells[0].folder / "done.json").read_bytes()
    assert not (out / cells[1].folder / "done.json").exists()

    result = run_benchmark(path, out)
    assert set(states(result).values()) == {"finished"}
    assert (out / cells[0].folder / "done.json").read_bytes() == finished
    assert json.loads((out / cells[1].folder / "done.json").read_text())["resumed"]
    rows = table(out / "results.csv")
    assert {row["labels"] for row in rows if row["round"] == "1"} == {"9"}
    assert len({row["cell"] for row in rows}) == 4
    assert {row["kind"] for row in rows} == {"SYNTHETIC"}
    query = json.loads((out / cells[0].folder / "run" / "queries" / "round_00.json").read_text())
    assert {name for item in query["items"] for name in item["scores"]} == {"density_entropy"}


@pytest.mark.slow
def test_a_cell_starts_from_the_weights_of_its_pre_training(grid_file, tmp_path):
    overrides = {**yaml.safe_load(grid_file().read_text())["overrides"], "views::weak::flip": [0, 1]}
    changes = {
        "bundle": "s2mts2",
        "overrides": overrides,
        "pretrain": {"jcl": {"max_epochs": 1, "epoch_length": 2, "batch_size::unlabeled": 6}},
        "method": {"s2mts2": {"pretrain": "jcl"}, "probe": {"pretrain": "jcl", "overlay": "probe"}},
        "query": {"none": {}},
        "labels": {"few": {"start": 6, "end": 6, "rounds": 1}},
        "seeds": [0],
        "baselines": {},
    }
    out = tmp_path / "out"
    result = run_benchmark(grid_file(**changes), out)
    assert [state for state, _ in result.values()] == ["finished", "finished"], result
    for cell in plan(load_grid(grid_file(**changes)), out):
        log = (out / cell.folder / "log.txt").read_text()
        assert f"tensors from {cell.pretraining.weights}" in log
        assert not (out / cell.folder / "bundle" / "models" / "pretrained.pt").exists()
    assert {row["method"] for row in table(out / "results.csv")} == {"s2mts2", "probe"}
