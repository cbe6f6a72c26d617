"""Keep the latest weights, where there is nothing to choose by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.distributed import is_first
from medssl_monai.files import save_tensors
from medssl_monai.networks.pretrained import describe


class LatestWeights:
    """Write the weights of a network after every epoch, over those of the epoch before.

    For training without labels, whose loss does not tell how good the weights are for what comes next.

    Args:
        path: file for the plain state dict of `network`.
        network: what to keep.
        metadata: plain values to keep with the weights, see `medssl_monai.networks.describe`.
    """

    def __init__(self, path: str | Path, network: nn.Module, metadata: Mapping[str, Any] | None = None) -> None:
        self.path, self.network, self.metadata = Path(path), network, dict(metadata or {})

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save after this epoch."""
        if is_first():
            save_tensors(
                self.path, describe(self.network, {**self.metadata, "epoch": int(engine.state.epoch)}), private=False
            )
            if engine.state.epoch == engine.state.max_epochs:
                engine.logger.info(f"Weights: {self.path}")
