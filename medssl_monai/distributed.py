"""Collectives that also work in a single process."""

from __future__ import annotations

from typing import Any, cast

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes along the first axis; the tensor itself in a single process."""
    return cast(Tensor, idist.all_gather(tensor))


def from_first(value: Any) -> Any:
    """The value that process 0 has; its size may differ between processes."""
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
