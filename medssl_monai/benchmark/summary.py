"""What a table of results says in short: means over seeds, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

TITLES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro-F1",
    "ece": "ECE",
    "dice": "Dice",
    "hd95": "95 % Hausdorff distance",
    "asd": "average surface distance",
    "pseudo_label_accuracy": "accuracy of accepted pseudo-labels",
    "mask_rate": "mask rate",
    "loss_correlation": "correlation of estimated and true loss",
    "target_ece": "ECE of accepted targets",
}
"""The metrics of the summary; of them ECE and distances are better when low, and the mask rate is neither."""
ARM = ("method", "query")
ALIKE = ("data", "note", "kind", "schedule", "round", "metric")
COMPARED = (*ALIKE[:-1], "labels", "metric")
MEAN = "mean"
"""In place of a round: the mean over all rounds of a cell, the height of its learning curve."""


def summarize(rows: Iterable[Row]) -> list[Row]:
    """Return the means over seeds, by data, labels, method, query, round and metric.

    Returns:
        Rows with ``mean``, ``low`` and ``high`` (95 % t-interval across seeds, None for a single one), ``seeds`` (how
        many) and ``within`` (mean width of the group bootstrap intervals, None where there are none). The round `MEAN`
        is the mean over the rounds. ``labels``: of folds that differ in it the mean, to a whole number.
    """
    names = (*ALIKE, *ARM)
    result = []
    for key, group in grouped(_with_means(rows), names):
        widths = [row["high"] - row["low"] for row in group if row["low"] is not None]
        interval = t_interval([row["value"] for row in group])
        within = statistics.fmean(widths) if widths else None
        about = {**dict(zip(names, key, strict=True)), "labels": _labels(group)}
        result.append({**about, **interval, "within": within})
    return result


def differences(rows: Iterable[Row], baselines: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Return how every method with its query differs from a baseline, by seed.

    Paired are rows of the same data, labels at the start, round and metric.

    Args:
        rows: as from `read_results`.
        baselines: method and query by name.

    Returns:
        Rows with ``baseline``, and of the differences ``mean``, ``low`` and ``high`` (95 % t-interval, None for a
        single pair), ``seeds`` (how many pairs) and ``by_seed``, the differences themselves.
    """
    result = []
    for key, group in grouped(_with_means(rows), ALIKE):
        arms: dict[tuple[str, str], dict[int, float]] = {}
        for row in group:
            arms.setdefault((row["method"], row["query"]), {})[row["seed"]] = row["value"]
        for name, baseline in baselines.items():
            for (method, query), values in arms.items():
                base = arms.get(baseline, {})
                paired = {seed: values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())}
                if paired and (method, query) != baseline:
                    about = {"labels": _labels(group), "baseline": name, "method": method, "query": query}
                    interval = t_interval(list(paired.values()))
                    result.append({**dict(zip(ALIKE, key, strict=True)), **about, **interval, "by_seed": paired})
    return result


def t_interval(values: Sequence[float]) -> Row:
    """Return ``mean``, and ``low`` and ``high`` of Student's 95 % interval about it, None for a single value.

    ``seeds`` is how many values there are. The interval takes them as independent draws from a normal distribution.
    """
    from scipy import stats

    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": count}
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": count}


def _with_means(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with a value, and the mean over rounds of each cell and metric that all its rounds have."""
    rows = [row for row in rows if row["value"] is not None]
    means = []
    for _, cell in grouped(rows, ("data", "schedule", "method", "query", "seed")):
        rounds = {row["round"] for row in cell}
        for _, group in grouped(cell, ("metric",)):
            if len(group) == len(rounds):
                value = statistics.fmean(row["value"] for row in group)
                means.append({**group[0], "round": MEAN, "labels": None, "value": value, "low": None, "high": None})
    return rows + means


def _labels(rows: Sequence[Row]) -> int | None:
    """Return how many labels rows of one round have, on average; None of the mean over rounds."""
    return None if rows[0]["labels"] is None else round(statistics.fmean(row["labels"] for row in rows))


def grouped(rows: Iterable[Row], names: Sequence[str]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Return rows that agree in `names`, in the order in which they first occur."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.items())
