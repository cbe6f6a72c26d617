"""Exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class EMATeacher(nn.Module):
    """A frozen copy of a network that follows it slowly.

    Parameters and batch-norm statistics are averaged. The released code of FixMatch and BoostMIS copies the student's
    statistics instead; they are those of its last ten or so batches, do not belong to weights averaged over far more,
    and let accuracy jump between 0.5 and 0.9 from one epoch to the next where labels are few
    (``benchmarks/boostmis/README.md``). The first updates keep at most ``(1 + step) / (10 + step)``, so that a short
    run is not dominated by its random start.

    Args:
        student: network to copy.
        decay: share of the old teacher kept at each update, in [0, 1); 0.99 keeps 99 %.
            (`ignite.handlers.EMAHandler` calls ``1 - decay`` its *momentum*.)
        always_eval: stay in evaluation mode. False: follow the mode of the module around it; in training mode BatchNorm
            then takes the statistics of the batch and a forward pass moves the running ones.

    Raises:
        ValueError: if `decay` is not in [0, 1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.999, always_eval: bool = True) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` is the share of the old teacher to keep and must be in [0, 1), got {decay}.")
        self.decay, self.always_eval = decay, always_eval
        self.network = deepcopy(student).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EMATeacher:
        """Stay in evaluation mode, whatever the method around the teacher does, unless asked to follow it."""
        return super().train(mode and not self.always_eval)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def reset(self, student: nn.Module) -> None:
        """Become a copy of `student` again."""
        self.network.load_state_dict(student.state_dict())

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Move towards `student`, in place and without synchronisation; `step`: optimizer steps before this one."""
        decay = min(self.decay, (1 + step) / (10 + step))
        buffers = list(zip(self.network.buffers(), student.buffers(), strict=True))
        averaged = [pair for pair in buffers if pair[0].is_floating_point()]
        counters = [pair for pair in buffers if not pair[0].is_floating_point()]
        kept = [*self.network.parameters(), *(old for old, _ in averaged)]
        torch._foreach_lerp_(kept, [*student.parameters(), *(new for _, new in averaged)], 1.0 - decay)
        if counters:
            torch._foreach_copy_([old for old, _ in counters], [new for _, new in counters])


class MomentumEncoder(EMATeacher):
    """The key network of contrastive learning (He et al., CVPR 2020, https://arxiv.org/abs/1911.05722).

    Parameters follow those of the student, by the same share at every step. Batch-norm statistics are its own: its
    forward passes in training mode move them, and nothing else does.

    Args:
        student: network to copy.
        decay: share of the old parameters kept at each update, in [0, 1).
    """

    def __init__(self, student: nn.Module, decay: float = 0.999) -> None:
        super().__init__(student, decay, always_eval=False)

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Move the parameters towards those of `student`, in place; `step` plays no part."""
        torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), 1.0 - self.decay)
