"""The report of an active-learning run: a table for the console, and one HTML file that needs nothing else."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from medssl_monai import pages
from medssl_monai.files import write_text
from medssl_monai.metrics.classification import METRICS, left_out

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
"""Of findings, of which an image may show several, or none."""
COLORS = ("#0b6e99", "#a0521a", "#5b4b9a")


def format_table(rounds: Sequence[Mapping[str, Any]], synthetic: bool = False) -> str:
    """The learning curve as plain text: a row per round, each metric as ``0.812 [0.770, 0.851]``.

    Args:
        rounds: ``round``, ``labels``, perhaps ``masks`` (how many are known beside labels) and ``evaluation`` (see
            `medssl_monai.metrics.evaluate_predictions`) of each.
        synthetic: whether the images are phantoms; the table then says so.

    Returns:
        The lines; reasons for undefined values stand below the table, each once; multi-label, also the findings that
        the means leave out.
    """
    columns = _columns(rounds[0]["evaluation"] if rounds else {})
    counts = _counts(rounds)
    rows = [["round", *counts, *columns.values()]]
    reasons: dict[str, None] = {}
    for entry in rounds:
        evaluation = entry["evaluation"]
        cells = [_value(evaluation, name) for name in columns]
        known = [str(entry[name]) for name in counts]
        rows.append([str(entry["round"]), *known, *(cell or "undefined" for cell in cells)])
        for (name, title), cell in zip(columns.items(), cells, strict=True):
            if not cell:
                reasons[f"{title} undefined: {_reason(evaluation, name)}"] = None
        if evaluation.get("task") == "multilabel":
            reasons |= dict.fromkeys(left_out(evaluation["undefined"], columns))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*([pages.SYNTHETIC] if synthetic else []), *lines, *reasons])


def write_page(path: str | Path, report: Mapping[str, Any]) -> Path:
    """Write the report of a run as one HTML file: no script, no network, all images inside.

    The file names samples by their ``id`` and shows thumbnails of the queried ones: it is as confidential as they are.

    Args:
        path: file to write.
        report: ``title``, ``synthetic``, ``data`` (name, may be empty), ``classes``, ``section`` (what was evaluated),
            ``created``, ``seconds`` (duration, or None), ``command`` (may be empty), ``notes`` (texts);
            ``rounds``: ``round``, ``epoch``, ``labels``, perhaps ``masks``, and ``evaluation`` (see
            `medssl_monai.metrics.evaluate_predictions`) of each, and perhaps ``estimator`` (see
            `medssl_monai.metrics.judge_targets`) by section; ``queries``: ``round`` (but for a cold start), ``epoch``,
            ``strategy`` and ``items``, each with ``id``, ``rank``, ``reason``, ``scores`` by name, ``annotated`` (the
            label as text, or None), ``predicted``, ``differs`` (whether that was wrong), perhaps ``ask`` (for which
            kind of label) and ``confidence`` in [0, 1], and ``image`` (uint8 ``(H, W)`` or ``(H, W, 3)``, or None).

    Returns:
        The path.
    """
    path = Path(path)
    title = escape(" on ".join(filter(None, (report["title"], report["data"]))))
    rounds = report["rounds"]
    judged = [entry for entry in rounds if entry.get("estimator")]
    sections = [
        pages.section("Performance", _performance(rounds, report["section"])),
        pages.section("Last round in detail", _detail(rounds[-1]["evaluation"])) if rounds else "",
        pages.section("Estimated loss", _estimator(judged)) if judged else "",
        pages.section("Queried images", _queries(report["queries"])),
        pages.section("Notes", pages.bullets(report["notes"])) if report["notes"] else "",
        pages.section("How this was made", f"<pre>{escape(report['command'])}</pre>") if report["command"] else "",
    ]
    write_text(path, pages.frame(title, _facts(report), sections, report["synthetic"]))
    return path


def _facts(report: Mapping[str, Any]) -> str:
    facts = [f"created {report['created']}"]
    if report["seconds"] is not None:
        minutes, seconds = divmod(round(report["seconds"]), 60)
        facts.append(f"took {minutes} min {seconds:02d} s")
    if report["classes"]:
        facts.append("classes: " + ", ".join(report["classes"]))
    return escape(" · ".join(facts))


def _performance(rounds: Sequence[Mapping[str, Any]], section: str) -> str:
    if not rounds:
        return "<p>No round has been evaluated yet.</p>"
    last = rounds[-1]["evaluation"]
    made = (
        f"Measured on the {section} section: {last['n']} images of {last['groups']} groups. In brackets: "
        f"{last['interval']}; it covers the choice of the groups, not that of the training seed."
    )
    columns = _columns(last)
    counts = ["round", *_counts(rounds)]
    body = [
        [*(str(entry[name]) for name in counts), *(_cell(entry["evaluation"], name) for name in columns)]
        for entry in rounds
    ]
    table = pages.table("Metrics by round", [*counts, *columns.values()], body)
    if masks := last.get("masks"):
        made += f" Masks: {masks['n']} images of {masks['groups']} groups."
    return f"<p>{escape(made)}</p>\n{table}\n{_figure(rounds)}"


def _detail(evaluation: Mapping[str, Any]) -> str:
    others = [name for name in evaluation["metrics"] if name not in _columns(evaluation)]
    rows = [[TITLES.get(name, name), _value(evaluation, name)] for name in others]
    parts = [pages.table("Further metrics", ["metric", "value"], rows), _by_class(evaluation)]
    if masks := evaluation.get("masks"):
        parts.append(_by_class(masks))
    undefined = evaluation["undefined"]
    if evaluation.get("task") == "multilabel":  # many findings, of which each may lack every metric
        lines = left_out(undefined, {name: TITLES.get(name, name) for name in METRICS})
        undefined = {name: reason for name, reason in undefined.items() if name in METRICS}
        parts.append(pages.bullets(lines))
    undefined = {**undefined, **evaluation.get("masks", {}).get("undefined", {})}
    parts.append(pages.bullets(f"undefined: {name}, {reason}" for name, reason in undefined.items()))
    return "\n".join(parts)


def _by_class(evaluation: Mapping[str, Any]) -> str:
    """The table of the classes, findings, or classes of masks; nothing if there is none."""
    per_class = evaluation["per_class"]
    columns = list(dict.fromkeys(name for values in per_class.values() for name in values))
    if not columns:
        return ""
    kind, titles = ("finding", FINDING_TITLES) if evaluation.get("task") == "multilabel" else ("class", TITLES)
    head = [kind, *(titles.get(name, name) for name in columns)]
    bounds = evaluation.get("per_class_intervals", {})
    rows = [
        [key, *(_entry(values.get(name), bounds.get(key, {}).get(name)) for name in columns)]
        for key, values in per_class.items()
    ]
    return pages.table(f"By {kind}", head, rows)


def _columns(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The metrics that every table and the figure show, with their titles."""
    masks = evaluation if evaluation.get("task") == "segmentation" else evaluation.get("masks")
    if masks is None:
        return COLUMNS
    unit = masks["unit"]
    columns = {name: title if name == "dice" else f"{title} ({unit})" for name, title in MASK_COLUMNS.items()}
    return columns if masks is evaluation else {**COLUMNS, **columns}


def _counts(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was known in a round, by name: labels, and where there are such, masks beside them."""
    return ["labels", *(["masks"] if any("masks" in entry for entry in rounds) else [])]


def _estimator(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The figures of `medssl_monai.handlers.EstimatorReport`, and those of the last round by class."""
    made = (
        "Judged by labels that training did not see. Correlation: Spearman's, of the estimated and the true loss over "
        "all images, or known pairs of image and finding. ECE: how far the certainty of the accepted targets is from "
        "their accuracy, for the soft targets and, for comparison, for hard pseudo-labels, which claim to be certain."
    )
    rows, by_class = [], []
    for entry in rounds:
        for section, found in entry["estimator"].items():
            accepted = found["accepted"]
            figures = (found.get("loss_correlation"), *map(accepted.get, ("target_ece", "hard_ece", "accuracy")))
            counts = f"{accepted['n']} of {found['n']}"
            rows.append([str(entry["round"]), section, counts, *map(_entry, figures)])
            if entry is rounds[-1]:
                for name, values in accepted.get("per_class", {}).items():
                    by_class.append([section, name, str(values["n"]), _entry(values.get("accuracy"))])
    head = ["round", "images", "accepted", "correlation", "ECE, soft", "ECE, hard", "accuracy"]
    parts = [f"<p>{escape(made)}</p>", pages.table("Estimator and targets by round", head, rows)]
    if by_class:
        head = ["images", "class", "accepted", "accuracy"]
        parts.append(
            pages.table("Accepted pseudo-labels of the last round, by the class that they name", head, by_class)
        )
    return "\n".join(parts)


def _entry(value: float | None, bounds: Sequence[float] | None = None) -> str:
    if value is None:
        return "undefined"
    interval = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else ""
    return str(value) if isinstance(value, int) else f"{value:.3f}{interval}"


def _queries(queries: Sequence[Mapping[str, Any]]) -> str:
    galleries = []
    for number, query in enumerate(queries, start=1):
        items = query["items"]
        count = f"{len(items)} image{'' if len(items) == 1 else 's'}"
        name = f"Round {query['round']}" if "round" in query else "Cold start"
        heading = escape(f"{name}: {count}, strategy {query['strategy']}, epoch {query['epoch']}")
        shown = " open" if number == len(queries) else ""
        cards = "\n".join(_card(item) for item in items)
        galleries.append(
            f'<details{shown}><summary>{heading}</summary>\n<ul class="gallery">\n{cards}\n</ul></details>'
        )
    return "\n".join(galleries) or "<p>Nothing has been queried yet.</p>"


def _card(item: Mapping[str, Any]) -> str:
    name, annotated = str(item["id"]), item["annotated"]
    scores = ", ".join(f"{key} {_score(value)}" for key, value in item["scores"].items())
    picture = '<span class="empty">no preview</span>'
    if item["image"] is not None:
        picture = f'<img src="{pages.thumbnail(item["image"])}" alt="Image {escape(name)}">'
    asked = f"for its {escape(item['ask'])} · " if "ask" in item else ""
    answer = "not annotated yet" if annotated is None else f"annotated {annotated}"
    surprise = ' <strong class="tag">differs</strong>' if item["differs"] else ""
    sure = f" ({item['confidence']:.3f})" if "confidence" in item else ""
    return (
        f'<li>{picture}<p class="id">{escape(name)}</p>'
        f"<p>rank {escape(str(item['rank']))} · {asked}{escape(str(item['reason']))}</p>"
        f'<p class="scores">{escape(scores)}</p>'
        f"<p>predicted {escape(str(item['predicted']))}{sure}<br>"
        f"→ {escape(answer)}{surprise}</p></li>"
    )


def _score(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "undefined"


def _figure(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Learning curves with their intervals; words in place of it without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator
    except ImportError:
        return '<p>To have the learning curve drawn here: <code>pip install "medssl-monai[report]"</code>.</p>'

    columns = _columns(rounds[0]["evaluation"])
    figure = Figure(figsize=(3.0 * len(columns), 3.1), layout="constrained")
    axes = figure.subplots(1, len(columns), sharex=True, sharey=columns is COLUMNS)
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
        axis.set_title(title, fontsize=None if columns is COLUMNS else 9)
        axis.set(xlabel="labels", ylim=(0.0, None if name in ("hd95", "asd") else 1.02))
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


def _value(evaluation: Mapping[str, Any], name: str) -> str:
    """``0.812 [0.770, 0.851]``, without brackets if there is no interval; empty if undefined."""
    metric = evaluation["metrics"].get(name)
    if metric is None:
        return ""
    interval = f" [{metric['low']:.3f}, {metric['high']:.3f}]" if "low" in metric else ""
    return f"{metric['value']:.3f}{interval}"


def _cell(evaluation: Mapping[str, Any], name: str) -> str:
    return _value(evaluation, name) or f"undefined: {_reason(evaluation, name)}"


def _reason(evaluation: Mapping[str, Any], name: str) -> str:
    masks = evaluation.get("masks", {}).get("undefined", {})
    return str({**evaluation["undefined"], **masks}.get(name, "not measured"))
