"""What the outputs of a network mean: one class per image, each finding for itself, or one class per voxel."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Task = Literal["multiclass", "multilabel", "segmentation"]
"""``multiclass``: K classes, of which each image has one; ``multilabel``: K findings, each present or absent;
``segmentation``: K classes, of which each pixel or voxel has one, class 0 being the background."""

TASKS: tuple[Task, ...] = ("multiclass", "multilabel", "segmentation")

UNKNOWN = -1
"""Label of what nobody looked at: a finding in a multi-hot label of 1 (present), 0 (absent) and this; a voxel."""


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Probabilities in float32, of the shape of `logits`: softmax over axis 1, or the sigmoid of each finding.

    Args:
        logits: ``(B, K)``, or ``(B, K, *spatial)`` for segmentation.
        task: what they mean.
    """
    logits = logits.float()
    return logits.sigmoid() if task == "multilabel" else logits.softmax(dim=1)
