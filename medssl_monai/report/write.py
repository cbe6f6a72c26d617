"""The report of a run: its table and its page, and what is on them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl_monai.data.images import ImageDataset
from medssl_monai.files import write_text
from medssl_monai.metrics.classification import finding_figures
from medssl_monai.pool.pool import LabelPool
from medssl_monai.report.columns import known_counts
from medssl_monai.report.console import format_table
from medssl_monai.report.page import write_page
from medssl_monai.tables import text_of

logger = logging.getLogger(__name__)


def quarantine_lines(entries: Sequence[dict[str, str]]) -> list[str]:
    """Return what `quarantine` found as text, a line per section and reason; nothing if it is empty."""
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

    left_out = quarantine_lines(rounds[-1].get("quarantine", ()))
    write_text(output_dir / "rounds.csv", rounds_table(rounds))
    page = write_page(
        output_dir / "report.html",
        {
            "title": title,
            "synthetic": pool.synthetic,
            "data": getattr(dataset.data, "name", ""),
            "classes": list(pool.first.kind.names),
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
    """Return a query with what the page shows of each item: the image as a person sees it, and the label it got."""
    items = []
    for item in record["items"]:
        index = pool.position[item["id"]]
        labels = pool[item.get("ask", pool.first.key)]
        label, kind = labels.label(index), labels.kind
        answer: dict[str, Any] = {"annotated": None, "differs": False}
        if label is not None:
            answer = {"annotated": kind.shown(label), "differs": kind.differs(item, label)}
        items.append({**item, "image": _picture(dataset.images[index]), **answer})
    return {**record, "items": items}


def _picture(image: Tensor) -> Any:
    """Return what people see of an image ``(C, *spatial)``: uint8 ``(H, W)`` or ``(H, W, 3)``; nothing of features."""
    if image.ndim < 3:
        return None
    image = image if image.dtype == torch.uint8 else image.clamp(0, 1).mul(255).byte()
    plane = image if image.ndim == 3 else image[..., image.shape[-1] // 2]  # the middle slice of a volume
    shown = plane.transpose(1, 2)  # MONAI's first spatial axis is x
    return (shown.permute(1, 2, 0) if len(shown) == 3 else shown[0]).numpy()


def rounds_table(rounds: Sequence[dict[str, Any]]) -> str:
    """Return the figures of all rounds as CSV, one line per round and metric.

    Of findings there are those of each as well, and a column with the reasons for those that are undefined.
    """
    several = any(finding_figures(record["evaluation"]) for record in rounds)
    further = ["undefined"] if several else []
    known = ["round", "epoch", *known_counts(rounds)]
    table = [[*known, "metric", "value", "low", "high", "data", *further]]
    for record in rounds:
        kind = "SYNTHETIC" if record["evaluation"].get("synthetic") else "real"
        named = [{"metric": name, **figure} for name, figure in record["evaluation"]["metrics"].items()]
        for figure in [*named, *finding_figures(record["evaluation"])]:
            row = [record[name] for name in known] + [figure["metric"]]
            bounds = [figure.get("low", ""), figure.get("high", "")]
            table.append([*row, figure["value"], *bounds, kind, *(figure.get(name, "") for name in further)])
    return text_of(table)
