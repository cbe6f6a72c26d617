"""Dice and consistency of MultiMix."""

import itertools
import math

import pytest
import torch
from parity.published import multimix_consistency
from torch.nn import functional as F

from medssl_monai.losses import MaskConsistency, SmoothDiceLoss

SIZES = {"2-D": (3, 4, 5, 6), "3-D": (2, 3, 4, 3, 5)}


@pytest.fixture(params=SIZES)
def draw(request):
    """Logits of labeled and of unlabeled images, and masks of which a third is unknown."""
    size = SIZES[request.param]
    g = torch.Generator().manual_seed(0)
    labeled, unlabeled = (2 * torch.randn(size, generator=g, dtype=torch.double).requires_grad_() for _ in range(2))
    return labeled, unlabeled, torch.randint(-1, size[1], (size[0], *size[2:]), generator=g)


# ---- Dice ------------------------------------------------------------------------------------------------------------


def slow_dice(logits, label):
    """Voxel by voxel, of each image and foreground class."""
    probs, losses = logits.detach().softmax(1), []
    for image, k in itertools.product(range(len(logits)), range(1, logits.shape[1])):
        overlap = size = 0.0
        for place in itertools.product(*map(range, label.shape[1:])):
            truth = int(label[(image, *place)])
            if truth != -1:
                p = float(probs[(image, k, *place)])
                overlap, size = overlap + p * (truth == k), size + p + (truth == k)
        losses.append(1 - (2 * overlap + 1) / (size + 1))
    return sum(losses) / len(losses)


def test_dice_against_a_slow_loop(draw):
    logits, _, label = draw
    loss = SmoothDiceLoss()(logits, label)
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(slow_dice(logits, label), rel=1e-12)


def test_dice_of_two_voxels_by_hand():
    """Lesion at 3/4, and none at 1/2: 1 - (3/2 + 1) / (5/4 + 1 + 1)."""
    logits = torch.tensor([[[1 / 4, 1 / 2]], [[3 / 4, 1 / 2]]]).log().unsqueeze(0).double()
    assert SmoothDiceLoss()(logits, torch.tensor([[[1, 0]]])).item() == pytest.approx(1 - 2.5 / 3.25)


def test_dice_of_two_classes_is_that_of_a_single_logit(draw):
    logits, _, label = draw
    single, truth = logits[:, :1], (label > 0).double().unsqueeze(1)
    probs, axes = single.sigmoid(), list(range(2, single.ndim))
    expected = 1 - (2 * (probs * truth).sum(axes) + 1) / (probs.sum(axes) + truth.sum(axes) + 1)
    both = torch.cat([torch.zeros_like(single), single], dim=1)
    torch.testing.assert_close(SmoothDiceLoss()(both, (label > 0).long()), expected.mean())


def test_unknown_voxels_have_no_part_in_dice_and_unknown_images_do_not_dilute_it(draw):
    logits, _, label = draw
    loss = SmoothDiceLoss()(logits, label)
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert bool(((gradient != 0).any(dim=1) == (label != -1)).all())
    more = SmoothDiceLoss()(torch.cat([logits, logits]), torch.cat([label, torch.full_like(label, -1)]))
    torch.testing.assert_close(more, loss)


def test_dice_of_nothing_known_is_exactly_zero_with_a_gradient_of_zero(draw):
    logits, _, label = draw
    loss = SmoothDiceLoss()(logits, torch.full_like(label, -1))
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


def test_a_perfect_prediction_costs_nothing_and_an_absent_class_little():
    label = torch.randint(0, 2, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = 200.0 * F.one_hot(label, 3).movedim(-1, 1).double()  # class 2 is nowhere
    assert SmoothDiceLoss()(logits, label).item() == pytest.approx(0.0, abs=1e-9)
    logits[:, 2, 0, 0] = 400.0  # one false voxel: 1 - 1 / 2, where nearly no smoothing would have 1
    label[:, 0, 0] = 0
    losses = SmoothDiceLoss()(logits, label)
    assert losses.item() == pytest.approx(0.25, abs=1e-9)


def test_dice_of_half_precision_is_summed_in_float32():
    logits = torch.zeros(2, 2, 256, 256, dtype=torch.float16)
    loss = SmoothDiceLoss()(logits, torch.ones(2, 256, 256, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 1 / 1.5, abs=1e-4)


def test_dice_refuses_classes_of_images():
    with pytest.raises(ValueError, match=r"need masks of the shape \(2, 4, 4\), got \(2,\)"):
        SmoothDiceLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long))


# ---- consistency -----------------------------------------------------------------------------------------------------


def slow_divergence(labeled, unlabeled, comparison):
    if comparison == "voxel":
        p, q = (logits.detach().softmax(1).movedim(1, -1).flatten(0, -2) for logits in (labeled, unlabeled))
    else:
        p, q = ((logits[:, 1:] - logits[:, :1]).detach().flatten(2).flatten(0, 1) for logits in (labeled, unlabeled))
        p, q = p.softmax(1), q.softmax(1)
    rows = [
        sum(a * math.log(a / b) for a, b in zip(*row, strict=True)) for row in zip(p.tolist(), q.tolist(), strict=True)
    ]
    return sum(rows) / len(rows)


@pytest.mark.parametrize("comparison", ["voxel", "spatial"])
def test_divergence_against_a_slow_loop(draw, comparison):
    labeled, unlabeled, _ = draw
    loss = MaskConsistency(comparison)(labeled, unlabeled)
    assert loss.item() == pytest.approx(slow_divergence(labeled, unlabeled, comparison), rel=1e-9)
    assert loss.item() > 0


@pytest.mark.parametrize("comparison", ["voxel", "spatial"])
def test_equal_predictions_have_no_divergence_and_no_gradient(draw, comparison):
    logits, _, _ = draw
    other = (logits + torch.linspace(-3, 3, logits[0, 0].numel()).view(logits[0, 0].shape)).detach().requires_grad_()
    loss = MaskConsistency(comparison)(logits, other)  # the softmax over classes is the same
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, (logits, other)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_of_two_classes_it_is_bernoullis(draw):
    labeled, unlabeled = ((logits[:, 1] - logits[:, 0]).sigmoid() for logits in draw[:2])
    expected = labeled * (labeled / unlabeled).log() + (1 - labeled) * ((1 - labeled) / (1 - unlabeled)).log()
    torch.testing.assert_close(MaskConsistency()(draw[0][:, :2], draw[1][:, :2]), expected.mean())


@pytest.mark.parametrize("comparison", ["voxel", "spatial"])
@pytest.mark.parametrize("detach", [True, False])
def test_gradients_and_who_follows_whom(draw, comparison, detach):
    labeled, unlabeled = (logits[:1, :3, :2, :2].detach().requires_grad_() for logits in draw[:2])
    loss = MaskConsistency(comparison, detach)
    assert torch.autograd.gradcheck(lambda q: loss(labeled, q), (unlabeled,))
    if not detach:
        assert torch.autograd.gradcheck(lambda p: loss(p, unlabeled), (labeled,))
    loss(labeled, unlabeled).backward()
    assert (labeled.grad is None) == detach
    assert bool((unlabeled.grad.abs() > 0).any())


@pytest.mark.parametrize("comparison", ["voxel", "spatial"])
def test_the_smaller_batch_is_gone_through_again(draw, comparison):
    labeled, unlabeled, _ = draw
    loss = MaskConsistency(comparison)
    torch.testing.assert_close(loss(labeled[:1], unlabeled), loss(labeled[:1].expand_as(unlabeled), unlabeled))
    torch.testing.assert_close(loss(labeled, unlabeled[:1]), loss(labeled, unlabeled[:1].expand_as(labeled)))


@pytest.mark.parametrize("comparison", ["voxel", "spatial"])
def test_certain_predictions_and_half_precision_stay_finite(comparison):
    labeled = torch.tensor([-60.0, 60.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4).half().requires_grad_()
    unlabeled = (-labeled.detach()).requires_grad_()
    loss = MaskConsistency(comparison)(labeled, unlabeled)
    assert loss.dtype == torch.float32
    for value in (loss, *torch.autograd.grad(loss, (labeled, unlabeled))):
        assert bool(value.isfinite().all())
    if comparison == "voxel":
        assert loss.item() == pytest.approx(120.0)


def test_the_released_term_is_zero_whatever_the_masks_are(draw):
    """Trap 1, and what it would be with more channels than one."""
    labeled, unlabeled = (logits.detach()[:, 1:2].requires_grad_() for logits in draw[:2])
    loss = multimix_consistency(labeled, unlabeled)
    assert loss.item() == 0.0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (labeled, unlabeled)))
    classes = draw[0].shape[1]
    torch.testing.assert_close(classes * multimix_consistency(*draw[:2]), MaskConsistency()(*draw[:2]))


def test_unlike_sizes_and_comparisons_are_refused():
    with pytest.raises(ValueError, match=r"compared one by one, .* \(1, 2, 4, 4\) and \(1, 2, 4, 8\) differ"):
        MaskConsistency()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 8))
    with pytest.raises(ValueError, match=r"`comparison` must be one of \['voxel', 'spatial'\], got 'pixel'"):
        MaskConsistency("pixel")
