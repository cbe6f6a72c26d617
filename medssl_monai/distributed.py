"""Collectives that also work in a single process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes along the first axis; the tensor itself in a single process."""
    return cast(Tensor, idist.all_gather(tensor))


def shuffled(function: Callable[[Tensor], Tensor], rows: Tensor, seed: int) -> Tensor:
    """``function(rows)``, each process computing a random part of the rows of all (MoCo, He et al., CVPR 2020).

    BatchNorm then has its statistics from other images than in the pass over the process's own rows, and cannot
    tell by them which results belong together. In a single process it is ``function(rows)`` itself.

    Args:
        function: rows to as many rows, without gradient.
        rows: ``(B, ...)``, as many in every process.
        seed: the same in every process; decides the order.

    Returns:
        Results of this process's own rows, in their order.
    """
    if idist.get_world_size() == 1:
        return function(rows)
    everything, own = gather(rows), slice(len(rows) * idist.get_rank(), len(rows) * (idist.get_rank() + 1))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    return gather(function(everything[order[own]]))[order.argsort()[own]]


def from_first(value: Any) -> Any:
    """Return the value that process 0 has; its size may differ between processes."""
    if idist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device(idist.device()))
    return box[0]


def is_first() -> bool:
    """Whether this process writes the files."""
    return bool(idist.get_rank() == 0)


def wait_for_all() -> None:
    """Let no process go on before all have come here."""
    if idist.get_world_size() > 1:
        idist.barrier()
