"""Predict many images with one network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from medssl_monai.data.images import ImageDataset
from medssl_monai.kinds import DEFAULT, Kind, Threshold
from medssl_monai.networks.modes import evaluating
from medssl_monai.pool.outputs import VOXELS, PoolOutputs
from medssl_monai.pool.pool import LabelPool
from medssl_monai.transforms.augment import to_unit


class Prediction(NamedTuple):
    """What the kind of labels keeps of the outcomes, and embeddings ``(N, D)``; on the CPU.

    Attributes:
        kept: see `medssl_monai.kinds.Kind.kept`: ``(N, *cases, S)``; of masks the share of each class.
        embedding: None if the network shows none.
    """

    kept: Tensor
    embedding: Tensor | None


@runtime_checkable
class ShowsEmbedding(Protocol):
    """A network that shows its embedding."""

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings ``(B, D)``."""

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings ``(B, D)`` and logits, from one pass."""


@runtime_checkable
class HasParts(Protocol):
    """A network with logits for several parts of the labels."""

    def network_of(self, part: str) -> nn.Module:
        """Return the network whose logits are of that part alone."""

    def by_part(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return the logits of every part, from one pass."""


class Windows(nn.Module):
    """A network whose logits lie on the grid of its images, which goes over large ones window by window.

    A window covers half of the one before it along each axis, as those of the bundle's ``inference.json`` do; where
    they overlap, logits are averaged, with a Gaussian's weight.

    Args:
        network: images to logits of the same size.
        size: of the windows, in voxels.
    """

    def __init__(self, network: nn.Module, size: Sequence[int]) -> None:
        super().__init__()
        self.network, self.training = network, network.training
        self.inferer = SlidingWindowInferer(size, sw_batch_size=4, overlap=0.5, mode="gaussian")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, K, *spatial)``."""
        return torch.as_tensor(self.inferer(images, self.network))

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings ``(B, D)`` of the whole images, and logits."""
        return cast(ShowsEmbedding, self.network).embed(images), self(images)


class PartLogits(nn.Module):
    """A network whose answer is a dict: logits by the part of the labels, as an evaluator compares them with targets.

    Args:
        network: for one part, or for several (`HasParts`).
        dataset: images that it predicts.
        kinds: of the labels, by part.
    """

    def __init__(self, network: nn.Module, dataset: ImageDataset, kinds: Mapping[str, Kind]) -> None:
        super().__init__()
        self.network, self.training = network, network.training
        self.parts = nn.ModuleDict({key: network_for(network, dataset, kind, key) for key, kind in kinds.items()})
        self.at_once = len(kinds) > 1 and isinstance(network, HasParts) and dataset.patch_size is None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits by part."""
        if self.at_once:
            logits = cast(HasParts, self.network).by_part(images)
            return {key: logits[key] for key in self.parts}
        return {key: part(images) for key, part in self.parts.items()}


def network_for(network: nn.Module, dataset: ImageDataset, kind: Kind, part: str = "label") -> nn.Module:
    """Return `network` as it predicts one part of the labels for images of `dataset`.

    Where the number of cases differs from image to image, these are gone over in `Windows` if they have a
    `patch_size`.
    """
    own = network.network_of(part) if isinstance(network, HasParts) else network
    return own if dataset.patch_size is None or kind.cases is not None else Windows(own, dataset.patch_size)


def as_labeled(network: nn.Module, dataset: ImageDataset, pool: LabelPool) -> PartLogits:
    """Return `network` as it predicts what `pool` knows of images of `dataset`."""
    return PartLogits(network, dataset, {key: labels.kind for key, labels in pool.parts.items()})


def at_once(dataset: ImageDataset, kind: Kind, batch_size: int) -> int:
    """Return how many images to predict at once: `batch_size`, or fewer if they have a case per voxel and are large."""
    return batch_size if kind.cases is not None else max(1, min(batch_size, VOXELS // dataset.images[0, 0].numel()))


def predict(
    network: nn.Module,
    dataset: ImageDataset,
    device: torch.device | str,
    batch_size: int = 128,
    index: Tensor | None = None,
    kind: Kind | None = None,
    part: str = "label",
) -> Prediction:
    """Run `network` in evaluation mode, in float32, over images of `dataset`.

    Args:
        network: images in [0, 1] to logits.
        dataset: images, decoded once.
        device: where the network is.
        batch_size: images at once; fewer, if these are large and have a case per voxel.
        index: which images, ``(n,)``; default: all, in order.
        kind: what the logits are of; default: one class per image.
        part: of the labels that this kind is of, where the network has several.
    """
    kind = kind or DEFAULT()
    rows = torch.arange(len(dataset)) if index is None else index
    whole = network_for(network, dataset, kind, part)
    shows = isinstance(whole.network if isinstance(whole, Windows) else whole, ShowsEmbedding)
    kept, embedding = [], []
    with evaluating(whole):
        for chosen in torch.split(rows, at_once(dataset, kind, batch_size)):
            images = to_unit(dataset.images[chosen].to(device))
            if shows:
                z, logits = cast(ShowsEmbedding, whole).with_embedding(images)
                embedding.append(z.float().cpu())
            else:
                logits = whole(images)
            kept.append(kind.kept(kind.outcomes(logits)).cpu())
    return Prediction(torch.cat(kept), torch.cat(embedding) if embedding else None)


def predict_pool(
    network: nn.Module,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    batch_size: int = 128,
    thresholds: Mapping[str, Threshold] | None = None,
) -> PoolOutputs:
    """Return everything that a query strategy may ask for, from one pass over the pool for each of its parts.

    Args:
        network: usually ``method.inference_network``.
        dataset: item ``i`` is sample ``i`` of the pool.
        pool: knows what is labeled, and the kinds of labels.
        device: where the network is.
        batch_size: images at once.
        thresholds: the learner's confidence thresholds by part, see `PoolOutputs`.
    """
    found = {}
    for key, labels in pool.parts.items():
        kept, embedding = predict(network, dataset, device, batch_size, kind=labels.kind, part=key)
        found[key] = PoolOutputs(
            index=torch.arange(len(pool)),
            labeled=labels.mask,
            kept=kept,
            kind=labels.kind,
            embedding=embedding,
            network=network_for(network, dataset, labels.kind, key),
            images=lambda index: to_unit(dataset.images[index].to(device)),
            threshold=(thresholds or {}).get(key),
            key=key,
        )
    first = found.pop(pool.first.key)
    return replace(first, others=found)


def weights_sha256(network: nn.Module) -> str:
    """Return the hash of a network's weights and buffers, whatever file they are in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
