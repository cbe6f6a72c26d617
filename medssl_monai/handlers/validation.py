"""Classification metrics of a validation pass."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.metrics.classification import METRICS, classification_metrics


class ClassificationScores:
    """Collect predictions and targets of an evaluator and compute its metrics at the end of the pass.

    Defined metrics go to ``engine.state.metrics``; undefined ones are left out there, logged with the reason, and
    listed in ``engine.state.undefined``.
    """

    def __init__(self) -> None:
        self.probs: list[Tensor] = []
        self.target: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last pass."""
        self.probs, self.target = [], []

    def add(self, engine: Engine) -> None:
        """Take in one batch: ``pred`` logits ``(B, K)`` and ``label``."""
        self.probs.append(engine.state.output["pred"].detach().float().softmax(dim=1))
        self.target.append(engine.state.output["label"])

    def finish(self, engine: Engine) -> None:
        """Compute and log."""
        probs, target = torch.cat(self.probs).cpu().numpy(), torch.cat(self.target).cpu().numpy()
        if target.ndim == 1:
            probs, target = probs[target >= 0], target[target >= 0]  # images without a label
        defined, undefined = classification_metrics(probs, target)
        for name in METRICS:  # what is undefined now must not keep the value of the last pass
            engine.state.metrics.pop(name, None)
        engine.state.metrics.update(defined)
        engine.state.undefined = undefined
        values = ", ".join(f"{name} {value:.3f}" for name, value in defined.items())
        engine.logger.info(f"Validation of {len(target)} images: {values}")
        for name, reason in undefined.items():
            engine.logger.warning(f"{name} is undefined: {reason}.")
