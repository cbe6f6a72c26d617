"""The results of a grid: read from its cells, and written as tables and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.benchmark.cells import Cell
from medssl_monai.benchmark.environment import ENVIRONMENT
from medssl_monai.benchmark.grid import Grid
from medssl_monai.benchmark.page import page_of
from medssl_monai.benchmark.summary import ARM, COMPARED, Row, differences, summarize
from medssl_monai.files import write_text
from medssl_monai.metrics.classification import finding_figures

CELL = ("cell", "data", "note", "kind", "method", "query", "schedule", "seed")
FIGURE = ("round", "labels", "metric", "value", "low", "high", "n", "groups")
PRETRAINING = ("pretraining", "pretraining_cpu_seconds")
"""Further columns of cells that start from one; several share it."""
COLUMNS = (*CELL, *FIGURE, "cpu_seconds", "wall_seconds", "resumed", *ENVIRONMENT)


def read_results(cells: Sequence[Cell], out_dir: Path) -> list[Row]:
    """Return a row per finished cell, round and metric, with the columns `COLUMNS`; undefined metrics are left out.

    ``value`` with ``low`` and ``high`` of the group bootstrap within the cell (None where there is none), from ``n``
    images of as many ``groups``; ``labels`` known in that round; ``kind``: SYNTHETIC or real. ``mask_rate`` is the mean
    over the steps of the round's last epoch, ``pseudo_label_accuracy`` of the ``n`` unlabeled images that the learner
    would accept at the end of the round. Of a method that estimates losses (`medssl_monai.handlers.EstimatorReport`):
    ``loss_correlation`` over the ``n`` validation images, ``target_ece`` and, for comparison, ``hard_ece`` over those
    accepted; with ``unlabeled_`` in front the same of the unlabeled images, which differ from query to query.

    Multi-label, there are rows of every finding (``auroc of effusion``). What is undefined, of a finding or as a mean
    over them, has a row without a value, and its reason in a further column, ``undefined``. The ``n`` of
    ``pseudo_label_accuracy`` are pairs of an image and a finding; those that name a finding present
    (``pseudo_label_accuracy_present``) and absent have rows of their own.

    Rows of cells that start from a pre-training name it in further columns, ``pretraining`` (its hash) and
    ``pretraining_cpu_seconds``, which are not in ``cpu_seconds``.
    """
    rows = []
    for cell in cells:
        folder = out_dir / cell.folder
        if not (folder / "done.json").exists():
            continue
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        before = {}
        if first := cell.pretraining:
            cost = json.loads((out_dir / first.folder / "done.json").read_text(encoding="utf-8"))
            before = dict(zip(PRETRAINING, (first.hash, cost["cpu_seconds"]), strict=True))
        for path in sorted((folder / "run" / "rounds").glob("round_*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            common = {
                "cell": cell.hash,
                "data": cell.data,
                "note": cell.note,
                "kind": "SYNTHETIC" if record["evaluation"]["synthetic"] else "real",
                "method": cell.method,
                "query": cell.query,
                "schedule": cell.labels,
                "seed": cell.seed,
                "round": record["round"],
                "labels": record["labels"],
                **{name: done[name] for name in ("cpu_seconds", "wall_seconds", "resumed")},
                **{name: done["environment"].get(name, "") for name in ENVIRONMENT},
                **before,
            }
            rows += [{**dict.fromkeys(COLUMNS), **common, **figure} for figure in _figures(record)]
    return rows


def _figures(record: Mapping[str, Any]) -> list[Row]:
    evaluation = record["evaluation"]
    sizes = {"n": evaluation["n"], "groups": evaluation["groups"]}
    figures = [{"metric": name, **metric, **sizes} for name, metric in evaluation["metrics"].items()]
    figures += [{**sizes, **figure} for figure in finding_figures(evaluation)]
    if "mask_rate" in record.get("training", {}):
        figures.append({"metric": "mask_rate", "value": record["training"]["mask_rate"]})
    accepted = record.get("pseudo_labels") or {}
    if "accuracy" in accepted:
        figures.append({"metric": "pseudo_label_accuracy", "value": accepted["accuracy"], "n": accepted["accepted"]})
    for said in ("present", "absent"):
        if "accuracy" in accepted.get(said, {}):
            found = {"value": accepted[said]["accuracy"], "n": accepted[said]["n"]}
            figures.append({"metric": f"pseudo_label_accuracy_{said}", **found})
    for section, prefix in (("validation", ""), ("unlabeled", "unlabeled_")):
        if judged := record.get("estimator", {}).get(section):
            source = {"loss_correlation": judged, "target_ece": judged["accepted"], "hard_ece": judged["accepted"]}
            figures += [
                {"metric": prefix + name, "value": of[name], "n": of["n"]} for name, of in source.items() if name in of
            ]
    return figures


def write_results(
    grid: Grid, cells: Sequence[Cell], states: Mapping[str, tuple[str, str]], out_dir: str | Path
) -> list[Row]:
    """Write ``results.csv``, ``summary.csv``, ``differences.csv`` and, for people, ``summary.md``.

    Args:
        grid: its name and baselines are used.
        cells: all that the grid wants.
        states: state and reason of every cell by hash.
        out_dir: where cells are, and files go.

    Returns:
        The summary, see `summarize`.
    """
    out_dir = Path(out_dir)
    rows = read_results(cells, out_dir)
    summary, paired = summarize(rows), differences(rows, grid.baselines)
    further = [name for name in ("undefined", *PRETRAINING) if any(name in row for row in rows)]
    _write_table(out_dir / "results.csv", (*COLUMNS, *further), rows)
    columns = ("mean", "low", "high", "seeds")
    _write_table(out_dir / "summary.csv", (*COMPARED, *ARM, *columns, "within"), summary)
    texts = [" ".join(f"{seed}:{value:+.4f}" for seed, value in row["by_seed"].items()) for row in paired]
    flat = [{**row, "by_seed": text} for row, text in zip(paired, texts, strict=True)]
    _write_table(out_dir / "differences.csv", (*COMPARED, "baseline", *ARM, *columns, "by_seed"), flat)
    write_text(out_dir / "summary.md", page_of(grid, cells, states, rows, summary, paired), private=False)
    return summary


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="raise", lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    write_text(path, text.getvalue(), private=False)
