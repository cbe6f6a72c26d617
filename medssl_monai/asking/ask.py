"""Ask: predict a pool, let a strategy choose, and write down what it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medssl_monai.asking.record import query_record, write_query
from medssl_monai.data.images import ImageDataset
from medssl_monai.engines.predict import predict_pool, weights_sha256
from medssl_monai.kinds import Threshold
from medssl_monai.locks import holding
from medssl_monai.methods.base import SSLMethod
from medssl_monai.networks.pretrained import weights_metadata
from medssl_monai.pool.labels import ASKED_BY
from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.pool.pool import LabelPool
from medssl_monai.query.base import QueryStrategy, name_of
from medssl_monai.seeds import seed_of_epoch


@dataclass(frozen=True)
class PredictedPool:
    """A pool, and what a learner predicts for it: what strategies choose from.

    Args:
        outputs: what strategies see.
        pool: the parts of the labels that the learner learned.
    """

    outputs: PoolOutputs
    pool: LabelPool

    def choose(self, strategy: QueryStrategy, budget: int, generator: torch.Generator, **facts: Any) -> dict[str, Any]:
        """Return the record of the query of one strategy (`query_record`); `facts` are kept in it as well."""
        query = strategy(self.outputs, budget, generator)
        return query_record(query, self.outputs, self.pool, strategy=name_of(strategy), budget=budget, **facts)


@dataclass(frozen=True)
class Learner:
    """Who asks: a network, what it learned, and from which confidence on it labels by itself.

    Args:
        network: predicts.
        parts: of the labels, that it learned.
        thresholds: by part, see `medssl_monai.methods.SSLMethod.thresholds`.
        epoch: at which its weights were saved; 0: training has not begun.
    """

    network: nn.Module
    parts: Sequence[str]
    thresholds: Mapping[str, Threshold]
    epoch: int = 0

    @classmethod
    def of(cls, method: SSLMethod, saved: Mapping[str, Any] | None = None) -> Learner:
        """Return a method as it is now.

        Args:
            method: its ``inference_network`` predicts.
            saved: metadata of the file that the weights were loaded from; it goes before what the method says of
                itself, which has not been trained.
        """
        saved = saved or {}
        thresholds = {part: Threshold.of_plain(values) for part, values in saved.get("threshold", {}).items()}
        return cls(
            method.inference_network,
            tuple(saved.get("learned", method.kinds)),
            thresholds if "threshold" in saved else method.thresholds(),
            saved.get("epoch", 0),
        )

    def predict(
        self, dataset: ImageDataset, pool: LabelPool, device: torch.device | str, batch_size: int = 128
    ) -> PredictedPool:
        """Predict a pool, as far as it may be asked for.

        Left out are images in quarantine, and those of a source that training does not draw (`Labels.drawable`).

        Args:
            dataset: images of the whole pool, without random transforms.
            pool: knows what is labeled.
            device: where the network is.
            batch_size: images at once.
        """
        pool = pool.of(self.parts)
        found = predict_pool(self.network, dataset, pool, device, batch_size, self.thresholds)
        parts = {key: outputs.take(pool[key].drawable("all")) for key, outputs in found.parts.items()}
        return PredictedPool(replace(parts.pop(pool.first.key), others=parts), pool)

    def ask(
        self,
        dataset: ImageDataset,
        pool: LabelPool,
        strategy: QueryStrategy,
        budget: int,
        generator: torch.Generator,
        device: torch.device | str,
        batch_size: int = 128,
    ) -> dict[str, Any]:
        """Return the record of one query; see `predict` and `PredictedPool.choose`."""
        predicted = self.predict(dataset, pool, device, batch_size)
        return predicted.choose(strategy, budget, generator, model_sha256=weights_sha256(self.network))


def write_one_query(
    path: str | Path,
    method: SSLMethod,
    dataset: ImageDataset,
    pool: LabelPool,
    strategy: QueryStrategy,
    budget: int,
    seed: int,
    device: torch.device | str,
    weights: str | Path | None = None,
) -> None:
    """Ask outside of a run, and write the query.

    Args:
        path: file to write, ending in ``.json``.
        method: its ``inference_network`` predicts.
        dataset: images of the whole pool, without random transforms.
        pool: knows what is labeled.
        strategy: chooses the samples.
        budget: samples to ask for, or their cost.
        seed: of the strategy.
        device: where to predict.
        weights: file that the method's network was loaded from; it knows what was learned, the threshold and the epoch
            at which it was saved. None: training has not begun.

    Raises:
        OSError: if a run is at work in the folder of `path`.
    """
    generator = torch.Generator().manual_seed(seed_of_epoch(seed, 0))
    learner = Learner.of(method.to(device), weights_metadata(weights) if weights else None)
    with holding(Path(path).parent):
        record = learner.ask(dataset, pool, strategy, budget, generator, device)
        write_query(path, {**record, "epoch": learner.epoch})


def check_cold_start(pool: LabelPool, method: SSLMethod) -> None:
    """Refuse to begin without any label of a further part that a method learns.

    Raises:
        ValueError: then, since a query in units of cost need not bring one.
    """
    for key, labels in pool.parts.items():
        if labels is not pool.first and key in method.kinds and len(labels.indices("labeled")) == 0:
            first = f"{pool.first.key}s"
            raise ValueError(
                f"no {key} is known, and a cold start asks for {first} first; set `{ASKED_BY[labels.key]}`, or learn "
                f"{first} alone."
            )
