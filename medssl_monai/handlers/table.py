"""Predictions as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events

from medssl_monai.asking.record import predicted_label
from medssl_monai.data.images import ImageDataset
from medssl_monai.data.readable import ReadableImages
from medssl_monai.files import write_text
from medssl_monai.handlers.mask_writer import NOTE
from medssl_monai.pool.tables import label_text
from medssl_monai.tables import text_of
from medssl_monai.task import Task


class ProbabilityTable:
    """Write the class probabilities of every image by id, as CSV, when an evaluator has seen them all.

    The columns are ``id``, one per class, ``predicted`` and ``error``: a file that could not be read has a row with
    its reason and no figures. Of several findings those are predicted that are more probable than not.

    Args:
        path: file to write.
        dataset: what the evaluator reads.
        classes: names of the classes, in the order of their index.
        synthetic: whether the weights come from phantoms; the file's name and every row say so.
        task: ``multilabel``: the classes are findings.
        key: of the probabilities in the evaluator's output.
    """

    def __init__(
        self,
        path: str | Path,
        dataset: ImageDataset | ReadableImages,
        classes: Sequence[str],
        synthetic: bool = False,
        task: Task = "multiclass",
        key: str = "pred",
    ) -> None:
        self.path, self.dataset, self.classes, self.synthetic = Path(path), dataset, list(classes), synthetic
        self.task, self.key = task, key
        self.rows: dict[int, list[float]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda engine: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def add(self, engine: Engine) -> None:
        """Take in one decollated batch: probabilities ``(K,)``."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.rows[int(item["index"])] = output[self.key].tolist()

    def write(self, engine: Engine) -> None:
        """Write the table."""
        table = [["id", *self.classes, "predicted", "error", *(["model"] if self.synthetic else [])]]
        note = [NOTE] if self.synthetic else []
        for index, item in enumerate(self.dataset.data):
            if index in self.dataset.unreadable:
                table.append([item["id"], *[""] * len(self.classes), "", self.dataset.unreadable[index], *note])
            else:
                probs = self.rows[index]
                predicted = label_text(predicted_label(probs, self.task), self.classes)
                table.append([item["id"], *(f"{p:.6f}" for p in probs), predicted, "", *note])
        write_text(self.path, text_of(table))
        engine.logger.info(f"Probabilities of {len(self.rows)} images: {self.path}")
