"""FlexMatch: the thresholds of the paper, and which samples they count."""

import pytest
import torch
from methods.test_fixmatch import Logits, make_batch, slow_loss

from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.methods import FlexMatch

KIND = Classes.of_size(3)
SAMPLES = 20


def batches(steps=10, labeled=4, unlabeled=9):
    """Batches of other samples each time; an index is drawn twice in each."""
    g = torch.Generator().manual_seed(3)
    for _ in range(steps):
        batch = make_batch(labeled, unlabeled)
        for view in ("weak", "strong"):
            batch["unlabeled"][view] = 2 * torch.randn(unlabeled, 3, generator=g, dtype=torch.double)
        index = labeled + torch.randperm(SAMPLES - labeled, generator=g)[:unlabeled]
        batch["unlabeled"]["index"] = torch.cat([index[:-1], index[:1]])
        batch["labeled"]["index"] = torch.arange(labeled)
        yield batch


class Slow:
    """Eq. 5, 11 and 12, a sample and a class at a time."""

    def __init__(self, states, tau, samples):
        self.states, self.tau = states, tau
        self.kept = dict.fromkeys(samples)

    def thresholds(self):
        counts = [sum(kept == state for kept in self.kept.values()) for state in range(self.states)]
        unused = sum(kept is None for kept in self.kept.values())
        shares = [count / max(*counts, unused) for count in counts]
        return [self.tau * share / (2 - share) for share in shares]

    def loss(self, probs, losses):
        """Mean over samples: `losses[b][k]` is that of class k."""
        total, thresholds = 0.0, self.thresholds()
        for row, loss in zip(probs, losses, strict=True):
            best = row.index(max(row))
            total += loss[best] if max(row) >= thresholds[best] else 0.0
        return total / len(probs)

    def learn(self, index, probs):
        found = {}
        for i, row in zip(index, probs, strict=True):
            if max(row) >= self.tau:
                found[i] = max(row.index(max(row)), found.get(i, -1))
        self.kept |= found


def test_equations_against_a_slow_loop():
    method = FlexMatch(Logits(), SAMPLES, threshold=0.8, weight=2.5, kind=KIND)
    slow, lowered = Slow(3, 0.8, range(4, SAMPLES)), set()
    slow.kept |= dict.fromkeys(range(4))  # nobody has told which are labeled
    for batch in batches():
        torch.testing.assert_close(
            method.thresholds()["label"].values, torch.tensor(slow.thresholds()), check_dtype=False
        )
        probs = batch["unlabeled"]["weak"].softmax(1).tolist()
        unsupervised = slow.loss(probs, (-batch["unlabeled"]["strong"].log_softmax(1)).tolist())
        output = method(batch)
        expected = slow_loss(batch, 1.1, 0.0) + 2.5 * unsupervised
        assert output["loss"].item() == pytest.approx(expected, abs=1e-5)
        lowered.add(round(output["mask_rate"].item(), 4))
        method.after_step(batch, output)
        slow.learn(batch["unlabeled"]["index"].tolist(), probs)
        slow.kept = {i: kept for i, kept in slow.kept.items() if i >= 4}
    assert 1.0 in lowered and len(lowered) > 2  # all at first, then by threshold


def test_equations_of_findings_are_those_of_each_finding():
    kind = Findings.of_size(3)
    method = FlexMatch(Logits(), SAMPLES, threshold=0.9, kind=kind)
    slow = [Slow(2, 0.9, range(SAMPLES)) for _ in range(3)]
    for batch in batches():
        batch["labeled"]["label"] = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, 0, 0]])
        told = torch.tensor([one.thresholds() for one in slow])
        torch.testing.assert_close(method.thresholds()["label"].values, told, check_dtype=False)
        present, strong = batch["unlabeled"]["weak"].sigmoid(), batch["unlabeled"]["strong"].sigmoid()
        probs = torch.stack([1 - present, present], dim=-1).transpose(0, 1).tolist()
        losses = -torch.stack([1 - strong, strong], dim=-1).log().transpose(0, 1)
        expected = [one.loss(row, loss.tolist()) for one, row, loss in zip(slow, probs, losses, strict=True)]
        output = method(batch)
        assert output["unsupervised"].item() == pytest.approx(sum(expected) / 3, abs=1e-5)
        method.after_step(batch, output)
        for one, row in zip(slow, probs, strict=True):
            one.learn(batch["unlabeled"]["index"].tolist(), row)
            one.kept = {i: kept for i, kept in one.kept.items() if i >= 4}


def told(method):
    return method.thresholds()["label"].plain()


def test_thresholds_by_hand():
    """Of ten samples four are of class 0 and two of class 1: four are unused, as many as the most frequent class."""
    method = FlexMatch(Logits(), 10, threshold=0.9, kind=KIND)
    assert told(method) == [0.0, 0.0, 0.0]
    method.kept[:6] = torch.tensor([0, 0, 0, 0, 1, 1])
    assert told(method) == pytest.approx([0.9, 0.9 * 0.5 / 1.5, 0.0])
    method.kept[4:6] = -1  # six unused: the warm-up
    assert told(method) == pytest.approx([0.9 * (4 / 6) / (2 - 4 / 6), 0.0, 0.0])


def test_what_was_annotated_counts_neither_as_used_nor_as_unused():
    method = FlexMatch(Logits(), 10, threshold=0.9, kind=KIND)
    method.kept[:6] = torch.tensor([0, 0, 0, 0, 1, 1])
    method.on_query(torch.tensor([0, 1, 6, 7, 8, 9]), (6, 6))
    assert told(method) == pytest.approx([0.9, 0.9, 0.0])


def test_a_kept_state_changes_with_a_confident_prediction_only():
    method = FlexMatch(Logits(), 2, threshold=0.9, kind=KIND)
    for logits, expected in (([9.0, 0.0, 0.0], 0), ([0.0, 1.0, 0.0], 0), ([0.0, 0.0, 9.0], 2)):
        batch = make_batch(unlabeled=1)
        batch["unlabeled"] = {name: torch.tensor([logits]).double() for name in ("weak", "strong")}
        batch["unlabeled"]["index"], batch["labeled"]["index"] = torch.tensor([1]), torch.tensor([0])
        method.after_step(batch, method(batch))
        assert method.kept.tolist() == [-2, expected]


@pytest.mark.parametrize(
    ("kind", "match"),
    [(Masks.of_size(3), "masks have no fixed number of cases"), (None, "give it a `kind` with names")],
)
def test_kinds_that_it_cannot_count_are_refused(kind, match):
    with pytest.raises(ValueError, match=match):
        FlexMatch(Logits(), 10, kind=kind)
