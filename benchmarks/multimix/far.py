"""Models of the grid on phantoms of another hospital's scanners: the cross-domain column.

    OMP_NUM_THREADS=1 python benchmarks/multimix/far.py OUT_DIR

OUT_DIR is that of ``medssl benchmark benchmarks/multimix/grid.yaml OUT_DIR``. The weights are those after the last
step; none is selected, and nothing is trained here. Writes ``far.json`` beside this file: of each method the mean over
the seeds and its 95 % t-interval.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from medssl_monai.benchmark import load_grid, plan
from medssl_monai.bundle.run import workflow
from medssl_monai.data.datalist import SYNTHETIC
from medssl_monai.engines import evaluate
from medssl_monai.files import write_json

HERE = Path(__file__).parent
METRICS = ("accuracy", "f1_macro", "auroc", "dice", "hd95", "asd")
FAR = {"kind": "chest_joint_far", "seed": 0}


def figures(folder: Path, overrides: dict[str, Any]) -> dict[str, float]:
    """Metrics of a cell's model on the testing section of the far phantoms."""
    bundle = folder / "bundle"
    run = workflow(
        [bundle / "configs" / "train.yaml", bundle / "configs" / "evaluate.yaml"],
        logging_file=False,
        **{**overrides, "bundle_root": str(bundle), "output_dir": str(folder / "far"), "phantom": FAR},
    )
    run.initialize()
    network, dataset, pool = (
        run.parser.get_parsed_content(f) for f in ("network", "validate::dataset", "validate::pool")
    )
    metrics = evaluate(network, dataset, pool, "cpu")["metrics"]
    return {name: metrics[name]["value"] for name in METRICS if name in metrics}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    out_dir = parser.parse_args().out_dir
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in plan(load_grid(HERE / "grid.yaml"), out_dir):
        if cell.data != "chest" or not (out_dir / cell.folder / "done.json").exists():
            continue
        for name, value in figures(out_dir / cell.folder, cell.overrides).items():
            found[cell.method][name].append(value)
        print(cell.name, {name: round(values[-1], 3) for name, values in found[cell.method].items()}, flush=True)
    if not found:
        parser.error(f"{out_dir} has no finished cell of this grid and this code; run the grid first.")
    summary = {method: {name: spread(values) for name, values in by.items()} for method, by in found.items()}
    write_json(HERE / "far.json", {"notice": SYNTHETIC, "phantom": FAR, "section": "testing", "methods": summary})


def spread(values: list[float]) -> dict[str, Any]:
    """Mean over seeds and its 95 % t-interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "values": values}
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": values}


if __name__ == "__main__":
    main()
