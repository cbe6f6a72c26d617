"""Cross-entropy and Dice of masks, some of whose voxels nobody labeled."""

import itertools
import math

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from medssl_monai.losses import MaskLoss, dice_scores

SIZES = {"2-D": (3, 4, 5, 6), "3-D": (2, 3, 4, 3, 5)}


@pytest.fixture(params=SIZES)
def draw(request):
    """Logits of K classes and masks of which a third is unknown."""
    size = SIZES[request.param]
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(size, generator=g, dtype=torch.double)
    return logits.requires_grad_(), torch.randint(-1, size[1], (size[0], *size[2:]), generator=g)


def slow_loss(logits, label, dice_weight, batch, include_background):
    """Voxel by voxel."""
    probs, entropies = logits.detach().softmax(1), []
    classes = logits.shape[1]
    sums = {}
    for place in itertools.product(*map(range, label.shape)):
        truth = int(label[place])
        if truth == -1:
            continue
        row = [float(probs[(place[0], k, *place[1:])]) for k in range(classes)]
        entropies.append(-math.log(row[truth]))
        for k, p in enumerate(row):
            overlap, size = sums.setdefault((0 if batch else place[0], k), [0.0, 0.0])
            sums[0 if batch else place[0], k] = [overlap + p * (k == truth), size + p**2 + (k == truth) ** 2]
    losses = [
        1 - (2 * overlap + 1e-5) / (size + 1e-5)
        for (_, k), (overlap, size) in sums.items()
        if k > 0 or include_background
    ]
    return (1 - dice_weight) * sum(entropies) / len(entropies) + dice_weight * sum(losses) / len(losses)


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("dice_weight", [0.0, 0.5, 1.0])
def test_equation_against_a_slow_loop(draw, dice_weight, batch, include_background):
    loss = MaskLoss(dice_weight, batch, include_background)(*draw)
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(slow_loss(*draw, dice_weight, batch, include_background), rel=1e-12)


def test_two_voxels_by_hand():
    """Both are lesion, at 3/4 and 1/2: the background scores 0, the lesion 2 (5/4) / (9/16 + 1/4 + 2) = 40/45."""
    logits = torch.tensor([[[1 / 4, 1 / 2]], [[3 / 4, 1 / 2]]]).log().unsqueeze(0).double()
    label = torch.tensor([[[1, 1]]])
    torch.testing.assert_close(
        dice_scores(logits.softmax(1), label), torch.tensor([0.0, 40 / 45]).double(), atol=1e-4, rtol=0
    )
    expected = (math.log(4 / 3) + math.log(2)) / 4 + (1 + 5 / 45) / 4
    assert MaskLoss()(logits, label).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch", [True, False])
def test_where_all_is_known_it_is_what_monai_computes(draw, batch):
    logits, label = draw
    label = label.clamp_min(0)
    options = {"to_onehot_y": True, "softmax": True, "squared_pred": True, "lambda_dice": 0.5, "lambda_ce": 0.5}
    expected = DiceCELoss(**options, batch=batch)(logits, label.unsqueeze(1))
    torch.testing.assert_close(MaskLoss(batch=batch)(logits, label), expected)


def test_monai_has_no_unknown_voxels():
    """The reason for this loss; if it fails, MONAI's may do."""
    logits, label = torch.zeros(1, 2, 3, 3), torch.full((1, 1, 3, 3), -1)
    with pytest.raises((RuntimeError, IndexError)):
        DiceCELoss(to_onehot_y=True, softmax=True)(logits, label)


def test_unknown_voxels_change_nothing_and_have_no_gradient(draw):
    logits, label = draw
    loss = MaskLoss()(logits, label)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert ((gradient != 0).any(dim=1) == (label != -1)).all()
    other = torch.where((label == -1).unsqueeze(1), 7 * torch.randn_like(logits), logits)
    torch.testing.assert_close(MaskLoss()(other, label), loss, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", [True, False])
def test_images_of_which_nothing_is_known_do_not_dilute_the_loss(draw, batch):
    logits, label = draw
    criterion = MaskLoss(batch=batch)
    more = criterion(torch.cat([logits, logits]), torch.cat([label, torch.full_like(label, -1)]))
    torch.testing.assert_close(more, criterion(logits, label))


@pytest.mark.parametrize("batch", [True, False])
def test_where_nothing_is_known_the_loss_is_exactly_zero_with_a_gradient_of_zero(draw, batch):
    logits, label = draw
    loss = MaskLoss(batch=batch)(logits, torch.full_like(label, -1))
    assert loss.item() == 0.0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


def test_a_perfect_prediction_costs_nothing_also_of_a_class_that_is_not_there(draw):
    _, label = draw
    label = torch.where(label == 2, 1, label)  # class 2 is absent, and there are more classes than there were
    logits = 200.0 * F.one_hot(label.clamp_min(0), 5).movedim(-1, 1).double()
    assert MaskLoss()(logits, label).item() == pytest.approx(0.0, abs=1e-9)


def test_half_precision_is_summed_in_float32():
    logits = torch.zeros(2, 2, 256, 256, dtype=torch.float16)
    loss = MaskLoss()(logits, torch.zeros(2, 256, 256, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2) / 2 + (0.2 + 1) / 4, abs=1e-5)  # 1 - 1 / (1/4 + 1), and 1


def test_classes_of_images_and_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"masks of the shape \(2, 4, 4\), got \(2,\); if each image has one class"):
        MaskLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`dice_weight` is a share and must be in \[0, 1\], got 1.5"):
        MaskLoss(dice_weight=1.5)
