"""Which metrics the tables show, under which titles, and how a value is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"accuracy": "accuracy", "f1_macro": "macro-F1", "auroc": "AUROC"}
MASK_COLUMNS = {"dice": "Dice", "hd95": "95 % Hausdorff distance", "asd": "average surface distance"}
TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "ap": "average precision",
    "ece": "calibration error (ECE)",
    "n": "images",
    "absent": "images without it",
    "missed": "of the others, not found",
    "spurious": "found where none is",
    **COLUMNS,
    **MASK_COLUMNS,
}
FINDING_TITLES = {**TITLES, "n": "present", "absent": "absent"}
"""For findings, of which an image may show several, or none."""


def columns_of(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Return the metrics that every table and the figure show, with their titles."""
    masks = evaluation if evaluation.get("task") == "segmentation" else evaluation.get("masks")
    if masks is None:
        return COLUMNS
    unit = masks["unit"]
    columns = {name: title if name == "dice" else f"{title} ({unit})" for name, title in MASK_COLUMNS.items()}
    return columns if masks is evaluation else {**COLUMNS, **columns}


def known_counts(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is counted in each round: labels, and masks if there are any beside them."""
    return ["labels", *(["masks"] if any("masks" in entry for entry in rounds) else [])]


def number_text(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """Return a number with its interval in brackets; a count stays whole."""
    if value is None:
        return "undefined"
    interval = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else ""
    return str(value) if isinstance(value, int) else f"{value:.3f}{interval}"


def value_text(evaluation: Mapping[str, Any], name: str) -> str:
    """Return a metric as ``0.812 [0.770, 0.851]``, without brackets if it has no interval; empty if undefined."""
    metric = evaluation["metrics"].get(name)
    if metric is None:
        return ""
    interval = f" [{metric['low']:.3f}, {metric['high']:.3f}]" if "low" in metric else ""
    return f"{metric['value']:.3f}{interval}"


def cell_text(evaluation: Mapping[str, Any], name: str) -> str:
    """Return a metric, or the reason why it is undefined."""
    return value_text(evaluation, name) or f"undefined: {reason_of(evaluation, name)}"


def reason_of(evaluation: Mapping[str, Any], name: str) -> str:
    """Return the reason why a metric is undefined."""
    masks = evaluation.get("masks", {}).get("undefined", {})
    return str({**evaluation["undefined"], **masks}.get(name, "not measured"))
