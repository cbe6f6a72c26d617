"""Learning masks: a class for each pixel or voxel, of which some are unknown."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.unknown import UNKNOWN

EPSILON = 1e-5
"""Added to both sides of the Dice quotient: a class that is neither there nor predicted has the score 1."""


class MaskLoss(nn.Module):
    """Cross-entropy and Dice loss of masks, in equal parts unless asked otherwise; unknown voxels have no part in it.

    The Dice loss is the mean over the classes of ``1 - dice_scores(...)``, by default with sums over the whole batch
    and the background as one of the classes, as in the released code of SSAL (Zhao et al., EMBC 2022, arXiv
    2205.07021). The cross-entropy is the mean over the known voxels. A batch of which nothing is known has a loss of 0,
    with a graph. Each process takes the sums of its own batch.

    MONAI's `monai.losses.DiceCELoss` gives the same numbers where every voxel is known (``squared_pred``, ``batch``,
    both weights 0.5), but refuses -1, which only its Dice loss can ignore, since MONAI 1.6.

    Args:
        dice_weight: share of the Dice loss, in [0, 1]; the cross-entropy has the rest.
        batch: Dice sums over the batch; False: over each image, and the mean is over images of which anything is known.
        include_background: let class 0 be one of the classes of the Dice loss; the cross-entropy always has it.

    Raises:
        ValueError: if `dice_weight` is out of its range.
    """

    def __init__(self, dice_weight: float = 0.5, batch: bool = True, include_background: bool = True) -> None:
        super().__init__()
        if not 0.0 <= dice_weight <= 1.0:
            raise ValueError(f"`dice_weight` is a share and must be in [0, 1], got {dice_weight}.")
        self.dice_weight, self.batch, self.include_background = dice_weight, batch, include_background

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the scalar loss of logits ``(B, K, *spatial)`` and masks ``(B, *spatial)``: 0 to K - 1, -1 unknown.

        Raises:
            ValueError: if the masks have another size than the logits.
        """
        if label.shape != (len(logits), *logits.shape[2:]):
            raise ValueError(
                f"logits {tuple(logits.shape)} need a class for each voxel, masks of the shape "
                f"{(len(logits), *logits.shape[2:])}, got {tuple(label.shape)}; if each image has one class, the "
                "labels are of another kind."
            )
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        known = label != UNKNOWN
        cross_entropy = F.cross_entropy(logits, label, ignore_index=UNKNOWN, reduction="sum") / known.sum().clamp_min(1)
        scores = dice_scores(logits.softmax(dim=1), label, self.batch)
        losses = 1.0 - scores if self.include_background else 1.0 - scores[..., 1:]
        if self.batch:
            dice = losses.mean()  # 1 - eps / eps = 0 where nothing is known
        else:
            dice = losses.mean(dim=1).sum() / known.flatten(1).any(dim=1).sum().clamp_min(1)
        return (1.0 - self.dice_weight) * cross_entropy + self.dice_weight * dice


def dice_scores(probs: Tensor, label: Tensor, batch: bool = True) -> Tensor:
    """Soft Dice ``(2 sum p t + eps) / (sum p^2 + sum t^2 + eps)`` of each class over the known voxels.

    Squares in the denominator as in Milletari et al., 3DV 2016, https://arxiv.org/abs/1606.04797; eps is 1e-5.

    Args:
        probs: ``(B, K, *spatial)``.
        label: masks ``(B, *spatial)``, 0 to K - 1, -1 unknown.
        batch: sums over the whole batch; False: over each image.

    Returns:
        ``(K,)``, or ``(B, K)`` of each image.
    """
    known = (label != UNKNOWN).unsqueeze(1)
    classes = torch.arange(probs.shape[1], device=label.device).view(1, -1, *[1] * (label.ndim - 1))
    truth = (label.unsqueeze(1) == classes).to(probs.dtype)  # 0 everywhere where unknown
    probs = probs * known
    axes = [axis for axis in range(probs.ndim) if axis != 1 and (batch or axis != 0)]
    overlap, sizes = (probs * truth).sum(axes), (probs.square() + truth).sum(axes)  # 0 and 1 are their own squares
    return (2.0 * overlap + EPSILON) / (sizes + EPSILON)
