"""Predict many images with one network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks import eval_mode
from torch import Tensor, nn

from medssl_monai.data.images import ImageDataset
from medssl_monai.losses.pseudo_label import Threshold
from medssl_monai.pool.pool import LabelPool
from medssl_monai.query.base import VOXELS, PoolOutputs
from medssl_monai.task import Task, probabilities
from medssl_monai.transforms.augment import to_unit


class Prediction(NamedTuple):
    """Probabilities ``(N, K)`` and embeddings ``(N, D)`` (None if the network shows none), on the CPU.

    For segmentation, probabilities are means over the voxels: the share of each class.
    """

    probs: Tensor
    embedding: Tensor | None


@runtime_checkable
class ShowsEmbedding(Protocol):
    """A network that shows its embedding."""

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)``."""

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, D)`` and logits, from one pass."""


class Windows(nn.Module):
    """A network for segmentation that goes over large images window by window (`monai.inferers`).

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
        """Logits ``(B, K, *spatial)``."""
        return torch.as_tensor(self.inferer(images, self.network))

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, D)`` of the whole images, and logits."""
        return cast(ShowsEmbedding, self.network).embed(images), self(images)


def part_for(network: nn.Module, task: Task) -> nn.Module:
    """Of a network for classes and masks (`MultiMixNetwork`) the part that tells the one or the other."""
    classifier = getattr(network, "classifier", None)
    return classifier if task != "segmentation" and isinstance(classifier, nn.Module) else network


def at_once(dataset: ImageDataset, batch_size: int) -> int:
    """How many images that have masks to predict at once: `batch_size`, or fewer if they are large."""
    return max(1, min(batch_size, VOXELS // max(1, dataset.images[0, 0].numel())))


def as_whole(network: nn.Module, dataset: ImageDataset) -> nn.Module:
    """`network` as it predicts images of `dataset`: in `Windows`, if the images have a `patch_size`."""
    return network if dataset.patch_size is None else Windows(network, dataset.patch_size)


class ClassesAndMasks(nn.Module):
    """Class logits ``(B, num_classes)`` and mask logits ``(B, K, *spatial)`` of a network for both, as a pair.

    Args:
        network: with ``joint`` and ``classifier``, as `medssl_monai.networks.MultiMixNetwork`.
        size: of windows, where masks are predicted in `Windows`; classes are of whole images.
    """

    def __init__(self, network: nn.Module, size: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network, self.training = network, network.training
        self.windows = None if size is None else Windows(network, size)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of images ``(B, C, *spatial)``."""
        network: Any = self.network
        if self.windows is not None:
            return network.classifier(images), self.windows(images)
        classes, masks, _ = network.joint(images)
        return classes, masks


def as_labeled(network: nn.Module, dataset: ImageDataset, pool: LabelPool) -> nn.Module:
    """`network` as it predicts what `pool` knows of images of `dataset`: see `as_whole` and `ClassesAndMasks`."""
    if pool.beside is not None:
        return ClassesAndMasks(network, dataset.patch_size)
    return as_whole(part_for(network, pool.task), dataset)


def predict(
    network: nn.Module,
    dataset: ImageDataset,
    device: torch.device | str,
    batch_size: int = 128,
    index: Tensor | None = None,
    task: Task = "multiclass",
) -> Prediction:
    """Run `network` in evaluation mode, in float32, over images of `dataset`.

    Args:
        network: images in [0, 1] to logits.
        dataset: images, decoded once.
        device: where the network is.
        batch_size: images at once.
        index: which images, ``(n,)``; default: all, in order.
        task: what the logits mean.
    """
    network = part_for(network, task)
    rows = torch.arange(len(dataset)) if index is None else index
    if task == "segmentation":
        batch_size = at_once(dataset, batch_size)
    whole = as_whole(network, dataset)
    probs, embedding = [], []
    with eval_mode(whole):
        for part in torch.split(rows, batch_size):
            images = to_unit(dataset.images[part].to(device))
            if isinstance(network, ShowsEmbedding):
                z, logits = cast(ShowsEmbedding, whole).with_embedding(images)
                embedding.append(z.float().cpu())
            else:
                logits = whole(images)
            found = probabilities(logits, task)
            probs.append((found.flatten(2).mean(dim=2) if task == "segmentation" else found).cpu())
    return Prediction(torch.cat(probs), torch.cat(embedding) if embedding else None)


def predict_pool(
    network: nn.Module,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    batch_size: int = 128,
    threshold: Threshold | None = None,
) -> PoolOutputs:
    """Everything that a query strategy may ask for, from one pass over the pool.

    Args:
        network: usually ``method.inference_network``.
        dataset: item ``i`` is sample ``i`` of the pool.
        pool: knows what is labeled, and the task.
        device: where the network is.
        batch_size: images at once.
        threshold: the learner's confidence threshold, see `PoolOutputs`.
    """
    probs, embedding = predict(network, dataset, device, batch_size, task=pool.task)
    beside = None if pool.beside is None else predict_pool(network, dataset, pool.beside, device, batch_size)
    return PoolOutputs(
        index=torch.arange(len(pool)),
        labeled=pool.mask,
        probs=probs,
        embedding=embedding,
        network=as_whole(part_for(network, pool.task), dataset),
        images=lambda index: to_unit(dataset.images[index].to(device)),
        threshold=threshold,
        task=pool.task,
        beside=beside,
    )


def weights_sha256(network: nn.Module) -> str:
    """Hash of a network's weights and buffers, whatever file they are in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
