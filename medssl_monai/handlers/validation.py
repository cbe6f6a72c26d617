"""Metrics of a validation pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

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
        """Take in one batch: ``pred`` logits ``(B, K)`` and ``label``, ``(B,)`` or ``(B, K)``."""
        label = engine.state.output["label"]
        task: Task = "multilabel" if label.ndim > 1 else "multiclass"
        self.probs.append(probabilities(engine.state.output["pred"].detach(), task))
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
        """Take in one batch: ``pred`` logits ``(B, K, *spatial)`` and ``label`` ``(B, *spatial)``, -1 unknown."""
        logits, label = engine.state.output["pred"], engine.state.output["label"]
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
