"""Pseudo-label loss and distribution alignment."""

import math

import pytest
import torch
from support import outcomes_of, pseudo_label_loss
from torch.nn import functional as F

from medssl_monai.kinds import Classes, Findings
from medssl_monai.losses import DistributionAlignment, QueueAlignment


def draw(n=12, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=g, dtype=torch.double).requires_grad_()
    probs = (2 * torch.randn(n, classes, generator=g, dtype=torch.double)).softmax(1)
    return logits, probs


def slow_loss(logits, probs, threshold, normalization, temperature):
    total, selected = 0.0, 0
    for row, p in zip(logits.detach(), probs, strict=True):
        if p.max() < threshold:
            continue
        selected += 1
        log_q = row.log_softmax(0)
        if temperature is None:
            total -= log_q[int(p.argmax())].item()
        else:
            powers = [value ** (1 / temperature) for value in p.tolist()]
            total -= sum(t / sum(powers) * q for t, q in zip(powers, log_q.tolist(), strict=True))
    return total / (len(logits) if normalization == "batch" else max(selected, 1))


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("normalization", ["batch", "selected"])
@pytest.mark.parametrize("temperature", [None, 1.0, 0.5])
def test_equation_against_a_slow_loop(threshold, normalization, temperature):
    logits, probs = draw()
    loss, mask = pseudo_label_loss(logits, probs, threshold, normalization, temperature)
    assert loss.item() == pytest.approx(slow_loss(logits, probs, threshold, normalization, temperature))
    assert mask.tolist() == [float(p.max() >= threshold) for p in probs]


@pytest.mark.parametrize("normalization", ["batch", "selected"])
def test_nothing_confident_is_exactly_zero_with_a_gradient_of_zero(normalization):
    logits, probs = draw()
    loss, mask = pseudo_label_loss(logits, probs, threshold=1.0, normalization=normalization)
    loss.backward()
    assert loss.item() == 0.0
    assert not mask.any()
    assert not logits.grad.any()


def test_loss_over_the_batch_is_the_mask_rate_times_that_over_the_selected():
    logits, probs = draw()
    over_batch, mask = pseudo_label_loss(logits, probs, 0.6, "batch")
    over_selected, _ = pseudo_label_loss(logits, probs, 0.6, "selected")
    assert 0 < mask.mean() < 1
    torch.testing.assert_close(over_batch, mask.mean() * over_selected)


def test_only_the_selected_strong_views_get_a_gradient():
    logits, probs = draw()
    probs.requires_grad_()
    loss, mask = pseudo_label_loss(logits, probs, 0.6, temperature=0.5)
    loss.backward()
    assert (logits.grad.abs().sum(1) > 0).tolist() == mask.bool().tolist()
    assert probs.grad is None


def test_cold_soft_targets_become_hard_ones():
    logits, probs = draw()
    soft, _ = pseudo_label_loss(logits, probs, 0.6, temperature=0.04)
    hard, _ = pseudo_label_loss(logits, probs, 0.6)
    torch.testing.assert_close(soft, hard, rtol=1e-3, atol=0)


def test_uniform_strong_views_cost_ln_k():
    _, probs = draw(classes=4)
    loss, _ = pseudo_label_loss(torch.zeros_like(probs), probs, 0.0)
    assert loss.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_threshold_for_each_class_is_that_of_the_predicted_one_whatever_the_batch(n):
    logits, probs = draw(n=n, classes=3)
    wanted = [float(row.argmax() != 1) for row in probs]
    for threshold in ([0.0, 1.0, 0.0], torch.tensor([0.0, 1.0, 0.0])):
        _, mask = pseudo_label_loss(logits, probs, threshold)
        assert mask.tolist() == wanted


def test_extreme_logits_stay_finite():
    probs = torch.tensor([[1.0, 0.0]])
    loss, _ = pseudo_label_loss(torch.tensor([[-1e4, 1e4]]), probs, 0.95, temperature=0.5)
    assert torch.isfinite(loss)


def test_given_targets_are_learnt_and_the_weak_views_only_select():
    logits, probs = draw()
    targets = probs.roll(1, dims=1).requires_grad_()
    loss, mask = pseudo_label_loss(logits, probs, 0.6, targets=targets)
    expected = sum(-(t * row.log_softmax(0)).sum() for row, t, m in zip(logits, targets, mask, strict=True) if m) / len(
        logits
    )
    torch.testing.assert_close(loss, expected.detach(), check_dtype=False)
    assert 0 < mask.mean() < 1
    loss.backward()
    assert targets.grad is None


def test_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="`normalization` must be 'batch' or 'selected', got 'mean'"):
        pseudo_label_loss(*draw(), 0.5, "mean")


def test_alignment_starts_with_the_first_batch_and_forward_stores_nothing():
    _, probs = draw(classes=2)
    alignment = DistributionAlignment([0.5, 0.5])
    aligned, mean = alignment(probs)
    torch.testing.assert_close(mean, probs.mean(0).float())
    assert alignment.mean.isnan().all()
    expected = F.normalize(probs * (0.5 / mean), p=1.0, dim=1)
    torch.testing.assert_close(aligned, expected, check_dtype=False)


def test_alignment_averages_slowly():
    alignment = DistributionAlignment([0.5, 0.5], decay=0.9)
    alignment.update(torch.tensor([0.2, 0.8]))
    _, mean = alignment(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(mean, torch.tensor([0.9 * 0.2 + 0.1, 0.9 * 0.8]))


def test_alignment_changes_nothing_where_the_mean_is_the_target():
    alignment = DistributionAlignment([0.2, 0.8], decay=1.0)
    alignment.update(torch.tensor([0.2, 0.8]))
    probs = torch.tensor([[0.3, 0.7], [0.9, 0.1]])
    torch.testing.assert_close(alignment(probs)[0], probs)


def test_a_class_that_is_never_predicted_makes_no_nan():
    aligned, _ = DistributionAlignment([0.5, 0.5])(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(aligned, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_alignment_carries_no_gradient_and_its_state_is_a_buffer():
    logits, _ = draw()
    alignment = DistributionAlignment([0.25] * 4)
    aligned, mean = alignment(logits.softmax(1))
    assert not aligned.requires_grad
    assert not mean.requires_grad
    alignment.update(mean)
    twin = DistributionAlignment([0.25] * 4)
    twin.load_state_dict(alignment.state_dict())
    torch.testing.assert_close(twin.mean, mean)


def push(queue, *batches):
    """Queue with these batches in it; a batch is a mean prediction, or two: of unlabeled and labeled images."""
    for batch in batches:
        queue.update(torch.as_tensor(batch).reshape(queue.queue.shape[1:]))
    return queue


def test_with_one_entry_every_class_has_the_same_mean_before_normalisation():
    _, probs = draw()
    aligned, row = QueueAlignment((4,))(probs)
    divided = probs / row
    torch.testing.assert_close(divided.mean(0), torch.ones(4, dtype=torch.double))
    torch.testing.assert_close(aligned, F.normalize(divided, p=1.0, dim=1), check_dtype=False)
    torch.testing.assert_close(row.squeeze(0), probs.mean(0), check_dtype=False)


def test_only_the_last_entries_matter():
    g = torch.Generator().manual_seed(0)
    batches = torch.rand(40, 4, generator=g).softmax(1)
    _, probs = draw()
    long, short = push(QueueAlignment((4,), length=32), *batches), push(QueueAlignment((4,), length=32), *batches[-31:])
    torch.testing.assert_close(long(probs)[0], short(probs)[0])  # 31 of the past, and the batch itself
    torch.testing.assert_close(long.align(probs), F.normalize(probs / batches[-32:].mean(0), p=1.0, dim=1))
    assert not torch.allclose(long(probs)[0], push(QueueAlignment((4,), length=32), *batches[-30:])(probs)[0])


def test_queue_mean_is_of_what_is_there():
    queue = push(QueueAlignment((2,), length=5), [0.2, 0.8], [0.4, 0.6])
    probs = torch.tensor([[0.5, 0.5]])
    torch.testing.assert_close(queue.align(probs), F.normalize(probs / torch.tensor([0.3, 0.7]), p=1.0, dim=1))


def test_an_empty_queue_aligns_nothing():
    _, probs = draw()
    torch.testing.assert_close(QueueAlignment((4,)).align(probs), probs)


def test_alignment_to_the_labeled_predictions_multiplies_and_sharpens():
    _, probs = draw()
    labeled = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]]).double()
    aligned, row = QueueAlignment((4,), labeled_target=True, temperature=0.5)(probs, labeled)
    expected = F.normalize((probs / probs.mean(0) * labeled.mean(0)).square(), p=1.0, dim=1)
    torch.testing.assert_close(aligned, expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    assert row.shape == (2, 4)


def test_alignment_to_the_labeled_predictions_needs_them():
    with pytest.raises(ValueError, match="alignment to the labeled predictions needs those of labeled images"):
        QueueAlignment((4,), labeled_target=True)(draw()[1])


def test_queue_forward_stores_nothing_carries_no_gradient_and_all_state_is_in_buffers():
    logits, _ = draw()
    queue = push(QueueAlignment((4,), length=3), [0.1, 0.2, 0.3, 0.4])
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    assert set(before) == {"queue", "count"}
    aligned, row = queue(logits.softmax(1))
    assert not aligned.requires_grad
    assert not row.requires_grad
    for name, value in queue.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)
    twin = QueueAlignment((4,), length=3)
    twin.load_state_dict(queue.state_dict())
    for one in (queue, twin):
        push(one, [0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.7, 0.1, 0.1, 0.1])  # past its end
    torch.testing.assert_close(queue.queue, twin.queue, equal_nan=True)
    assert not queue.queue.isnan().any()


def test_a_class_that_the_queue_never_saw_makes_no_nan():
    aligned, _ = QueueAlignment((2,))(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(aligned, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"length": 0}, "`length` counts batches and must be at least 1, got 0"),
        ({"temperature": 0.0}, "`temperature` must be greater than 0, got 0.0"),
    ],
)
def test_queue_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        QueueAlignment((4,), **arguments)


# ---- findings --------------------------------------------------------------------------------------------------------


def draw_findings(n=30, findings=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, findings, generator=g, dtype=torch.double).requires_grad_()
    return logits, (3 * torch.randn(n, findings, generator=g, dtype=torch.double)).sigmoid()


def slow_findings_loss(logits, probs, absent, present, normalization, temperature):
    """`absent` and `present` are thresholds of each finding."""
    total, mask = 0.0, []
    for row, weak in zip(logits.tolist(), probs.tolist(), strict=True):
        for k, (z, p) in enumerate(zip(row, weak, strict=True)):
            mask.append(p >= present[k] if p > 0.5 else 1 - p >= absent[k])
            if not mask[-1]:
                continue
            target = float(p > 0.5)
            if temperature is not None:
                target = p ** (1 / temperature) / (p ** (1 / temperature) + (1 - p) ** (1 / temperature))
            total += target * math.log1p(math.exp(-z)) + (1 - target) * math.log1p(math.exp(z))
    return total / (len(mask) if normalization == "batch" else max(sum(mask), 1)), mask


@pytest.mark.parametrize(
    ("threshold", "absent", "present"),
    [
        (0.9, [0.9] * 4, [0.9] * 4),
        (torch.tensor([0.6, 0.7, 0.8, 1.0]), [0.6, 0.7, 0.8, 1.0], [0.6, 0.7, 0.8, 1.0]),
        ({"absent": 0.99, "present": 0.7}, [0.99] * 4, [0.7] * 4),
        (
            {"absent": [0.9, 0.8, 0.7, 0.6], "present": [0.6, 0.7, 0.8, 0.9]},
            [0.9, 0.8, 0.7, 0.6],
            [0.6, 0.7, 0.8, 0.9],
        ),
    ],
)
@pytest.mark.parametrize("normalization", ["batch", "selected"])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_equation_of_findings_against_a_slow_loop(threshold, absent, present, normalization, temperature):
    logits, probs = draw_findings()
    expected, selected = slow_findings_loss(logits, probs, absent, present, normalization, temperature)
    loss, mask = pseudo_label_loss(
        logits, outcomes_of(probs), threshold, normalization, temperature, kind=Findings.of_size(4)
    )
    assert loss.item() == pytest.approx(expected)
    assert mask.shape == probs.shape
    assert mask.flatten().tolist() == [float(value) for value in selected]
    assert 0 < sum(selected) < len(selected)


def test_both_presence_and_absence_are_learnt_each_finding_by_itself():
    """Of 0.9, 0.05 and 0.6 the first is present, the second absent, the third open: ln 2 twice, over three pairs."""
    logits = torch.zeros(1, 3, requires_grad=True)
    loss, mask = pseudo_label_loss(logits, outcomes_of(torch.tensor([[0.9, 0.05, 0.6]])), 0.9, kind=Findings.of_size(3))
    loss.backward()
    assert mask.tolist() == [[1.0, 1.0, 0.0]]
    assert loss.item() == pytest.approx(2 * math.log(2) / 3)
    assert logits.grad.sign().tolist() == [[-1.0, 1.0, 0.0]]


def test_one_finding_is_a_choice_of_two_classes():
    logits, probs = draw_findings(findings=1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1), torch.cat([1 - probs, probs], dim=1)
    for options in ({}, {"normalization": "selected"}, {"temperature": 0.5}):
        loss, mask = pseudo_label_loss(logits, outcomes_of(probs), 0.8, kind=Findings.of_size(1), **options)
        expected, selected = pseudo_label_loss(*two, 0.8, **options)
        torch.testing.assert_close(loss, expected)
        assert torch.equal(mask.squeeze(1), selected)


def test_only_selected_pairs_get_a_gradient_and_without_one_the_loss_is_exactly_zero():
    logits, probs = draw_findings()
    probs.requires_grad_()
    loss, mask = pseudo_label_loss(logits, outcomes_of(probs), 0.8, temperature=0.5, kind=Findings.of_size(4))
    loss.backward()
    assert ((logits.grad != 0) == mask.bool()).all()
    assert probs.grad is None
    for normalization in ("batch", "selected"):
        loss, _ = pseudo_label_loss(logits, outcomes_of(probs), 1.0, normalization, kind=Findings.of_size(4))
        assert loss.item() == 0.0
        assert not torch.autograd.grad(loss, logits)[0].any()


def test_given_targets_of_findings_are_learnt():
    logits, probs = draw_findings()
    targets = probs.roll(1, dims=1)
    loss, mask = pseudo_label_loss(
        logits, outcomes_of(probs), 0.8, targets=outcomes_of(targets), kind=Findings.of_size(4)
    )
    expected = F.binary_cross_entropy_with_logits(logits, targets, weight=mask)
    torch.testing.assert_close(loss, expected)


def test_extreme_findings_stay_finite():
    logits = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss, _ = pseudo_label_loss(
        logits, outcomes_of(torch.tensor([[1.0, 0.0]])), 0.95, temperature=0.5, kind=Findings.of_size(2)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_confidence_is_that_of_the_more_probable_state():
    probs = torch.tensor([[0.9, 0.25, 0.5]])
    assert Classes().confidence(probs).tolist() == pytest.approx([0.9])
    torch.testing.assert_close(Findings().confidence(outcomes_of(probs)), torch.tensor([[0.9, 0.75, 0.5]]))


def test_a_low_threshold_lets_more_count_and_turns_no_pseudo_label_around():
    outcomes, kind = outcomes_of(torch.tensor([[0.4, 0.45, 0.1, 0.7]])), Findings.of_size(4)
    low, lower = ({"absent": absent, "present": 0.3} for absent in (0.95, 0.55))
    assert kind.confident(outcomes, kind.threshold(low)).tolist() == [[False, False, False, True]]
    assert kind.confident(outcomes, kind.threshold(lower)).tolist() == [[True, True, True, True]]
    assert kind.decide(outcomes).tolist() == [[0, 0, 0, 1]]
