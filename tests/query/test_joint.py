"""Queries for classes and masks: hand-computed losses, and what the costs decide."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.query import JointQuery, PoolOutputs
from medssl_monai.query.base import name_of

UNUSED, CLASSES = torch.Generator(), Classes()


def expected_dice_loss(probs):
    """That of masks, from probabilities ``(B, K, *spatial)``."""
    return Masks.of_size(probs.shape[1]).expected_loss(probs.movedim(1, -1))


class Looked(nn.Module):
    """Logits whose probability of the foreground is the image itself, ``(B, 1, 2, 2)``."""

    def forward(self, images):
        foreground = images.double().clamp(1e-12, 1 - 1e-12)
        return torch.cat([(1 - foreground).log(), foreground.log()], dim=1)


def make_outputs(kept, images, labeled=None, masked=None, index=None, kind=CLASSES):
    """Labels predicted with `kept`, and masks with the voxel probabilities `images` ``(N, 2, 2)``, by index."""
    index = torch.arange(len(kept)) if index is None else index
    nothing = torch.zeros(len(kept), dtype=torch.bool)
    labeled, masked = (nothing if known is None else torch.tensor(known) for known in (labeled, masked))
    shares = torch.stack([1 - images.mean(dim=(1, 2)), images.mean(dim=(1, 2))], dim=1)[: len(kept)]
    look = images.unsqueeze(1)
    masks = PoolOutputs(index, masked, shares, Masks.of_size(2), None, Looked(), lambda i: look[i], key="mask")
    return PoolOutputs(index, labeled, kept, kind, others={"mask": masks})


def of_error(*errors):
    """Probabilities of two classes, the first predicted, with these chances that it is wrong."""
    return torch.tensor([[1 - error, error] for error in errors], dtype=torch.double)


def of_findings(present):
    """Outcomes by the probabilities ``(N, K)`` that findings are present."""
    present = torch.tensor(present)
    return torch.stack([1 - present, present], dim=-1)


def masks_of_loss(*doubts):
    """Half of an image is foreground with a probability of 1 less doubt < 0.5: a loss of ``doubt / (2 - doubt)``."""
    return torch.stack([torch.tensor([[1 - d, 1 - d], [0.0, 0.0]], dtype=torch.double) for d in doubts])


def test_expected_dice_loss_of_a_mask_by_hand():
    foreground = torch.tensor([[[0.9, 0.6], [0.3, 0.2]]])
    loss = expected_dice_loss(torch.stack([1 - foreground, foreground], dim=1))
    assert loss.item() == pytest.approx(1 - 2 * (0.9 + 0.6) / (2 + 2.0))  # two predicted voxels, two expected ones


def test_expected_dice_loss_is_a_mean_over_the_classes_but_the_background():
    probs = torch.tensor([[[0.1, 0.8], [0.9, 0.0], [0.0, 0.2]]])  # two voxels; the last class is predicted nowhere
    assert expected_dice_loss(probs).item() == pytest.approx(((1 - 2 * 0.9 / (1 + 0.9)) + 0.2) / 2)


def test_a_structure_that_is_surely_absent_has_no_loss():
    """Trap: the ratio alone is 1 wherever nothing is predicted, and images without the structure come first."""
    sure = torch.full((1, 16, 16), 1e-6)
    assert expected_dice_loss(torch.stack([1 - sure, sure], dim=1)).item() < 1e-5
    none = torch.zeros(1, 16, 16)
    assert expected_dice_loss(torch.stack([1 - none, none], dim=1)).item() == 0


def test_certain_masks_have_no_loss_whatever_their_dimensions():
    for shape in ((4, 4), (4, 4, 3)):
        mask = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).round()
        assert expected_dice_loss(torch.stack([1 - mask, mask], dim=1)).tolist() == [0, 0]


def test_expected_error_of_classes_and_findings():
    assert Classes().expected_loss(torch.tensor([[0.5, 0.25, 0.25]])).tolist() == [0.5]
    assert Findings().expected_loss(of_findings([[0.9, 0.3, 0.5]])).item() == pytest.approx(0.3)
    assert Findings().expected_loss(of_findings([[0.9, 0.3, 0.5]])[:0]).tolist() == []


def test_the_costs_swing_the_choice_from_masks_to_classes():
    outputs = make_outputs(of_error(0.2, 0.4), masks_of_loss(0.4, 0.4))  # Dice losses of 1/4
    dear = JointQuery({"label": 1, "mask": 10})(outputs, 10, UNUSED)
    assert (dear.index.tolist(), dear.part) == ([1, 0], ["label", "label"])
    cheap = JointQuery({"label": 1, "mask": 1})(outputs, 10, UNUSED)
    assert (cheap.index.tolist(), cheap.part) == ([1, 0], ["label", "mask"])
    same = JointQuery({"label": 2, "mask": 1})(outputs, 10, UNUSED)
    assert (same.index.tolist(), same.part) == ([0, 1], ["mask", "mask"])
    assert same.reason == ["expected Dice loss"] * 2


def test_worth_is_what_accuracy_counts_in_dice():
    outputs = make_outputs(of_error(0.2), masks_of_loss(0.4))
    costs = {"label": 1, "mask": 1}
    assert JointQuery(costs, worth=1.0)(outputs, 1, UNUSED).part == ["mask"]
    assert JointQuery(costs, worth=2.0)(outputs, 1, UNUSED).part == ["label"]


def test_scores_are_value_loss_and_cost():
    asked = JointQuery({"label": 1, "mask": 4}, worth=3.0)(
        make_outputs(of_error(0.2, 0.0), masks_of_loss(0.0, 0.4)), 9, UNUSED
    )
    assert asked.part == ["label", "mask"]
    assert asked.scores["loss"].tolist() == pytest.approx([0.2, 1 / 4])
    assert asked.scores["cost"].tolist() == [1, 4]
    assert asked.scores["value"].tolist() == pytest.approx([0.6, 1 / 16])


def test_what_is_known_of_an_image_is_not_asked_for():
    known = make_outputs(of_error(0.4, 0.4), masks_of_loss(0.4, 0.4), labeled=[True, False], masked=[False, True])
    asked = JointQuery({"label": 1, "mask": 2})(known, 9, UNUSED)
    assert dict(zip(asked.index.tolist(), asked.part, strict=True)) == {0: "mask", 1: "label"}
    both = make_outputs(of_error(0.4), masks_of_loss(0.4), labeled=[True], masked=[True])
    assert JointQuery()(both, 9, UNUSED).size == (0, 0)


def test_a_mask_that_does_not_fit_leaves_room_for_classes_also_of_the_same_image():
    outputs = make_outputs(of_error(0.01, 0.01), masks_of_loss(0.4, 0.4))
    asked = JointQuery({"label": 1, "mask": 5})(outputs, 6, UNUSED)
    assert (asked.index.tolist(), asked.part) == ([0, 1], ["mask", "label"])
    poor = JointQuery({"label": 1, "mask": 5})(outputs, 4, UNUSED)  # or it would ask for nothing, round after round
    assert (poor.index.tolist(), poor.part) == ([0, 1], ["label", "label"])


def test_the_limit_counts_the_cheapest_annotations():
    outputs = make_outputs(of_error(0, 0, 0, 0), masks_of_loss(0.4, 0.4, 0.4, 0.4), labeled=[True, False, False, False])
    strategy = JointQuery({"label": 2, "mask": 3})
    assert strategy(outputs, 4, UNUSED).size == (1, 2)
    assert strategy(outputs, 9, UNUSED).size == (3, 4)
    assert strategy(outputs, 100, UNUSED).size == (4, 4)


def test_costs_that_binary_numbers_do_not_hold_fill_the_budget():
    outputs = make_outputs(of_error(*[0.3] * 40), masks_of_loss(*[0.0] * 40))
    assert JointQuery({"label": 0.1, "mask": 9})(outputs, 3, UNUSED).size == (30, 30)


def test_ties_go_to_the_smaller_index_and_to_the_label():
    index = torch.tensor([3, 1, 2, 0])
    outputs = make_outputs(of_error(*[0.5] * 4), masks_of_loss(*[0.5] * 4), index=index)
    asked = JointQuery({"label": 1, "mask": 1})(outputs, 3, UNUSED)
    assert (asked.index.tolist(), asked.part) == ([0, 1, 2], ["label"] * 3)


def test_without_masks_it_asks_for_the_highest_expected_error():
    outputs = replace(make_outputs(of_error(0.1, 0.4, 0.2), masks_of_loss(0.4, 0.4, 0.4)), others={})
    asked = JointQuery()(outputs, 2, UNUSED)
    assert (asked.index.tolist(), asked.part) == ([1, 2], None)


def test_findings_have_the_mean_of_their_expected_errors():
    kept = of_findings([[0.5, 0.5], [0.9, 0.5]])
    outputs = make_outputs(kept, masks_of_loss(0.0, 0.0), kind=Findings.of_size(2))
    asked = JointQuery()(outputs, 2, UNUSED)
    assert asked.scores["loss"].tolist() == pytest.approx([0.5, 0.3])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"costs": {"label": 1.0}}, r"one above 0 for each of \('label', 'mask'\), got {'label': 1.0}"),
        ({"costs": {"label": 1.0, "mask": 0.0}}, "`costs` has one above 0"),
        ({"costs": {"label": 1.0, "mask": float("nan")}}, "`costs` has one above 0"),
        ({"costs": {"label": 1.0, "mask": 1.0, "box": 0.0}}, "`costs` has one above 0"),
        ({"worth": 0.0}, "`worth` is what accuracy counts in Dice and must be above 0, got 0.0"),
    ],
)
def test_costs_and_worth_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        JointQuery(**arguments)


def with_findings(outputs, present, labeled=(False, False)):
    """A third part of the labels, with the probabilities that its findings are present."""
    kept = of_findings(present)
    further = PoolOutputs(outputs.index, torch.tensor(labeled), kept, Findings.of_size(2), key="finding")
    return replace(outputs, others={**outputs.others, "finding": further})


def test_a_third_part_of_the_labels_is_weighed_like_the_others():
    outputs = with_findings(make_outputs(of_error(0.1, 0.4), masks_of_loss(0.4, 0.0)), [[0.5, 0.5], [0.9, 0.9]])
    strategy = JointQuery({"label": 1, "mask": 4, "finding": 2})
    asked = strategy(outputs, 3, UNUSED)
    assert dict(zip(asked.index.tolist(), asked.part, strict=True)) == {1: "label", 0: "finding"}
    assert asked.scores["loss"].tolist() == pytest.approx([0.4, 0.5])
    assert asked.reason == ["expected error"] * 2
    known = with_findings(outputs, [[0.5, 0.5], [0.9, 0.9]], [True, False])
    assert strategy(known, 99, UNUSED).part == ["label", "label"]
    assert "finding 2" in name_of(strategy)


def test_a_part_without_a_cost_is_refused():
    outputs = with_findings(make_outputs(of_error(0.1, 0.4), masks_of_loss(0.4, 0.0)), [[0.5, 0.5], [0.9, 0.9]])
    with pytest.raises(ValueError, match="`costs` has none for 'finding', which the labels have as well; add it"):
        JointQuery()(outputs, 3, UNUSED)


def test_masks_alone_are_asked_for_by_their_expected_dice_loss():
    masks = make_outputs(of_error(0, 0, 0), masks_of_loss(0.1, 0.4, 0.2)).others["mask"]
    asked = JointQuery({"label": 1, "mask": 2})(masks, 4, UNUSED)
    assert (asked.index.tolist(), asked.part) == ([1, 2], None)
    assert asked.reason == ["expected Dice loss"] * 2


def test_it_is_named_with_its_costs():
    assert name_of(JointQuery()) == "JointQuery (label 1, mask 10; worth 1)"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 25),
    st.floats(0.3, 6),
    st.floats(0.3, 6),
    st.integers(0, 99),
)
def test_every_query_keeps_to_its_budget_and_asks_for_nothing_known(images, budget, label, mask, seed):
    errors, doubts, labeled, masked = zip(*images, strict=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    outputs = make_outputs(of_error(*errors), masks_of_loss(*doubts), labeled, masked)
    strategy = JointQuery({"label": label, "mask": mask})
    asked = strategy(outputs, budget, UNUSED)
    chosen = asked.index.tolist()
    assert len(set(chosen)) == len(chosen) == len(asked) == len(asked.part) == len(asked.reason)
    assert not any({"label": labeled, "mask": masked}[k][i] for i, k in zip(chosen, asked.part, strict=True))
    assert asked.scores["cost"].sum() <= budget * (1 + 1e-6)
    assert all(len(score) == len(chosen) and torch.isfinite(score).all() for score in asked.scores.values())
    assert asked.size[0] <= asked.size[1] <= sum(not (a and b) for a, b in zip(labeled, masked, strict=True))
    left = budget * (1 - 1e-6) - float(asked.scores["cost"].sum())
    for i in set(range(len(images))) - set(chosen):  # nothing that would still fit is left out
        assert labeled[i] or label > left
        assert masked[i] or mask > left
    shuffled = strategy(outputs.take(order), budget, UNUSED)
    assert (shuffled.index.tolist(), shuffled.part) == (chosen, asked.part)
