"""Backbones with leaky rectifiers."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def leaky(network: Network, slope: float = 0.1) -> Network:
    """Replace every ReLU of `network` by a LeakyReLU, in place; weights and their names stay as they are.

    The released code of S2MTS2 has its DenseNet-121 so, with weights that were trained with ReLU.

    Args:
        network: any network whose rectifiers are modules.
        slope: for negative values, greater than 0.

    Raises:
        ValueError: if `slope` is not greater than 0, or there is no ReLU to replace.
    """
    if slope <= 0.0:
        raise ValueError(f"`slope` must be greater than 0, got {slope}; 0 is the ReLU that is there already.")
    found = [
        (parent, name, child.inplace)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ReLU)
    ]
    if not found:
        raise ValueError(f"{type(network).__name__} has no ReLU module to replace.")
    for parent, name, inplace in found:
        setattr(parent, name, nn.LeakyReLU(slope, inplace))
    return network
