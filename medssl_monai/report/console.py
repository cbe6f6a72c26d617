"""The learning curve as plain text, for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai import pages
from medssl_monai.report.columns import columns_of, known_counts, parts_of, reason_of, value_text


def format_table(rounds: Sequence[Mapping[str, Any]], synthetic: bool = False) -> str:
    """Return the learning curve as plain text: a row per round, each metric as ``0.812 [0.770, 0.851]``.

    Args:
        rounds: ``round``, ``labels``, perhaps ``masks`` (how many are known beside labels) and ``evaluation`` (see
            `medssl_monai.metrics.evaluate_predictions`) of each.
        synthetic: whether the images are phantoms; the table then says so.

    Returns:
        The lines; reasons for undefined values stand below the table, each once; also the findings that the means
        leave out.
    """
    columns = columns_of(rounds[0]["evaluation"] if rounds else {})
    counts = known_counts(rounds)
    rows = [["round", *counts, *columns.values()]]
    reasons: dict[str, None] = {}
    for entry in rounds:
        evaluation = entry["evaluation"]
        cells = [value_text(evaluation, name) for name in columns]
        known = [str(entry[name]) for name in counts]
        rows.append([str(entry["round"]), *known, *(cell or "undefined" for cell in cells)])
        for (name, title), cell in zip(columns.items(), cells, strict=True):
            if not cell:
                reasons[f"{title} undefined: {reason_of(evaluation, name)}"] = None
        for figures, kind in parts_of(evaluation):
            reasons |= dict.fromkeys(kind.scores().brief(figures["undefined"], columns)[1])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*([pages.SYNTHETIC] if synthetic else []), *lines, *reasons])
