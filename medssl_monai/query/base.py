"""What a query strategy gets and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from medssl_monai.data.datalist import Key
from medssl_monai.losses.pseudo_label import Threshold, confident
from medssl_monai.task import Task, probabilities

VOXELS = 2**20
"""Voxels of all images that are predicted at once: a network for masks keeps many maps of their size."""


@dataclass(frozen=True)
class PoolOutputs:
    """Predictions for a pool; row r belongs to sample ``index[r]``.

    Args:
        index: positions in the datalist, ``(N,)`` long.
        labeled: whether the sample is labeled, ``(N,)`` bool.
        probs: class probabilities, or those of each finding, ``(N, K)``; of masks their mean over the voxels, which is
            the share of each class; `maps` gives those of each voxel.
        embedding: ``(N, D)``, or None if the network shows none.
        network: what predicted; a classifier has ``head`` (embeddings to logits) if there is an embedding.
        images: gives the images ``(B, C, *spatial)`` of positions ``(B,)``, for strategies that look at them again.
        threshold: confidence from which on the learner pseudo-labels by itself, or None; of findings see
            `medssl_monai.losses.pseudo_label.confident`.
        task: what the probabilities are of.
        beside: where images have masks beside their classes, the predictions of those: of the same samples in the same
            rows, with a `labeled` and a `network` of their own.
    """

    index: Tensor
    labeled: Tensor
    probs: Tensor
    embedding: Tensor | None = None
    network: nn.Module | None = None
    images: Callable[[Tensor], Tensor] | None = None
    threshold: Threshold | None = None
    task: Task = "multiclass"
    beside: PoolOutputs | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Tensor) -> PoolOutputs:
        """Those rows ``(n,)`` alone, in their order."""
        return replace(
            self,
            index=self.index[rows],
            labeled=self.labeled[rows],
            probs=self.probs[rows],
            embedding=None if self.embedding is None else self.embedding[rows],
            beside=None if self.beside is None else self.beside.take(rows),
        )

    @property
    def doubtful(self) -> Tensor:
        """Which samples the learner does not pseudo-label, or not all findings of, ``(N,)``.

        All without threshold, and all images to be segmented, whose pseudo-labels are of voxels.
        """
        if self.threshold is None or self.task == "segmentation":
            return torch.ones(len(self), dtype=torch.bool)
        sure = confident(self.probs, self.threshold, self.task)
        return ~(sure.all(dim=1) if sure.ndim > 1 else sure)

    @property
    def unlabeled(self) -> Tensor:
        """Rows of the unlabeled samples, ``(n,)``, in the order of their index."""
        rows = (~self.labeled).nonzero().squeeze(1)
        return rows[self.index[rows].argsort()]

    def maps(self, rows: Tensor | None = None, batch_size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """Predict images again, batch by batch: the probabilities of each voxel, which nobody keeps for a whole pool.

        The network runs in evaluation mode and without gradient, and is afterwards as it was.

        Args:
            rows: of which samples, ``(n,)``; default: all, in the order of their index.
            batch_size: images at once; fewer if they are large, see `VOXELS`.

        Yields:
            Rows ``(b,)``, and probabilities ``(b, K, *spatial)`` on the device of the network; ``(b, K)`` of a
            classifier.

        Raises:
            ValueError: if the outputs have no network or no images.
        """
        network = self.network
        if network is None:
            raise ValueError("to predict images again, a strategy needs the outputs' `network`.")
        for part, images in self.batches(rows, batch_size):
            with evaluating(network):
                probs = probabilities(network(images), self.task)
            yield part, probs

    def batches(self, rows: Tensor | None = None, batch_size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows ``(b,)`` and their images ``(b, C, *spatial)``; see `maps`."""
        if self.images is None:
            raise ValueError("to look at images again, a strategy needs the outputs' `images`.")
        rows = self.index.argsort() if rows is None else rows
        if len(rows):
            batch_size = max(1, min(batch_size, VOXELS // self.images(self.index[rows[:1]])[0, 0].numel()))
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            yield part, self.images(self.index[part])

    def features(self, encoder: nn.Module | None = None, batch_size: int = 16) -> Tensor:
        """Embeddings ``(N, D)`` in float64, row r of sample ``index[r]``: what representativeness is measured in.

        Args:
            encoder: embeds the images in place of the network (`embed`), in evaluation mode and in the order of their
                index, so that a sample has the same row in every round; moved to the device of the images.
            batch_size: images at once; fewer if they are large, see `VOXELS`.

        Raises:
            ValueError: if there is neither an embedding nor an encoder that gives one.
        """
        if encoder is None:
            if self.embedding is None:
                raise ValueError(
                    "this strategy needs embeddings, and the network has no `embed`; give it an `encoder`."
                )
            return self.embedding.double()
        embed = getattr(encoder, "embed", None)
        if embed is None:
            raise ValueError(f"the encoder, a {type(encoder).__name__}, has no `embed` (images to embeddings).")
        rows, found = self.index.argsort(), []
        for _, images in self.batches(rows, batch_size):
            with evaluating(encoder.to(images.device)):
                found.append(embed(images).double().cpu())
        features = torch.cat(found)
        return torch.empty_like(features).index_copy_(0, rows, features)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; afterwards each module is in the mode that it was in.

    MONAI's `eval_mode` puts everything within the network into the mode of its outermost module.
    """
    training = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


@dataclass(frozen=True)
class Query:
    """The samples to annotate, best first.

    Args:
        index: positions in the datalist, ``(n,)`` long, distinct.
        reason: why each was chosen, n words.
        scores: by name, ``(n,)`` each.
        limit: how many could have been returned at most; n for strategies that always fill their budget.
        kind: what to annotate each with, n of ``label`` and ``mask``; None: what the pool holds.
    """

    index: Tensor
    reason: list[str]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    limit: int = -1
    kind: list[Key] | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> tuple[int, int]:
        """Samples returned, and samples possible."""
        return len(self), len(self) if self.limit < 0 else self.limit


class QueryStrategy(Protocol):
    """``strategy(outputs, budget, generator) -> query``: which unlabeled samples to annotate, best first."""

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query: ...


def name_of(strategy: QueryStrategy) -> str:
    """Name of a strategy for people, with the arguments that `functools.partial` has bound."""
    function = getattr(strategy, "func", strategy)
    bound = ", ".join(f"{name}={value}" for name, value in getattr(strategy, "keywords", {}).items())
    return getattr(function, "__name__", type(function).__name__) + (f" ({bound})" if bound else "")


def of_one_kind(query: Query, strategy: QueryStrategy) -> Query:
    """The query, which must not ask for classes and masks at once.

    Raises:
        ValueError: if it does.
    """
    if query.kind is not None:
        raise ValueError(
            f"{name_of(strategy)} asks for labels and masks, whose budget is in units of cost and not in samples; use "
            "it by itself."
        )
    return query


def top_unlabeled(outputs: PoolOutputs, score: Tensor, budget: int, name: str) -> Query:
    """The `budget` unlabeled samples with the highest score ``(N,)``; ties go to the smaller index."""
    rows = outputs.unlabeled
    rows = rows[score[rows].argsort(descending=True, stable=True)[:budget]]
    return Query(outputs.index[rows], [name] * len(rows), {name: score[rows]})


Chosen = tuple[Tensor, list[str], Tensor]
"""Rows ``(n,)`` in the order of the query, why each was chosen, and scores ``(n,)``."""


class EmbeddingQuery(ABC):
    """A strategy that looks at embeddings and at what is labeled, and at no prediction; a subclass says what to choose.

    Args:
        encoder: a pre-trained network with `embed`, which embeds in place of the one that is queried; copied, so that
            training changes nothing. Images go in as they are, without distortion and in the order of their index.

    Attributes:
        score: what the query calls its scores.
    """

    score: ClassVar[str]

    def __init__(self, encoder: nn.Module | None = None) -> None:
        self.encoder = deepcopy(encoder)

    def __call__(self, outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        """The query, of `budget` samples or of all that are unlabeled.

        Raises:
            ValueError: if there are no embeddings, see `PoolOutputs.features`.
        """
        budget = min(budget, len(outputs.unlabeled))
        if budget <= 0:
            return Query(torch.zeros(0, dtype=torch.long), [], {self.score: torch.zeros(0)})
        order = outputs.index.argsort()
        features, labeled = outputs.features(self.encoder)[order], outputs.labeled[order]
        rows, reason, scores = self.choose(features, labeled, budget, generator)
        return Query(outputs.index[order[rows]], reason, {self.score: scores})

    @abstractmethod
    def choose(self, features: Tensor, labeled: Tensor, budget: int, generator: torch.Generator) -> Chosen:
        """Choose unlabeled samples, given in the order of their index.

        Args:
            features: ``(N, D)``, float64.
            labeled: ``(N,)`` bool.
            budget: n, at least 1, and at most as many as are unlabeled.
            generator: where chance decides.
        """
