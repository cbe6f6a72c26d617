"""Everything that ``medssl speed`` measures, with a whole quickstart as the run, written to ``results.json``.

    python benchmarks/speed/measure.py [--device cuda] [--quick]

The machine must be idle: ``load_before`` in the results tells. ``--quick`` is a short run of this script that writes
nothing. Threads are as the environment has them (``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from medssl_monai.files import write_json
from medssl_monai.speed import as_text, speed


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="default: CUDA if there is one")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    device = {"device": arguments.device} if arguments.device else {}
    if arguments.quick:
        run = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 5}
        report = speed(None, device, rounds=1, steps=1, run=run, pools=[1000])
    else:
        report = speed(None, device, run={})
    report["command"] = shlex.join(["python", *sys.argv])
    print(as_text(report))
    if not arguments.quick:
        write_json(Path(__file__).with_name("results.json"), report)


if __name__ == "__main__":
    main()
