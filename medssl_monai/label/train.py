"""Training from the viewer: on the labels that are there, and on the images that have none."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from monailabel.tasks.train.bundle import BundleTrainTask

from medssl_monai.data.datalist import FLAGS
from medssl_monai.files import write_atomically
from medssl_monai.label.served import ServedBundle
from medssl_monai.label.studies import Studies, read_studies
from medssl_monai.query.record import pools_of

logger = logging.getLogger(__name__)

OFFERED = ("device", "pretrained", "max_epochs")
"""What a viewer may choose; of MONAI Label's own options the others mean nothing here."""


class Training(BundleTrainTask):  # type: ignore[misc]  # MONAI Label is untyped
    """A bundle's training on all images of the datastore: one list, in which flags say what is labeled.

    MONAI Label runs it in a process of its own. Every training has a folder of its own, ``eval/TIME``, with report and
    weights; then the bundle's ``models/model.pt`` is replaced, in one step, and inference takes the new one.

    Args:
        served: the bundle.
        conf: of the app.
        share: of the patients that is held out for validation, see `read_studies`; 0: the bundle's own images for that.
        studies: folder of the studies.
    """

    def __init__(self, served: ServedBundle, conf: dict[str, str], share: float, studies: str) -> None:
        self.served, self.share, self.studies = served, share, studies
        super().__init__(str(served.folder), conf)

    def config(self) -> dict[str, Any]:
        options = {**super().config(), "max_epochs": self.served.epochs}
        return {name: options[name] for name in OFFERED}

    def stats(self) -> dict[str, Any]:
        """What the weights say of the training that they are from, in the words of MONAI Label's viewers."""
        about = self.served.about
        if not about:
            return {}
        told = {name: about.get(name) for name in ("metric", "epoch")}
        return {**told, "best_metric": about.get("value"), "total_time": 1}  # viewers take a time for: it has ended

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train.

        Args:
            request: ``max_epochs``, ``device``, and ``pretrained``: whether to start from the weights that are there.
            datastore: MONAI Label's.

        Returns:
            How many images were learned from and measured on, and the metric.

        Raises:
            ValueError: if labels are missing; the message says which.
        """
        studies = read_studies(datastore, self.served, self.share, self.studies)
        self._check(studies)
        folder = self.served.folder / "eval" / time.strftime("%Y-%m-%d_%H-%M-%S")
        values: dict[str, Any] = {"output_dir": str(folder), "ckpt_dir": str(folder / "models")}
        if epochs := request.get("max_epochs"):
            values["epochs_per_round"] = int(epochs)
        if device := request.get("device"):
            values["device"] = device if isinstance(device, str) else device[0]
        if not request.get("pretrained", True):
            values["network::pretrained"] = None
        run = self.served.run(studies.train, studies.validation if self.share else None, studies.synthetic, **values)
        counts = self._counts(run)
        run.run()
        run.finalize()
        write_atomically(self.served.weights, partial(shutil.copyfile, folder / "models" / "model.pt"))
        about = self.served.about
        metric = {str(about.get("metric")): about.get("value")}
        return {"model": self.served.name, "weights": self.served.version, **counts, **metric}

    def _check(self, studies: Studies) -> None:
        name = self.served.name
        if not any(item["labeled"] or item.get("masked") for item in studies.train):
            raise ValueError(
                f"{name} has no label to learn from ({len(studies.validation)} to measure on); label an image that "
                "/activelearning gives, and save the label with the tag 'final'."
            )
        if self.share and not studies.validation:
            raise ValueError(
                f"{name} has labels of one patient alone, and needs those of two: one to learn from, one to measure on."
            )

    def _counts(self, run: Any) -> dict[str, int]:
        """How many images there are of each kind, in the log as well."""
        pool, validation, method = (
            run.parser.get_parsed_content(name) for name in ("pool", "validate::pool", "method_def")
        )
        counts: dict[str, int] = {}
        for key, own in pools_of(pool).items():
            known = int(own.mask.sum())
            counts |= {FLAGS[key]: known, f"un{FLAGS[key]}": len(own) - known}
        counts["validation"] = len(validation)
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        used = {"unlabeled", "unmasked"} & set(method.streams)
        how = "which it learns from as well" if used else "which it does not use: it learns from labels alone"
        logger.info(f"{self.served.name}: {type(method).__name__} on {told} images; of those without a label, {how}.")
        return counts
