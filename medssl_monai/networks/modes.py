"""Evaluation mode that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run in evaluation mode without gradient; afterwards each module is in the mode that it was in.

    MONAI's `eval_mode` puts everything within the network into the mode of its outermost module.
    """
    training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training:
            module.training = mode
