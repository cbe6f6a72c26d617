"""How good targets are: by hand, against the definitions, and on what is undefined."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medssl_monai.metrics import (
    classification_metrics,
    judge_targets,
    pseudo_label_accuracy,
    rank_correlation,
)


def draw(count=200, classes=3, seed=0):
    """Predictions, targets that are less sure of them, an estimate that follows the loss, and labels."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(classes) / 2, count)
    truth = np.array([rng.choice(classes, p=row) for row in probs])
    pseudo_label = probs.argmax(axis=1)
    targets = np.full((count, classes), 0.4 / classes)
    targets[np.arange(count), pseudo_label] += 0.6
    loss = -np.log(probs[np.arange(count), truth])
    return {
        "outcomes": probs,
        "pseudo_label": pseudo_label,
        "targets": targets,
        "accepted": probs.max(axis=1) > 0.8,
        "estimated_loss": loss + rng.normal(0, 1, count),
        "truth": truth,
    }


def test_two_images_by_hand():
    found = judge_targets(
        outcomes=np.array([[0.9, 0.1], [0.2, 0.8]]),
        pseudo_label=np.array([0, 1]),
        targets=np.array([[0.8, 0.2], [0.3, 0.7]]),
        accepted=np.array([True, True]),
        estimated_loss=np.array([0.1, 0.5]),
        truth=np.array([0, 0]),
        states=["a", "b"],
    )
    both = {"n": 2, "loss_correlation": 1.0, "hard_ece": 0.5, "target_ece": (0.2 + 0.7) / 2}
    assert {name: found.pop(name) for name in both} == pytest.approx(both)
    accepted = found.pop("accepted")
    assert accepted.pop("per_class") == {"a": {"n": 1, "accuracy": 1.0}, "b": {"n": 1, "accuracy": 0.0}}
    assert accepted == pytest.approx({**both, "accuracy": 0.5})
    assert found == {}


def ranks(values):
    """Mean rank of ties, the slow way."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values
    ]


@pytest.mark.parametrize("decimals", [1, 8])
def test_spearman_is_the_correlation_of_ranks(decimals):
    rng = np.random.default_rng(0)
    first, second = (np.round(rng.random(40), decimals) for _ in range(2))
    expected = np.corrcoef(ranks(first), ranks(second))[0, 1]
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation(first, np.exp(first)) == pytest.approx(1.0)
    assert rank_correlation(first, -first) == pytest.approx(-1.0)


@pytest.mark.parametrize("second", [[], [1.0], [2.0, 2.0, 2.0], [1.0, np.nan, 2.0], [1.0, np.inf, 2.0]])
def test_a_correlation_with_what_does_not_vary_or_is_not_finite_is_undefined(second):
    first = np.arange(len(second)) * 1.0
    assert rank_correlation(first, np.array(second)) is None
    assert rank_correlation(np.array(second), first) is None


def test_the_loss_is_the_cross_entropy_of_the_prediction():
    case = draw()
    loss = -np.log(case["outcomes"][np.arange(200), case["truth"]])
    assert judge_targets(**{**case, "estimated_loss": loss})["loss_correlation"] == pytest.approx(1.0)
    assert 0.2 < judge_targets(**case)["loss_correlation"] < 0.95


def test_the_hard_calibration_error_is_that_of_certain_targets():
    case = draw()
    certain = np.eye(3)[case["pseudo_label"]]
    found = judge_targets(**{**case, "targets": certain})
    for section in (found, found["accepted"]):
        assert section["target_ece"] == pytest.approx(section["hard_ece"])
    assert found["hard_ece"] == pytest.approx(classification_metrics(certain, case["truth"])[0]["ece"])


def test_targets_as_sure_as_they_are_right_are_calibrated():
    right = np.arange(100) % 10 < 7
    targets = np.tile([0.7, 0.3], (100, 1))
    truth = np.where(right, 0, 1)
    found = judge_targets(targets, np.zeros(100, int), targets, right, np.zeros(100), truth)
    assert found["target_ece"] == pytest.approx(0.0)
    assert found["hard_ece"] == pytest.approx(0.3)


def test_the_accepted_have_figures_of_their_own():
    case = draw()
    rows = case.pop("accepted")
    alone = judge_targets(**{name: values[rows] for name, values in case.items()}, accepted=np.ones(rows.sum(), bool))
    assert judge_targets(**case, accepted=rows)["accepted"] == alone["accepted"]
    assert 0 < rows.sum() < 200


def test_accuracy_by_the_class_that_a_pseudo_label_names():
    found = pseudo_label_accuracy(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 0]), 3, ["a", "b", "c"])
    per_class = {"a": {"n": 3, "accuracy": 2 / 3}, "b": {"n": 0}, "c": {"n": 1, "accuracy": 0.0}}
    assert found == {"accuracy": 0.5, "per_class": per_class}
    assert list(pseudo_label_accuracy(np.array([1]), np.array([1]), 2)["per_class"]) == ["class 0", "class 1"]
    assert pseudo_label_accuracy(np.array([], int), np.array([], int), 2) == {}


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("broken", ["outcomes", "targets", "estimated_loss"])
def test_nothing_is_ever_nan(count, broken):
    case = {name: values[:count] for name, values in draw().items()}
    case[broken] = np.full_like(case[broken], np.nan)
    for accepted in (False, True):
        found = judge_targets(**{**case, "accepted": np.full(count, accepted)})
        json.dumps(found, allow_nan=False)
        assert found["n"] == count
    if broken != "targets" and count == 5:
        assert "loss_correlation" not in found


def test_a_certain_error_is_a_large_loss_and_no_infinity():
    probs = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], np.float32)
    found = judge_targets(
        probs, np.array([0, 0, 1]), probs, np.ones(3, bool), np.array([3.0, 2.0, 1.0]), np.ones(3, int)
    )
    assert found["loss_correlation"] == pytest.approx(1.0)


STATES = ["absent", "present"]


def test_pseudo_labels_of_findings_by_hand():
    pseudo_label = np.array([[1, 0], [1, -1], [0, 1], [1, 0]])
    truth = np.array([[1, 0], [0, 1], [1, -1], [-1, 0]])
    assert pseudo_label_accuracy(pseudo_label, truth, 2, STATES, ["effusion", "mass"]) == {
        "accuracy": 3 / 5,
        "present": {"n": 2, "accuracy": 0.5},
        "absent": {"n": 3, "accuracy": 2 / 3},
        "per_class": {
            "effusion": {"present": {"n": 2, "accuracy": 0.5}, "absent": {"n": 1, "accuracy": 0.0}},
            "mass": {"present": {"n": 0}, "absent": {"n": 2, "accuracy": 1.0}},
        },
    }


@pytest.mark.parametrize(("pseudo_label", "truth"), [(-1, 1), (1, -1), (0, -1)])
def test_pairs_that_nobody_accepted_or_knows_say_nothing(pseudo_label, truth):
    found = pseudo_label_accuracy(np.full((3, 2), pseudo_label), np.full((3, 2), truth), 2, STATES, ["a", "b"])
    assert found == {}


def test_cases_without_names_are_not_told_apart():
    """Such as voxels, of which there are others in every image."""
    pseudo_label, truth = np.array([[[0, 1], [2, -1]]]), np.array([[[0, 0], [2, 1]]])
    per_class = {"a": {"n": 1, "accuracy": 1.0}, "b": {"n": 1, "accuracy": 0.0}, "c": {"n": 1, "accuracy": 1.0}}
    assert pseudo_label_accuracy(pseudo_label, truth, 3, "abc") == {"accuracy": 2 / 3, "per_class": per_class}


def both(present):
    """Outcomes absent and present."""
    return np.stack([1 - present, present], axis=-1)


def draw_findings(count=200, seed=0):
    """Two findings, of which the second is rare and often unknown."""
    rng = np.random.default_rng(seed)
    probs = rng.random((count, 2)) * [1.0, 0.3]
    truth = (rng.random((count, 2)) < probs).astype(int)
    pseudo_label = (probs > 0.5).astype(int)
    loss = -np.log(np.where(truth == 1, probs, 1 - probs))
    truth[::3, 1] = -1
    return {
        "outcomes": both(probs),
        "pseudo_label": pseudo_label,
        "targets": both(np.where(pseudo_label == 1, 0.8, 0.2)),
        "accepted": np.abs(probs - 0.5) > 0.3,
        "estimated_loss": loss + rng.normal(0, 0.5, loss.shape),
        "truth": truth,
        "states": STATES,
        "cases": ["effusion", "mass"],
    }


def test_two_findings_of_two_images_by_hand():
    found = judge_targets(
        outcomes=both(np.array([[0.9, 0.2], [0.4, 0.7]])),
        pseudo_label=np.array([[1, 0], [0, 1]]),
        targets=both(np.array([[0.8, 0.3], [0.3, 0.7]])),
        accepted=np.array([[True, True], [False, True]]),
        estimated_loss=np.array([[0.1, 0.5], [0.4, 9.0]]),
        truth=np.array([[1, 1], [0, -1]]),
        states=STATES,
        cases=["effusion", "mass"],
    )
    per_finding = found.pop("per_finding")
    assert found.pop("accepted") == {
        "n": 2, "loss_correlation": pytest.approx(1.0), "target_ece": pytest.approx((0.2 + 0.7) / 2), "hard_ece": 0.5,
        "accuracy": 0.5, "per_class": {"absent": {"n": 1, "accuracy": 0.0}, "present": {"n": 1, "accuracy": 1.0}},
    }  # fmt: skip
    # losses -log of 0.9, 0.2 and 0.6; targets 0.8 (right), 0.7 (wrong) and 0.7 (right), two of them in one bin
    expected = {"n": 3, "loss_correlation": 1.0, "hard_ece": 1 / 3, "target_ece": (0.2 + 2 * 0.2) / 3}
    assert found == pytest.approx(expected)
    assert {name: section["n"] for name, section in per_finding.items()} == {"effusion": 2, "mass": 1}
    assert per_finding["mass"]["hard_ece"] == 1.0


def test_each_finding_is_judged_as_two_classes_and_unknown_pairs_say_nothing():
    case = draw_findings()
    for k, found in enumerate(judge_targets(**case)["per_finding"].values()):
        known = case["truth"][:, k] >= 0
        one = {name: values[known, k] for name, values in case.items() if name not in ("states", "cases")}
        assert found == judge_targets(**one, states=STATES)
    other = {name: values.copy() for name, values in case.items()}
    for name in ("outcomes", "targets", "estimated_loss"):
        other[name][case["truth"] < 0] = np.nan
    assert judge_targets(**other) == judge_targets(**case)


def test_an_estimate_that_only_tells_rare_findings_from_common_ones_shows():
    case = draw_findings()
    case["estimated_loss"] = np.tile([1.0, 0.0], (200, 1))
    found = judge_targets(**case)
    assert found["loss_correlation"] > 0.1
    assert all("loss_correlation" not in section for section in found["per_finding"].values())


def test_findings_of_which_nothing_is_known_have_no_figures():
    case = {**draw_findings(5), "truth": np.full((5, 2), -1)}
    nothing = {"n": 0, "accepted": {"n": 0}}
    assert judge_targets(**case) == {**nothing, "per_finding": {"effusion": nothing, "mass": nothing}}
