"""Methods on masks: every voxel as an image of its own, in 2-D and 3-D."""

import pytest
import torch
from support import pseudo_label_loss
from torch import nn

from medssl_monai.kinds import Masks
from medssl_monai.losses import DistributionAlignment, MaskLoss
from medssl_monai.methods import (
    TEAR,
    AdaptiveThreshold,
    BoostMIS,
    CrossPseudoSupervision,
    FixMatch,
    MeanTeacher,
    Supervised,
)
from medssl_monai.schedules import constant

SIZES = [(4, 5), (3, 4, 2)]
K = 3


class Logits(nn.Module):
    """A network whose images are their own logits."""

    def __init__(self, dims):
        super().__init__()
        self.layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(K, K, 1, bias=False).double()
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(K).view(K, K, *[1] * dims))

    def forward(self, images):
        return self.layer(images)


def make_batch(size, labeled=2, unlabeled=3):
    g = torch.Generator().manual_seed(0)
    image, weak, strong = (
        3 * torch.randn(n, K, *size, generator=g, dtype=torch.double) for n in (labeled, unlabeled, unlabeled)
    )
    label = torch.randint(-1, K, (labeled, *size), generator=g)
    return {"labeled": {"image": image, "label": label}, "unlabeled": {"weak": weak, "strong": strong}}


def as_images(logits):
    """Every voxel as an image: ``(B * V, K)``."""
    return logits.movedim(1, -1).reshape(-1, K)


def as_classes(batch):
    """The batch with every voxel as an image, known ones only of those that are labeled."""
    label = batch["labeled"]["label"].flatten()
    image = as_images(batch["labeled"]["image"])[label >= 0]
    unlabeled = {name: as_images(view) for name, view in batch["unlabeled"].items()}
    return {"labeled": {"image": image, "label": label[label >= 0]}, "unlabeled": unlabeled}


MAKE = {
    "supervised": lambda net, **kw: Supervised(net, **kw),
    "fixmatch": lambda net, **kw: FixMatch(net, threshold=0.9, weight=0.5, **kw),
    "mean_teacher": lambda net, **kw: MeanTeacher(net, weight=constant(2.0), **kw),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MAKE)
def test_a_mask_is_as_many_images_as_it_has_voxels(name, size):
    batch = make_batch(size)
    masks = MAKE[name](Logits(len(size)), kind=Masks.of_size(K), criterion=MaskLoss(dice_weight=0.0))(batch)
    classes = MAKE[name](nn.Identity())(as_classes(batch))
    assert masks.keys() == classes.keys()
    for key, value in masks.items():
        expected = classes[key] if classes[key].ndim == 0 else classes[key].view(3, *size, *classes[key].shape[1:])
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*MAKE, "cross_pseudo"])
def test_masks_are_learnt_by_cross_entropy_and_dice_unless_asked_otherwise(name, size):
    batch = make_batch(size)
    make = {**MAKE, "cross_pseudo": lambda net, **kw: CrossPseudoSupervision(net, **kw)}[name]
    method = make(Logits(len(size)), kind=Masks.of_size(K))
    output = method(batch)
    networks = [method.network, method.second] if name == "cross_pseudo" else [method.network]
    expected = sum(MaskLoss()(net(batch["labeled"]["image"]).float(), batch["labeled"]["label"]) for net in networks)
    torch.testing.assert_close(output.get("supervised", output["loss"]), expected, check_dtype=False)


def test_selected_voxels_by_hand():
    """Of four voxels two reach 0.7, and their strong views give them 1/2 and 1/4."""
    weak = torch.tensor([[0.8, 0.6], [0.1, 0.5]])
    strong = torch.tensor([[0.5, 0.5], [0.75, 0.5]])
    strong, weak = torch.stack([1 - strong, strong]).unsqueeze(0), torch.stack([1 - weak, weak], dim=-1).unsqueeze(0)
    kind = Masks.of_size(2)
    loss, mask = pseudo_label_loss(strong.log(), weak, 0.7, kind=kind)
    assert mask.tolist() == [[[1.0, 0.0], [1.0, 0.0]]]
    assert loss.item() == pytest.approx((torch.tensor(2.0).log() + torch.tensor(4.0).log()).item() / 4)
    loss, _ = pseudo_label_loss(strong.log(), weak, 0.7, "selected", kind=kind)
    assert loss.item() == pytest.approx((torch.tensor(2.0).log() + torch.tensor(4.0).log()).item() / 2)
    assert kind.confident(weak, kind.threshold(0.7)).tolist() == [[[True, False], [True, False]]]
    torch.testing.assert_close(kind.confidence(weak), torch.tensor([[[0.8, 0.6], [0.9, 0.5]]]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"targets": True}])
def test_soft_targets_are_of_each_voxel(size, options):
    batch = make_batch(size)["unlabeled"]
    probs, strong = batch["weak"].softmax(1), batch["strong"]
    outcomes = probs.movedim(1, -1)
    rows = {**options, **({"targets": as_images(probs.flip(1))} if "targets" in options else {})}
    options = {**options, **({"targets": outcomes.flip(-1)} if "targets" in options else {})}
    expected, _ = pseudo_label_loss(as_images(strong), as_images(probs), 0.6, **rows)
    loss, _ = pseudo_label_loss(strong, outcomes, 0.6, **options, kind=Masks.of_size(K))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MAKE)
def test_voxels_that_nobody_labeled_change_nothing_but_what_is_unlabeled(name, size):
    batch = make_batch(size)
    method = MAKE[name](Logits(len(size)), kind=Masks.of_size(K))
    before = method(batch)
    unknown = (batch["labeled"]["label"] == -1).unsqueeze(1)
    assert unknown.any()
    batch["labeled"]["image"] = torch.where(unknown, -5.0, batch["labeled"]["image"])
    torch.testing.assert_close(method(batch), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda net, kind: BoostMIS(net, AdaptiveThreshold(4, (K,)), kind=kind),
        lambda net, kind: TEAR(net, kind=kind),
        lambda net, kind: FixMatch(net, alignment=DistributionAlignment([0.5, 0.5]), kind=kind),
    ],
)
def test_what_keeps_a_row_for_each_sample_refuses_masks_and_says_what_to_take(make):
    with pytest.raises(ValueError, match=r"masks have no fixed number of cases.*or take a method without it, such as"):
        make(Logits(2), Masks.of_size(K))


def test_a_threshold_for_each_class_of_voxels():
    kind = Masks.of_size(K)
    outcomes = torch.tensor([[[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]])
    assert kind.confident(outcomes, kind.threshold([0.9, 0.7, 0.9])).tolist() == [[False, True]]
