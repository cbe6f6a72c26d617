"""Cross-entropy of findings that are present, absent or unknown."""

import math

import pytest
import torch
from torch.nn import functional as F

from medssl_monai.losses import FindingCrossEntropy


def draw(n=8, findings=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, findings, generator=g, dtype=torch.double)
    return logits.requires_grad_(), torch.randint(-1, 2, (n, findings), generator=g)


def test_equation_against_a_slow_loop():
    logits, label = draw()
    losses = []
    for row, truth in zip(logits.tolist(), label.tolist(), strict=True):
        for value, y in zip(row, truth, strict=True):
            p = 1 / (1 + math.exp(-value))
            if y != -1:
                losses.append(-math.log(p if y else 1 - p))
    assert 0 < len(losses) < label.numel()
    loss = FindingCrossEntropy()(logits, label)
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_three_findings_by_hand():
    """Present at 3/4 and absent at 1/4 cost ln 4/3 each; what is unknown costs nothing, however it is predicted."""
    logits = torch.tensor([[0.75, 0.25, 0.999]]).logit()
    assert FindingCrossEntropy()(logits, torch.tensor([[1, 0, -1]])).item() == pytest.approx(math.log(4 / 3))


def test_where_all_is_known_it_is_the_binary_cross_entropy():
    logits, label = draw()
    label = label.clamp_min(0)
    expected = F.binary_cross_entropy_with_logits(logits, label.double())
    torch.testing.assert_close(FindingCrossEntropy()(logits, label), expected)


def test_unknown_findings_have_no_gradient_and_all_others_have_one():
    logits, label = draw()
    FindingCrossEntropy()(logits, label).backward()
    assert ((logits.grad != 0) == (label != -1)).all()


def test_images_of_which_nothing_is_known_do_not_dilute_the_loss():
    logits, label = draw()
    more, nothing = torch.cat([logits, logits]), torch.full_like(label, -1)
    criterion = FindingCrossEntropy()
    torch.testing.assert_close(criterion(more, torch.cat([label, nothing])), criterion(logits, label))


def test_where_nothing_is_known_the_loss_is_exactly_zero_with_a_gradient_of_zero():
    logits, label = draw()
    loss = FindingCrossEntropy()(logits, torch.full_like(label, -1))
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    loss = FindingCrossEntropy()(logits, torch.tensor([[0, 1, -1]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(logits.grad).all()


def test_a_half_precision_step_computes_in_single_precision():
    logits, label = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FindingCrossEntropy()(logits.bfloat16(), label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, FindingCrossEntropy()(logits.bfloat16().double(), label).float())


@pytest.mark.parametrize("label", [torch.tensor([0, 1]), torch.zeros(2, 4).long()])
def test_labels_that_do_not_fit_the_findings_are_refused(label):
    with pytest.raises(ValueError, match=r"logits \(2, 3\) need as many labels, 1, 0 or -1 .* of another kind"):
        FindingCrossEntropy()(torch.zeros(2, 3), label)
