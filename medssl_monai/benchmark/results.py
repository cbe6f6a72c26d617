"""The results of a grid: one tidy table, what it says in short, and two figures."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.benchmark.grid import Cell, Grid, Schedule
from medssl_monai.data.datalist import SYNTHETIC
from medssl_monai.files import write_atomically, write_text
from medssl_monai.metrics.classification import finding_figures

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Arm = tuple[Any, ...]

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

DISTANCES = {"hd95", "asd"}
"""Of them those that have no upper limit."""

CELL = ("cell", "data", "note", "kind", "method", "query", "schedule", "seed")
FIGURE = ("round", "labels", "metric", "value", "low", "high", "n", "groups")
PRETRAINING = ("pretraining", "pretraining_cpu_seconds")
"""Further columns of cells that start from one; several share it."""
ENVIRONMENT = ("machine", "cpu", "cores", "gpu", "python", "torch", "monai", "package", "commit", "threads", "date")
COLUMNS = (*CELL, *FIGURE, "cpu_seconds", "wall_seconds", "resumed", *ENVIRONMENT)
ARM = ("method", "query")
ALIKE = ("data", "note", "kind", "schedule", "round", "metric")
COMPARED = (*ALIKE[:-1], "labels", "metric")
OF_FINDING = "auroc of "
"""Begins the name of the AUROC of a finding, see `medssl_monai.metrics.finding_figures`."""
MEAN = "mean"
"""In place of a round: the mean over all rounds of a cell, the height of its learning curve."""

READING = """\
Mean over seeds, in square brackets its 95 % t-interval across seeds (labels at the start, weights, order and views
differ; {split}), in parentheses the mean width of the cells' own intervals, which are bootstraps over
groups (patients, lesions) of the validation section. The first says how much training varies, the second how much
patients do; with few seeds the first is wide. Measured are the weights at the end of each round."""

SPLIT = "the split is the same"
FOLDS = "where it says folds, each seed validates on another fold, else the split is the same"


def read_results(cells: Sequence[Cell], out_dir: Path) -> list[Row]:
    """A row per finished cell, round and metric, with the columns `COLUMNS`; undefined metrics are left out.

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


def summarize(rows: Iterable[Row]) -> list[Row]:
    """By data, labels, method, query, round and metric: the mean over seeds.

    Returns:
        Rows with ``mean``, ``low`` and ``high`` (95 % t-interval across seeds, None for a single one), ``seeds`` (how
        many) and ``within`` (mean width of the group bootstrap intervals, None where there are none). The round `MEAN`
        is the mean over the rounds. ``labels``: of folds that differ in it the mean, to a whole number.
    """
    names = (*ALIKE, *ARM)
    result = []
    for key, group in _grouped(_with_means(rows), names):
        widths = [row["high"] - row["low"] for row in group if row["low"] is not None]
        interval = t_interval([row["value"] for row in group])
        within = statistics.fmean(widths) if widths else None
        about = {**dict(zip(names, key, strict=True)), "labels": _labels(group)}
        result.append({**about, **interval, "within": within})
    return result


def differences(rows: Iterable[Row], baselines: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Every method with its query less a baseline, paired by seed: same data, labels at the start, round and metric.

    Args:
        rows: as from `read_results`.
        baselines: method and query by name.

    Returns:
        Rows with ``baseline``, and of the differences ``mean``, ``low`` and ``high`` (95 % t-interval, None for a
        single pair), ``seeds`` (how many pairs) and ``by_seed``, the differences themselves.
    """
    result = []
    for key, group in _grouped(_with_means(rows), ALIKE):
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


def t_interval(values: Sequence[float], level: float = 0.95) -> Row:
    """``mean``, and ``low`` and ``high`` of Student's interval about it, None for a single value; ``seeds``: how many.

    It takes the values as independent draws from a normal distribution.
    """
    from scipy import stats

    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": count}
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": count}


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
    write_text(out_dir / "summary.md", _page(grid, cells, states, rows, summary, paired), private=False)
    return summary


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


def _with_means(rows: Iterable[Row]) -> list[Row]:
    """The rows with a value, and for each cell and each metric that all its rounds have the mean over the rounds."""
    rows = [row for row in rows if row["value"] is not None]
    means = []
    for _, cell in _grouped(rows, ("data", "schedule", "method", "query", "seed")):
        rounds = {row["round"] for row in cell}
        for _, group in _grouped(cell, ("metric",)):
            if len(group) == len(rounds):
                value = statistics.fmean(row["value"] for row in group)
                means.append({**group[0], "round": MEAN, "labels": None, "value": value, "low": None, "high": None})
    return rows + means


def _labels(rows: Sequence[Row]) -> int | None:
    """How many labels rows of one round have, on average; None of the mean over rounds."""
    return None if rows[0]["labels"] is None else round(statistics.fmean(row["labels"] for row in rows))


def _grouped(rows: Iterable[Row], names: Sequence[str]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Rows that agree in `names`, in the order in which they first occur."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.items())


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="raise", lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    write_text(path, text.getvalue(), private=False)


# ---- the page -------------------------------------------------------------------------------------------------------


def _page(
    grid: Grid,
    cells: Sequence[Cell],
    states: Mapping[str, tuple[str, str]],
    rows: Sequence[Row],
    summary: Sequence[Row],
    paired: Sequence[Row],
) -> str:
    count = Counter(states[cell.hash][0] for cell in cells)
    finished = count.pop("finished", 0)
    rest = "".join(f", {number} {state}" for state, number in count.items())
    parts = [f"# {grid.name}", f"{finished} of {len(cells)} cells have finished{rest}."]
    if any(row["kind"] == "SYNTHETIC" for row in rows):
        parts.insert(1, f"**{SYNTHETIC}.**")
    if rows:
        folds = any(_folds(grid, data) for data in {row["data"] for row in rows})
        parts.append(READING.format(split=FOLDS if folds else SPLIT))
    for (data, schedule, kind, note), group in _grouped(rows, ("data", "schedule", "kind", "note")):
        labels = grid.labels[schedule]
        facts = "; ".join(filter(None, ("" if kind == "real" else kind, note)))
        parts.append(f"## {data}: {_labels_in_words(labels, group)}{f' ({facts})' if facts else ''}")
        parts += _sizes(group, _folds(grid, data))
        here = [row for row in summary if (row["data"], row["schedule"]) == (data, schedule)]
        tables = [(labels.rounds - 1, "At the end"), (MEAN, "Mean over the rounds")]
        for round_, title in tables[: 2 if labels.rounds > 1 else 1]:
            parts += [f"### {title}", _arms_table([row for row in here if row["round"] == round_])]
        last = [row for row in group if row["round"] == labels.rounds - 1]
        if findings := [row for row in last if row["metric"].startswith(OF_FINDING)]:
            parts += ["### At the end, AUROC by finding", _findings_table(findings, here)]
        end = (data, schedule, labels.rounds - 1)
        for name, (method, query) in grid.baselines.items():
            mine = [row for row in paired if (row["data"], row["schedule"], row["round"]) == end]
            mine = [row for row in mine if row["baseline"] == name]
            if mine:
                parts.append(f"### At the end, less {method} + {query} ({name})")
                parts.append("Mean of the differences by seed, its 95 % t-interval, and the differences.")
                parts.append(_differences_table(mine))
    if open_ := [cell for cell in cells if states[cell.hash][0] != "finished"]:
        lines = [f"- {states[c.hash][0]}: {c.name} (`{c.hash}`){_reason(states[c.hash][1])}" for c in open_]
        parts += ["## Open", "\n".join(lines)]
    if rows:
        parts += ["## Where", _environments(rows)]
    return "\n\n".join(parts) + "\n"


def _folds(grid: Grid, data: str) -> int:
    """Number of folds, if each seed validates on another one; else 0."""
    recipe = grid.data[data].get("prepare", {})
    return int(recipe["folds"]) if recipe.get("fold") == "seed" else 0


def _labels_in_words(schedule: Schedule, rows: Sequence[Row]) -> str:
    if schedule.rounds > 1:
        return f"{schedule.start} to {schedule.end} labels in {schedule.rounds} rounds"
    text = " to ".join(str(number) for number in sorted({f({row["labels"] for row in rows}) for f in (min, max)}))
    share = "" if schedule.groups is None else f", {100 * schedule.groups:g} % of the training groups"
    return f"{text} labels{share}"


def _sizes(rows: Sequence[Row], folds: int) -> list[str]:
    """What was measured on, which differs between folds."""
    known = [row for row in rows if row["groups"] is not None]
    sizes = {row["seed"] % max(1, folds): f"{row['n']} images of {row['groups']} groups" for row in known}
    if not folds or not sizes:
        return [f"Measured on {size}." for size in sizes.values()]
    texts = "; ".join(f"fold {fold}: {sizes[fold]}" for fold in sorted(sizes))
    return [f"{folds} folds: seed k validates on fold k, modulo {folds}. Measured on {texts}."]


def _arms_table(summary: Sequence[Row]) -> str:
    names = [name for name in TITLES if any(row["metric"] == name for row in summary)]
    lines = []
    for (method, query), group in _grouped(summary, ARM):
        by_name = {row["metric"]: row for row in group}
        values = [_value(by_name.get(name)) for name in names]
        lines.append([method, query, str(max(row["seeds"] for row in group)), *values])
    return _table(["method", "query", "seeds", *(TITLES[name] for name in names)], lines)


def _findings_table(rows: Sequence[Row], summary: Sequence[Row]) -> str:
    """AUROC of every finding by method and query, or why there is none.

    Args:
        rows: of the cells, of one round.
        summary: of these and of other rounds.
    """
    arms, round_ = [arm for arm, _ in _grouped(rows, ARM)], rows[0]["round"]
    lines = []
    for (metric,), group in _grouped(rows, ("metric",)):
        mine = [row for row in summary if (row["metric"], row["round"]) == (metric, round_)]
        by_arm = {(row["method"], row["query"]): row for row in mine}
        reasons = {(row["method"], row["query"]): row["undefined"] for row in group if "undefined" in row}
        cells = [_value(by_arm.get(arm)) or f"undefined: {reasons.get(arm, 'not measured')}" for arm in arms]
        lines.append([metric.removeprefix(OF_FINDING), str(max(row["n"] for row in group)), *cells])
    return _table(["finding", "images", *(" + ".join(arm) for arm in arms)], lines)


def _differences_table(paired: Sequence[Row]) -> str:
    names = [name for name in TITLES if any(row["metric"] == name for row in paired)]
    lines = []
    for (method, query), group in _grouped(paired, ARM):
        by_name = {row["metric"]: row for row in group}
        lines.append([method, query, *(_difference(by_name.get(name)) for name in names)])
    return _table(["method", "query", *(TITLES[name] for name in names)], lines)


def _value(row: Row | None) -> str:
    if row is None:
        return ""
    across = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    within = "" if row["within"] is None else f" ({row['within']:.3f})"
    return f"{row['mean']:.3f}{across}{within}"


def _difference(row: Row | None) -> str:
    if row is None:
        return ""
    across = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['mean']:+.3f}{across}: " + " ".join(f"{value:+.3f}" for value in row["by_seed"].values())


def _environments(rows: Sequence[Row]) -> str:
    """Each environment once, with the number of its cells; two machines in one table must be seen."""
    names = [name for name in ENVIRONMENT if name != "date"]
    lines = []
    for key, group in _grouped(rows, names):
        facts = "; ".join(f"{name} {value}" for name, value in zip(names, key, strict=True) if value not in ("", None))
        dates = sorted({row["date"] for row in group})
        cells = {row["cell"]: row["cpu_seconds"] for row in group}
        hours, period = sum(cells.values()) / 3600, " to ".join(dict.fromkeys((dates[0], dates[-1])))
        lines.append(f"- {len(cells)} cells, {hours:.2f} CPU hours, {period}: {facts}")
    if before := {row["pretraining"]: row["pretraining_cpu_seconds"] for row in rows if "pretraining" in row}:
        lines.append(
            f"- {len(before)} pre-trainings that cells start from, {sum(before.values()) / 3600:.2f} CPU hours"
        )
    return "\n".join(lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _reason(reason: str) -> str:
    return f": {reason}" if reason else ""


# ---- the figures ----------------------------------------------------------------------------------------------------


def _draw_curves(path: Path, summary: Sequence[Row]) -> None:
    """Learning curves: a line of panels per data and labels, a column per metric; bands are across seeds."""
    figure, panels, colors = _panels([row for row in summary if row["round"] != MEAN], height=lambda _: 2.6)
    handles: dict[str, Any] = {}
    for axis, rows, _ in panels:
        for arm, group in _grouped(rows, ARM):
            labels, color, name = [row["labels"] for row in group], colors[arm], " + ".join(arm)
            (handles[name],) = axis.plot(
                labels, [row["mean"] for row in group], marker="o", markersize=3, linewidth=1.4, color=color
            )
            if all(row["low"] is not None for row in group):
                low, high = [row["low"] for row in group], [row["high"] for row in group]
                axis.fill_between(labels, low, high, color=color, alpha=0.10, linewidth=0)
        axis.set_ylim(_within_range(axis.get_ylim(), rows))
        axis.set_xticks(sorted({row["labels"] for row in rows}))
        axis.set_xlabel("labels")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path, summary, "bands: 95 % t-interval across seeds")


def _draw_end(path: Path, summary: Sequence[Row]) -> None:
    """The last round: thick bars are intervals across seeds, thin ones as wide as the mean bootstrap within a cell."""
    last = {
        key: max(row["round"] for row in rows if row["round"] != MEAN)
        for key, rows in _grouped(summary, ("data", "schedule"))
    }
    rows = [row for row in summary if row["round"] == last[row["data"], row["schedule"]]]
    figure, panels, colors = _panels(rows, height=lambda arms: 0.8 + 0.3 * arms, share=True)
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
        axis.set_xlim(_within_range(axis.get_xlim(), group))
    _save(figure, path, summary, "thick: 95 % t-interval across seeds; thin: group bootstrap in a cell, mean width")


def _within_range(limits: tuple[float, float], rows: Sequence[Row]) -> tuple[float, float]:
    """Limits of an axis without what the metric cannot reach; with few seeds, intervals do."""
    metrics = {row["metric"] for row in rows}
    least = -1.02 if "loss_correlation" in metrics else -0.02
    return max(limits[0], least), limits[1] if metrics & DISTANCES else min(limits[1], 1.02)


def _panels(
    rows: Sequence[Row], height: Callable[[int], float], share: bool = False
) -> tuple[Any, list[tuple[Any, list[Row], list[Arm]]], dict[Arm, str]]:
    """A figure, its panels with the rows and the arms of each, and a colour for every arm.

    Args:
        rows: to draw.
        height: of a line of panels with so many arms.
        share: one y axis per line.
    """
    from matplotlib.figure import Figure

    metrics = [name for name in TITLES if any(row["metric"] == name for row in rows)]
    lines = _grouped(rows, ("data", "schedule", "kind", "note"))
    arms_of = [[arm for arm, _ in _grouped(group, ARM)] for _, group in lines]
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
    colors = {arm: f"C{place % 10}" for place, (arm, _) in enumerate(_grouped(rows, ARM))}
    return figure, panels, colors


def _save(figure: Any, path: Path, summary: Sequence[Row], text: str) -> None:
    synthetic = any(row["kind"] == "SYNTHETIC" for row in summary)
    figure.suptitle(f"{SYNTHETIC}\n{text}" if synthetic else text, fontsize=10)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130), private=False)
