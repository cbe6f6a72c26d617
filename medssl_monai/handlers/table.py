"""Predictions as a table."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.data.images import ImageDataset
from medssl_monai.data.readable import ReadableImages
from medssl_monai.files import write_text
from medssl_monai.handlers.mask_writer import NOTE
from medssl_monai.kinds import Kind
from medssl_monai.tables import text_of


class ProbabilityTable:
    """Write the probabilities of every image by id, as CSV, when an evaluator has seen them all.

    The columns are ``id``, one per class or finding (`medssl_monai.kinds.Kind.columns`), ``predicted`` and ``error``: a
    file that could not be read has a row with its reason and no figures.

    Args:
        path: file to write.
        dataset: what the evaluator reads.
        kind: what the outcomes are of, with its names.
        synthetic: whether the weights come from phantoms; the file's name and every row say so.
        key: of the outcomes of each image ``(*cases, S)`` in the evaluator's output, see
            `medssl_monai.transforms.Outcomesd`.
    """

    def __init__(
        self,
        path: str | Path,
        dataset: ImageDataset | ReadableImages,
        kind: Kind,
        synthetic: bool = False,
        key: str = "pred",
    ) -> None:
        self.path, self.dataset, self.kind, self.synthetic, self.key = Path(path), dataset, kind, synthetic, key
        self.rows: dict[int, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda engine: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def add(self, engine: Engine) -> None:
        """Take in one decollated batch."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.rows[int(item["index"])] = torch.as_tensor(output[self.key]).cpu()

    def write(self, engine: Engine) -> None:
        """Write the table."""
        names = list(self.kind.names)
        table = [["id", *names, "predicted", "error", *(["model"] if self.synthetic else [])]]
        note = [NOTE] if self.synthetic else []
        for index, item in enumerate(self.dataset.data):
            if index in self.dataset.unreadable:
                table.append([item["id"], *[""] * len(names), "", self.dataset.unreadable[index], *note])
            else:
                outcomes = self.rows[index].unsqueeze(0)
                probs = (f"{column[0]:.6f}" for column in self.kind.columns(outcomes).values())
                table.append([item["id"], *probs, self.kind.describe(outcomes[0])["predicted"], "", *note])
        write_text(self.path, text_of(table))
        engine.logger.info(f"Probabilities of {len(self.rows)} images: {self.path}")
