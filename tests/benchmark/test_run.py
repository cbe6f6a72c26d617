"""Cells that are run, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from support import ROOT, read_csv

from medssl_monai.benchmark import (
    load_grid,
    plan,
    process,
    run_benchmark,
)
from medssl_monai.benchmark.forecast import forecast
from medssl_monai.benchmark.process import without_paths
from medssl_monai.methods import AdaptiveThreshold, BoostMIS, FixMatch
from medssl_monai.networks import small_resnet

pytestmark = pytest.mark.slow  # whole grids


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


def states(result) -> dict[str, str]:
    """State by ``METHOD SEED``."""
    return {f"{name.split(', ')[1]} {name[-1]}": state for name, (state, _) in result.items()}


@pytest.mark.slow
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
    rows = read_csv(out / "results.csv")
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
        threshold = AdaptiveThreshold(num_samples=30, shape=(2,), last_step=0)
        method = BoostMIS(network, threshold) if constant else FixMatch(network, 0.95)
        outputs.append(method({"labeled": labeled, "unlabeled": unlabeled}))
        assert float(method.thresholds()["label"].values) == pytest.approx(0.95)
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

    rows = read_csv(out / "results.csv")
    assert len(rows) == 4 * 2 * 2 + 2 * 2 * 2  # cells x rounds x metrics, and two more of FixMatch
    last = next(r for r in rows if (r["method"], r["seed"], r["round"], r["metric"]) == ("fixmatch", "1", "1", "auroc"))
    assert [last[name] for name in ("value", "low", "high", "n", "groups", "labels", "kind", "query", "schedule")] == [
        "0.76", "0.66", "0.86", "20", "10", "9", "SYNTHETIC", "random", "few",
    ]  # fmt: skip
    assert all(last[name] for name in ("cell", "cpu", "torch", "monai", "package", "threads", "date", "cpu_seconds"))
    for name in ("summary.csv", "differences.csv"):
        assert {row["kind"] for row in read_csv(out / name)} == {"SYNTHETIC"}
        assert {row["metric"] for row in read_csv(out / name)} >= {"auroc", "ece"}
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
    assert {row["method"] for row in read_csv(out / "summary.csv")} == {"supervised", "fixmatch"}
    assert read_csv(out / "differences.csv") == []  # no seed has both
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
    resumed = {(row["method"], row["seed"]): row["resumed"] for row in read_csv(out / "results.csv")}
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
    assert {row["method"] for row in read_csv(out / "results.csv")} == {"supervised", "again"}


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


@pytest.mark.slow
@pytest.mark.every
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
    rows = read_csv(out / "results.csv")
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
    assert {row["method"] for row in read_csv(out / "results.csv")} == {"s2mts2", "probe"}
