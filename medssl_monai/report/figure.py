"""Learning curves, as a picture for a page."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medssl_monai import pages
from medssl_monai.report.columns import columns_of

COLORS = ("#0b6e99", "#a0521a", "#5b4b9a")


def learning_curves(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return learning curves with their intervals as HTML; without matplotlib, how to install it."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator
    except ImportError:
        return '<p>To have the learning curve drawn here: <code>pip install "medssl-monai[report]"</code>.</p>'

    columns = columns_of(rounds[0]["evaluation"])
    ranges = {name: _range(name, rounds) for name in columns}
    alike = len(set(ranges.values())) == 1
    figure = Figure(figsize=(3.0 * len(columns), 3.1), layout="constrained")
    axes = figure.subplots(1, len(columns), sharex=True, sharey=alike, squeeze=False)[0]
    described = []
    for axis, (name, title), color in zip(axes, columns.items(), itertools.cycle(COLORS)):
        points = [
            (entry["labels"], entry["evaluation"]["metrics"][name])
            for entry in rounds
            if name in entry["evaluation"]["metrics"]
        ]
        labels, values = [label for label, _ in points], [metric["value"] for _, metric in points]
        axis.plot(labels, values, color=color, marker="o", linewidth=1.6)
        # Bars about the middle of the interval: a percentile interval need not contain the value.
        for label, metric in points:
            if "low" in metric:
                low, high = metric["low"], metric["high"]
                axis.errorbar(label, (low + high) / 2, (high - low) / 2, fmt="none", ecolor=color, capsize=3)
        axis.set_title(title, fontsize=None if alike else 9)
        axis.set(xlabel="labels", ylim=ranges[name])
        axis.xaxis.set_major_locator(FixedLocator([entry["labels"] for entry in rounds], nbins=6))
        axis.grid(axis="y", color="#dddddd", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        if points:
            described.append(f"{title} from {values[0]:.3f} at {labels[0]} to {values[-1]:.3f} at {labels[-1]} labels")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "medssl"}):  # equal runs, equal pages
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    alt = escape("Learning curves with intervals: " + ("; ".join(described) or "no value is defined"))
    picture = f'<img class="figure" src="{pages.data_uri("image/svg+xml", buffer.getvalue())}" alt="{alt}">'
    return pages.scrollable("Learning curves", picture)


def _range(name: str, rounds: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return where the axis of a metric begins and ends: that of a share from 0 to 1; None: as the values ask."""
    values = [value for entry in rounds for value in entry["evaluation"]["metrics"].get(name, {}).values()]
    return (0.0 if min(values, default=0) >= 0 else None), (1.02 if max(values, default=0) <= 1 else None)
