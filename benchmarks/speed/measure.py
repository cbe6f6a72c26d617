"""Everything that ``medssl speed`` measures, with a whole quickstart as the run, written to ``results.json``.

    python benchmarks/speed/measure.py [--bundle tear] [--device cuda] [--quick]

Of another bundle than BoostMIS only the steps, to ``results_BUNDLE.json``: its own, those of FixMatch in their place
if the bundle has it (MultiMix, which learns masks as well, has not), and those of pre-training (stage A of S2MTS2),
whose floor is forward and backward of the query network on the query views, forward of the key network on the key
views, and nothing else. The floor of MultiMix includes the pass that its saliency takes. Of TEAR also the prototypes:
k-means and loss on features of noise, in the size of a step, on the CPU.

The machine must be idle: ``load_before`` in the results tells. ``--quick`` is a short run of this script that writes
nothing. Threads are as the environment has them (``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from medssl_monai.benchmark.run import environment
from medssl_monai.benchmark.speed import apart, as_text, cases_of, speed, step_of_bundle
from medssl_monai.bundle.shipped import shipped_bundles
from medssl_monai.files import write_json
from medssl_monai.methods import IPH


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


def steps(bundle: str, device: dict[str, str], rounds: int, count: int) -> dict[str, Any]:
    """Return steps of a bundle, of FixMatch in their place, of pre-training and prototypes if it has them."""
    load, cases = os.getloadavg()[0], cases_of(str(shipped_bundles() / bundle), device)
    found = {
        name: apart(step_of_bundle, {**arguments, "rounds": rounds, "steps": count})
        for name, arguments in cases.items()
    }
    own, plain = found["bundle"], found.get("bundle with FixMatch")
    report = {"environment": environment(torch.get_num_threads()), "load_before": load, "steps": found}
    if plain is not None:
        report["step_over_fixmatch"] = own["seconds_per_step"] / plain["seconds_per_step"]
    if bundle == "tear":
        cost = prototypes(rows=max(p["images"] for p in own["passes"] if not p["gradient"]))
        report["prototypes"] = {**cost, "share_of_step": cost["seconds"] / own["seconds_per_step"]}
    return report


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="boostmis", help="a shipped one")
    parser.add_argument("--device", help="default: CUDA if there is one")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    device = {"device": arguments.device} if arguments.device else {}
    if arguments.bundle != "boostmis":
        report = steps(arguments.bundle, device, *((1, 1) if arguments.quick else (5, 10)))
        text, name = json.dumps(report, indent=2), f"results_{arguments.bundle}.json"
    else:
        run = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 5} if arguments.quick else {}
        short: dict[str, Any] = {"rounds": 1, "steps": 1, "pools": [1000]} if arguments.quick else {}
        report = speed(None, device, run=run, **short)
        text, name = as_text(report), "results.json"
    report["command"] = shlex.join(["python", *sys.argv])
    print(text)
    if not arguments.quick:
        write_json(Path(__file__).with_name(name), report)


if __name__ == "__main__":
    main()
