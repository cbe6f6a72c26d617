"""Kill the BoostMIS bundle at random moments and see whether it ends as if nothing had happened.

    OMP_NUM_THREADS=1 python benchmarks/resilience/kill.py [--kills 20] [--seed 0]

One run is left alone. Another is killed with SIGKILL after random times and started again with the same command, until
it has been killed often enough; then it may end. Weights, averaged weights, optimizer, labels, queries and figures of
the two must be equal bit for bit. Writes ``results.json`` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.files import load_tensors, write_json

VALUES = {
    "phantom": "{kind: spine2, seed: 0, patients: {training: 20, validation: 20, testing: 1}}",
    "labels": 12,
    "rounds": 4,
    "epochs_per_round": 2,
    "epoch_length": 10,
    "query::budget": 4,
    "device": "cpu",
}


def command(bundle: Path, output: Path, phantoms: Path) -> list[str]:
    """Return the command line of one run."""
    flags = {**VALUES, "dataset_dir": phantoms, "output_dir": output, "ckpt_dir": output / "models"}
    listed = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    config = bundle / "configs" / "train.yaml"
    return [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(config),
        "--bundle_root",
        str(bundle),
        *listed,
    ]


def leaves(item: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a nested state, by path."""
    if isinstance(item, dict):
        return {k: v for key, value in item.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(item, list | tuple):
        return {k: v for i, value in enumerate(item) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: item}


def differences(first: Path, second: Path) -> list[str]:
    """Return what is not bit-equal between the outputs of two runs."""
    found = []
    for name in ("state.pt", "models/model.pt"):
        a, b = leaves(load_tensors(first / name)), leaves(load_tensors(second / name))
        if a.keys() != b.keys():
            found.append(f"{name}: other keys")
            continue
        for key, value in a.items():
            same = (
                torch.equal(torch.nan_to_num(value, -1.0), torch.nan_to_num(b[key], -1.0))
                if isinstance(value, torch.Tensor)
                else value == b[key]
            )
            found += [] if same else [f"{name}{key}"]
    names = {
        str(p.relative_to(run)) for run in (first, second) for p in [*run.glob("rounds/*"), *run.glob("queries/*")]
    }
    for name in sorted(names | {"pool.json", "rounds.csv"}):
        pair = [run / name for run in (first, second)]
        if not all(path.exists() for path in pair) or pair[0].read_bytes() != pair[1].read_bytes():
            found.append(name)
    return found


def main() -> int:
    """Run both, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = copy_bundle("boostmis", folder / "bundle")
        started = time.monotonic()
        subprocess.run(command(bundle, folder / "whole", folder / "phantoms"), check=True, capture_output=True)
        whole_seconds = time.monotonic() - started
        moments: list[dict[str, Any]] = []
        while len(moments) < arguments.kills:
            process = subprocess.Popen(
                command(bundle, folder / "killed", folder / "phantoms"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            wait = chance.uniform(0.4, 0.9) * whole_seconds
            try:
                process.communicate(timeout=wait)
                ended = True
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                ended = False
            state = folder / "killed" / "state.pt"
            steps = int(load_tensors(state)["trainer"]["iteration"]) if state.exists() else 0
            moments.append({"after_seconds": round(wait, 2), "steps_saved": steps, "had_ended": ended})
            print(moments[-1], flush=True)
            if ended:  # start over, so that every kill hits a living run
                broken = differences(folder / "whole", folder / "killed")
                if broken:
                    break
                moments.pop()
                subprocess.run(["rm", "-rf", str(folder / "killed")], check=True)
        subprocess.run(command(bundle, folder / "killed", folder / "phantoms"), check=True, capture_output=True)
        broken = differences(folder / "whole", folder / "killed")
    result = {
        "data": "SYNTHETIC",
        "command": f"python benchmarks/resilience/kill.py --kills {arguments.kills} --seed {arguments.seed}",
        "date": datetime.date.today().isoformat(),
        "environment": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        "kills": len(moments),
        "moments": moments,
        "seconds_of_a_run": round(whole_seconds, 1),
        "not_bit_equal": broken,
    }
    write_json(Path(__file__).with_name("results.json"), result)
    print(f"{len(moments)} kills, not bit-equal: {broken or 'nothing'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
