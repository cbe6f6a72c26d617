"""Predict many images with one network."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from monai.networks import eval_mode
from torch import Tensor, nn

from medssl_monai.data.images import ImageDataset
from medssl_monai.data.pool import LabelPool
from medssl_monai.losses.pseudo_label import Threshold
from medssl_monai.networks.embedding import EmbeddingClassifier
from medssl_monai.query.base import PoolOutputs
from medssl_monai.task import Task, probabilities
from medssl_monai.transforms.augment import to_unit


class Prediction(NamedTuple):
    """Probabilities ``(N, K)`` and embeddings ``(N, D)`` (None if the network shows none), on the CPU."""

    probs: Tensor
    embedding: Tensor | None


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
    rows = torch.arange(len(dataset)) if index is None else index
    probs, embedding = [], []
    with eval_mode(network):
        for part in torch.split(rows, batch_size):
            images = to_unit(dataset.images[part].to(device))
            if isinstance(network, EmbeddingClassifier):
                z = network.embed(images)
                embedding.append(z.float().cpu())
                logits = network.head(z)
            else:
                logits = network(images)
            probs.append(probabilities(logits, task).cpu())
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
    return PoolOutputs(
        index=torch.arange(len(pool)),
        labeled=pool.mask,
        probs=probs,
        embedding=embedding,
        network=network,
        images=lambda index: to_unit(dataset.images[index].to(device)),
        threshold=threshold,
        task=pool.task,
    )


def weights_sha256(network: nn.Module) -> str:
    """Hash of a network's weights and buffers, whatever file they are in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
