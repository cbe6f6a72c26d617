"""The report of an active-learning run as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from medssl_monai import pages
from medssl_monai.files import write_text
from medssl_monai.kinds import Kind
from medssl_monai.report.columns import (
    TITLES,
    cell_text,
    columns_of,
    known_counts,
    number_text,
    parts_of,
    value_text,
)
from medssl_monai.report.figure import learning_curves


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
    columns = columns_of(last)
    counts = ["round", *known_counts(rounds)]
    body = [
        [*(str(entry[name]) for name in counts), *(cell_text(entry["evaluation"], name) for name in columns)]
        for entry in rounds
    ]
    table = pages.table("Metrics by round", [*counts, *columns.values()], body)
    for figures, kind in parts_of(last)[1:]:
        made += f" {kind.word.capitalize()}: {figures['n']} images of {figures['groups']} groups."
    return f"<p>{escape(made)}</p>\n{table}\n{learning_curves(rounds)}"


def _detail(evaluation: Mapping[str, Any]) -> str:
    others = [name for name in evaluation["metrics"] if name not in columns_of(evaluation)]
    rows = [[TITLES.get(name, name), value_text(evaluation, name)] for name in others]
    parts = [pages.table("Further metrics", ["metric", "value"], rows)]
    parts += [_by_class(figures, kind) for figures, kind in parts_of(evaluation)]
    undefined: dict[str, str] = {}
    for figures, kind in parts_of(evaluation):
        single, lines = kind.scores().brief(figures["undefined"], TITLES)
        undefined |= single
        parts.append(pages.bullets(lines))
    parts.append(pages.bullets(f"undefined: {name}, {reason}" for name, reason in undefined.items()))
    return "\n".join(parts)


def _by_class(evaluation: Mapping[str, Any], kind: Kind) -> str:
    """Return the table of the classes, findings, or classes of masks; empty if there is none."""
    per_class = evaluation["per_class"]
    columns = list(dict.fromkeys(name for values in per_class.values() for name in values))
    if not columns:
        return ""
    titles = {**TITLES, **kind.scores().titles}
    head = [kind.noun, *(titles.get(name, name) for name in columns)]
    bounds = evaluation.get("per_class_intervals", {})
    rows = [
        [key, *(number_text(values.get(name), bounds.get(key, {}).get(name)) for name in columns)]
        for key, values in per_class.items()
    ]
    return pages.table(f"By {kind.noun}", head, rows)


def _estimator(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return the figures of `medssl_monai.handlers.EstimatorReport`, and those of the last round by class."""
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
            rows.append([str(entry["round"]), section, counts, *map(number_text, figures)])
            if entry is rounds[-1]:
                for name, values in accepted.get("per_class", {}).items():
                    by_class.append([section, name, str(values["n"]), number_text(values.get("accuracy"))])
    head = ["round", "images", "accepted", "correlation", "ECE, soft", "ECE, hard", "accuracy"]
    parts = [f"<p>{escape(made)}</p>", pages.table("Estimator and targets by round", head, rows)]
    if by_class:
        head = ["images", "class", "accepted", "accuracy"]
        parts.append(
            pages.table("Accepted pseudo-labels of the last round, by the class that they name", head, by_class)
        )
    return "\n".join(parts)


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
