"""What each round of a run achieved, and the page that shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.asking.record import pools_of, read_query
from medssl_monai.data.images import ImageDataset
from medssl_monai.distributed import is_first
from medssl_monai.engines.evaluate import check_pseudo_labels, evaluate
from medssl_monai.files import read_json, write_json, write_text
from medssl_monai.methods.base import SSLMethod
from medssl_monai.metrics.classification import finding_figures
from medssl_monai.names import check_classes
from medssl_monai.pool.pool import Label, LabelPool
from medssl_monai.pool.tables import label_text
from medssl_monai.tables import text_of
from medssl_monai.task import UNKNOWN

logger = logging.getLogger(__name__)


class RoundReport:
    """At the end of each round: metrics with intervals of the present weights. At the end of the run: table and page.

    The weights are those at the end of the round, not the best of the round, so that nothing is selected on the
    images that the figures are from. Figures are files (``rounds/round_00.json``), equal for equal runs.

    Images that cannot be read (`ImageDataset.unreadable`) are put in quarantine when the run starts: the pools leave
    them out, so that they are neither trained nor measured on, nor queried; files, table and page list them.

    Args:
        output_dir: where ``rounds/``, ``rounds.csv``, ``pool.json`` and ``report.html`` go, and ``queries/`` is.
        pool: training pool.
        dataset: its images, for the gallery of queried images.
        method: its ``inference_network`` is measured.
        validation: images to measure on.
        validation_pool: their labels.
        every: epochs per round.
        title: of the page.
        notes: sentences for the page, such as limits of the data.
    """

    def __init__(
        self,
        output_dir: str | Path,
        pool: LabelPool,
        dataset: ImageDataset,
        method: SSLMethod,
        validation: ImageDataset,
        validation_pool: LabelPool,
        every: int,
        title: str = "medssl_monai",
        notes: Sequence[str] = (),
    ) -> None:
        self.output_dir, self.pool, self.dataset, self.method = Path(output_dir), pool, dataset, method
        self.validation, self.validation_pool = validation, validation_pool
        self.every, self.title, self.notes = every, title, list(notes)
        self.started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.measure)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Start the clock, put unreadable images in quarantine, and refuse a validation list that measures nothing.

        Raises:
            ValueError: if classes have names that labels cannot carry, now that the task is known; if images cannot be
                read and are not to be skipped (it names those of both lists), or no validation image that can be read
                has a label; before anything is trained.
        """
        self.started = time.monotonic()
        findings = self.pool.task == "multilabel"
        check_classes(self.pool.classes, "finding" if findings else "class", "the datalist", findings)
        refused = []
        for pool, dataset in ((self.pool, self.dataset), (self.validation_pool, self.validation)):
            try:
                pool.quarantine(dataset.unreadable, self.method.learned)
            except ValueError as error:
                refused.append(str(error))
        if refused:
            raise ValueError("\n".join(refused))
        for pool in filter(None, (self.validation_pool, self.validation_pool.beside)):
            if len(pool.indices("labeled")) == 0:
                lost = len(self.validation.unreadable)
                images = f"image that can be read ({lost} cannot)" if lost else "image"
                raise ValueError(f"no validation {images} has a {pool.key}; split the data with `medssl prepare`.")

    def measure(self, engine: Engine) -> None:
        """Write the figures of the round that ends with this epoch."""
        if not is_first():
            return
        number = engine.state.epoch // self.every - 1
        network, device = self.method.inference_network, engine.state.device
        figures = evaluate(network, self.validation, self.validation_pool, device)
        threshold = self.method.confidence_threshold
        checked = {} if threshold is None else check_pseudo_labels(network, self.dataset, self.pool, device, threshold)
        record = {
            "round": number,
            "epoch": engine.state.epoch,
            "labels": len(self.pool.indices("labeled")),
            **({} if self.pool.beside is None else {"masks": len(self.pool.beside.indices("labeled"))}),
            "training": dict(engine.state.metrics),  # means over the epoch, from `EpochMean`
            "pseudo_labels": checked,
            "evaluation": figures,
            "quarantine": [
                *quarantine("training", self.dataset, self.pool.only(self.method.learned)),
                *quarantine("validation", self.validation, self.validation_pool),
            ],
        }
        write_json(self.output_dir / "rounds" / f"round_{number:02d}.json", record)
        self.pool.save_over(self.output_dir / "pool.json")

    def finish(self, engine: Engine) -> None:
        """Log the table, and write it and the page."""
        if not is_first():
            return
        numbers = range(engine.state.epoch // self.every)
        paths = [self.output_dir / "rounds" / f"round_{number:02d}.json" for number in numbers]
        rounds = [read_json(path) for path in paths if path.exists()]
        queries = [self.output_dir / "queries" / "cold_start.json"]
        queries += [self.output_dir / "queries" / f"round_{number:02d}.json" for number in numbers]
        write_report(
            self.output_dir,
            rounds,
            [read_query(path) for path in queries if path.exists()],
            self.pool,
            self.dataset,
            title=self.title,
            seconds=time.monotonic() - self.started,
            notes=self.notes,
        )


def quarantine(section: str, dataset: ImageDataset, pool: LabelPool) -> list[dict[str, str]]:
    """The images and masks of a section that cannot be read, by id, each with its reason."""
    masks = {**pool.unreadable, **(pool.beside.unreadable if pool.beside else {})}
    return [
        {"section": section, "id": pool.ids[position], "reason": reason}
        for position, reason in {**masks, **dataset.unreadable}.items()
    ]


def quarantine_lines(entries: Sequence[dict[str, str]]) -> list[str]:
    """What `quarantine` found as text, a line per section and reason; nothing if it is empty."""
    names: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        names.setdefault((entry["section"], entry["reason"]), []).append(entry["id"])
    lines = [f"{section}, {', '.join(ids)}: {reason}" for (section, reason), ids in names.items()]
    return [f"Quarantine: {len(entries)} files cannot be read and are left out of everything.", *lines] if lines else []


def write_report(
    output_dir: Path,
    rounds: Sequence[dict[str, Any]],
    queries: Sequence[dict[str, Any]],
    pool: LabelPool,
    dataset: ImageDataset,
    title: str,
    seconds: float | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Log the table of all rounds, and write ``rounds.csv`` and ``report.html``.

    Args:
        output_dir: folder to write to.
        rounds: records as `RoundReport.measure` writes them.
        queries: records as from `medssl_monai.asking.record`.
        pool: training pool, for the labels that the queries got.
        dataset: its images.
        title: of the page.
        seconds: duration of the run.
        notes: sentences for the page.
    """
    if not rounds:
        return
    from medssl_monai.report import format_table, write_page

    left_out = quarantine_lines(rounds[-1].get("quarantine", ()))
    write_text(output_dir / "rounds.csv", rounds_table(rounds))
    page = write_page(
        output_dir / "report.html",
        {
            "title": title,
            "synthetic": pool.synthetic,
            "data": getattr(dataset.data, "name", ""),
            "classes": list(pool.classes),
            "section": "validation",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
            "command": "",
            "rounds": list(rounds),
            "queries": [_with_images(query, pool, dataset) for query in queries],
            "notes": [*notes, "Figures: weights at the end of each round, validation images.", *left_out],
        },
    )
    logger.info("\n".join(["Rounds of this run:", format_table(rounds, synthetic=pool.synthetic), *left_out]))
    logger.info(f"Learning curve and queried images: {page}")


def _with_images(record: dict[str, Any], pool: LabelPool, dataset: ImageDataset) -> dict[str, Any]:
    """A query with what the page shows of each item: the image as a person sees it, and the label it got."""
    items = []
    for item in record["items"]:
        index = pool.position[item["id"]]
        label = pools_of(pool)[item.get("ask", pool.key)].label(index)
        answer: dict[str, Any] = {"annotated": None, "differs": False}
        if label is not None:
            answer = {"annotated": label_text(label, pool.classes), "differs": _differs(item, label, pool.classes)}
        items.append({**item, "image": _picture(dataset.images[index]), **answer})
    return {**record, "items": items}


def _differs(item: dict[str, Any], label: Label, classes: Sequence[str]) -> bool:
    """Whether the prediction for a queried image was wrong; of findings, for any that is known now; never of masks."""
    if isinstance(label, str):
        return False
    if isinstance(label, list):
        pairs = zip(item["findings"].values(), label, strict=True)
        return any(value != UNKNOWN and value != (p > 0.5) for p, value in pairs)
    return bool(label_text(label, classes) != item["predicted"])


def _picture(image: Tensor) -> Any:
    """What a person sees of an image ``(C, *spatial)``: uint8 ``(H, W)`` or ``(H, W, 3)``; nothing of features."""
    if image.ndim < 3:
        return None
    image = image if image.dtype == torch.uint8 else image.clamp(0, 1).mul(255).byte()
    plane = image if image.ndim == 3 else image[..., image.shape[-1] // 2]  # the middle slice of a volume
    shown = plane.transpose(1, 2)  # MONAI's first spatial axis is x
    return (shown.permute(1, 2, 0) if len(shown) == 3 else shown[0]).numpy()


def rounds_table(rounds: Sequence[dict[str, Any]]) -> str:
    """The figures of all rounds as CSV, one line per round and metric.

    Multi-label, there are those of each finding as well, and a column with the reasons for those that are undefined.
    """
    several = any(finding_figures(record["evaluation"]) for record in rounds)
    further = ["undefined"] if several else []
    masks = ["masks"] if any("masks" in record for record in rounds) else []
    table = [["round", "epoch", "labels", *masks, "metric", "value", "low", "high", "data", *further]]
    for record in rounds:
        kind = "SYNTHETIC" if record["evaluation"].get("synthetic") else "real"
        named = [{"metric": name, **figure} for name, figure in record["evaluation"]["metrics"].items()]
        for figure in [*named, *finding_figures(record["evaluation"])]:
            row = [record[name] for name in ("round", "epoch", "labels", *masks)] + [figure["metric"]]
            bounds = [figure.get("low", ""), figure.get("high", "")]
            table.append([*row, figure["value"], *bounds, kind, *(figure.get(name, "") for name in further)])
    return text_of(table)
