"""Keep the best weights, also across a resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.distributed import is_first
from medssl_monai.files import save_tensors
from medssl_monai.methods.base import SSLMethod
from medssl_monai.networks.pretrained import describe


class BestModel:
    """Write the weights of a network whenever a validation metric reaches a new best.

    A metric that is undefined (missing or not a number) is never best; until there is a defined one, the latest
    weights are written, so that a run always leaves a model. Give this object to `TrainingCheckpoint`, and a resumed
    run will not replace a better model from before.

    Args:
        path: file for the plain state dict of `network`.
        network: usually ``method.inference_network``.
        metric: name in ``engine.state.metrics``; higher is better.
        metadata: plain values to keep with the weights, see `medssl_monai.networks.describe`.
        method: what it learned is kept with the weights for later queries and predictions: ``kind``, the word of the
            kind of labels; ``learned``, the parts of the labels; ``threshold``, the confidence thresholds by part.
    """

    def __init__(
        self,
        path: str | Path,
        network: nn.Module,
        metric: str = "auroc",
        metadata: Mapping[str, Any] | None = None,
        method: SSLMethod | None = None,
    ) -> None:
        self.path, self.network, self.metric = Path(path), network, metric
        self.metadata, self.method = dict(metadata or {}), method
        self.best: float | None = None
        self.epoch = 0

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator; list this after the handler that computes the metric."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save if this epoch is the best so far."""
        value = engine.state.metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            engine.logger.warning(f"{self.metric} is undefined after epoch {engine.state.epoch}, so it cannot be best.")
            if self.best is None:
                self._save(engine.state.epoch, None)
        elif self.best is None or value > self.best:
            self.best, self.epoch = float(value), int(engine.state.epoch)
            engine.logger.info(f"Best {self.metric} so far: {self.best:.4f}, epoch {self.epoch}.")
            self._save(self.epoch, self.best)

    def _save(self, epoch: int, value: float | None) -> None:
        if is_first():
            known: dict[str, Any] = {}
            if self.method is not None:
                known = {
                    "kind": self.method.kind.word,
                    "learned": list(self.method.kinds),
                    "threshold": {part: threshold.plain() for part, threshold in self.method.thresholds().items()},
                }
            metadata = {**self.metadata, **known, "epoch": epoch, "metric": self.metric, "value": value}
            save_tensors(self.path, describe(self.network, metadata), private=False)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.epoch = state["best"], int(state["epoch"])
