"""Training from the viewer: on the labels that are there, and on the images that have none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import name_to_device

from medssl_monai.data.datalist import FLAGS
from medssl_monai.files import write_atomically
from medssl_monai.monai_label.gate import known_device
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import Studies, read_studies

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
        self.served, self.share, self.studies, self.epochs = served, share, studies, served.epochs
        super().__init__(str(served.folder), conf)

    def config(self) -> dict[str, Any]:
        options = {**super().config(), "max_epochs": self.epochs}
        return {name: options[name] for name in OFFERED}

    def stats(self) -> dict[str, Any]:
        """Return what the weights say of the training that they are from, in the words of MONAI Label's viewers."""
        about = self.served.about
        figures = {name: about.get(name) for name in ("metric", "epoch")}
        figures |= {"best_metric": about.get("value"), "total_time": 1}  # viewers take a time for: it has ended
        return {name: value for name, value in figures.items() if value is not None} if about else {}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train.

        Args:
            request: ``max_epochs``, ``device``, and ``pretrained``: whether to start from the weights that are there.
            datastore: MONAI Label's.

        Returns:
            How many images were learned from and measured on, and the metric.

        Raises:
            ValueError: if labels are missing, the message says which; or for less than one epoch.
        """
        epochs = request.get("max_epochs", self.epochs)
        if not str(epochs).isdecimal() or int(epochs) < 1:
            raise ValueError(f"`max_epochs` must be a whole number from 1, got {epochs!r}.")
        studies = read_studies(datastore, self.served, self.share, self.studies)
        self._check(studies)
        folder = self.served.folder / "eval" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        values: dict[str, Any] = {"output_dir": str(folder), "ckpt_dir": str(folder / "models")}
        values |= {"epochs_per_round": int(epochs), "device": known_device(name_to_device(request.get("device")))}
        if not request.get("pretrained", True):
            values["network::pretrained"] = None
        run = self.served.run(studies.train, studies.validation if self.share else None, studies.synthetic, **values)
        counts = self._counts(run)
        run.run()
        run.finalize()
        with (folder / "models" / "model.pt").open("rb") as trained:
            write_atomically(self.served.weights, partial(shutil.copyfileobj, trained), private=False)
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
        """How many readable images there are of each kind, in the log as well."""
        names = ("pool", "train::dataset", "validate::pool", "validate::dataset", "method_def")
        pool, images, measured, to_measure, method = (run.parser.get_parsed_content(name) for name in names)
        pool.quarantine(images.unreadable, method.kinds)
        measured.quarantine(to_measure.unreadable, method.kinds)
        counts: dict[str, int] = {}
        for labels in pool.parts.values():
            flag = FLAGS[labels.key]
            counts |= {flag: len(labels.indices("labeled")), f"un{flag}": len(labels.indices("unlabeled"))}
        counts["validation"] = len(measured.first.indices("all"))
        sizes = ", ".join(f"{count} {name}" for name, count in counts.items())
        used = not all(stream.labeled for stream in method.streams.values())
        how = "it learns from those without a label as well" if used else "it learns from labels alone"
        logger.info(f"{self.served.name}: {type(method).__name__} on {sizes} images; {how}.")
        return counts
