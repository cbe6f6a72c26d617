"""Pseudo-label loss and distribution alignment."""

import math

import pytest
import torch
from torch.nn import functional as F

from medssl_monai.losses import DistributionAlignment, pseudo_label_loss


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


def test_threshold_may_differ_by_sample():
    logits, probs = draw(n=3)
    _, mask = pseudo_label_loss(logits, probs, torch.tensor([0.0, 1.0, 0.0]))
    assert mask.tolist() == [1.0, 0.0, 1.0]


def test_extreme_logits_stay_finite():
    probs = torch.tensor([[1.0, 0.0]])
    loss, _ = pseudo_label_loss(torch.tensor([[-1e4, 1e4]]), probs, 0.95, temperature=0.5)
    assert torch.isfinite(loss)


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
