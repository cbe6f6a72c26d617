"""FreeMatch: its equations, a sample and a class at a time."""

import math

import pytest
import torch
from methods.test_fixmatch import Logits, make_batch, slow_loss
from support import in_two_processes

from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.losses import MaskLoss
from medssl_monai.methods import FlexMatch, FreeMatch, SoftMatch

KIND = Classes.of_size(3)


def batches(steps=5, labeled=4, unlabeled=9):
    g = torch.Generator().manual_seed(3)
    for step in range(steps):
        batch = make_batch(labeled, unlabeled)
        for view in ("weak", "strong"):  # of growing confidence
            batch["unlabeled"][view] = (1 + step) * torch.randn(unlabeled, 3, generator=g, dtype=torch.double)
        yield batch


def normalized(values):
    return [value / sum(values) for value in values]


class Slow:
    """Eq. 5 to 12 of one case with `states` states."""

    def __init__(self, states, momentum):
        self.states, self.momentum = states, momentum
        self.time, self.mean, self.hist = 1 / states, [1 / states] * states, [1 / states] * states

    def _mixed(self, old, new):
        return self.momentum * old + (1 - self.momentum) * new

    def losses(self, weak, strong):
        """Take in a batch; unlabeled loss and fairness loss of probabilities ``[B][S]``."""
        size, best = len(weak), [row.index(max(row)) for row in weak]
        self.time = self._mixed(self.time, sum(map(max, weak)) / size)
        self.mean = [self._mixed(self.mean[c], sum(row[c] for row in weak) / size) for c in range(self.states)]
        self.hist = [self._mixed(self.hist[c], best.count(c) / size) for c in range(self.states)]
        thresholds = [mean / max(self.mean) * self.time for mean in self.mean]
        counted = [b for b in range(size) if max(weak[b]) >= thresholds[best[b]]]
        unsupervised = sum(-math.log(strong[b][best[b]]) for b in counted) / size
        decided = [strong[b].index(max(strong[b])) for b in counted]
        there = [c for c in range(self.states) if c in decided]
        wanted = normalized([mean / hist for mean, hist in zip(self.mean, self.hist, strict=True)])
        found = normalized([sum(strong[b][c] for b in counted) / decided.count(c) for c in there])
        return unsupervised, sum(wanted[c] * math.log(q) for c, q in zip(there, found, strict=True)), len(counted)


def test_equations_against_a_slow_loop():
    method, slow = FreeMatch(Logits(), weight=2.0, fairness_weight=0.3, momentum=0.7, kind=KIND), Slow(3, 0.7)
    for batch in batches():
        weak, strong = (batch["unlabeled"][view].softmax(1).tolist() for view in ("weak", "strong"))
        unsupervised, fairness, counted = slow.losses(weak, strong)
        output = method(batch)
        assert output["mask_rate"].item() == pytest.approx(counted / 9)
        assert output["fairness"].item() == pytest.approx(fairness, abs=1e-5)
        expected = slow_loss(batch, 1.1, 0.0) + 2.0 * unsupervised + 0.3 * fairness
        assert output["loss"].item() == pytest.approx(expected, abs=1e-5)
        method.after_step(batch, output)
        assert method.confidence.item() == pytest.approx(slow.time, abs=1e-6)
        assert method.expected.tolist() == pytest.approx(slow.mean, abs=1e-6)
        assert method.decided.tolist() == pytest.approx(slow.hist, abs=1e-6)
    told = method.thresholds()["label"].plain()
    assert told == pytest.approx([mean / max(slow.mean) * slow.time for mean in slow.mean], abs=1e-6)


def test_equations_of_findings_are_those_of_each_finding():
    kind = Findings.of_size(3)
    method, slow = FreeMatch(Logits(), momentum=0.7, kind=kind), [Slow(2, 0.7) for _ in range(3)]
    for batch in batches():
        batch["labeled"]["label"] = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, 0, 0]])
        weak, strong = (
            torch.stack([1 - p, p], dim=-1).transpose(0, 1).tolist()
            for p in (batch["unlabeled"][view].sigmoid() for view in ("weak", "strong"))
        )
        found = [one.losses(w, s) for one, w, s in zip(slow, weak, strong, strict=True)]
        output = method(batch)
        assert output["unsupervised"].item() == pytest.approx(sum(loss for loss, *_ in found) / 3, abs=1e-5)
        assert output["fairness"].item() == pytest.approx(sum(loss for _, loss, _ in found) / 3, abs=1e-5)
        method.after_step(batch, output)
    torch.testing.assert_close(method.expected, torch.tensor([one.mean for one in slow]))


def test_voxels_are_samples():
    """A mask of ten voxels is as ten images: same losses, same means."""
    masks = FreeMatch(Logits(), momentum=0.7, kind=Masks.of_size(3), criterion=MaskLoss(dice_weight=0.0))
    classes = FreeMatch(Logits(), momentum=0.7, kind=KIND)
    for batch in batches(labeled=10, unlabeled=10):
        voxels = {}
        voxels["labeled"] = {
            "image": batch["labeled"]["image"].view(2, 5, 3).transpose(1, 2),
            "label": batch["labeled"]["label"].view(2, 5),
        }
        voxels["unlabeled"] = {
            view: logits.view(2, 5, 3).transpose(1, 2) for view, logits in batch["unlabeled"].items()
        }
        for method, of in ((masks, voxels), (classes, batch)):
            method.after_step(of, method(of))
        outputs = masks(voxels), classes(batch)
        for name in ("loss", "unsupervised", "fairness", "mask_rate"):
            torch.testing.assert_close(outputs[0][name], outputs[1][name], check_dtype=False)
    torch.testing.assert_close(masks.expected, classes.expected)


def test_thresholds_by_hand():
    method = FreeMatch(Logits(), kind=KIND)
    assert method.thresholds()["label"].plain() == pytest.approx([1 / 3] * 3)
    method.confidence.fill_(0.9)
    method.expected.copy_(torch.tensor([0.6, 0.3, 0.1]))
    assert method.thresholds()["label"].plain() == pytest.approx([0.9, 0.45, 0.15])


def test_the_fairness_loss_is_least_where_the_predictions_are_even():
    """The mean of the strong views, which all are decided for class 0, is (0.8, 0.1, 0.1) or (0.4, 0.3, 0.3)."""

    def fairness(first):
        batch = make_batch(unlabeled=3)
        rest = (1 - first) / 2
        batch["unlabeled"]["strong"] = torch.tensor([[first, rest, rest], [rest, first, rest], [rest, rest, first]])
        batch["unlabeled"]["strong"] = batch["unlabeled"]["strong"].double().log()
        method = FreeMatch(Logits(), momentum=0.0, kind=KIND)
        method.confidence.fill_(0.0)
        batch["unlabeled"]["weak"] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).double()
        return method(batch)["fairness"].item()

    assert fairness(0.9) == pytest.approx(math.log(1 / 3))
    assert fairness(0.5) == pytest.approx(math.log(1 / 3))


def test_without_any_view_that_counts_all_is_zero_and_finite():
    method = FreeMatch(Logits(), momentum=0.9, kind=KIND)
    method.confidence.fill_(100.0)
    batch = make_batch()
    output = method(batch)
    output["loss"].backward()
    assert (output["mask_rate"], output["fairness"], output["unsupervised"]) == (0, 0, 0)
    assert method.network.scale.grad.isfinite()


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_that_makes_no_sense(momentum):
    with pytest.raises(ValueError, match="`momentum` is a share and must be at least 0 and less than 1"):
        FreeMatch(Logits(), momentum=momentum, kind=KIND)


def test_a_kind_without_names_is_refused():
    with pytest.raises(ValueError, match="give it a `kind` with names"):
        FreeMatch(Logits())


# ---- several processes: this method, and the others that keep something of each batch --------------------------------

TWO_PROCESSES = """
from methods.test_freematch import states_after

result = states_after(slice(4 * rank, 4 * rank + 4))
"""


def states_after(part=slice(None)):
    """What each method keeps after some batches, or a part of each; a method weighs its own part by that part alone."""
    methods = {
        "flexmatch": FlexMatch(Logits(), 12, 0.6, kind=KIND),
        "freematch": FreeMatch(Logits(), momentum=0.7, kind=KIND),
        "softmatch": SoftMatch(Logits(), momentum=0.7, uniform=False, kind=KIND),
    }
    for batch in batches(labeled=8, unlabeled=8):
        own = {name: {view: of[part] for view, of in stream.items()} for name, stream in batch.items()}
        own["labeled"]["index"], own["unlabeled"]["index"] = torch.arange(2), (torch.arange(8) + 2)[part]
        for method in methods.values():
            method.after_step(own, method(own))
    buffers = {name: method.named_buffers() for name, method in methods.items()}
    return {name: {key: value.tolist() for key, value in own if "." not in key} for name, own in buffers.items()}


@pytest.mark.slow
def test_two_processes_keep_what_one_does(tmp_path):
    first, second = in_two_processes(TWO_PROCESSES, tmp_path)
    assert first == second
    for name, state in states_after().items():
        for key, value in state.items():
            torch.testing.assert_close(torch.tensor(first[name][key]), torch.tensor(value), msg=f"{name}: {key}")
