"""What each round of a run achieved, and the page that shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from medssl_monai.asking.record import read_query
from medssl_monai.data.images import ImageDataset
from medssl_monai.distributed import is_first
from medssl_monai.engines.evaluate import check_pseudo_labels, evaluate
from medssl_monai.files import read_json, write_json
from medssl_monai.methods.base import SSLMethod
from medssl_monai.pool.pool import LabelPool
from medssl_monai.report.write import write_report

logger = logging.getLogger(__name__)


class RoundReport:
    """At the end of each round: metrics with intervals of the present weights. At the end of the run: table and page.

    The weights are those at the end of the round, not the best of the round, so that nothing is selected on the
    images that the figures are from. Figures are files (``rounds/round_00.json``), equal for equal runs.

    Images that cannot be read (`ImageDataset.unreadable`) are put in quarantine when the run starts: the pools leave
    them out, so that they are neither trained nor measured on, nor queried; files, table and page list them.

    Args:
        output_dir: where ``rounds/``, ``rounds.csv``, ``pool.json`` and ``report.html`` go, and ``queries/`` is.
        pool: training pool.
        dataset: its images, for the gallery of queried images.
        method: its ``inference_network`` is measured.
        validation: images to measure on.
        validation_pool: their labels.
        every: epochs per round.
        title: of the page.
        notes: sentences for the page, such as limits of the data.
    """

    def __init__(
        self,
        output_dir: str | Path,
        pool: LabelPool,
        dataset: ImageDataset,
        method: SSLMethod,
        validation: ImageDataset,
        validation_pool: LabelPool,
        every: int,
        title: str = "medssl_monai",
        notes: Sequence[str] = (),
    ) -> None:
        self.output_dir, self.pool, self.dataset, self.method = Path(output_dir), pool, dataset, method
        self.validation, self.validation_pool = validation, validation_pool
        self.every, self.title, self.notes = every, title, list(notes)
        self.started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.measure)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Start the clock, put unreadable images in quarantine, and refuse a validation list that measures nothing.

        Raises:
            ValueError: if classes have names that labels cannot carry, now that their kind is known; if images cannot
                be read and are not to be skipped (it names those of both lists), or no validation image that can be
                read has a label; before anything is trained.
        """
        self.started = time.monotonic()
        for labels in self.pool.parts.values():
            labels.kind.check("the datalist")
        refused = []
        for pool, dataset in ((self.pool, self.dataset), (self.validation_pool, self.validation)):
            try:
                pool.quarantine(dataset.unreadable, self.method.kinds)
            except ValueError as error:
                refused.append(str(error))
        if refused:
            raise ValueError("\n".join(refused))
        for key, labels in self.validation_pool.parts.items():
            if len(labels.indices("labeled")) == 0:
                lost = len(self.validation.unreadable)
                images = f"image that can be read ({lost} cannot)" if lost else "image"
                raise ValueError(f"no validation {images} has a {key}; split the data with `medssl prepare`.")

    def measure(self, engine: Engine) -> None:
        """Write the figures of the round that ends with this epoch."""
        if not is_first():
            return
        number = engine.state.epoch // self.every - 1
        network, device = self.method.inference_network, engine.state.device
        figures = evaluate(network, self.validation, self.validation_pool, device)
        record = {
            "round": number,
            "epoch": engine.state.epoch,
            **{f"{key}s": len(labels.indices("labeled")) for key, labels in self.pool.parts.items()},
            "training": dict(engine.state.metrics),  # means over the epoch, from `EpochMean`
            "pseudo_labels": self._check_pseudo_labels(device),
            "evaluation": figures,
            "quarantine": [
                *quarantine("training", self.dataset, self.pool.of(self.method.kinds)),
                *quarantine("validation", self.validation, self.validation_pool),
            ],
        }
        write_json(self.output_dir / "rounds" / f"round_{number:02d}.json", record)
        self.pool.save_over(self.output_dir / "pool.json")

    def _check_pseudo_labels(self, device: torch.device | str) -> dict[str, Any]:
        """Return `check_pseudo_labels` for the first part; of further parts under the word of their kind."""
        network, checked = self.method.inference_network, dict[str, Any]()
        for key, threshold in self.method.thresholds().items():
            labels = self.pool[key]
            found = check_pseudo_labels(network, self.dataset, labels, device, threshold)
            checked |= found if labels is self.pool.first else {labels.kind.word: found}
        return checked

    def finish(self, engine: Engine) -> None:
        """Log the table, and write it and the page."""
        if not is_first():
            return
        numbers = range(engine.state.epoch // self.every)
        paths = [self.output_dir / "rounds" / f"round_{number:02d}.json" for number in numbers]
        rounds = [read_json(path) for path in paths if path.exists()]
        queries = [self.output_dir / "queries" / "cold_start.json"]
        queries += [self.output_dir / "queries" / f"round_{number:02d}.json" for number in numbers]
        write_report(
            self.output_dir,
            rounds,
            [read_query(path) for path in queries if path.exists()],
            self.pool,
            self.dataset,
            title=self.title,
            seconds=time.monotonic() - self.started,
            notes=self.notes,
        )


def quarantine(section: str, dataset: ImageDataset, pool: LabelPool) -> list[dict[str, str]]:
    """Return the images and files of labels of a section that cannot be read, by id, each with its reason."""
    reasons = {position: why for labels in pool.parts.values() for position, why in labels.unreadable.items()}
    return [
        {"section": section, "id": pool.ids[position], "reason": reason}
        for position, reason in {**reasons, **dataset.unreadable}.items()
    ]
