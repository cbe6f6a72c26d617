"""Honest figures of one network on one labeled list of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.networks import eval_mode
from torch import Tensor, nn

from medssl_monai.data.datalist import SYNTHETIC
from medssl_monai.data.images import ImageDataset
from medssl_monai.engines.predict import as_whole, at_once, predict, weights_sha256
from medssl_monai.files import write_json, write_text
from medssl_monai.locks import holding
from medssl_monai.losses.pseudo_label import Threshold, confident
from medssl_monai.metrics.classification import evaluate_predictions
from medssl_monai.metrics.segmentation import CaseScores, case_scores, class_names, evaluate_masks
from medssl_monai.metrics.targets import pseudo_finding_accuracy, pseudo_label_accuracy
from medssl_monai.pool.pool import LabelPool, is_known
from medssl_monai.tables import text_of
from medssl_monai.transforms.augment import to_unit


class JoinLabels:
    """A `prepare_batch` for MONAI's evaluators: images as the network takes them, and their labels by index.

    Args:
        pool: knows the labels; None: there are none. If there is another `beside` it, labels are pairs.
    """

    def __init__(self, pool: LabelPool | None = None) -> None:
        self.pool = pool

    def __call__(
        self, batch: dict[str, Tensor], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor] | None]:
        images = to_unit(batch["image"].to(device, non_blocking=non_blocking))
        if self.pool is None:
            return images, None
        labels = self.pool.targets(batch["index"]).to(device, non_blocking=non_blocking)
        if self.pool.beside is None:
            return images, labels
        return images, (labels, self.pool.beside.targets(batch["index"]).to(device, non_blocking=non_blocking))


def evaluate(
    network: nn.Module, dataset: ImageDataset, pool: LabelPool, device: torch.device | str, batch_size: int = 128
) -> dict[str, Any]:
    """Metrics with group-bootstrap intervals, as plain values.

    Masks are measured on the grid of the network: distances are in mm if ``dataset.spacing`` says how far its voxels
    are from each other, else in pixels.

    Args:
        network: images to logits; of classes and masks, both (`medssl_monai.networks.MultiMixNetwork`).
        dataset: item ``i`` is sample ``i`` of `pool`; its items' ``group`` is the unit of the bootstrap.
        pool: knows the labels; samples without one are left out and counted. Of a pool with masks `beside` classes, the
            metrics of both are together, and what else is said of the masks is under ``masks``.
        device: where the network is.
        batch_size: images at once; fewer, if these are large and have masks.

    Raises:
        ValueError: if no sample has a label.
    """
    return _evaluate(network, dataset, pool, device, batch_size)[0]


def _evaluate(
    network: nn.Module, dataset: ImageDataset, pool: LabelPool, device: torch.device | str, batch_size: int = 128
) -> tuple[dict[str, Any], CaseScores | None]:
    """`evaluate`, and of masks the scores of each labeled sample."""
    figures, scores = _evaluate_one(network, dataset, pool, device, batch_size)
    if pool.beside is None:
        return figures, scores
    masks, scores = _evaluate_one(network, dataset, pool.beside, device, batch_size)
    further = {name: value for name, value in masks.items() if name not in {*COMMON, "metrics"}}
    return {**figures, "metrics": {**figures["metrics"], **masks["metrics"]}, "masks": further}, scores


COMMON = ("synthetic", "notice", "datalist_sha256", "model_sha256")
"""What holds for all figures of one evaluation."""


def _evaluate_one(
    network: nn.Module, dataset: ImageDataset, pool: LabelPool, device: torch.device | str, batch_size: int
) -> tuple[dict[str, Any], CaseScores | None]:
    """Figures of one kind of labels."""
    index = pool.indices("labeled")
    if len(index) == 0:
        raise ValueError(
            f"no image of this list has a {pool.key}: there is nothing to measure; add {pool.key}s to the datalist."
        )
    group = [str(dataset.data[i].get("group", pool.ids[i])) for i in index.tolist()]
    scores = None
    if pool.task == "segmentation":
        scores = score_masks(network, dataset, pool, device, batch_size, index)
        figures = evaluate_masks(scores, group, pool.classes, unit_of(dataset))
    else:
        probs, _ = predict(network, dataset, device, batch_size, index, pool.task)
        figures = evaluate_predictions(probs.numpy(), pool.targets(index).numpy(), group, classes=pool.classes)
    return {
        "synthetic": pool.synthetic,
        **({"notice": SYNTHETIC} if pool.synthetic else {}),
        "unlabeled": len(pool.indices("unlabeled")),
        "datalist_sha256": pool.datalist_sha256,
        "model_sha256": weights_sha256(network),
        **figures,
    }, scores


def unit_of(dataset: ImageDataset) -> Literal["mm", "pixels"]:
    """What distances on the grid of the images are in."""
    return "pixels" if dataset.spacing is None else "mm"


def score_masks(
    network: nn.Module,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    batch_size: int,
    index: Tensor,
) -> CaseScores:
    """Scores of each case of `index` ``(n,)``; predictions are scored and forgotten batch by batch."""
    whole = as_whole(network, dataset)
    parts = []
    with eval_mode(network):
        for part in torch.split(index, at_once(dataset, batch_size)):
            logits = whole(to_unit(dataset.images[part].to(device)))
            target = pool.targets(part).to(device)
            parts.append(case_scores(logits.argmax(dim=1), target, logits.shape[1], dataset.spacing))
    return CaseScores.join(parts)


def write_evaluation(
    path: str | Path, network: nn.Module, dataset: ImageDataset, pool: LabelPool, device: torch.device | str
) -> dict[str, Any]:
    """`evaluate`, written as JSON; of masks with ``cases.csv`` beside it, see `write_cases`.

    Raises:
        OSError: if a run is at work in that folder.
    """
    with holding(Path(path).parent):
        figures, scores = _evaluate(network, dataset, pool, device)
        write_json(path, figures)
        if scores is not None:
            write_cases(Path(path).with_name("cases.csv"), scores, dataset, pool.beside or pool)
    return figures


def write_cases(path: str | Path, scores: CaseScores, dataset: ImageDataset, pool: LabelPool) -> None:
    """Write a table with a row for each labeled sample and each class but the background.

    Its columns are ``id``, ``class``, ``labeled`` and ``predicted`` (whether the class is there, in the mask and in the
    prediction), ``dice``, ``hd95`` and ``asd``, these with their unit; undefined values are empty. Rows of synthetic
    images say so.

    Args:
        path: file to write.
        scores: of the labeled samples, in their order.
        dataset: knows the unit.
        pool: knows the ids and the classes.
    """
    unit, names = unit_of(dataset), class_names(scores, pool.classes)
    note = {"data": "SYNTHETIC"} if pool.synthetic else {}
    rows: list[list[object]] = [["id", "class", "labeled", "predicted", "dice", f"hd95_{unit}", f"asd_{unit}", *note]]
    for case, index in enumerate(pool.indices("labeled").tolist()):
        for k, name in enumerate(names):
            found = [column[case, k] for column in (scores.dice, scores.hd95, scores.asd)]
            there = [int(scores.truth[case, k]), int(scores.predicted[case, k])]
            values = [f"{value:.6g}" if np.isfinite(value) else "" for value in found]
            rows.append([pool.ids[index], name, *there, *values, *note.values()])
    write_text(path, text_of(rows))


def check_pseudo_labels(
    network: nn.Module,
    dataset: ImageDataset,
    pool: LabelPool,
    device: torch.device | str,
    threshold: Threshold,
) -> dict[str, Any]:
    """How many unlabeled images a learner would accept now, and how often it would be right.

    The labels that the datalist hides tell (`hidden_labels`). Images are as they are and the network is
    in evaluation mode, while a learner sees weak views in training mode: this is an audit beside training, not its log.

    For segmentation there are no such figures: hidden masks are not read.

    Multi-label, pairs of an image and a finding are accepted, as present or as absent; those of which the datalist does
    not know the truth are left out of every figure.

    Args:
        network: images to logits.
        dataset: item ``i`` is sample ``i`` of `pool`.
        pool: knows what is labeled, and the task.
        device: where the network is.
        threshold: confidence from which on a pseudo-label counts; of findings see
            `medssl_monai.losses.pseudo_label.confident`.

    Returns:
        ``threshold``; ``unlabeled`` and ``accepted`` (counts; multi-label: ``pairs`` as well, of which some are
        accepted) and, if any was accepted, ``accuracy`` and ``per_class`` of these
        (`medssl_monai.metrics.pseudo_label_accuracy`, `medssl_monai.metrics.pseudo_finding_accuracy`). Nothing if no
        label is hidden.
    """
    index, truth = hidden_labels(dataset, pool)
    if len(index) == 0:
        return {}
    probs = predict(network, dataset, device, index=index, task=pool.task).probs
    accepted = confident(probs, threshold, pool.task)
    if pool.task == "multilabel":
        known = truth >= 0
        accepted &= known
        counts = {"unlabeled": len(index), "pairs": int(known.sum()), "accepted": int(accepted.sum())}
        pseudo_label = torch.where(accepted, (probs > 0.5).long(), -1)
        figures = pseudo_finding_accuracy(pseudo_label.numpy(), truth.numpy(), pool.classes)
    else:
        counts = {"unlabeled": len(index), "accepted": int(accepted.sum())}
        predicted, classes = probs.max(dim=1).indices, probs.shape[1]
        figures = pseudo_label_accuracy(predicted[accepted].numpy(), truth[accepted].numpy(), classes, pool.classes)
    return {"threshold": torch.as_tensor(threshold, dtype=torch.double).tolist(), **counts, **figures}


def hidden_labels(dataset: ImageDataset, pool: LabelPool) -> tuple[Tensor, Tensor]:
    """Unlabeled samples whose label the datalist knows, as in simulated experiments; none for segmentation.

    Returns:
        Positions ``(n,)``, and class indices ``(n,)`` or multi-hot labels ``(n, K)``.
    """
    kind = list if pool.task == "multilabel" else int
    labels = {i: dataset.data[i].get(pool.key) for i in pool.indices("unlabeled").tolist()}
    hidden = {i: label for i, label in labels.items() if isinstance(label, kind) and is_known(label)}
    return torch.tensor(list(hidden), dtype=torch.long), torch.tensor(list(hidden.values())).long()
