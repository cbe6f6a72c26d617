"""FixMatch: the equation, and which images share a pass."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medssl_monai.kinds import Findings
from medssl_monai.losses import DistributionAlignment
from medssl_monai.methods import FixMatch


class Logits(nn.Module):
    """A network whose images are their own logits; keeps book of the batches it saw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.double))
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return images * self.scale


def make_batch(labeled=4, unlabeled=9, classes=3):
    g = torch.Generator().manual_seed(0)
    image, weak, strong = (
        3 * torch.randn(n, classes, generator=g, dtype=torch.double) for n in (labeled, unlabeled, unlabeled)
    )
    return {
        "labeled": {"image": image, "label": torch.arange(labeled) % classes},
        "unlabeled": {"weak": weak, "strong": strong},
    }


def slow_loss(batch, threshold, weight):
    supervised = 0.0
    for logits, label in zip(batch["labeled"]["image"], batch["labeled"]["label"], strict=True):
        supervised -= logits.softmax(0)[label].log().item() / len(batch["labeled"]["label"])
    unsupervised = 0.0
    for weak, strong in zip(batch["unlabeled"]["weak"], batch["unlabeled"]["strong"], strict=True):
        probs = weak.softmax(0).tolist()
        if max(probs) >= threshold:
            unsupervised -= strong.softmax(0)[probs.index(max(probs))].log().item() / len(batch["unlabeled"]["weak"])
    return supervised + weight * unsupervised


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_equation_against_a_slow_loop(threshold, weight):
    batch = make_batch()
    loss = FixMatch(Logits(), threshold, weight)(batch)["loss"]
    assert loss.item() == pytest.approx(slow_loss(batch, threshold, weight), abs=1e-5)


def test_two_samples_by_hand():
    """Weak views of 0.8 and 0.6 at threshold 0.7: one counts, and the strong view gives it 1/2; ln 2 over 2 images."""
    weak = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).double().log()
    batch = {
        "labeled": {"image": torch.tensor([[0.25, 0.75]]).double().log(), "label": torch.tensor([1])},
        "unlabeled": {"weak": weak, "strong": torch.zeros(2, 2).double()},
    }
    output = FixMatch(Logits(), threshold=0.7)(batch)
    assert output["supervised"].item() == pytest.approx(math.log(4 / 3))
    assert output["unsupervised"].item() == pytest.approx(math.log(2) / 2)
    assert output["mask_rate"].item() == 0.5
    assert output["confidence"].tolist() == pytest.approx([0.8, 0.6])


def test_confidence_equal_to_the_threshold_counts():
    batch = make_batch()
    batch["unlabeled"]["weak"] = torch.zeros(9, 4).double()  # exactly 1/4 each
    batch["unlabeled"]["strong"] = torch.zeros(9, 4).double()
    batch["labeled"]["image"] = torch.zeros(4, 4).double()
    assert FixMatch(Logits(), threshold=0.25)(batch)["mask_rate"] == 1


def test_labeled_and_strong_views_share_a_pass_and_weak_ones_have_their_own():
    network = Logits()
    FixMatch(network, decay=None)(make_batch(labeled=4, unlabeled=9))
    assert network.seen == [9, 13]


def test_alignment_towards_rare_classes_can_change_the_pseudo_label():
    batch = make_batch(unlabeled=1, classes=2)
    batch["unlabeled"] = {
        "weak": torch.tensor([[0.6, 0.4]]).double().log(),
        "strong": torch.tensor([[0.0, 5.0]]).double(),
    }
    alignment = DistributionAlignment([0.5, 0.5])
    alignment.update(torch.tensor([0.9, 0.1]))  # class 0 was predicted far too often
    plain = FixMatch(Logits(), threshold=0.0)(batch)
    aligned = FixMatch(Logits(), threshold=0.0, alignment=alignment)(batch)
    expected = F.cross_entropy(batch["unlabeled"]["strong"], torch.tensor([1]))
    assert aligned["unsupervised"].item() == pytest.approx(expected.item())
    assert aligned["unsupervised"] < plain["unsupervised"]


def test_the_running_mean_moves_after_the_step_only():
    batch = make_batch()
    method = FixMatch(Logits(), alignment=DistributionAlignment([0.3, 0.3, 0.4]))
    output = method(batch)
    assert method.alignment.mean.isnan().all()
    method.after_step(batch, output)
    torch.testing.assert_close(method.alignment.mean, batch["unlabeled"]["weak"].softmax(1).mean(0).float())


@pytest.mark.parametrize("threshold", [-0.1, 1.5, 95])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"a threshold is a probability and must be in \[0, 1\], got {threshold}"):
        FixMatch(Logits(), threshold=threshold)


# ---- findings --------------------------------------------------------------------------------------------------------


KIND = Findings.of_size(3)


def findings_batch():
    batch = make_batch()
    batch["labeled"]["label"] = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, 0, 0]])
    return batch


def slow_findings_loss(batch, absent, present, weight):
    known = []
    for logits, label in zip(batch["labeled"]["image"].tolist(), batch["labeled"]["label"].tolist(), strict=True):
        known += [math.log1p(math.exp(-z if y else z)) for z, y in zip(logits, label, strict=True) if y != -1]
    pairs = []
    for weak, strong in zip(batch["unlabeled"]["weak"].tolist(), batch["unlabeled"]["strong"].tolist(), strict=True):
        for k, (w, z) in enumerate(zip(weak, strong, strict=True)):
            p = 1 / (1 + math.exp(-w))
            if p > 0.5:
                pairs.append(math.log1p(math.exp(-z)) if p >= present[k] else 0.0)
            else:
                pairs.append(math.log1p(math.exp(z)) if 1 - p >= absent[k] else 0.0)
    return sum(known) / len(known) + weight * sum(pairs) / len(pairs)


@pytest.mark.parametrize(
    ("threshold", "absent", "present"),
    [
        (0.9, [0.9] * 3, [0.9] * 3),
        ([0.6, 0.8, 0.95], [0.6, 0.8, 0.95], [0.6, 0.8, 0.95]),
        ({"absent": 0.97, "present": 0.7}, [0.97] * 3, [0.7] * 3),
        ({"absent": [0.9, 0.9, 0.6], "present": [0.6, 0.8, 0.95]}, [0.9, 0.9, 0.6], [0.6, 0.8, 0.95]),
    ],
)
def test_equation_of_findings_against_a_slow_loop(threshold, absent, present):
    batch = findings_batch()
    method = FixMatch(Logits(), threshold, 2.5, kind=KIND)
    assert method(batch)["loss"].item() == pytest.approx(slow_findings_loss(batch, absent, present, 2.5), abs=1e-5)


def test_mask_rate_is_the_share_of_pairs_and_confidence_that_of_either_state():
    batch = findings_batch()
    batch["unlabeled"] = {
        "weak": torch.tensor([[0.98, 0.6, 0.01], [0.5, 0.97, 0.3]]).double().logit(),
        "strong": torch.zeros(2, 3).double(),
    }
    output = FixMatch(Logits(), kind=KIND)(batch)
    torch.testing.assert_close(output["confidence"], torch.tensor([[0.98, 0.6, 0.99], [0.5, 0.97, 0.7]]))
    assert output["mask_rate"].item() == pytest.approx(3 / 6)
    assert output["unsupervised"].item() == pytest.approx(3 * math.log(2) / 6)


def test_a_rare_finding_teaches_its_absence_unless_absence_needs_more():
    """A network that knows the frequency alone: all absences count, and with a threshold above it none does."""
    batch = findings_batch()
    batch["unlabeled"]["weak"] = torch.full((9, 3), 0.02).double().logit()
    plain = FixMatch(Logits(), threshold=0.8, kind=KIND)(batch)
    careful = FixMatch(Logits(), threshold={"absent": 0.995, "present": 0.8}, kind=KIND)(batch)
    assert plain["mask_rate"] == 1
    assert careful["mask_rate"] == 0


def test_thresholds_are_told_as_they_are_and_are_no_state():
    plain = FixMatch(Logits(), threshold=0.9, kind=KIND)
    each = FixMatch(Logits(), threshold=[0.9, 0.8, 0.7], kind=KIND)
    both = FixMatch(Logits(), threshold={"absent": 0.99, "present": [0.9, 0.8, 0.7]}, kind=KIND)
    told = [method.thresholds()["label"].plain() for method in (plain, each, both)]
    assert told == [0.9, [[0.9], [0.8], [0.7]], [[0.99, 0.9], [0.99, 0.8], [0.99, 0.7]]]
    assert plain.state_dict().keys() == each.state_dict().keys() == both.state_dict().keys()
    assert "threshold" in dict(each.named_buffers())  # moves with the method


@pytest.mark.parametrize(
    ("threshold", "match"),
    [
        ([0.9, 0.8], "there are 2 thresholds for 3 names: give each one, or one"),
        (1.2, r"a threshold is a probability and must be in \[0, 1\], got 1.2"),
        ({"absent": 0.9}, r"thresholds by state are of \['absent', 'present'\], got \['absent'\]"),
        ({"absent": -0.1, "present": 0.9}, r"must be in \[0, 1\], got -0.1"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(threshold, match):
    with pytest.raises(ValueError, match=match):
        FixMatch(Logits(), threshold=threshold, kind=KIND)


def test_aligned_findings_follow_the_labeled_frequencies():
    batch = findings_batch()
    alignment = DistributionAlignment([[0.7, 0.3]] * 3)
    method = FixMatch(Logits(), threshold=0.8, alignment=alignment, kind=KIND)
    output = method(batch)
    expected, mean = alignment(KIND.outcomes(batch["unlabeled"]["weak"]))
    torch.testing.assert_close(output["confidence"], expected.amax(dim=-1))
    method.after_step(batch, output)
    torch.testing.assert_close(alignment.mean, mean)
