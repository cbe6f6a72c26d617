"""What MultiMix adds to learn masks by (Haque et al., ISBI 2021, https://arxiv.org/abs/2010.14731)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.unknown import UNKNOWN

Comparison = Literal["voxel", "spatial"]


class SmoothDiceLoss(nn.Module):
    """Dice loss of each image and foreground class, without squares and smoothed by 1 (MultiMix's code).

    ``1 - (2 sum p t + 1) / (sum p + sum t + 1)``, MONAI's `monai.losses.DiceLoss`, with the mean over the classes and
    over the images of which anything is known. `MaskLoss` has squares, sums over the batch and hardly any smoothing;
    here a few false voxels in an image without foreground cost little instead of everything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            smooth_nr=1.0,
            smooth_dr=1.0,
            reduction="none",
            ignore_index=UNKNOWN,
        )

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the scalar loss of logits ``(B, K, *spatial)`` and masks ``(B, *spatial)``: 0 to K - 1, -1 unknown.

        Raises:
            ValueError: if the masks have another size than the logits.
        """
        if label.shape != (len(logits), *logits.shape[2:]):
            raise ValueError(
                f"logits {tuple(logits.shape)} need masks of the shape {(len(logits), *logits.shape[2:])}, got "
                f"{tuple(label.shape)}."
            )
        losses = self.dice(logits.to(torch.promote_types(logits.dtype, torch.float32)), label.unsqueeze(1))
        known = (label != UNKNOWN).flatten(1).any(dim=1)
        return losses.flatten(1).mean(dim=1).sum() / known.sum().clamp_min(1)  # exactly 0 where nothing is known


class MaskConsistency(nn.Module):
    """Kullback-Leibler divergence of the predictions on unlabeled images from those on labeled ones.

    MultiMix wants the masks of both to be distributed alike. It compares the i-th labeled image with the i-th unlabeled
    one, two images that have nothing to do with each other but the organ; of batches of unequal size, the smaller is
    gone through again. Its released term is identically 0, since it takes a softmax over one channel; these are ours.

    Args:
        comparison: ``voxel``: the divergence of the classes of each voxel, which for two classes is that of two
            Bernoulli distributions, and its mean over the voxels; ``spatial``: where in the image a foreground class
            is, a softmax over its voxels, and the mean over images and classes. The spatial one knows nothing of how
            much there is of a class, and its size grows with what stands out.
        detach: let the labeled predictions be constants, which the unlabeled ones follow; the released code does not.

    Raises:
        ValueError: if `comparison` is neither.
    """

    def __init__(self, comparison: Comparison = "voxel", detach: bool = False) -> None:
        super().__init__()
        if comparison not in get_args(Comparison):
            raise ValueError(f"`comparison` must be one of {list(get_args(Comparison))}, got {comparison!r}.")
        self.comparison, self.detach = comparison, detach

    def forward(self, labeled: Tensor, unlabeled: Tensor) -> Tensor:
        """Return the loss, a scalar of at least 0, of logits ``(B, K, *spatial)`` and ``(B', K, *spatial)``.

        Raises:
            ValueError: if they differ in classes or size.
        """
        if labeled.shape[1:] != unlabeled.shape[1:]:
            raise ValueError(
                f"voxels are compared one by one, and logits {tuple(labeled.shape)} and {tuple(unlabeled.shape)} "
                "differ in classes or size; crop or resize the images of both streams alike."
            )
        pairs = max(len(labeled), len(unlabeled))
        log_p, log_q = (
            self._log_probs(_repeated(logits, pairs))
            for logits in (labeled.detach() if self.detach else labeled, unlabeled)
        )
        divergence = F.kl_div(log_q, log_p, log_target=True, reduction="none")
        return divergence.sum(dim=1 if self.comparison == "voxel" else 2).mean()

    def _log_probs(self, logits: Tensor) -> Tensor:
        """Of classes, axis 1; or of the places of each foreground class, axis 2."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.comparison == "voxel":
            return logits.log_softmax(dim=1)
        # The odds against the background, since logits as such mean nothing: a network may add to all of a voxel's.
        return (logits[:, 1:] - logits[:, :1]).flatten(2).log_softmax(dim=2)


def _repeated(rows: Tensor, count: int) -> Tensor:
    """`count` rows, from the start again where there are fewer."""
    return rows if len(rows) == count else rows[torch.arange(count, device=rows.device) % len(rows)]
