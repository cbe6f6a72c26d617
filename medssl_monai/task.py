"""What the outputs of a classifier mean: one class per image, or each finding for itself."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Task = Literal["multiclass", "multilabel"]
"""``multiclass``: K classes, of which each image has one; ``multilabel``: K findings, each present or absent."""

TASKS: tuple[Task, ...] = ("multiclass", "multilabel")

UNKNOWN = -1
"""Label of a finding that nobody looked for, in a multi-hot label of 1 (present), 0 (absent) and this."""


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Probabilities ``(B, K)`` in float32: softmax over the classes, or the sigmoid of each finding."""
    logits = logits.float()
    return logits.sigmoid() if task == "multilabel" else logits.softmax(dim=1)
