"""Whether a method's estimate of the loss, and the targets made of it, agree with labels that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.data.images import ImageDataset
from medssl_monai.distributed import is_first
from medssl_monai.engines.evaluate import hidden_targets
from medssl_monai.files import read_json, write_json
from medssl_monai.methods.base import SSLMethod
from medssl_monai.metrics.targets import judge_targets
from medssl_monai.networks.modes import evaluating
from medssl_monai.pool.pool import LabelPool
from medssl_monai.transforms.augment import to_unit


class Section(NamedTuple):
    """Images with labels that the method has not seen.

    Attributes:
        dataset: where they are.
        position: in there, ``(n,)``.
        known_as: the method's index of each, ``(n,)``; -1: it has none.
        truth: targets ``(n, *cases)``.
    """

    dataset: ImageDataset
    position: Tensor
    known_as: Tensor
    truth: Tensor


class EstimatorReport:
    """At the end of each round: judge the method's targets, and add ``estimator`` to the record of the round.

    ``validation`` are the labeled validation images, ``unlabeled`` the unlabeled training images whose label the
    datalist hides; each has the figures of `medssl_monai.metrics.judge_targets`. A section without images is left out,
    and so is ``validation`` if the method compares with what it stored for each training sample (``method.previous ==
    "bank"``), since it has stored nothing for others.

    Images are as they are and all networks in evaluation mode, while a learner sees weak views in training mode: this
    is an audit beside training, not its log. It leaves modes and random state as they were, so that a run with it
    equals one without. The first process does it alone, since nothing in it is collective.

    List this after `RoundReport`, which writes the record, and before `TrainingCheckpoint`.

    Args:
        method: has ``targets(images, index)`` as `medssl_monai.methods.TEAR`, for the first part of the labels that it
            learns, which changes nothing; validation images have the index -1.
        dataset: training images.
        pool: training pool.
        validation: validation images.
        validation_pool: their labels.
        every: epochs per round, as for `RoundReport`.
        output_dir: as for `RoundReport`.
        batch_size: images at once.

    Raises:
        TypeError: if the method has no ``targets``.
    """

    def __init__(
        self,
        method: SSLMethod,
        dataset: ImageDataset,
        pool: LabelPool,
        validation: ImageDataset,
        validation_pool: LabelPool,
        every: int,
        output_dir: str | Path,
        batch_size: int = 128,
    ) -> None:
        if not callable(getattr(method, "targets", None)):
            raise TypeError(
                f"{type(method).__name__} has no `targets(images, index)`, and thus no estimate to judge; leave "
                "EstimatorReport out, or take a method that has one, such as TEAR."
            )
        self.method, self.dataset, self.pool = method, dataset, pool
        self.validation, self.validation_pool = validation, validation_pool
        self.every, self.output_dir, self.batch_size = every, Path(output_dir), batch_size
        self.part = next(iter(method.kinds))

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.measure)

    def measure(self, engine: Engine) -> None:
        """Add the figures to the record of the round that ends with this epoch.

        Raises:
            ValueError: if there is no such record.
        """
        if not is_first():
            return
        path = self.output_dir / "rounds" / f"round_{engine.state.epoch // self.every - 1:02d}.json"
        record = read_json(path) if path.exists() else {}
        if record.get("epoch") != engine.state.epoch:
            raise ValueError(
                f"there is no record {path} of epoch {engine.state.epoch} to add to; list EstimatorReport after "
                "RoundReport, with the same `every` and `output_dir`."
            )
        device = torch.device(engine.state.device)
        with _undisturbed(self.method, device):
            figures = {name: self._judge(section, device) for name, section in self._sections().items()}
        write_json(path, {**record, "estimator": figures})

    def _sections(self) -> dict[str, Section]:
        """Return what there is to judge by."""
        sections = {}
        if getattr(self.method, "previous", None) != "bank":
            measured = self.validation_pool[self.part]
            index = measured.indices("labeled")
            nowhere = torch.full_like(index, -1)
            sections["validation"] = Section(self.validation, index, nowhere, measured.targets(index))
        index, truth = hidden_targets(self.pool[self.part])
        sections["unlabeled"] = Section(self.dataset, index, index, truth)
        return {name: section for name, section in sections.items() if len(section.position)}

    def _judge(self, section: Section, device: torch.device) -> dict[str, Any]:
        batches = (torch.split(rows, self.batch_size) for rows in (section.position, section.known_as))
        parts = [
            cast(Any, self.method).targets(to_unit(section.dataset.images[position].to(device)), index.to(device))
            for position, index in zip(*batches, strict=True)
        ]
        kind = self.pool[self.part].kind
        return judge_targets(
            torch.cat([part.outcomes for part in parts]).float().cpu().numpy(),
            torch.cat([part.pseudo_label for part in parts]).cpu().numpy(),
            torch.cat([part.targets for part in parts]).float().cpu().numpy(),
            torch.cat([part.mask for part in parts]).cpu().numpy() > 0,
            torch.cat([part.estimated_loss for part in parts]).float().cpu().numpy(),
            section.truth.numpy(),
            kind.state_names,
            kind.case_names,
        )


@contextmanager
def _undisturbed(method: SSLMethod, device: torch.device) -> Iterator[None]:
    """Evaluate without gradient; afterwards every module's mode and torch's random state are as before."""
    with evaluating(method), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
