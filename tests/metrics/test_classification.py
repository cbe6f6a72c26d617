"""Metrics against scikit-learn and on what breaks them; intervals against slow resampling."""

import itertools
import json
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from medssl_monai.metrics import (
    ANY_FINDING,
    METRICS,
    bootstrap_intervals,
    classification_metrics,
    evaluate_predictions,
    finding_figures,
    left_out,
)
from medssl_monai.metrics.classification import _prepare, _weighted


def draw(samples: int, classes: int, seed: int = 0, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with many ties (few decimals), targets that follow them."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(classes), samples)
    target = np.array([rng.choice(classes, p=row) for row in probs])
    return np.round(probs, decimals), target


def by_sklearn(probs: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> dict[str, float]:
    predicted, classes = probs.argmax(axis=1), probs.shape[1]
    columns = [1] if classes == 2 else [k for k in range(classes) if k in target]
    macro = {"average": "macro", "zero_division": 0, "sample_weight": weight}
    return {
        "accuracy": sk.accuracy_score(target, predicted, sample_weight=weight),
        "balanced_accuracy": sk.recall_score(target, predicted, labels=np.unique(target), **macro),
        "precision_macro": sk.precision_score(target, predicted, **macro),
        "recall_macro": sk.recall_score(target, predicted, **macro),
        "f1_macro": sk.f1_score(target, predicted, **macro),
        "auroc": np.mean([sk.roc_auc_score(target == k, probs[:, k], sample_weight=weight) for k in columns]),
        "ap": np.mean([sk.average_precision_score(target == k, probs[:, k], sample_weight=weight) for k in columns]),
    }


def slow_ece(confidence: np.ndarray, right: np.ndarray) -> float:
    edges, total = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    return total


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("samples", [12, 200])
def test_equal_to_sklearn_with_ties(samples: int, classes: int) -> None:
    probs, target = draw(samples, classes, seed=samples + classes)
    values, _ = classification_metrics(probs, target)
    assert {name: values[name] for name in METRICS if name != "ece"} == pytest.approx(by_sklearn(probs, target))


@pytest.mark.parametrize("classes", [2, 4])
def test_multiplicities_are_sample_weights(classes: int) -> None:
    probs, target = draw(150, classes)
    weights = np.random.default_rng(1).multinomial(150, np.full(150, 1 / 150), size=3).T.astype(float)
    values = _weighted(_prepare(probs, target), weights, METRICS)
    for column in range(3):
        drawn = weights[:, column] > 0  # scikit-learn counts a class of weight 0 as occurring
        expected = by_sklearn(probs[drawn], target[drawn], weights[drawn, column])
        assert {name: values[name][column] for name in expected} == pytest.approx(expected)


def test_calibration_error_against_a_slow_loop() -> None:
    probs, target = draw(300, 3, decimals=4)
    expected = slow_ece(probs.max(axis=1), probs.argmax(axis=1) == target)
    assert classification_metrics(probs, target)[0]["ece"] == pytest.approx(expected)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    """Bins are (low, high]: 9/15 counts with what is just below it, and not with what is just above."""
    below, on, above = 0.59, 0.6, 0.61
    for other, together in ((below, True), (above, False)):
        confidence, right = np.array([on, other]), np.array([1.0, 0.0])
        gaps = (right - confidence) / 2
        expected = abs(gaps.sum()) if together else np.abs(gaps).sum()
        probs = np.column_stack([confidence, 1 - confidence])
        assert classification_metrics(probs, np.array([0, 1]))[0]["ece"] == pytest.approx(expected)
        assert classification_metrics(probs[:, :1], np.array([[1], [0]]))[0]["ece"] == pytest.approx(expected)


def test_the_first_and_the_last_bin_are_as_wide_as_the_others() -> None:
    """A confidence of 1 is in the last bin; one of 17 equal classes has 1/17, which is in the first."""
    probs = np.array([[0.94, 0.06], [1.0, 0.0], [0.93, 0.07]])  # 14/15 is 0.9333
    gaps = np.array([0.06, -1.0, 0.07])
    expected = (abs(gaps[0] + gaps[1]) + abs(gaps[2])) / 3
    assert classification_metrics(probs, np.array([0, 1, 0]))[0]["ece"] == pytest.approx(expected)
    equal = np.full((2, 17), 1 / 17)
    assert classification_metrics(equal, np.array([0, 1]))[0]["ece"] == pytest.approx(0.5 - 1 / 17)


def test_a_finding_is_two_classes() -> None:
    probs, target = draw(100, 2)
    probs[:, 0] = 1 - probs[:, 1]
    as_classes, _ = classification_metrics(probs, target)
    as_finding, _ = classification_metrics(probs[:, 1:], target[:, None])
    for name in ("accuracy", "balanced_accuracy", "auroc", "ap", "ece"):
        assert as_finding[name] == pytest.approx(as_classes[name]), name


def test_multi_label_skips_unknown_labels() -> None:
    rng = np.random.default_rng(0)
    probs, target = np.round(rng.random((80, 3)), 1), rng.integers(-1, 2, (80, 3))
    values, undefined = classification_metrics(probs, target)
    assert undefined == {}
    expected: dict[str, list[float]] = {"auroc": [], "ap": [], "balanced_accuracy": [], "f1_macro": [], "ece": []}
    for k in range(3):
        p, y = probs[target[:, k] >= 0, k], target[target[:, k] >= 0, k]
        expected["auroc"].append(sk.roc_auc_score(y, p))
        expected["ap"].append(sk.average_precision_score(y, p))
        expected["balanced_accuracy"].append(sk.balanced_accuracy_score(y, p > 0.5))
        expected["f1_macro"].append(sk.f1_score(y, p > 0.5))
        expected["ece"].append(slow_ece(np.maximum(p, 1 - p), (p > 0.5) == (y == 1)))
    for name, of_findings in expected.items():
        assert values[name] == pytest.approx(np.mean(of_findings)), name
    known = target >= 0
    assert values["accuracy"] == pytest.approx(((probs > 0.5) == (target == 1))[known].mean())


def test_multi_label_names_the_findings_left_out() -> None:
    probs = np.array([[0.9, 0.2, 0.1, 0.5], [0.1, 0.3, 0.9, 0.5]])
    values, undefined = classification_metrics(probs, np.array([[1, 0, 1, -1], [0, 0, 1, -1]]))
    assert values["auroc"] == 1.0
    assert undefined["auroc of class 1"] == "no positive sample"
    assert undefined["auroc of class 2"] == "no negative sample"
    assert undefined["ece of class 3"] == "no label is known"


def test_one_class_only_leaves_out_what_it_cannot_define() -> None:
    values, undefined = classification_metrics(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0]))
    assert {"accuracy", "f1_macro", "ece"} <= values.keys()
    for name in ("auroc", "ap", "balanced_accuracy"):
        assert name not in values
        assert undefined[name] == "only class 0 occurs"


def test_a_class_that_does_not_occur_is_left_out_of_the_macro_and_named() -> None:
    probs, target = draw(60, 3)
    probs = np.column_stack([probs, np.full(60, 0.01)])
    values, undefined = classification_metrics(probs, target)
    assert values == pytest.approx(classification_metrics(probs[:, :3], target)[0])
    assert undefined["auroc of class 3"] == "no positive sample"
    assert undefined["f1_macro of class 3"] == "neither occurs nor is predicted"


def test_no_sample_and_nan_give_reasons_and_no_numbers() -> None:
    broken = "1 of 2 samples have probabilities that are not finite"
    for probs, target, reason in (
        (np.zeros((0, 3)), np.zeros(0, dtype=int), "there is no sample"),
        (np.array([[np.nan, 1.0], [0.5, 0.5]]), np.array([0, 1]), broken),
        (np.array([[np.inf, 0.0], [0.5, 0.5]]), np.array([0, 1]), broken),
    ):
        assert classification_metrics(probs, target) == ({}, dict.fromkeys(METRICS, reason))
        groups = ["a", "b"][: len(target)]
        assert bootstrap_intervals(probs, target, groups) == {}
        json.dumps(evaluate_predictions(probs, target, groups, resamples=5), allow_nan=False)


@pytest.mark.parametrize(
    ("probs", "target", "message"),
    [
        (np.zeros(3), np.zeros(3), "must be"),
        (np.zeros((3, 2)), np.zeros(4), "must hold class indices"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "holds \\[2\\]"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), "holds \\[-1\\]"),
        (np.zeros((1, 2)), np.array([[0, 2]]), "holds \\[2\\]"),
        (np.zeros((3, 1)), np.zeros(3), "at least two columns"),
        (np.array([[-3.0, 4.0]]), np.array([1]), "softmax or sigmoid"),
    ],
)
def test_wrong_input_is_refused(probs: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_metrics(probs, target)


@pytest.mark.parametrize("kind", ["two classes", "four classes", "multi-label"])
def test_intervals_equal_explicit_resampling(kind: str) -> None:
    probs, target = draw(60, 2 if kind == "two classes" else 4)
    if kind == "multi-label":
        target = np.random.default_rng(2).integers(-1, 2, probs.shape)
    member = np.arange(60) // 4
    draws = np.random.default_rng(3).multinomial(15, np.full(15, 1 / 15), size=40)
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for counts in draws:
        rows = np.repeat(np.arange(60), counts[member])
        for name, value in classification_metrics(probs[rows], target[rows])[0].items():
            values[name].append(value)
    groups = [f"patient {chr(97 + i)}" for i in member]
    intervals = bootstrap_intervals(probs, target, groups, METRICS, level=0.8, resamples=40, seed=3)
    assert intervals.keys() == values.keys()
    for name in METRICS:
        assert intervals[name] == pytest.approx(tuple(np.quantile(values[name], [0.1, 0.9]))), name


def test_groups_widen_the_interval_of_clustered_samples() -> None:
    rng = np.random.default_rng(0)
    shift = rng.normal(size=40).repeat(10)  # ten images of a patient share most of their difficulty
    target = rng.integers(0, 2, 40).repeat(10)
    p = 1 / (1 + np.exp(-(target - 0.5 + shift + 0.1 * rng.normal(size=400))))
    probs = np.stack([1 - p, p], axis=1)
    by_patient = bootstrap_intervals(probs, target, [str(i // 10) for i in range(400)])
    by_image = bootstrap_intervals(probs, target, [str(i) for i in range(400)])
    for name in ("accuracy", "auroc"):
        assert np.diff(by_patient[name]) > 2 * np.diff(by_image[name]), name


def test_an_interval_is_omitted_when_resamples_often_lack_a_class() -> None:
    probs, target = draw(30, 2)
    target[:] = 0
    target[7] = 1  # about a third of the resamples miss this one
    intervals = bootstrap_intervals(probs, target, [str(i) for i in range(30)])
    assert {"accuracy", "ece"} <= intervals.keys()
    assert not {"auroc", "ap", "balanced_accuracy"} & intervals.keys()


def test_one_group_has_no_interval() -> None:
    assert bootstrap_intervals(*draw(30, 2), ["the only patient"] * 30) == {}


def test_same_seed_same_intervals_whatever_else_is_asked_for() -> None:
    probs, target = draw(50, 3)
    groups = [str(i // 2) for i in range(50)]
    first = bootstrap_intervals(probs, target, groups, resamples=200)
    assert first == bootstrap_intervals(probs, target, groups, resamples=200)
    assert first["auroc"] == bootstrap_intervals(probs, target, groups, ["auroc"], resamples=200)["auroc"]
    assert first != bootstrap_intervals(probs, target, groups, resamples=200, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": ["a"]}, "group of each of 20"),
        ({"metrics": ["auc"]}, "unknown metrics \\['auc'\\]"),
        ({"level": 95}, "`level`"),
        ({"resamples": 0}, "`resamples`"),
    ],
)
def test_wrong_arguments_are_refused(change: dict, message: str) -> None:
    probs, target = draw(20, 2)
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(**{"probs": probs, "target": target, "group": [str(i) for i in range(20)], **change})


def test_evaluation_is_json_with_intervals_classes_and_reasons() -> None:
    probs, target = draw(80, 3, decimals=3)
    probs = np.column_stack([probs, np.zeros(80)])
    groups = [str(i // 2) for i in range(80)]
    report = evaluate_predictions(probs, target, groups, ["a", "b", "c", "never"], resamples=100, seed=4)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["n"], report["groups"]) == (80, 40)
    assert report["interval"] == "95 % group bootstrap, 100 resamples, seed 4"
    assert report["metrics"].keys() == set(METRICS)
    for name, entry in report["metrics"].items():
        assert entry["low"] <= entry["high"], name
    assert report["per_class"]["never"] == {"n": 0}
    assert report["per_class"]["b"] == pytest.approx(
        {
            "n": (target == 1).sum(),
            "auroc": sk.roc_auc_score(target == 1, probs[:, 1]),
            "ap": sk.average_precision_score(target == 1, probs[:, 1]),
            "recall": (probs.argmax(axis=1) == 1)[target == 1].mean(),
        }
    )
    assert report["undefined"]["auroc of never"] == "no positive sample"
    with pytest.raises(ValueError, match="4 columns"):
        evaluate_predictions(probs, target, groups, ["a", "b"])


def test_nothing_warns_when_resamples_are_undefined() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for target in (np.array([0, 0, 1]), np.array([[1, -1], [0, -1], [-1, -1]])):
            evaluate_predictions(np.full((3, 2), 0.5), target, ["a", "b", "c"], resamples=50)


@pytest.mark.parametrize(("classes", "limit_s"), [(2, 1.5), (7, 4.0)])
def test_a_thousand_resamples_are_fast(classes: int, limit_s: float) -> None:
    probs, target = draw(1000, classes, decimals=6)
    start = time.process_time()
    bootstrap_intervals(probs, target, [str(i // 3) for i in range(1000)])
    assert time.process_time() - start < limit_s


# ---- findings -------------------------------------------------------------------------------------------------------

FINDINGS = ["effusion", "mass", "hernia", "edema"]


def draw_findings(samples: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Of hernia there is no positive sample, of edema nothing is known."""
    rng = np.random.default_rng(seed)
    target = rng.integers(-1, 2, (samples, 4))
    target[:, 2], target[:, 3] = np.minimum(target[:, 2], 0), -1
    return np.round(rng.random((samples, 4)), 2), target


def evaluate_findings(**changes) -> dict:
    probs, target = draw_findings()
    groups = [str(i // 3) for i in range(90)]
    return evaluate_predictions(probs, target, groups, FINDINGS, **{"resamples": 60, **changes})


def test_every_finding_has_its_counts_figures_and_intervals() -> None:
    report = evaluate_findings()
    probs, target = draw_findings()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    known = target[:, 0] >= 0
    p, y = probs[known, 0], target[known, 0]
    assert report["per_class"]["effusion"] == pytest.approx(
        {
            "n": y.sum(), "absent": (1 - y).sum(), "unknown": 90 - known.sum(),
            "auroc": sk.roc_auc_score(y, p), "ap": sk.average_precision_score(y, p),
            "recall": sk.recall_score(y, p > 0.5), "specificity": sk.recall_score(1 - y, p <= 0.5),
        }
    )  # fmt: skip
    groups = [str(i // 3) for i in range(90)]
    alone = bootstrap_intervals(probs[:, :1], target[:, :1], groups, resamples=60)
    assert report["per_class_intervals"]["effusion"] == {name: list(alone[name]) for name in ("auroc", "ap")}
    assert report["per_class"]["edema"] == {"n": 0, "absent": 0, "unknown": 90}
    assert set(report["per_class_intervals"]) == {"effusion", "mass", ANY_FINDING}


def test_findings_that_lack_an_outcome_are_listed_and_not_in_the_mean() -> None:
    report = evaluate_findings()
    assert report["undefined"]["auroc of hernia"] == report["undefined"]["ap of hernia"] == "no positive sample"
    assert report["undefined"]["auroc of edema"] == "no label is known"
    of = report["per_class"]
    assert report["metrics"]["auroc"]["value"] == pytest.approx((of["effusion"]["auroc"] + of["mass"]["auroc"]) / 2)
    low, high = report["metrics"]["auroc"]["low"], report["metrics"]["auroc"]["high"]
    assert low < report["metrics"]["auroc"]["value"] < high


def test_one_class_per_image_is_reported_as_before() -> None:
    probs, target = draw(40, 3)
    report = evaluate_predictions(probs, target, [str(i) for i in range(40)], resamples=20)
    assert report.keys() == {"n", "groups", "metrics", "undefined", "per_class", "interval"}
    assert all(entry.keys() == {"n", "auroc", "ap", "recall"} for entry in report["per_class"].values())
    assert finding_figures(report) == []


def test_any_finding_is_one_minus_the_product_and_unknown_if_it_may_hide() -> None:
    probs = np.array([[0.5, 0.5], [0.2, 0.1], [0.9, 0.0], [0.4, 0.3]])
    target = np.array([[1, -1], [0, 0], [0, -1], [-1, 1]])
    entry = evaluate_predictions(probs, target, list("abcd"), resamples=5)["per_class"][ANY_FINDING]
    assert (entry["n"], entry["absent"], entry["unknown"]) == (2, 1, 1)
    assert entry["auroc"] == 1.0  # 0.75 and 0.58 above 0.28
    assert entry["recall"] == entry["specificity"] == 1.0
    assert list(evaluate_predictions(probs[:, :1], target[:, :1], list("abcd"), resamples=5)["per_class"]) == [
        "class 0"
    ]


def test_a_finding_that_nobody_looked_for_does_not_hide_in_any_finding() -> None:
    probs, target = draw_findings()
    with_edema = evaluate_predictions(probs, target, [str(i) for i in range(90)], resamples=5)
    without = evaluate_predictions(probs[:, :3], target[:, :3], [str(i) for i in range(90)], resamples=5)
    assert with_edema["per_class"][ANY_FINDING] == without["per_class"][ANY_FINDING]
    assert with_edema["per_class"][ANY_FINDING]["absent"] > 0


def test_every_finding_is_a_row_with_a_value_or_a_reason() -> None:
    rows = {row["metric"]: row for row in finding_figures(evaluate_findings())}
    assert list(rows) == [f"{metric} of {name}" for metric in ("auroc", "ap") for name in [*FINDINGS, ANY_FINDING]]
    assert all((row["value"] is None) == ("undefined" in row) for row in rows.values())
    assert rows["ap of hernia"]["undefined"] == "no positive sample"
    effusion = rows["auroc of effusion"]
    assert effusion["low"] < effusion["value"] < effusion["high"]
    assert effusion["n"] == int((draw_findings()[1][:, 0] >= 0).sum())
    assert rows["auroc of edema"] == {
        "metric": "auroc of edema", "value": None, "n": 0, "undefined": "no label is known",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"), [(0, "no finding has both outcomes"), (1, "no finding has both outcomes"), (-1, "no finding")]
)
def test_a_mean_over_no_finding_is_a_row_with_its_reason(value: int, reason: str) -> None:
    report = evaluate_predictions(np.full((4, 2), 0.4), np.full((4, 2), value), list("abcd"), resamples=5)
    rows = {row["metric"]: row for row in finding_figures(report)}
    assert rows["auroc"]["value"] is None
    assert rows["auroc"]["undefined"].startswith(reason)
    outcome = {0: "no positive sample", 1: "no negative sample", -1: "no label is known"}[value]
    assert rows["auroc of class 1"]["undefined"] == rows["ap of any finding"]["undefined"] == outcome


def test_predictions_that_are_no_numbers_leave_every_finding_undefined() -> None:
    probs, target = draw_findings()
    probs[0, 0] = np.nan
    report = evaluate_predictions(probs, target, [str(i) for i in range(90)], FINDINGS, resamples=5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    rows = {row["metric"]: row for row in finding_figures(report)}
    assert all(row["value"] is None for row in rows.values())
    assert rows["auroc of effusion"]["undefined"] == "1 of 90 samples have probabilities that are not finite"
    assert rows["auroc of hernia"]["undefined"] == "no positive sample"


def test_what_a_mean_leaves_out_is_one_line() -> None:
    undefined = classification_metrics(*draw_findings(), FINDINGS)[1]
    assert left_out(undefined, {"auroc": "AUROC", "ece": "ECE", "accuracy": "accuracy"}) == [
        "AUROC leaves out hernia (no positive sample); edema (no label is known)",
        "ECE leaves out edema (no label is known)",
    ]
    assert "ap leaves out hernia (no positive sample); edema (no label is known)" in left_out(undefined)
    assert left_out({"auroc": "no finding has both outcomes"}) == []
