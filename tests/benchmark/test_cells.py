"""The cells of a grid, their data, hashes and commands."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import yaml

from medssl_monai.benchmark import (
    hashes,
    load_grid,
    plan,
    run_benchmark,
)
from medssl_monai.benchmark.cells import command
from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.prepare.prepare import prepare


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
