"""Our query strategies in MONAI Label: scored in a process of its own, kept in the datastore, served one by one."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device
from torch import Tensor

from medssl_monai.handlers.query import choose, look
from medssl_monai.monai_label.gate import known_device
from medssl_monai.monai_label.labels import Kind
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import KEY, TAGS, Studies, label_files, read_studies
from medssl_monai.monai_label.writes import SafeWrites
from medssl_monai.query.base import EmbeddingQuery, PoolOutputs
from medssl_monai.seeds import seed_of_epoch

logger = logging.getLogger(__name__)

KIND_OF: dict[str | None, Kind] = {"label": "class", "mask": "mask"}
"""The kind of file that answers what a query asks for; one that does not say asks for classes, if there are any."""
RESET = 24 * 60 * 60
"""Seconds after which an image that was given out and not labeled is given out again like any other."""
VALIDATION = "validation: drawn at random, so that figures do not depend on what the strategy likes"


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
        """Whether there is something to score: other weights, new images, or a batch that is used up."""
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
        left = {strategy for own in unanswered(store, waiting, self.served).values() for strategy in own}
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
                    own = queries[studies.image_of[item.pop("id")]]
                    own.setdefault(strategy, item | {"weights": self.served.version})  # of slices, the first
                chosen[strategy] = sum(strategy in own for own in queries.values())
        self.writes.update(
            {name: {KEY: self._info(datastore, name, studies, queries)} for name in datastore.list_images()}
        )
        told = ", ".join(f"{strategy} {count}" for strategy, count in chosen.items())
        logger.info(f"{self.served.name}: scored {len(studies.train)} images; chosen: {told or 'none'}.")
        return chosen

    def _info(
        self, store: Any, name: str, studies: Studies, queries: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What is kept of an image from now on; what other bundles said of it stays."""
        info = kept(store, name)
        for key, own in (("scored", self.served.version), ("queries", queries.get(name, {}))):
            info[key] = {**info.get(key, {}), self.served.name: own}
        return info | {"validation": name in studies.held_out}

    def _ask(
        self, train: Sequence[Mapping[str, Any]], synthetic: bool, busy: Container[str], device: Any
    ) -> Iterable[tuple[str, list[dict[str, Any]]]]:
        """Strategy and the items of its query, for each strategy that has something to say."""
        run = self.served.run(list(map(dict, train)), [], synthetic, device=known_device(name_to_device(device)))
        names = ("method_def", "train::dataset", "pool", "seed", "device")
        method, dataset, pool, seed, on = (run.parser.get_parsed_content(name) for name in names)
        about = self.served.about
        pool.quarantine(dataset.unreadable)
        outputs, own = look(
            method.to(on), dataset, pool, on, threshold=about.get("threshold"), learned=about.get("learned")
        )
        outputs = _as_labeled(outputs, torch.tensor([item["id"] in busy for item in train]))
        for name in self.strategies:
            generator = torch.Generator().manual_seed(seed_of_epoch(seed, 0))
            try:
                strategy = run.parser.get_parsed_content(f"strategies::{name}")
                if not about and not isinstance(strategy, EmbeddingQuery):
                    continue  # predictions of a network that has learned nothing
                yield name, choose(outputs, own, strategy, self.batch, generator)["items"]
            except (ValueError, RuntimeError) as error:  # the latter from MONAI, if it cannot be built
                logger.warning(f"{self.served.name}: {name} cannot choose: {error.__cause__ or error}")


class NextImage(Strategy):  # type: ignore[misc]  # MONAI Label is untyped
    """The next image to label by the kept scores of one strategy: the best that was not given out yet.

    Of the images that are given out, the share `share` is drawn at random among those that are held out for validation.
    Without a score (nothing was trained or scored yet, or the batch is used up) an image is drawn at random; the
    answer's ``reason`` says so.

    Args:
        served: bundles whose labels count; the strategy is of the first.
        name: of the strategy in the bundle; ``random``: none.
        share: see `read_studies`.
    """

    def __init__(self, served: Sequence[ServedBundle], name: str, share: float) -> None:
        of = "" if name == "random" else f" by {served[0].name}"
        super().__init__(f"{name}{of}; each answer has a reason")
        self.served, self.name, self.share = served, name, share
        self.choices: list[str] = []

    def info(self) -> dict[str, Any]:
        return {**super().info(), **({"config": {"strategy": self.choices}} if self.choices else {})}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """The ``id`` of an image, with ``reason``, ``rank`` and what else is kept; None if all are labeled."""
        infos = {name: datastore.get_image_info(name) for name in datastore.list_images()}
        since = {name: time.time() - _given_out(datastore, name, info) for name, info in infos.items()}
        waiting = without_label(datastore, self.served)
        fresh = [name for name in waiting if since[name] > RESET]
        if waiting and not fresh:  # all were given out today, perhaps to someone who left
            name = max(waiting, key=lambda name: since[name])
            return {"id": name, "reason": "given out before, and not labeled since"}
        known = {name: info.get(KEY, {}) for name, info in infos.items()}
        held_out = {name for name, info in known.items() if info.get("validation")}
        done = infos.keys() - set(fresh)
        due = math.floor(self.share * (len(done) + 1)) > len(done & held_out)
        to_learn, to_measure = ([name for name in fresh if (name in held_out) == side] for side in (False, True))
        if to_measure and (due or not to_learn):
            return {"id": min(to_measure, key=_chance), "reason": VALIDATION}
        queries = unanswered(datastore, {name: known[name] for name in waiting}, self.served[0])
        asked = {name: own[self.name] for name, own in queries.items() if self.name in own}
        if ranked := asked.keys() & set(to_learn):
            best = min(ranked, key=lambda name: int(asked[name]["rank"]))
            return {"id": best, **asked[best]}
        return {"id": min(to_learn, key=_chance), "reason": self._why_random(bool(asked))} if to_learn else None

    def _why_random(self, asked: bool) -> str:
        if self.name == "random":
            return "random"
        untrained = not self.served[0].weights.exists()
        scoring = "it is not trained yet" if untrained else "scoring has not ended, or failed"
        why = "its choice is given out" if asked else scoring
        return f"random: {self.name} of {self.served[0].name} has no score for what is left ({why})"


def kept(store: Any, image_id: str) -> dict[str, Any]:
    """What this package keeps of an image."""
    return dict(store.get_image_info(image_id).get(KEY, {}))


def without_label(store: Any, served: Sequence[ServedBundle]) -> list[str]:
    """Images that lack a label that one of the bundles learns, sorted."""
    wanted = {kind for bundle in served for kind in bundle.kinds}
    return sorted(name for name in store.list_images() if not wanted <= label_files(store, name).keys())


def unanswered(store: Any, infos: Mapping[str, Mapping[str, Any]], served: ServedBundle) -> dict[str, dict[str, Any]]:
    """Of what is `kept` of images: queries of a bundle by strategy, but for those that were answered."""
    usual: Kind = "class" if served.classes else "mask"
    found = {}
    for name, info in infos.items():
        own, there = info.get("queries", {}).get(served.name, {}), label_files(store, name)
        found[name] = {key: query for key, query in own.items() if KIND_OF.get(query.get("ask"), usual) not in there}
    return found


def with_a_reader(store: Any, name: str) -> bool:
    """Whether an image was given out lately and is not labeled since."""
    return time.time() - _given_out(store, name, store.get_image_info(name)) <= RESET


def _as_labeled(outputs: PoolOutputs, given: Tensor) -> PoolOutputs:
    """What is with a reader counts as labeled, by position ``(N,)``: the next batch shall differ from it as well."""
    beside = None if outputs.beside is None else _as_labeled(outputs.beside, given)
    return replace(outputs, labeled=outputs.labeled | given[outputs.index], beside=beside)


def _given_out(store: Any, name: str, info: Mapping[str, Any]) -> float:
    """When an image was last given out, by any strategy, and not labeled since; 0: never."""
    given = max((float(one["ts"]) for one in info.get("strategy", {}).values()), default=0.0)
    answered = max(float(store.get_label_info(name, tag).get("ts", 0)) for tag in TAGS)
    return given if given > answered else 0.0


def _chance(name: str) -> str:
    """A fixed random order of names."""
    return hashlib.sha256(f"order {name}".encode()).hexdigest()
