"""Everything that ``medssl speed`` measures, with a whole quickstart as the run, written to ``results.json``.

    python benchmarks/speed/measure.py [--bundle tear] [--device cuda] [--quick]

Of another bundle than BoostMIS to ``results_BUNDLE.json``, without queries. Of TEAR also the prototypes: k-means and
loss on features of noise, in the size of a step, on the CPU.

The machine must be idle: ``load_before`` in the results tells. ``--quick`` is a short run of this script that writes
nothing. Threads are as the environment has them (``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch

from medssl_monai.bundle import shipped_bundles
from medssl_monai.files import write_json
from medssl_monai.methods import IPH
from medssl_monai.speed import as_text, speed


def prototypes(rows: int, dim: int = 128, clusters: int = 7, steps: int = 200) -> dict[str, float]:
    """Seconds of TEAR's clustering and its loss per step, forward, median; centers move from step to step."""
    iph = IPH(clusters)
    iph.allocate(dim)
    generator, seconds = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        student, teacher = torch.randn(2, rows, dim, generator=generator).unbind()
        start = time.perf_counter()
        iph.update(iph(student, teacher))
        seconds.append(time.perf_counter() - start)
    return {"rows": rows, "dim": dim, "clusters": clusters, "seconds": statistics.median(seconds)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="boostmis", help="a shipped one")
    parser.add_argument("--device", help="default: CUDA if there is one")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    device = {"device": arguments.device} if arguments.device else {}
    first = arguments.bundle == "boostmis"
    bundle, pools = shipped_bundles() / arguments.bundle, {} if first else {"pools": []}
    if arguments.quick:
        run = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 5}
        report = speed(bundle, device, rounds=1, steps=1, run=run, pools=[1000] if first else [])
    else:
        report = speed(bundle, device, run={}, **pools)
    if arguments.bundle == "tear":
        step = report["steps"].get("bundle") or report["steps"]["bundle float32"]
        cost = prototypes(rows=max(p["images"] for p in step["passes"] if not p["gradient"]))
        report["prototypes"] = {**cost, "share_of_step": cost["seconds"] / step["seconds_per_step"]}
    report["command"] = shlex.join(["python", *sys.argv])
    print(as_text(report))
    if "prototypes" in report:
        print(f"prototypes: {report['prototypes']}")
    if not arguments.quick:
        name = "results.json" if first else f"results_{arguments.bundle}.json"
        write_json(Path(__file__).with_name(name), report)


if __name__ == "__main__":
    main()
