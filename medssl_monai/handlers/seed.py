"""Seeds that make a resumed run equal to an uninterrupted one."""

from __future__ import annotations

import logging
import os
import random

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from medssl_monai.seeds import seed_of_epoch

logger = logging.getLogger(__name__)


class EpochSeed:
    """Seed every generator from (seed, epoch) at the start of each epoch.

    Nothing random is carried over from one epoch to the next, hence no generator state has to be saved. Processes
    draw different views.

    Args:
        seed: base seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        value = seed_of_epoch(self.seed, engine.state.epoch) * 1_009 + idist.get_rank()
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.manual_seed(value)
        generator = getattr(engine, "generator", None)
        if generator is not None:
            generator.manual_seed(value)
        set_epoch = getattr(engine.state.dataloader, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(engine.state.epoch)


def set_deterministic(seed: int, deterministic: bool, device: torch.device | str) -> None:
    """Seed every generator; with `deterministic`, also refuse CUDA kernels that do not repeat.

    Not covered on CUDA, even so: another model of GPU, another version of CUDA, cuDNN or PyTorch, and another number
    of processes. An operation without a repeatable kernel raises a RuntimeError that names it. The CPU repeats anyway,
    for the same number of threads.

    Args:
        seed: base seed.
        deterministic: costs speed on CUDA and nothing on the CPU.
        device: where the run will be.
    """
    from monai.utils import set_determinism

    on_cuda = torch.device(device).type == "cuda"
    if deterministic and on_cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must be set before the first cuBLAS call
        logger.info(
            "Deterministic CUDA kernels; not covered: another GPU model, another CUDA, cuDNN or PyTorch version, "
            "another number of processes."
        )
    set_determinism(seed=seed, use_deterministic_algorithms=(deterministic and on_cuda) or None)
