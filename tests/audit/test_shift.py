"""Shifts between sections: what chance explains is none, what it does not is one."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from medssl_monai.audit.shift import intensity_shift, label_shift
from medssl_monai.kinds import Classes, Findings, Masks

XY = Classes(("x", "y"))


def items(labels, group="g", per_group=1):
    return [{"group": f"{group}{k // per_group}", "label": label} for k, label in enumerate(labels)]


def test_statistic_and_effect_are_those_of_the_table():
    sections = {"training": items([0] * 30 + [1] * 20 + [2] * 10, "a"), "validation": items([0] * 5 + [1] * 9, "b")}
    (found,) = label_shift(sections, Classes(("x", "y", "z")))
    table = [[30, 20, 10], [5, 9, 0]]
    expected = chi2_contingency(table, correction=False).statistic
    assert found["chi_square"] == pytest.approx(expected, abs=1e-3)
    assert found["cramers_v"] == pytest.approx(np.sqrt(expected / 74), abs=1e-4)
    assert found["shares"]["validation"] == pytest.approx({"x": 5 / 14, "y": 9 / 14, "z": 0.0}, abs=1e-4)


def test_p_agrees_with_chi_square_where_all_images_are_independent():
    sections = {"training": items([0] * 120 + [1] * 80, "a"), "validation": items([0] * 40 + [1] * 45, "b")}
    (found,) = label_shift(sections, XY)
    expected = chi2_contingency([[120, 80], [40, 45]], correction=False).pvalue
    assert found["p"] == pytest.approx(expected, abs=0.03)


def test_equal_shares_are_no_shift_and_opposite_ones_are():
    equal = {"training": items([0, 1] * 50, "a"), "validation": items([0, 1] * 20, "b")}
    (found,) = label_shift(equal, Classes(("benign", "malignant")))
    assert (found["p"], found["cramers_v"], found["shifted"]) == (1.0, 0.0, False)
    assert "no more than chance explains" in found["statement"]
    opposite = {"training": items([0] * 50, "a"), "validation": items([1] * 20, "b")}
    (found,) = label_shift(opposite, Classes(("benign", "malignant")))
    assert (found["p"], found["cramers_v"], found["shifted"]) == (0.001, 1.0, True)
    assert found["statement"].startswith("benign is 100.0% of training, 0.0% of validation: more than chance explains")


def test_images_of_one_patient_are_one_observation():
    labels = {"training": [0] * 40 + [1] * 20, "validation": [0] * 10 + [1] * 30}
    alone = {name: items(values, name) for name, values in labels.items()}
    grouped = {name: items(values, name, per_group=10) for name, values in labels.items()}
    assert label_shift(alone, XY)[0]["shifted"]
    assert not label_shift(grouped, XY)[0]["shifted"]


def test_each_finding_is_compared_where_it_is_known():
    training = [[1, 0, -1]] * 40 + [[0, 0, -1]] * 40
    validation = [[1, 1, 1]] * 20 + [[0, 1, -1]] * 20
    found = label_shift(
        {"training": items(training, "a"), "validation": items(validation, "b")}, Findings(("A", "B", "C"))
    )
    assert [(entry["question"], entry["shifted"]) for entry in found] == [("A", False), ("B", True)]  # C: one section
    assert found[1]["statement"].startswith("B is 0.0% of training, 100.0% of validation")


def test_what_cannot_be_compared_is_left_out():
    assert label_shift({"training": items([0, 1])}, XY) == []
    assert label_shift({"training": items([0, 1]), "validation": items([None])}, XY) == []
    assert label_shift({"training": items([0, 0]), "validation": items([0], "b")}, XY) == []
    assert (
        label_shift({"training": items(["m.png"]), "validation": items(["n.png"], "b")}, Masks(("background", "x")))
        == []
    )


def intensities(rng, count, mean, std=10.0, per_group=1):
    images = [(rng.normal(mean, 5), rng.normal(std, 1), 0.0, 255.0) for _ in range(count)]
    return {f"g{k}": images[k * per_group : (k + 1) * per_group] for k in range(count // per_group)}


def test_brighter_images_are_named():
    rng = np.random.default_rng(0)
    found = intensity_shift({"training": intensities(rng, 200, 100), "validation": intensities(rng, 80, 105)})
    brightness, contrast = found["comparisons"]
    assert brightness["standardised_difference"] == pytest.approx(1.0, abs=0.35)
    assert brightness["shifted"] and not contrast["shifted"]
    assert brightness["statement"].startswith("images of validation are brighter than those of training (+")
    assert contrast["statement"].startswith("training and validation do not differ notably in contrast (")
    assert found["sections"]["training"]["mean"] == pytest.approx(100, abs=1)


def test_a_real_but_tiny_difference_is_no_shift():
    rng = np.random.default_rng(0)
    found = intensity_shift({"training": intensities(rng, 20000, 100), "validation": intensities(rng, 20000, 100.5)})
    assert found["comparisons"][0]["p"] < 0.01
    assert not found["comparisons"][0]["shifted"]


def test_intensities_of_a_group_are_averaged():
    rng = np.random.default_rng(0)
    found = intensity_shift({"training": {"a": [(0.0, 1.0, 0, 0)] * 9, "b": [(10.0, 1.0, 0, 0)]}, "validation": {}})
    assert found["sections"] == {"training": {"mean": 5.0, "std": 1.0, "p1": 0.0, "p99": 0.0}}
    assert found["comparisons"] == []
    one = intensity_shift(
        {"training": intensities(rng, 20, 100), "validation": intensities(rng, 20, 120, per_group=20)}
    )
    assert one["comparisons"] == []  # a single patient says nothing of the section


def test_constant_intensities_do_not_divide_by_zero():
    same = {f"g{k}": [(5.0, 0.0, 5.0, 5.0)] for k in range(4)}
    found = intensity_shift({"training": same, "validation": same})
    assert [entry["standardised_difference"] for entry in found["comparisons"]] == [0.0, 0.0]
