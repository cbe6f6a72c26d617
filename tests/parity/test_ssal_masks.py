"""SSAL's loss and overlap of masks against the golden vectors; sizes come from the file."""

import numpy as np
import torch

from medssl_monai.losses import MaskLoss, dice_scores
from medssl_monai.metrics import case_scores

FILE = "ssal/ssal"


def only(g, prefix):
    """Each test answers for the keys of one group; test_ssal.py has the others."""
    g.unused = set(g.keys(prefix))
    assert g.unused


def test_loss_and_its_gradient(golden):
    g = golden(FILE)
    only(g, "loss_")
    logits = torch.from_numpy(g.input("loss_logits")).requires_grad_()
    label = torch.from_numpy(g.input("loss_target")).long()
    loss = MaskLoss()(logits, label)
    g.compare("loss_total", loss, atol=1e-12)
    g.compare("loss_grad", torch.autograd.grad(loss, logits)[0], atol=1e-12)
    g.compare("loss_dice_per_class", dice_scores(logits.detach().softmax(dim=1), label), atol=1e-12)
    g.compare("loss_ce", MaskLoss(dice_weight=0.0)(logits, label), atol=1e-12)
    dice = MaskLoss(dice_weight=1.0)(logits, label)
    g.compare("loss_dice", dice, atol=1e-12)
    g.compare("loss_dice_official", dice)


def test_voxels_that_nobody_labeled_are_left_out_of_the_loss(golden):
    """The same numbers as of half of the voxels alone."""
    g = golden(FILE)
    g.unused = set()
    logits, label = torch.from_numpy(g.input("loss_logits")), torch.from_numpy(g.input("loss_target")).long()
    half = label.shape[-1] // 2
    partial = label.clone()
    partial[..., half:] = -1
    torch.testing.assert_close(MaskLoss()(logits, partial), MaskLoss()(logits[..., :half], label[..., :half]))


def test_overlap_of_cases(golden):
    """Two empty masks are a matter of choice: ours is 1, the released code's is not a number."""
    g = golden(FILE)
    only(g, "met_")
    found, there = (torch.from_numpy(g.input(f"met_{name}")).long() for name in ("pred", "gt"))
    scores = case_scores(found, there, 2, empty=np.nan)
    g.compare("met_dice_official_numpy2", scores.dice[:, 0])
    both_empty = ~(scores.truth | scores.predicted)[:, 0]
    assert both_empty.any()
    ours = case_scores(found, there, 2)
    assert (ours.dice[both_empty] == 1.0).all()
    assert (np.isfinite(ours.hd95) == (scores.truth & scores.predicted)).all()
