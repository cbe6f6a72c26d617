"""Results, their summary, page and figures."""

from __future__ import annotations

import json
import statistics
import sys

import numpy as np
import pytest
import yaml
from support import read_csv

from medssl_monai.benchmark import (
    differences,
    draw_figures,
    load_grid,
    plan,
    read_results,
    run_benchmark,
    summarize,
)
from medssl_monai.benchmark.figures import panels_of, within_range
from medssl_monai.benchmark.results import COLUMNS
from medssl_monai.metrics import evaluate_predictions


def test_folds_of_different_size_are_one_row_of_the_summary(grid_file, fake, tmp_path, source):
    recipe = {**source, "fold": "seed"}
    out = tmp_path / "out"
    run_benchmark(
        grid_file(data={"toy": {"prepare": recipe}}, labels={"third": {"groups": 0.3}}, seeds=[0, 1, 2, 3]), out
    )
    found = {row["labels"] for row in read_csv(out / "results.csv")}
    summary = [row for row in read_csv(out / "summary.csv") if row["round"] == "0" and row["metric"] == "auroc"]
    assert [(row["method"], row["seeds"]) for row in summary] == [("supervised", "4"), ("fixmatch", "4")]
    assert min(map(int, found)) <= int(summary[0]["labels"]) <= max(map(int, found))
    assert {row["by_seed"].count(":") for row in read_csv(out / "differences.csv")} == {4}
    page = (out / "summary.md").read_text()
    assert "labels, 30 % of the training groups (SYNTHETIC)" in page
    assert "4 folds: seed k validates on fold k, modulo 4. Measured on fold 0: 20 images of 10 groups; fold 1" in page
    assert "where it says folds, each seed validates on another fold" in page


def test_results_name_no_path(grid_file, fake, tmp_path):
    out = tmp_path / "out"
    run_benchmark(grid_file(), out)
    for name in ("results.csv", "summary.csv", "differences.csv", "summary.md"):
        assert str(tmp_path) not in (out / name).read_text()


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
    found = [r for r in differences(results(CURVES), {"semi-supervision": ("supervised", "random")}) if r["round"] == 1]
    (row,) = found
    assert row["by_seed"] == pytest.approx({0: 0.10, 1: 0.04, 2: 0.13})
    assert row["mean"] == pytest.approx(0.09)
    half = T_2 * statistics.stdev([0.10, 0.04, 0.13]) / 3**0.5
    assert [row["low"], row["high"]] == pytest.approx([0.09 - half, 0.09 + half])
    assert (row["baseline"], row["method"], row["query"]) == ("semi-supervision", "fixmatch", "random")


def test_seeds_that_only_one_side_has_are_left_out_and_counted():
    curves = {key: curve for key, curve in CURVES.items() if key not in (("fixmatch", 0), ("supervised", 1))}
    (row,) = [
        r for r in differences(results(curves), {"semi-supervision": ("supervised", "random")}) if r["round"] == 1
    ]
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

    rows = [row for row in read_csv(out / "results.csv") if row["round"] == "1"]
    hernia = [row for row in rows if row["metric"] == "auroc of hernia"]
    assert [(row["value"], row["undefined"], row["n"]) for row in hernia] == [("", "no positive sample", "40")] * 2
    effusion = [row for row in rows if row["metric"] == "auroc of effusion"]
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in effusion)
    assert {row["metric"] for row in rows} >= {"auroc", "pseudo_label_accuracy", "pseudo_label_accuracy_absent"}
    assert "pseudo_label_accuracy_present" not in {row["metric"] for row in rows}

    summary = {row["metric"]: row for row in read_csv(out / "summary.csv") if row["round"] == "1"}
    assert (summary["auroc of effusion"]["seeds"], summary["auroc of mass"]["seeds"]) == ("2", "1")
    assert "auroc of hernia" not in summary
    page = (out / "summary.md").read_text()
    assert "### At the end, AUROC by finding" in page
    assert "| finding | images | supervised + random |" in page
    assert "| hernia | 40 | undefined: no positive sample |" in page
    assert f"| mass | 40 | {float(summary['auroc of mass']['mean']):.3f}" in page


def test_one_class_per_image_has_the_table_that_it_had(grid_file, fake, tmp_path):
    run_benchmark(grid_file(), tmp_path / "out")
    assert list(read_csv(tmp_path / "out" / "results.csv")[0]) == list(COLUMNS)
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
        assert {row["note"] for row in read_csv(tmp_path / "out" / name)} == {"patients overlap"}
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
    assert read_csv(tmp_path / "out" / "results.csv") == []


# ---- for real -------------------------------------------------------------------------------------------------------
