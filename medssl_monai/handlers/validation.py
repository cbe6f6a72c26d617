"""Metrics of a validation pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.data.datalist import Key
from medssl_monai.metrics.classification import METRICS, classification_metrics, left_out
from medssl_monai.metrics.segmentation import CaseScores, case_scores, mask_metrics
from medssl_monai.task import Task, probabilities


class ClassificationScores:
    """Collect predictions and targets of an evaluator and compute its metrics at the end of the pass.

    Defined metrics go to ``engine.state.metrics``; undefined ones are left out there, logged with the reason, and
    listed in ``engine.state.undefined``. What a label is says what the predictions are: ``(B,)`` one class of each
    image, ``(B, K)`` findings. Of these many may be undefined, so that they are logged together.

    Args:
        classes: their names, for the log; empty: "class 0", "class 1", ...
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = classes
        self.probs: list[Tensor] = []
        self.target: list[Tensor] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last pass."""
        self.probs, self.target = [], []

    def add(self, engine: Engine) -> None:
        """Take in one batch: ``pred`` and ``label`` of `update`."""
        self.update(engine.state.output["pred"], engine.state.output["label"])

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Take in logits ``(B, K)`` and labels, ``(B,)`` or ``(B, K)``."""
        task: Task = "multilabel" if label.ndim > 1 else "multiclass"
        self.probs.append(probabilities(logits.detach(), task))
        self.target.append(label)

    def finish(self, engine: Engine) -> None:
        """Compute and log."""
        probs, target = torch.cat(self.probs).cpu().numpy(), torch.cat(self.target).cpu().numpy()
        known = target >= 0 if target.ndim == 1 else (target >= 0).any(axis=1)
        probs, target = probs[known], target[known]
        defined, undefined = classification_metrics(probs, target, self.classes)
        for name in METRICS:  # what is undefined now must not keep the value of the last pass
            engine.state.metrics.pop(name, None)
        engine.state.metrics.update(defined)
        engine.state.undefined = undefined
        values = ", ".join(f"{name} {value:.3f}" for name, value in defined.items())
        engine.logger.info(f"Validation of {len(target)} images: {values}")
        if target.ndim > 1:
            undefined, of_findings = {name: undefined[name] for name in METRICS if name in undefined}, undefined
            for line in left_out(of_findings):
                engine.logger.warning(line)
        for name, reason in undefined.items():
            engine.logger.warning(f"{name} is undefined: {reason}.")


class MaskScores:
    """Measure the overlap of predicted masks and those of an evaluator, batch by batch.

    ``dice`` goes to ``engine.state.metrics``, the mean over the classes without the background and then over the cases,
    and, if there are several classes, ``dice of lesion``. What is undefined is left out there, logged with the reason,
    and listed in ``engine.state.undefined``. Distances take long and are left to the report at the end of a round,
    `medssl_monai.engines.evaluate`, by whose rules these figures are (`medssl_monai.metrics.case_scores`).

    Args:
        classes: K names, the background's first; empty: "class 0", "class 1", ...
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = classes
        self.scores: list[CaseScores] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last pass."""
        self.scores = []

    def add(self, engine: Engine) -> None:
        """Take in one batch: ``pred`` and ``label`` of `update`."""
        self.update(engine.state.output["pred"], engine.state.output["label"])

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Take in logits ``(B, K, *spatial)`` and labels ``(B, *spatial)``, -1 unknown."""
        self.scores.append(case_scores(logits.argmax(dim=1), label, logits.shape[1], distances=False))

    def finish(self, engine: Engine) -> None:
        """Compute and log."""
        scores = CaseScores.join(self.scores)
        values, undefined = mask_metrics(scores, self.classes, ["dice"])
        defined = {name: float(np.nanmean(of)) for name, of in values.items()}
        for name in undefined:  # what is undefined now must not keep the value of the last pass
            engine.state.metrics.pop(name, None)
        engine.state.metrics.update(defined)
        engine.state.undefined = undefined
        text = ", ".join(f"{name} {value:.3f}" for name, value in defined.items())
        engine.logger.info(f"Validation of {int(scores.known.sum())} masks: {text}")
        for name, reason in undefined.items():
            engine.logger.warning(f"{name} is undefined: {reason}.")


class JointScores:
    """`ClassificationScores` and `MaskScores` of one pass, for networks that tell classes and masks.

    ``joint``, by which the best weights of such a network can be chosen, is the mean of AUROC and Dice, and undefined
    where one of them is. Of a network that learns the one or the other alone it is AUROC, or Dice.

    Args:
        learned: ``label``, ``mask`` or both (`medssl_monai.methods.SSLMethod.learned`). Both: predictions and labels
            are pairs, classes first.
        classes: see `ClassificationScores`.
        mask_classes: see `MaskScores`.
    """

    def __init__(self, learned: Sequence[Key], classes: Sequence[str] = (), mask_classes: Sequence[str] = ()) -> None:
        parts: dict[Key, tuple[ClassificationScores | MaskScores, str]] = {
            "label": (ClassificationScores(classes), "auroc"),
            "mask": (MaskScores(mask_classes), "dice"),
        }
        self.parts = [parts[kind] for kind in learned]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last pass."""
        for scores, _ in self.parts:
            scores.start(engine)

    def add(self, engine: Engine) -> None:
        """Take in one batch: ``pred`` and ``label``, or a pair of each."""
        pairs = engine.state.output["pred"], engine.state.output["label"]
        if len(self.parts) == 1:
            pairs = [pairs[0]], [pairs[1]]
        for (scores, _), logits, label in zip(self.parts, *pairs, strict=True):
            scores.update(logits, label)

    def finish(self, engine: Engine) -> None:
        """Compute and log."""
        undefined: dict[str, str] = {}
        for scores, _ in self.parts:
            scores.finish(engine)
            undefined |= engine.state.undefined
        engine.state.undefined = undefined
        values = [engine.state.metrics.get(metric) for _, metric in self.parts]
        engine.state.metrics.pop("joint", None)
        if all(value is not None for value in values):
            engine.state.metrics["joint"] = sum(values) / len(values)
