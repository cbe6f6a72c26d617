"""Active learning while training: ask, get labels, train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.asking.record import asked_for, pools_of, query_record, read_query, write_query
from medssl_monai.data.datalist import FLAGS, Item, Key
from medssl_monai.data.images import ImageDataset
from medssl_monai.distributed import from_first, is_first
from medssl_monai.engines.predict import predict_pool, weights_sha256
from medssl_monai.locks import holding
from medssl_monai.losses.pseudo_label import Threshold
from medssl_monai.methods.base import SSLMethod
from medssl_monai.networks.pretrained import weights_metadata
from medssl_monai.pool.pool import Label, LabelPool, is_known
from medssl_monai.query.base import PoolOutputs, QueryStrategy, name_of
from medssl_monai.seeds import seed_of_epoch


class Annotator(Protocol):
    """Gives labels by id, or the masks beside them; leaves out what it does not know."""

    def __call__(self, ids: Iterable[str], key: Key = "label") -> Mapping[str, Label]: ...


class Oracle:
    """An annotator that knows what the datalist hides; for simulated experiments.

    Args:
        datalist: items; those with a ``label``, or a ``mask``, can be answered, whatever their ``labeled`` or
            ``masked`` flag says. What is unknown of a multi-hot label stays so.
    """

    def __init__(self, datalist: Sequence[Item]) -> None:
        self.known: dict[Key, dict[str, Label]] = {
            key: {
                str(item.get("id", position)): item[key]
                for position, item in enumerate(datalist)
                if is_known(item.get(key))
            }
            for key in FLAGS
        }

    def __call__(self, ids: Iterable[str], key: Key = "label") -> dict[str, Label]:
        known = self.known[key]
        return {name: known[name] for name in ids if name in known}


class QueryHandler:
    """At the end of each round: predict the pool, choose, write the query. When the next round begins: annotate.

    The query file is all that passes from one to the other, so that a run that was killed in between, or is continued
    with more rounds later, goes on where it stood. The query of the last round waits for a person. List this before
    `TrainingCheckpoint`.

    Args:
        pool: pool to annotate, with the one `beside` it; its loaders see the new labels with the next epoch.
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
        if not self.cold_start or len(self.pool.indices("labeled")):
            return
        check_cold_start(self.pool, self.method)
        self.pool.quarantine(self.dataset.unreadable, self.method.learned)
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
        record = ask(
            self.method, self.dataset, self.pool, self.strategy, budget,
            torch.Generator().manual_seed(seed_of_epoch(self.seed, engine.state.epoch)),
            engine.state.device, self.batch_size,
        )  # fmt: skip
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
        self.pool.quarantine(learned=self.method.learned)
        known = (f"{int(own.mask.sum())} are {FLAGS[key]}" for key, own in pools_of(self.pool).items())
        engine.logger.info(
            f"{name}: {answered} of {len(record['items'])} answered; of {len(self.pool)} samples {', '.join(known)}."
        )


def check_cold_start(pool: LabelPool, method: SSLMethod) -> None:
    """Refuse to begin without any mask where a method learns masks beside labels.

    Raises:
        ValueError: then, since a query in units of cost need not bring one.
    """
    if pool.beside is not None and "mask" in method.learned and len(pool.beside.indices("labeled")) == 0:
        raise ValueError(
            "no mask is known, and a cold start asks for labels first; set `mask_labels`, or learn labels alone."
        )


def look(
    method: SSLMethod,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    batch_size: int = 128,
    threshold: Threshold | None = None,
    learned: Sequence[Key] | None = None,
) -> tuple[PoolOutputs, LabelPool]:
    """What strategies see of a pool, and the pool of what the method learned.

    Left out are images in quarantine, and those of a source that training does not draw (`LabelPool.streamed`).
    `threshold` and `learned` stand in for what the method says of itself; see `QueryHandler` for the other arguments.
    """
    network, pool = method.inference_network, pool.only(method.learned if learned is None else learned)
    threshold = method.confidence_threshold if threshold is None else threshold
    found = predict_pool(network, dataset, pool, device, batch_size, threshold)
    outputs = found.take(pool.streamed("all"))
    if pool.beside is not None and found.beside is not None:
        outputs = replace(outputs, beside=found.beside.take(pool.beside.streamed("all")))
    return outputs, pool


def choose(
    outputs: PoolOutputs,
    pool: LabelPool,
    strategy: QueryStrategy,
    budget: int,
    generator: torch.Generator,
    **facts: Any,
) -> dict[str, Any]:
    """The record of the query of one strategy after a `look`; `facts` are kept in it as well."""
    query = strategy(outputs, budget, generator)
    return query_record(query, outputs, pool, strategy=name_of(strategy), budget=budget, **facts)


def ask(
    method: SSLMethod,
    dataset: ImageDataset,
    pool: LabelPool,
    strategy: QueryStrategy,
    budget: int,
    generator: torch.Generator,
    device: torch.device | str,
    batch_size: int = 128,
    threshold: Threshold | None = None,
    learned: Sequence[Key] | None = None,
) -> dict[str, Any]:
    """The record of one query, see `medssl_monai.asking.record`; see `look` and `QueryHandler` for the arguments."""
    outputs, pool = look(method, dataset, pool, device, batch_size, threshold, learned)
    return choose(outputs, pool, strategy, budget, generator, model_sha256=weights_sha256(method.inference_network))


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
    """`ask` outside of a run, and write the query; see `QueryHandler` for the arguments.

    `weights` is the file that the method's network was loaded from; it knows what it learned, the threshold and the
    epoch at which it was saved. None: training has not begun.

    Raises:
        OSError: if a run is at work in the folder of `path`.
    """
    generator = torch.Generator().manual_seed(seed_of_epoch(seed, 0))
    saved = weights_metadata(weights) if weights else {}
    threshold, learned = saved.get("threshold"), saved.get("learned")
    with holding(Path(path).parent):
        record = ask(
            method.to(device), dataset, pool, strategy, budget, generator, device, threshold=threshold, learned=learned
        )
        write_query(path, {**record, "epoch": saved.get("epoch", 0)})


def annotate(pool: LabelPool, method: SSLMethod, record: Mapping[str, Any], annotator: Annotator) -> int:
    """`give_answers`, and tell the method of them; how many items were answered."""
    given = give_answers(pool, record, annotator)
    method.on_query(given[pool.key], pool.query_size)
    return sum(map(len, given.values()))


def give_answers(pool: LabelPool, record: Mapping[str, Any], annotator: Annotator) -> dict[Key, Tensor]:
    """Give what `annotator` knows of a query's items to the pool and the one `beside` it, and the query's size.

    Args:
        pool: pool to change; items that do not say what they ``ask`` for ask for what it holds.
        record: as from `medssl_monai.asking.record.query_record`.
        annotator: is asked for the labels, and then for the masks.

    Returns:
        Positions that were annotated, of each kind.

    Raises:
        ValueError: if the query asks for what no pool holds.
    """
    pools = pools_of(pool)
    asked = [(item["id"], item.get("ask", pool.key)) for item in record["items"]]
    if lost := [name for name, _ in asked if name not in pool.position]:
        raise ValueError(f"the query asks for {lost[0]!r}, and the datalist lacks it; use the datalist of the query.")
    given = dict.fromkeys(pools, torch.zeros(0, dtype=torch.long))
    for kind in dict.fromkeys(kind for _, kind in asked):
        if kind not in pools:
            raise ValueError(f"the query asks for {kind}s, and this run has none; give its pool one `beside` it.")
        names = [name for name, own in asked if own == kind]
        known = annotator(names) if kind == "label" else annotator(names, kind)  # many know labels alone
        given[kind] = torch.tensor([pool.position[name] for name in names if name in known], dtype=torch.long)
        pools[kind].annotate(given[kind], [known[name] for name in names if name in known])
    returned, possible = record["query_size"]
    pool.query_size = (returned, possible)
    return given
