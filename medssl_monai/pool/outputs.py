"""What a query strategy reads: predictions for a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from medssl_monai.kinds import DEFAULT, Kind, Threshold
from medssl_monai.networks.modes import evaluating

VOXELS = 2**20
"""Voxels of all images that are predicted at once: a network for masks keeps many maps of their size."""


@dataclass(frozen=True)
class PoolOutputs:
    """Predictions for a pool; row r belongs to sample ``index[r]``.

    Args:
        index: positions in the datalist, ``(N,)`` long.
        labeled: whether the sample is labeled, ``(N,)`` bool.
        kept: what the kind of labels keeps of the outcomes (`medssl_monai.kinds.Kind.kept`): ``(N, *cases, S)``; of
            masks their mean over the voxels, which is the share of each class; `maps` gives those of each voxel.
        kind: what the outcomes are of; None: one class per image.
        embedding: ``(N, D)``, or None if the network shows none.
        network: what predicted; a classifier has ``head`` (embeddings to logits) if there is an embedding.
        images: gives the images ``(B, C, *spatial)`` of positions ``(B,)``, for strategies that look at them again.
        threshold: confidence from which on the learner pseudo-labels by itself, or None.
        key: which part of the labels this is.
        others: outputs of the other parts, by their keys; each with rows of its own, and without others.
    """

    index: Tensor
    labeled: Tensor
    kept: Tensor
    kind: Kind = field(default_factory=DEFAULT)
    embedding: Tensor | None = None
    network: nn.Module | None = None
    images: Callable[[Tensor], Tensor] | None = None
    threshold: Threshold | None = None
    key: str = "label"
    others: Mapping[str, PoolOutputs] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def parts(self) -> dict[str, PoolOutputs]:
        """Outputs of every part by its key, this one first."""
        return {self.key: self, **self.others}

    def outcomes(self, name: str) -> Tensor:
        """Return outcomes of whole images ``(N, *cases, S)``, for the strategy `name`.

        Raises:
            ValueError: if the kind of labels has none, as masks.
        """
        return self.kind.per_image(self.kept, name)

    def outcomes_of(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows ``(b,)`` and their outcomes ``(b, *cases, S)``: those that are kept, or else `maps`."""
        if self.kind.cases is None:
            yield from self.maps(rows)
        else:
            yield rows, self.kept[rows]

    def take(self, rows: Tensor) -> PoolOutputs:
        """Return those rows ``(n,)`` alone, in their order; of the other parts likewise."""
        return replace(
            self,
            index=self.index[rows],
            labeled=self.labeled[rows],
            kept=self.kept[rows],
            embedding=None if self.embedding is None else self.embedding[rows],
            others={key: outputs.take(rows) for key, outputs in self.others.items()},
        )

    @property
    def doubtful(self) -> Tensor:
        """Return which samples the learner does not pseudo-label in every case, ``(N,)``; all without a threshold."""
        if self.threshold is None:
            return torch.ones(len(self), dtype=torch.bool)
        return ~self.kind.sure(self.kept, self.threshold)

    @property
    def unlabeled(self) -> Tensor:
        """Return rows of the unlabeled samples, ``(n,)``, in the order of their index."""
        rows = (~self.labeled).nonzero().squeeze(1)
        return rows[self.index[rows].argsort()]

    def maps(self, rows: Tensor | None = None, batch_size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """Predict images again, batch by batch: outcomes, of each voxel too, which nobody keeps for a whole pool.

        The network runs in evaluation mode and without gradient, and is afterwards as it was.

        Args:
            rows: of which samples, ``(n,)``; default: all, in the order of their index.
            batch_size: images at once; fewer if they are large, see `VOXELS`.

        Yields:
            Rows ``(b,)``, and outcomes ``(b, *cases, S)`` on the device of the network.

        Raises:
            ValueError: if the outputs have no network or no images.
        """
        network = self.network
        if network is None:
            raise ValueError("to predict images again, a strategy needs the outputs' `network`.")
        for part, images in self.batches(rows, batch_size):
            with evaluating(network):
                outcomes = self.kind.outcomes(network(images))
            yield part, outcomes

    def batches(self, rows: Tensor | None = None, batch_size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows ``(b,)`` and their images ``(b, C, *spatial)``; see `maps`."""
        if self.images is None:
            raise ValueError("to look at images again, a strategy needs the outputs' `images`.")
        rows = self.index.argsort() if rows is None else rows
        if len(rows):
            batch_size = max(1, min(batch_size, VOXELS // self.images(self.index[rows[:1]])[0, 0].numel()))
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            yield part, self.images(self.index[part])

    def features(self, encoder: nn.Module | None = None, batch_size: int = 16) -> Tensor:
        """Return embeddings ``(N, D)`` in float64, which representativeness is measured in; row r is of ``index[r]``.

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
