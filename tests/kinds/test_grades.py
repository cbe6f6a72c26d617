"""Grades: the order counts, in what is learned, decided and measured."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import nn
from torch.nn import functional as F

from medssl_monai.data import Datalist, ImageDataset, load_datalist
from medssl_monai.data.datalist import write_datalist
from medssl_monai.engines import evaluate, knn_probe, linear_probe
from medssl_monai.kinds import Classes
from medssl_monai.kinds.grades import Grades
from medssl_monai.networks import EmbeddingClassifier
from medssl_monai.pool import LabelPool, Labels

NAMES = ("none", "mild", "moderate", "severe")
GRADES = Grades(NAMES)


def figures_of(truth, decided, group=None):
    """Of predictions that are certain of one grade each."""
    scores = GRADES.scores()
    scores.add(GRADES.one_hot(torch.as_tensor(decided)), torch.as_tensor(truth))
    figures = scores.figures(group or [str(i) for i in range(len(truth))])
    return json.loads(json.dumps(figures, allow_nan=False))


def drawn(count=60, seed=0):
    """True grades, and decided ones that are mostly near."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, count)
    return truth, (truth + rng.integers(-1, 3, count)).clip(0, 3)


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_a_head_has_a_logit_less_than_there_are_grades():
    assert (GRADES.width, GRADES.states, GRADES.shape) == (3, 4, (4,))
    assert Grades().width == 0


def test_the_decided_grade_is_the_median():
    """Also of logits that rise where they must not: then the least of those so far counts."""
    risen = torch.tensor([[9.0, 9.0, -9.0], [-9.0, 9.0, 9.0]])
    assert GRADES.decide(GRADES.outcomes(risen)).tolist() == [2, 0]
    assert bool((GRADES.outcomes(risen) >= 0).all())
    both_ends = torch.tensor([[0.4, 0.1, 0.15, 0.35], [0.3, 0.19, 0.11, 0.4]])
    assert GRADES.decide(both_ends).tolist() == [1, 2]
    torch.testing.assert_close(GRADES.confidence(both_ends), torch.tensor([0.1, 0.11]))


def test_the_median_has_the_least_expected_distance_of_all_grades():
    outcomes = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double()
    outcomes /= outcomes.sum(dim=1, keepdim=True)
    steps = torch.arange(4)
    by_grade = outcomes @ (steps[:, None] - steps).abs().double() / 3
    torch.testing.assert_close(GRADES.expected_loss(outcomes), by_grade.amin(dim=1))
    assert GRADES.expected_loss(torch.tensor([[0.5, 0.0, 0.0, 0.5]])).tolist() == [0.5]


def test_the_criterion_asks_of_each_step_whether_the_grade_is_higher():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([0, 3, -1, 1, 2])
    higher = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    known = target != -1
    wanted = F.binary_cross_entropy_with_logits(logits[known], higher)
    loss = GRADES.criterion()(logits, target)
    torch.testing.assert_close(loss, wanted)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[2].any() and bool(gradient[known].all())
    losses = F.binary_cross_entropy_with_logits(logits[known], higher, reduction="none").mean(dim=1)
    torch.testing.assert_close(GRADES.losses(logits[known], target[known]), losses)


def test_a_far_miss_costs_more_than_a_near_one():
    logits = torch.tensor([[4.0, 4.0, 4.0]]).expand(4, 3)
    losses = GRADES.losses(logits, torch.arange(4)).tolist()
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 4


# ---- figures --------------------------------------------------------------------------------------------------------


def test_kappa_is_that_of_scikit_learn():
    for seed in range(3):
        truth, decided = drawn(seed=seed)
        value = figures_of(truth, decided)["metrics"]["quadratic_kappa"]["value"]
        assert value == pytest.approx(cohen_kappa_score(truth, decided, weights="quadratic"))


def test_the_error_is_in_grades_and_what_is_off_adds_up():
    truth, decided = drawn()
    figures = figures_of(truth, decided)
    values = {name: metric["value"] for name, metric in figures["metrics"].items()}
    assert values["mean_absolute_error"] == pytest.approx(np.abs(truth - decided).mean())
    off = [values[f"off by {d}"] for d in (1, 2, 3)]
    assert values["accuracy"] + sum(off) == pytest.approx(1) and off[1] > 0
    assert values["mean_absolute_error"] == pytest.approx(off[0] + 2 * off[1] + 3 * off[2])
    for k, name in enumerate(NAMES):
        of = truth == k
        assert figures["per_class"][name] == pytest.approx(
            {
                "n": of.sum(),
                "recall": (decided[of] == k).mean(),
                "mean_absolute_error": np.abs(decided[of] - k).mean(),
            }
        )


def test_intervals_hold_the_value_and_are_of_groups():
    """Each sample thrice tells no more than once, if the three are of one patient."""
    truth, decided = drawn()
    once, thrice = figures_of(truth, decided), [np.repeat(values, 3) for values in (truth, decided)]
    one_by_one = figures_of(*thrice)
    together = figures_of(*thrice, group=[str(i // 3) for i in range(180)])
    assert (together["n"], together["groups"]) == (180, 60)
    for name in ("quadratic_kappa", "mean_absolute_error", "accuracy"):
        of = together["metrics"][name]
        assert of["low"] < of["value"] < of["high"]
        own = one_by_one["metrics"][name]
        assert own["value"] == pytest.approx(of["value"]) and of["value"] == pytest.approx(
            once["metrics"][name]["value"]
        )
        assert own["high"] - own["low"] < 0.8 * (of["high"] - of["low"])
    alone = figures_of(truth, decided, group=["one"] * 60)["metrics"]
    assert all(of.keys() == {"value"} for of in alone.values())


def test_a_perfect_prediction_has_a_kappa_of_1_and_one_that_never_changes_has_0():
    truth, _ = drawn()
    perfect = figures_of(truth, truth)["metrics"]
    assert perfect["quadratic_kappa"] == {"value": 1, "low": 1, "high": 1}
    assert (perfect["mean_absolute_error"]["value"], perfect["accuracy"]["value"]) == (0, 1)
    assert figures_of(truth, np.full(60, 2))["metrics"]["quadratic_kappa"]["value"] == pytest.approx(0)


def test_a_kappa_of_one_grade_alone_is_undefined_and_says_why():
    figures = figures_of([2, 2, 2], [2, 2, 2])
    assert figures["undefined"] == {"quadratic_kappa": "one grade alone occurs and is predicted"}
    assert figures["metrics"]["accuracy"]["value"] == 1 and "quadratic_kappa" not in figures["metrics"]
    assert figures["per_class"]["mild"] == {"n": 0}


def test_outcomes_that_are_not_finite_make_figures_undefined():
    scores = GRADES.scores()
    scores.add(torch.tensor([[1.0, 0, 0, 0], [torch.nan] * 4, [torch.nan] * 4]), torch.tensor([0, 1, -1]))
    figures = json.loads(json.dumps(scores.figures(["a", "b", "c"]), allow_nan=False))
    assert (figures["metrics"], figures["per_class"]) == ({}, {})
    assert figures["undefined"]["quadratic_kappa"] == "1 of 2 samples have probabilities that are not finite"
    values, undefined, count = scores.quick()
    assert (values, undefined.keys(), count) == ({}, figures["undefined"].keys(), 2)


def test_figures_of_nothing_are_undefined():
    scores = GRADES.scores()
    scores.add(torch.full((2, 4), 0.25), torch.tensor([-1, -1]))
    figures = scores.figures(["a", "b"])
    assert (figures["n"], figures["groups"], figures["metrics"]) == (0, 0, {})
    assert set(figures["undefined"].values()) == {"there is no sample"}


# ---- names ----------------------------------------------------------------------------------------------------------


def test_a_file_with_another_order_of_grades_is_refused():
    assert GRADES.translate(1, NAMES) == 1
    assert GRADES.translate(1, ()) == 1
    for other in (NAMES[::-1], NAMES[:3], (*NAMES, "critical")):
        with pytest.raises(ValueError, match="whose number and order count"):
            GRADES.translate(1, other)


def test_one_grade_is_none():
    with pytest.raises(ValueError, match=r"here: there is one grade, 'none'; give two or more"):
        Grades(("none",)).check("here")
    Grades(("none", "some")).check("here")
    with pytest.raises(ValueError, match="grade"):
        Grades(("none", "None")).check("here")


@pytest.mark.parametrize(("word", "kind"), [("", Classes), ("grades", Grades)])
def test_that_integers_are_grades_has_to_be_said(tmp_path, word, kind):
    items = [{"image": f"{i}.png", "label": i % 4} for i in range(8)]
    write_datalist(tmp_path / "data.json", {"training": items}, classes=NAMES, label_kind=word)
    pool = LabelPool(Labels(load_datalist(tmp_path / "data.json"), known=4))
    assert type(pool.first.kind) is kind and pool.first.kind.names == NAMES
    pool.save(tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text())["kind"] == kind.word
    unsaid = [{key: item[key] for key in ("image", "id")} for item in load_datalist(tmp_path / "data.json")]
    assert type(Labels(unsaid, tmp_path / "labels.json", names=NAMES).kind) is kind


# ---- probes ---------------------------------------------------------------------------------------------------------


class Pixels(EmbeddingClassifier):
    """The embedding is the image."""

    def __init__(self):
        super().__init__(nn.Flatten(), 4, 3)

    def embed(self, images):
        return self.backbone(images)


@pytest.fixture
def graded():
    """Images of which one pixel is bright, that of the grade."""
    data = Datalist([{"image": str(i), "id": str(i), "label": i % 4} for i in range(24)], NAMES, label_kind="grades")
    noise = 0.2 * torch.rand(24, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    bright = F.one_hot(torch.arange(24) % 4, 4).view(24, 1, 2, 2)
    dataset = ImageDataset(data, lambda item: {"image": 0.7 * bright[int(item["id"])] + noise[int(item["id"])]})
    return dataset, LabelPool(Labels(data, known=12))


def test_a_linear_probe_has_no_logits_of_grades_and_names_the_probe_that_has(graded):
    with pytest.raises(ValueError, match="a logit for each state, and grades have others; take the probe `knn`"):
        linear_probe(Pixels(), *graded, "cpu")


def test_nearest_neighbours_vote_on_grades(graded):
    dataset, pool = graded
    probe = knn_probe(Pixels(), dataset, pool, "cpu", neighbours=3)
    assert probe(dataset.images[:2].float() / 255).shape == (2, GRADES.width)
    figures = evaluate(probe, dataset, LabelPool(Labels(dataset.data)), "cpu")
    assert figures["kind"] == "grades" and figures["metrics"]["quadratic_kappa"]["value"] == 1
