"""SoftMatch: its equations, a sample and a class at a time."""

import math
from statistics import fmean, variance

import pytest
import torch
from methods.test_fixmatch import Logits, make_batch, slow_loss
from methods.test_freematch import KIND, batches, normalized

from medssl_monai.kinds import Findings, Masks
from medssl_monai.losses import MaskLoss
from medssl_monai.methods import SoftMatch


class Slow:
    """Truncated Gaussian and uniform alignment of one case."""

    def __init__(self, states, momentum, uniform, literal=True):
        self.momentum, self.uniform, self.literal = momentum, uniform, literal
        self.mean, self.variance, self.outcome = 1 / states, 1.0, None

    def _mixed(self, old, new):
        return self.momentum * old + (1 - self.momentum) * new

    def weights(self, weak):
        """Take in a batch of probabilities ``[B][S]``; their weights."""
        outcome = [fmean(column) for column in zip(*weak, strict=True)]
        self.outcome = outcome if self.outcome is None else list(map(self._mixed, self.outcome, outcome))
        confidence = []
        for row in weak:
            aligned = normalized([p / len(row) / mean for p, mean in zip(row, self.outcome, strict=True)])
            used = aligned if self.uniform else row
            confidence.append(max(used) if self.literal else used[row.index(max(row))])
        self.mean = self._mixed(self.mean, fmean(confidence))
        self.variance = self._mixed(self.variance, variance(confidence))
        return [
            1.0 if p >= self.mean else math.exp(-((p - self.mean) ** 2) / (2 * self.variance / 4)) for p in confidence
        ]


@pytest.mark.parametrize("uniform", [True, False])
def test_equations_against_a_slow_loop(uniform):
    method = SoftMatch(Logits(), weight=2.0, momentum=0.7, uniform=uniform, kind=KIND)
    slow, seen = Slow(3, 0.7, uniform), []
    for batch in batches():
        weak, strong = (batch["unlabeled"][view].softmax(1).tolist() for view in ("weak", "strong"))
        weights = slow.weights(weak)
        losses = [-math.log(s[w.index(max(w))]) for w, s in zip(weak, strong, strict=True)]
        output = method(batch)
        assert output["weights"].tolist() == pytest.approx(weights, abs=1e-5)
        seen += weights
        unsupervised = fmean(weight * loss for weight, loss in zip(weights, losses, strict=True))
        assert output["loss"].item() == pytest.approx(slow_loss(batch, 1.1, 0.0) + 2.0 * unsupervised, abs=1e-5)
        method.after_step(batch, output)
        assert method.mean.item() == pytest.approx(slow.mean, abs=1e-6)
        assert method.variance.item() == pytest.approx(slow.variance, abs=1e-6)
    assert method.thresholds()["label"].plain() == pytest.approx([slow.mean], abs=1e-6)
    assert 0 < min(seen) < 0.9 and max(seen) == 1


@pytest.mark.parametrize("uniform", [True, False])
def test_equations_of_findings_are_those_of_each_finding(uniform):
    kind = Findings.of_size(3)
    method = SoftMatch(Logits(), momentum=0.7, uniform=uniform, kind=kind)
    slow = [Slow(2, 0.7, uniform, literal=False) for _ in range(3)]
    for batch in batches():
        batch["labeled"]["label"] = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, 0, 0]])
        present = batch["unlabeled"]["weak"].sigmoid()
        weak = torch.stack([1 - present, present], dim=-1).transpose(0, 1).tolist()
        output = method(batch)
        expected = torch.tensor([one.weights(rows) for one, rows in zip(slow, weak, strict=True)])
        torch.testing.assert_close(output["weights"].T, expected, atol=1e-5, rtol=1e-5)
        method.after_step(batch, output)


def test_voxels_are_samples():
    """A mask of ten voxels is as ten images, without the alignment: same losses, same mean."""
    options = {"momentum": 0.7, "uniform": False}
    masks = SoftMatch(Logits(), kind=Masks.of_size(3), criterion=MaskLoss(dice_weight=0.0), **options)
    classes = SoftMatch(Logits(), kind=KIND, **options)
    for batch in batches(labeled=10, unlabeled=10):
        voxels = {
            "labeled": {
                "image": batch["labeled"]["image"].view(2, 5, 3).transpose(1, 2),
                "label": batch["labeled"]["label"].view(2, 5),
            },
            "unlabeled": {view: of.view(2, 5, 3).transpose(1, 2) for view, of in batch["unlabeled"].items()},
        }
        outputs = masks(voxels), classes(batch)
        for name in ("loss", "unsupervised", "mask_rate"):
            torch.testing.assert_close(outputs[0][name], outputs[1][name], check_dtype=False)
        masks.after_step(voxels, outputs[0])
        classes.after_step(batch, outputs[1])
    torch.testing.assert_close(masks.mean, classes.mean)


def test_weights_by_hand():
    """Mean 0.8 and variance 0.01 at rest: 0.9 counts in full, and 0.7 by exp(-0.01 / (2 * 0.0025)) = exp(-2)."""
    method = SoftMatch(Logits(), momentum=1.0 - 1e-9, uniform=False, kind=KIND)
    method.mean.fill_(0.8)
    method.variance.fill_(0.01)
    batch = make_batch(unlabeled=2)
    batch["unlabeled"]["weak"] = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1]]).double().log()
    assert method(batch)["weights"].tolist() == pytest.approx([1.0, math.exp(-2)], abs=1e-5)


def test_a_rare_finding_that_may_be_there_does_not_count_as_absent():
    """Of ten images nine have it at 1 %, one at 40 %: "absent" is less likely there than it is on the average."""
    kind = Findings.of_size(1)
    method = SoftMatch(Logits(), momentum=0.0, kind=kind)
    batch = make_batch(unlabeled=10, classes=1)
    batch["labeled"]["label"] = torch.zeros(4, 1).long()
    batch["unlabeled"]["weak"] = torch.tensor([[0.01]] * 9 + [[0.4]]).double().logit()
    weights = method(batch)["weights"].squeeze(1)
    assert (weights[:9] == 1).all() and weights[9] < 1e-3


def test_a_single_sample_counts_in_full():
    method = SoftMatch(Logits(), momentum=0.0, uniform=False, kind=KIND)
    batch = make_batch(unlabeled=1)
    output = method(batch)
    assert output["weights"].item() == 1
    method.after_step(batch, output)
    assert method.variance == 0 and method(batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"momentum": 1.0}, "`momentum` is a share and must be at least 0 and less than 1, got 1.0"),
        ({"sigmas": 0.0}, "`sigmas` must be greater than 0, got 0.0"),
        ({"kind": None}, "give it a `kind` with names"),
    ],
)
def test_arguments_that_make_no_sense(options, match):
    with pytest.raises(ValueError, match=match):
        SoftMatch(Logits(), **{"kind": KIND, **options})
