"""Exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class EMATeacher(nn.Module):
    """A frozen copy of a network that follows it slowly.

    Parameters are averaged; buffers (batch-norm statistics) are the student's, as in the released code of FixMatch
    and BoostMIS. The teacher is always in evaluation mode: averaged weights with the student's running statistics.

    Args:
        student: network to copy.
        decay: share of the old teacher kept at each update, in [0, 1); 0.99 keeps 99 %.
            (`ignite.handlers.EMAHandler` calls ``1 - decay`` its *momentum*.)
        warmup: keep at most ``(1 + step) / (10 + step)``, so that a short run is not dominated by its random start.

    Raises:
        ValueError: if `decay` is not in [0, 1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` is the share of the old teacher to keep and must be in [0, 1), got {decay}.")
        self.decay, self.warmup = decay, warmup
        self.network = deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in evaluation mode, whatever the method around the teacher does."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def reset(self, student: nn.Module) -> None:
        """Become a copy of `student` again."""
        self.network.load_state_dict(student.state_dict())

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Move towards `student`, in place and without synchronisation; `step`: optimizer steps before this one."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), 1.0 - decay)
        kept = list(self.network.buffers())
        if kept:
            torch._foreach_copy_(kept, list(student.buffers()))
