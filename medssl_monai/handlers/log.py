"""One line per epoch, and a stop when training has gone wrong."""

from __future__ import annotations

import logging
import math

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.distributed import is_first


class EpochMean:
    """Average the scalars of every step over the epoch, log them, and refuse to go on with a loss that is no number.

    The sums stay on the device; the epoch's end reads them once. List it before the checkpoint, so that a broken
    epoch is never saved. The means are in ``engine.state.metrics`` for loggers and trackers.

    Raises:
        RuntimeError: at the end of an epoch whose mean loss is NaN or infinite.
    """

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last epoch."""
        self.total = {}

    def add(self, engine: Engine) -> None:
        """Take in one step's output."""
        (output,) = engine.state.output
        for name, value in output.items():
            self.total[name] = self.total[name] + value if name in self.total else value.clone()

    def finish(self, engine: Engine) -> None:
        """Log the means."""
        names = list(self.total)
        if not names:
            return
        means = (torch.stack([self.total[n].double() for n in names]) / engine.state.epoch_length).tolist()
        engine.state.metrics.update(dict(zip(names, means, strict=True)))
        if not math.isfinite(engine.state.metrics["loss"]):
            raise RuntimeError(
                f"the loss of epoch {engine.state.epoch} is {engine.state.metrics['loss']}; lower the learning rate, "
                "or switch `amp` off. The last checkpoint is from before."
            )
        values = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, means, strict=True))
        engine.logger.info(f"Epoch {engine.state.epoch}/{engine.state.max_epochs}: {values}")


def only_first_process_logs() -> None:
    """Keep the other processes to warnings, so that every line of a log is there once."""
    if not is_first():
        logging.disable(logging.INFO)
