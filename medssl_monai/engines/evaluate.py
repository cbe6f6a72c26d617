"""Honest figures of one network on one labeled list of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.data.datalist import SYNTHETIC
from medssl_monai.data.images import ImageDataset
from medssl_monai.engines.predict import at_once, network_for, predict, weights_sha256
from medssl_monai.files import write_json, write_text
from medssl_monai.kinds import Scores, Threshold
from medssl_monai.locks import holding
from medssl_monai.metrics.targets import pseudo_label_accuracy
from medssl_monai.networks.modes import evaluating
from medssl_monai.pool.labels import Labels
from medssl_monai.pool.pool import LabelPool
from medssl_monai.tables import text_of
from medssl_monai.transforms.augment import to_unit


class JoinLabels:
    """A `prepare_batch` for MONAI's evaluators: images as the network takes them, and their labels by index.

    Args:
        pool: knows the labels, which come as a dict of targets by part; None: there are none.
    """

    def __init__(self, pool: LabelPool | None = None) -> None:
        self.pool = pool

    def __call__(
        self, batch: dict[str, Tensor], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        images = to_unit(batch["image"].to(device, non_blocking=non_blocking))
        if self.pool is None:
            return images, None
        targets = {key: labels.targets(batch["index"]) for key, labels in self.pool.parts.items()}
        return images, {key: target.to(device, non_blocking=non_blocking) for key, target in targets.items()}


def evaluate(
    network: nn.Module, dataset: ImageDataset, pool: LabelPool, device: torch.device | str, batch_size: int = 128
) -> dict[str, Any]:
    """Return metrics with group-bootstrap intervals, as plain values.

    Masks are measured on the grid of the network: distances are in mm if ``dataset.spacing`` says how far its voxels
    are from each other, else in pixels.

    Args:
        network: images to logits; of several parts of the labels, see `medssl_monai.engines.predict.HasParts`.
        dataset: item ``i`` is sample ``i`` of `pool`; its items' ``group`` is the unit of the bootstrap.
        pool: knows the labels; samples without one are left out and counted.
        device: where the network is.
        batch_size: images at once; fewer, if these are large and have masks.

    Returns:
        What `medssl_monai.kinds.Scores.figures` says, and ``unlabeled``, ``synthetic`` and hashes. Of several parts of
        the labels all ``metrics`` are together, and what else is said of those that are not the first stands under the
        word of their kind, such as ``masks``.

    Raises:
        ValueError: if no sample has a label.
    """
    scores = {key: score(network, dataset, labels, device, batch_size) for key, labels in pool.parts.items()}
    return _figures(scores, network, dataset, pool)


def score(
    network: nn.Module, dataset: ImageDataset, labels: Labels, device: torch.device | str, batch_size: int = 128
) -> Scores:
    """Return the scores of what one part of the labels knows; see `evaluate`."""
    index = labels.indices("labeled")
    if len(index) == 0:
        raise ValueError(
            f"no image of this list has a {labels.key}: there is nothing to measure; add {labels.key}s to the datalist."
        )
    scores, whole = labels.kind.scores(dataset.spacing), network_for(network, dataset, labels.kind, labels.key)
    with evaluating(whole):
        for rows in torch.split(index, at_once(dataset, labels.kind, batch_size)):
            outcomes = labels.kind.outcomes(whole(to_unit(dataset.images[rows].to(device))))
            scores.add(outcomes, labels.targets(rows))
    return scores


def _figures(
    scores: Mapping[str, Scores], network: nn.Module, dataset: ImageDataset, pool: LabelPool
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "synthetic": pool.synthetic,
        **({"notice": SYNTHETIC} if pool.synthetic else {}),
        "datalist_sha256": pool.datalist_sha256,
        "model_sha256": weights_sha256(network),
    }
    metrics: dict[str, Any] = {}
    for key, labels in pool.parts.items():
        index = labels.indices("labeled").tolist()
        found = scores[key].figures([str(dataset.data[i].get("group", pool.ids[i])) for i in index])
        metrics |= found["metrics"]
        found = {"unlabeled": len(labels.indices("unlabeled")), **found}
        figures |= found if labels is pool.first else {labels.kind.word: _without_metrics(found)}
    return {**figures, "metrics": metrics}


def _without_metrics(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name != "metrics"}


def write_evaluation(
    path: str | Path, network: nn.Module, dataset: ImageDataset, pool: LabelPool, device: torch.device | str
) -> dict[str, Any]:
    """`evaluate`, written as JSON; beside it, if a kind of labels has one, ``cases.csv`` (`Scores.rows`).

    Raises:
        OSError: if a run is at work in that folder.
    """
    with holding(Path(path).parent):
        scores = {key: score(network, dataset, labels, device) for key, labels in pool.parts.items()}
        figures = _figures(scores, network, dataset, pool)
        write_json(path, figures)
        for key, labels in pool.parts.items():
            rows = scores[key].rows([pool.ids[i] for i in labels.indices("labeled").tolist()])
            if rows is not None:
                write_text(Path(path).with_name("cases.csv"), text_of(_marked(rows) if pool.synthetic else rows))
    return figures


def _marked(rows: list[list[object]]) -> list[list[object]]:
    """Return a table whose rows say that the images are synthetic."""
    return [[*row, "SYNTHETIC" if number else "data"] for number, row in enumerate(rows)]


def check_pseudo_labels(
    network: nn.Module,
    dataset: ImageDataset,
    labels: Labels,
    device: torch.device | str,
    threshold: Threshold,
) -> dict[str, Any]:
    """Say how many unlabeled images a learner would accept now, and how often it would be right.

    The labels that the datalist hides tell (`medssl_monai.pool.Labels.hidden`). Images are as they are and the network
    is in evaluation mode, while a learner sees weak views in training mode: this is an audit beside training, not its
    log.

    Where an image has several cases, such as findings, pairs of an image and a case are accepted; those of which the
    datalist does not know the truth are left out of every figure. Of labels that are in files, such as masks, there are
    no such figures: hidden files are not read.

    Args:
        network: images to logits.
        dataset: item ``i`` is sample ``i`` of `labels`.
        labels: knows what is labeled, and the kind.
        device: where the network is.
        threshold: confidence from which on a pseudo-label counts.

    Returns:
        ``threshold``; ``unlabeled`` and ``accepted`` (counts; of several cases ``pairs`` as well, of which some are
        accepted) and, if any was accepted, ``accuracy`` and ``per_class`` of these
        (`medssl_monai.metrics.pseudo_label_accuracy`). Nothing if no label is hidden.
    """
    kind = labels.kind
    index, truth = hidden_targets(labels)
    if len(index) == 0:
        return {}
    kept = predict(network, dataset, device, index=index, kind=kind, part=labels.key).kept
    accepted = kind.confident(kept, threshold) & (truth >= 0)
    return {
        "threshold": threshold.plain(),
        "unlabeled": len(index),
        **({"pairs": int((truth >= 0).sum())} if truth.ndim > 1 else {}),
        "accepted": int(accepted.sum()),
        **pseudo_label_accuracy(
            torch.where(accepted, kind.decide(kept), -1).numpy(),
            truth.numpy(),
            kept.shape[-1],
            kind.state_names,
            kind.case_names,
        ),
    }


def hidden_targets(labels: Labels) -> tuple[Tensor, Tensor]:
    """Return unlabeled samples whose label the datalist knows, as in simulated experiments; none of labels in files.

    Returns:
        Positions ``(n,)``, and targets ``(n, *cases)``.
    """
    if labels.kind.cases is None:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    hidden = labels.hidden()
    return torch.tensor(list(hidden), dtype=torch.long), labels.kind.targets(hidden, list(hidden), labels.read)
