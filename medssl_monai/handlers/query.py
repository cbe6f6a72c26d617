"""Active learning while training: ask, get labels, train on."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events

from medssl_monai.asking.answers import Annotator, annotate
from medssl_monai.asking.ask import Learner, check_cold_start
from medssl_monai.asking.record import asked_for, read_query, write_query
from medssl_monai.data.datalist import FLAGS
from medssl_monai.data.images import ImageDataset
from medssl_monai.distributed import from_first, is_first
from medssl_monai.methods.base import SSLMethod
from medssl_monai.pool.pool import LabelPool
from medssl_monai.query.base import QueryStrategy
from medssl_monai.seeds import seed_of_epoch


class QueryHandler:
    """At the end of each round: predict the pool, choose, write the query. When the next round begins: annotate.

    The query file is all that passes from one to the other, so that a run that was killed in between, or is continued
    with more rounds later, goes on where it stood. The query of the last round waits for a person. List this before
    `TrainingCheckpoint`.

    Args:
        pool: pool to annotate; its loaders see the new labels with the next epoch.
        dataset: images of the whole pool, without random transforms.
        method: its ``inference_network`` predicts; it is told of every annotation.
        strategy: chooses the samples.
        budget: samples to ask for per round (K; per selector where a strategy has several; their cost where it has
            costs).
        every: epochs per round.
        folder: where the query files go: ``round_00.json`` and ``round_00.csv``.
        annotator: gives the labels; None: nobody does, and queries are only written.
        batch_size: images at once when predicting.
        seed: with the epoch, seeds the strategy.
        cold_start: samples to ask for before the first epoch, by the weights that training starts from, if no label is
            known; `annotator` answers at once. The query is ``cold_start.json``.

    Raises:
        ValueError: if a number is out of its range; when the run starts, if no label is known and nobody gives any.
    """

    def __init__(
        self,
        pool: LabelPool,
        dataset: ImageDataset,
        method: SSLMethod,
        strategy: QueryStrategy,
        budget: int,
        every: int,
        folder: str | Path,
        annotator: Annotator | None = None,
        batch_size: int = 128,
        seed: int = 0,
        cold_start: int = 0,
    ) -> None:
        if min(budget, cold_start) < 0 or every < 1:
            raise ValueError(
                "`budget` and `cold_start` must be at least 0 and `every` at least 1, got "
                f"{budget}, {cold_start} and {every}."
            )
        self.pool, self.dataset, self.method, self.strategy = pool, dataset, method, strategy
        self.budget, self.every, self.folder, self.annotator = budget, every, Path(folder), annotator
        self.batch_size, self.seed, self.cold_start = batch_size, seed, cold_start

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        if self.budget:
            engine.add_event_handler(Events.EPOCH_STARTED, self.annotate)
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.ask)

    def path(self, number: int) -> Path:
        """File of the query at the end of round `number`, from 0."""
        return self.folder / f"round_{number:02d}.json"

    def begin(self, engine: Engine) -> None:
        """Ask for the first labels, and give them to the pool, if none is known."""
        if not self.cold_start or len(self.pool.first.indices("labeled")):
            return
        check_cold_start(self.pool, self.method)
        self.pool.quarantine(self.dataset.unreadable, self.method.kinds)
        path = self.folder / "cold_start.json"
        if is_first():
            self._ask(engine, path, "Cold start", self.cold_start)
        if self.annotator is None:
            raise ValueError(
                f"no label is known and nobody gives any; fill in {path.with_suffix('.csv')} and name it with `labels`."
            )
        self._annotate(engine, path, "Cold start", self.annotator)

    def ask(self, engine: Engine) -> None:
        """Write the query of the round that ends with this epoch."""
        if not is_first():  # batch-norm statistics differ between processes, so only one of them asks
            return
        number = engine.state.epoch // self.every - 1
        self._ask(engine, self.path(number), f"Round {number}", self.budget, round=number)

    def _ask(self, engine: Engine, path: Path, name: str, budget: int, **facts: int) -> None:
        generator = torch.Generator().manual_seed(seed_of_epoch(self.seed, engine.state.epoch))
        record = Learner.of(self.method).ask(
            self.dataset, self.pool, self.strategy, budget, generator, engine.state.device, self.batch_size
        )
        write_query(path, {**record, **facts, "epoch": engine.state.epoch})
        engine.logger.info(f"{name}: asks for {asked_for(record)}, {path}")

    def annotate(self, engine: Engine) -> None:
        """Give the pool the labels that the query before this epoch asked for."""
        number, first = divmod(engine.state.epoch - 1, self.every)
        if first != 0 or number == 0 or self.annotator is None:
            return
        self._annotate(engine, self.path(number - 1), f"Round {number}", self.annotator)

    def _annotate(self, engine: Engine, path: Path, name: str, annotator: Annotator) -> None:
        record = from_first(read_query(path) if is_first() else None)
        answered = annotate(self.pool, self.method, record, annotator)
        self.pool.quarantine(learned=self.method.kinds)
        known = (f"{int(labels.mask.sum())} are {FLAGS[labels.key]}" for labels in self.pool.parts.values())
        engine.logger.info(
            f"{name}: {answered} of {len(record['items'])} answered; of {len(self.pool)} samples {', '.join(known)}."
        )
