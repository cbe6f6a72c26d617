"""The page of a benchmark, ``summary.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from medssl_monai.benchmark.cells import Cell
from medssl_monai.benchmark.environment import ENVIRONMENT
from medssl_monai.benchmark.grid import Grid, Schedule
from medssl_monai.benchmark.summary import ARM, MEAN, TITLES, Row, grouped
from medssl_monai.data.datalist import SYNTHETIC

OF_FINDING = "auroc of "
"""Begins the name of the AUROC of a finding, see `medssl_monai.metrics.finding_figures`."""
READING = """\
Mean over seeds, in square brackets its 95 % t-interval across seeds (labels at the start, weights, order and views
differ; {split}), in parentheses the mean width of the cells' own intervals, which are bootstraps over
groups (patients, lesions) of the validation section. The first says how much training varies, the second how much
patients do; with few seeds the first is wide. Measured are the weights at the end of each round."""
SPLIT = "the split is the same"
FOLDS = "where it says folds, each seed validates on another fold, else the split is the same"


def page_of(
    grid: Grid,
    cells: Sequence[Cell],
    states: Mapping[str, tuple[str, str]],
    rows: Sequence[Row],
    summary: Sequence[Row],
    paired: Sequence[Row],
) -> str:
    """Return the page, in Markdown.

    Args:
        grid: its name, labels and baselines are used.
        cells: all that the grid wants.
        states: state and reason of every cell by hash.
        rows: see `medssl_monai.benchmark.results.read_results`.
        summary: see `medssl_monai.benchmark.summary.summarize`.
        paired: see `medssl_monai.benchmark.summary.differences`.
    """
    count = Counter(states[cell.hash][0] for cell in cells)
    finished = count.pop("finished", 0)
    rest = "".join(f", {number} {state}" for state, number in count.items())
    parts = [f"# {grid.name}", f"{finished} of {len(cells)} cells have finished{rest}."]
    if any(row["kind"] == "SYNTHETIC" for row in rows):
        parts.insert(1, f"**{SYNTHETIC}.**")
    if rows:
        folds = any(_folds(grid, data) for data in {row["data"] for row in rows})
        parts.append(READING.format(split=FOLDS if folds else SPLIT))
    for (data, schedule, kind, note), group in grouped(rows, ("data", "schedule", "kind", "note")):
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
    """Return the number of folds, if each seed validates on another one; else 0."""
    recipe = grid.data[data].get("prepare", {})
    return int(recipe["folds"]) if recipe.get("fold") == "seed" else 0


def _labels_in_words(schedule: Schedule, rows: Sequence[Row]) -> str:
    if schedule.rounds > 1:
        return f"{schedule.start} to {schedule.end} labels in {schedule.rounds} rounds"
    text = " to ".join(str(number) for number in sorted({f({row["labels"] for row in rows}) for f in (min, max)}))
    share = "" if schedule.groups is None else f", {100 * schedule.groups:g} % of the training groups"
    return f"{text} labels{share}"


def _sizes(rows: Sequence[Row], folds: int) -> list[str]:
    """Say what was measured on, which differs between folds."""
    known = [row for row in rows if row["groups"] is not None]
    sizes = {row["seed"] % max(1, folds): f"{row['n']} images of {row['groups']} groups" for row in known}
    if not folds or not sizes:
        return [f"Measured on {size}." for size in sizes.values()]
    texts = "; ".join(f"fold {fold}: {sizes[fold]}" for fold in sorted(sizes))
    return [f"{folds} folds: seed k validates on fold k, modulo {folds}. Measured on {texts}."]


def _arms_table(summary: Sequence[Row]) -> str:
    names = [name for name in TITLES if any(row["metric"] == name for row in summary)]
    lines = []
    for (method, query), group in grouped(summary, ARM):
        by_name = {row["metric"]: row for row in group}
        values = [_value(by_name.get(name)) for name in names]
        lines.append([method, query, str(max(row["seeds"] for row in group)), *values])
    return _table(["method", "query", "seeds", *(TITLES[name] for name in names)], lines)


def _findings_table(rows: Sequence[Row], summary: Sequence[Row]) -> str:
    """Return the AUROC of every finding by method and query, or why there is none.

    Args:
        rows: of the cells, of one round.
        summary: of these and of other rounds.
    """
    arms, round_ = [arm for arm, _ in grouped(rows, ARM)], rows[0]["round"]
    lines = []
    for (metric,), group in grouped(rows, ("metric",)):
        mine = [row for row in summary if (row["metric"], row["round"]) == (metric, round_)]
        by_arm = {(row["method"], row["query"]): row for row in mine}
        reasons = {(row["method"], row["query"]): row["undefined"] for row in group if "undefined" in row}
        cells = [_value(by_arm.get(arm)) or f"undefined: {reasons.get(arm, 'not measured')}" for arm in arms]
        lines.append([metric.removeprefix(OF_FINDING), str(max(row["n"] for row in group)), *cells])
    return _table(["finding", "images", *(" + ".join(arm) for arm in arms)], lines)


def _differences_table(paired: Sequence[Row]) -> str:
    names = [name for name in TITLES if any(row["metric"] == name for row in paired)]
    lines = []
    for (method, query), group in grouped(paired, ARM):
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
    """List each environment once, with the number of its cells; two machines in one table must be seen."""
    names = [name for name in ENVIRONMENT if name != "date"]
    lines = []
    for key, group in grouped(rows, names):
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
