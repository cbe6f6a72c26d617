"""Our query strategies in MONAI Label: scored in a process of its own, and kept in the datastore."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device
from torch import Tensor

from medssl_monai.asking.ask import Learner
from medssl_monai.monai_label.gate import known_device
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import KEY, Studies, read_studies
from medssl_monai.monai_label.waiting import kept, unanswered, with_a_reader, without_label
from medssl_monai.monai_label.writes import SafeWrites
from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.base import EmbeddingQuery
from medssl_monai.seeds import seed_of_epoch

logger = logging.getLogger(__name__)


class QueryScores(ScoringMethod):  # type: ignore[misc]  # MONAI Label is untyped
    """Predict all images, let every strategy of a bundle choose its next batch, and keep what it says of each image.

    A batch is chosen as one, so that strategies which look for diversity have it among its images. Nothing is done
    while the weights are those of the last time and every batch still has images to give out (`due`).

    The info of an image then has ``medssl``: ``validation``, whether it is held out; ``scored``, by which weights of
    each bundle; and ``queries``, by bundle and strategy: ``rank`` in the batch (from 1), ``reason``, ``scores``,
    ``predicted``, ``confidence``, ``ask`` where classes and masks are learned, and ``weights``.

    Args:
        served: the bundle.
        strategies: names of those that are to choose.
        writes: of the datastore.
        batch: images in a batch; in units of cost for a strategy that has costs.
        share: see `read_studies`.
        studies: folder of the studies.
    """

    def __init__(
        self,
        served: ServedBundle,
        strategies: Sequence[str],
        writes: SafeWrites,
        batch: int,
        share: float,
        studies: str,
    ) -> None:
        super().__init__(f"The next {batch} images by each strategy of {served.name}, and why.")
        self.strategies = strategies
        self.served, self.writes, self.batch, self.share, self.studies = served, writes, batch, share, studies

    def due(self, store: Any) -> bool:
        """Say whether there is something to score: other weights, new images, or a batch that is used up."""
        infos = {name: kept(store, name) for name in store.list_images()}
        scored = {info.get("scored", {}).get(self.served.name) for info in infos.values()}
        if scored - {self.served.version}:
            return True
        waiting = {
            name: infos[name]
            for name in without_label(store, [self.served])
            if not (infos[name]["validation"] or with_a_reader(store, name))
        }
        asked = {strategy for info in infos.values() for strategy in info["queries"].get(self.served.name, {})}
        left = {strategy for asked_of in unanswered(store, waiting, self.served).values() for strategy in asked_of}
        return bool(waiting) and asked != left

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Score.

        Args:
            request: ``force``: also if nothing is due; ``device``.
            datastore: MONAI Label's.

        Returns:
            How many images each strategy chose.
        """
        self.writes.read()
        if not request.get("force") and not self.due(datastore):
            logger.info(f"{self.served.name}: the scores are up to date.")
            return {}
        studies = read_studies(datastore, self.served, self.share, self.studies)
        queries: dict[str, dict[str, Any]] = {name: {} for name in set(studies.image_of.values())}
        chosen: dict[str, int] = {}
        if self.strategies and any(not (item["labeled"] and item.get("masked", True)) for item in studies.train):
            busy = {item for item, name in studies.image_of.items() if with_a_reader(datastore, name)}
            for strategy, items in self._ask(studies.train, studies.synthetic, busy, request.get("device")):
                for item in items:
                    asked_of = queries[studies.image_of[item.pop("id")]]
                    asked_of.setdefault(strategy, item | {"weights": self.served.version})  # of slices, the first
                chosen[strategy] = sum(strategy in asked_of for asked_of in queries.values())
        self.writes.update(
            {name: {KEY: self._info(datastore, name, studies, queries)} for name in datastore.list_images()}
        )
        counts = ", ".join(f"{strategy} {count}" for strategy, count in chosen.items())
        logger.info(f"{self.served.name}: scored {len(studies.train)} images; chosen: {counts or 'none'}.")
        return chosen

    def _info(
        self, store: Any, name: str, studies: Studies, queries: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Return what is kept of an image from now on; what other bundles said of it stays."""
        info = kept(store, name)
        for key, value in (("scored", self.served.version), ("queries", queries.get(name, {}))):
            info[key] = {**info.get(key, {}), self.served.name: value}
        return info | {"validation": name in studies.held_out}

    def _ask(
        self, train: Sequence[Mapping[str, Any]], synthetic: bool, busy: Container[str], device: Any
    ) -> Iterable[tuple[str, list[dict[str, Any]]]]:
        """Yield a strategy and the items of its query, for each strategy that has something to say."""
        run = self.served.run(list(map(dict, train)), [], synthetic, device=known_device(name_to_device(device)))
        names = ("method_def", "train::dataset", "pool", "seed", "device")
        method, dataset, pool, seed, on = (run.parser.get_parsed_content(name) for name in names)
        about = self.served.about
        pool.quarantine(dataset.unreadable)
        predicted = Learner.of(method.to(on), about).predict(dataset, pool, on)
        given = torch.tensor([item["id"] in busy for item in train])
        predicted = replace(predicted, outputs=_as_labeled(predicted.outputs, given))
        for name in self.strategies:
            generator = torch.Generator().manual_seed(seed_of_epoch(seed, 0))
            try:
                strategy = run.parser.get_parsed_content(f"strategies::{name}")
                if not about and not isinstance(strategy, EmbeddingQuery):
                    continue  # predictions of a network that has learned nothing
                yield name, predicted.choose(strategy, self.batch, generator)["items"]
            except (ValueError, RuntimeError) as error:  # the latter from MONAI, if it cannot be built
                logger.warning(f"{self.served.name}: {name} cannot choose: {error.__cause__ or error}")


def _as_labeled(outputs: PoolOutputs, given: Tensor) -> PoolOutputs:
    """Return outputs in which what is with a reader, by position ``(N,)``, counts as labeled.

    The next batch shall differ from it as well.
    """
    others = {key: _as_labeled(part, given) for key, part in outputs.others.items()}
    return replace(outputs, labeled=outputs.labeled | given[outputs.index], others=others)
