"""The findings that can be scored in every fold, as tables for the README: mean over folds with 95 % t-intervals.

    python benchmarks/s2mts2/scored.py OUT_DIR/results.csv        # or results.csv.gz, as committed

Of a fold the score is the mean AUROC of `SCORED`; differences are taken fold by fold, so that what makes a fold hard
drops out. Folds share training patients, so that the intervals are a little too narrow.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

SCORED = ["Effusion", "Infiltration", "Atelectasis", "Cardiomegaly", "any finding"]
BASELINES = ["supervised", "mean_teacher", "s2mts2_scratch", "pretrained"]
PLAIN = "nih"


def mean_and_interval(values: Sequence[float]) -> str:
    """``0.612 [0.570, 0.654]``; no brackets for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def main(path: Path) -> None:
    """Print a table per data set and share of labels."""
    found: dict[tuple[str, str], dict[str, dict[str, dict[int, float]]]] = {}
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row["metric"].removeprefix("auroc of ")
            if row["metric"].startswith("auroc of ") and name in SCORED and row["value"]:
                arms = found.setdefault((row["data"], row["schedule"]), {})
                arms.setdefault(row["method"], defaultdict(dict))[name][int(row["seed"])] = float(row["value"])
    all_scores: dict[tuple[str, str, str], dict[int, float]] = {}
    for (data, share), arms in found.items():
        scores = {}
        for method, by_name in arms.items():
            if len(by_name) < len(SCORED):
                continue
            folds = set.intersection(*(set(values) for values in by_name.values()))
            scores[method] = {fold: float(np.mean([by_name[name][fold] for name in SCORED])) for fold in sorted(folds)}
            all_scores[data, share, method] = scores[method]
        baselines = [name for name in BASELINES if name in scores]
        heads = ["method", "folds", "mean of the five", *(f"less {name}" for name in baselines), *SCORED]
        print(f"\n### {data}, {share} of the training patients\n")
        print("| " + " | ".join(heads) + " |")
        print("| " + " | ".join("---" for _ in heads) + " |")
        for method, score in scores.items():
            cells = [method, str(len(score)), mean_and_interval(list(score.values()))]
            for name in baselines:
                shared = sorted(score.keys() & scores[name].keys())
                differences = [score[fold] - scores[name][fold] for fold in shared]
                cells.append("" if name == method else mean_and_interval(differences))
            cells += [f"{np.mean(list(arms[method][name].values())):.3f}" for name in SCORED]
            print("| " + " | ".join(cells) + " |")
    print(f"\n### What other images or grey values change, less {PLAIN}, fold by fold\n")
    print("| images | labels | method | difference of the mean of the five |")
    print("| --- | --- | --- | --- |")
    for (data, share, method), score in all_scores.items():
        plain = all_scores.get((PLAIN, share, method))
        if data != PLAIN and plain:
            differences = [score[fold] - plain[fold] for fold in sorted(score.keys() & plain.keys())]
            print(f"| {data} | {share} | {method} | {mean_and_interval(differences)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
