"""Which metrics the tables show, under which titles, and how a value is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai.data.datalist import FLAGS
from medssl_monai.kinds import DEFAULT, KINDS, Kind, kind_named

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
    **{name: title for kind in KINDS.values() for name, title in kind().scores().shown.items()},
}
"""Of figures, where the kind of labels has no other, see `medssl_monai.kinds.Scores`."""


def parts_of(evaluation: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Kind]]:
    """Return the figures of each part of the labels, and the kind that they are of, the first part first."""
    first = kind_named(evaluation["kind"]) if "kind" in evaluation else DEFAULT()
    others = [value for value in evaluation.values() if isinstance(value, Mapping) and "kind" in value]
    return [(evaluation, first), *((figures, kind_named(figures["kind"])) for figures in others)]


def columns_of(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Return the metrics that every table and the figure show, with their titles."""
    shown = [kind.scores().columns(figures) for figures, kind in parts_of(evaluation)]
    return {name: title for columns in shown for name, title in columns.items()}


def known_counts(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names under which rounds say how much was known: labels, and masks where there are such."""
    first, *others = (f"{key}s" for key in FLAGS)
    return [first, *(name for name in others if any(name in entry for entry in rounds))]


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
    reasons = {key: reason for figures, _ in parts_of(evaluation) for key, reason in figures["undefined"].items()}
    return str(reasons.get(name, "not measured"))
