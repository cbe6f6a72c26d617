"""The figures of a benchmark: learning curves, and the end of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.benchmark.summary import ARM, MEAN, TITLES, Row, grouped
from medssl_monai.data.datalist import SYNTHETIC
from medssl_monai.files import write_atomically

logger = logging.getLogger(__name__)

Arm = tuple[Any, ...]

DISTANCES = {"hd95", "asd"}
"""Metrics that have no upper limit."""


def draw_figures(summary: Sequence[Row], out_dir: str | Path) -> bool:
    """Draw ``curves.png``, of what has several rounds, and ``end.png``; False without Matplotlib, as the log says."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning('There are no figures, since Matplotlib is missing: pip install "medssl-monai[report]"')
        return False
    rows = [row for row in summary if row["metric"] in TITLES]
    several = {(row["data"], row["schedule"]) for row in rows if row["round"] not in (0, MEAN)}
    if several:
        curves = [row for row in rows if (row["data"], row["schedule"]) in several]
        _draw_curves(Path(out_dir) / "curves.png", curves)
    if rows:
        _draw_end(Path(out_dir) / "end.png", rows)
    return True


def _draw_curves(path: Path, summary: Sequence[Row]) -> None:
    """Draw learning curves: a line of panels per data and labels, a column per metric; bands are across seeds."""
    figure, panels, colors = panels_of([row for row in summary if row["round"] != MEAN], height=lambda _: 2.6)
    handles: dict[str, Any] = {}
    for axis, rows, _ in panels:
        for arm, group in grouped(rows, ARM):
            labels, color, name = [row["labels"] for row in group], colors[arm], " + ".join(arm)
            (handles[name],) = axis.plot(
                labels, [row["mean"] for row in group], marker="o", markersize=3, linewidth=1.4, color=color
            )
            if all(row["low"] is not None for row in group):
                low, high = [row["low"] for row in group], [row["high"] for row in group]
                axis.fill_between(labels, low, high, color=color, alpha=0.10, linewidth=0)
        axis.set_ylim(within_range(axis.get_ylim(), rows))
        axis.set_xticks(sorted({row["labels"] for row in rows}))
        axis.set_xlabel("labels")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path, summary, "bands: 95 % t-interval across seeds")


def _draw_end(path: Path, summary: Sequence[Row]) -> None:
    """Draw the last round: thick bars are intervals across seeds, thin ones the mean bootstrap within a cell."""
    last = {
        key: max(row["round"] for row in rows if row["round"] != MEAN)
        for key, rows in grouped(summary, ("data", "schedule"))
    }
    rows = [row for row in summary if row["round"] == last[row["data"], row["schedule"]]]
    figure, panels, colors = panels_of(rows, height=lambda arms: 0.8 + 0.3 * arms, share=True)
    for axis, group, arms in panels:
        for row in group:
            arm = row["method"], row["query"]
            place, color = arms.index(arm), colors[arm]
            if row["within"] is not None:
                axis.errorbar(row["mean"], place, xerr=row["within"] / 2, color=color, linewidth=1, capsize=2)
            if row["low"] is not None:
                axis.plot([row["low"], row["high"]], [place, place], color=color, linewidth=4, alpha=0.5)
            axis.plot(row["mean"], place, "o", color=color, markersize=5)
        axis.set_yticks(range(len(arms)), [" + ".join(arm) for arm in arms])
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.set_xlim(within_range(axis.get_xlim(), group))
    _save(figure, path, summary, "thick: 95 % t-interval across seeds; thin: group bootstrap in a cell, mean width")


def within_range(limits: tuple[float, float], rows: Sequence[Row]) -> tuple[float, float]:
    """Return the limits of an axis without what the metric cannot reach; with few seeds, intervals do."""
    metrics = {row["metric"] for row in rows}
    least = -1.02 if "loss_correlation" in metrics else -0.02
    return max(limits[0], least), limits[1] if metrics & DISTANCES else min(limits[1], 1.02)


def panels_of(
    rows: Sequence[Row], height: Callable[[int], float], share: bool = False
) -> tuple[Any, list[tuple[Any, list[Row], list[Arm]]], dict[Arm, str]]:
    """Return a figure, its panels with the rows and the arms of each, and a colour for every arm.

    Args:
        rows: to draw.
        height: of a line of panels with so many arms.
        share: one y axis per line.
    """
    from matplotlib.figure import Figure

    metrics = [name for name in TITLES if any(row["metric"] == name for row in rows)]
    lines = grouped(rows, ("data", "schedule", "kind", "note"))
    arms_of = [[arm for arm, _ in grouped(group, ARM)] for _, group in lines]
    heights = [height(len(arms)) for arms in arms_of]
    width = 3.4 * len(metrics) + (1.6 if share else 0.0)
    figure = Figure(figsize=(width, sum(heights) + 1.0), layout="constrained")
    grid = figure.subplots(
        len(lines), len(metrics), squeeze=False, sharey="row" if share else False, height_ratios=heights
    )
    panels = []
    for axes, ((data, schedule, kind, note), group), arms in zip(grid, lines, arms_of, strict=True):
        about = "; ".join(filter(None, (kind, note)))
        for axis, name in zip(axes, metrics, strict=True):
            axis.set_title(f"{data} ({about}), {schedule}\n{TITLES[name]}", fontsize=9)
            axis.grid(color="#dddddd", linewidth=0.8)
            axis.spines[["top", "right"]].set_visible(False)
            panels.append((axis, [row for row in group if row["metric"] == name], arms))
    colors = {arm: f"C{place % 10}" for place, (arm, _) in enumerate(grouped(rows, ARM))}
    return figure, panels, colors


def _save(figure: Any, path: Path, summary: Sequence[Row], text: str) -> None:
    synthetic = any(row["kind"] == "SYNTHETIC" for row in summary)
    figure.suptitle(f"{SYNTHETIC}\n{text}" if synthetic else text, fontsize=10)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130), private=False)
