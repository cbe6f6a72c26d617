"""Hostile input for every reader: spoiled in many ways, each tried in a process of its own, and watched.

    OMP_NUM_THREADS=1 python benchmarks/hostile/fuzz.py OUT [--count 20000] [--kinds PNG "DICOM series"] [--seed 0]
    OMP_NUM_THREADS=1 python benchmarks/hostile/fuzz.py OUT --only PNG:17

Inputs are made of valid seeds by a random number that follows from seed, kind and number alone, so that any of them can
be made again (``--only``). They are tried in blocks; the same command goes on where it stood. OUT has ``blocks.jsonl``,
and at the end ``results.json`` and ``results.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads does not survive a fork
sys.path.insert(0, str(Path(__file__).parent))

import archives
import images
import masks
import runs
import summary
import tables
import torch
from doors import Harm, Kind
from spoil import Chance, Payloads, special
from watch import Fault, Input, Places, watch

torch.set_num_threads(1)
BLOCK = 50
KINDS: dict[str, Kind] = {
    kind.name: kind for kind in [*images.KINDS, *masks.KINDS, *archives.KINDS, *tables.KINDS, *runs.KINDS]
}


def harm_of(number: int) -> Harm:
    """One of twenty inputs is a sound seed, and one a seed in another form."""
    forms: dict[int, Harm] = {0: "none", 1: "same"}
    return forms.get(number % 20, "spoiled")


def attempt(kind: Kind, number: int, seed: int, places: Places) -> tuple[list[Fault], dict[str, Any]]:
    """Make and try one input; twice if it takes too long, since a busy machine may be the reason."""

    def make() -> Input:
        chance, harm = Chance(f"{seed}/{kind.name}/{number}"), harm_of(number)
        tried = kind.make(chance, places, harm)
        if tried.main is not None and harm == "spoiled" and chance.random() < 0.03:
            special(tried.main, chance, tried.what)
            for door in tried.doors:
                door.expected = "truth" if kind.name == "cache" else "anything"
        return tried

    for last in (False, True):
        places.empty()
        faults, told = watch(make, places)
        if last or not any(fault.fault == "hang" for fault in faults):
            break
    return faults, told


def run_block(kind: Kind, start: int, end: int, seed: int, places: Places) -> dict[str, Any]:
    """Return inputs of one kind from `start` until before `end`."""
    began, faults = time.monotonic(), list[dict[str, Any]]()
    answers: dict[str, int] = {}
    for number in range(start, end):
        found, told = attempt(kind, number, seed, places)
        for answer in told["answers"].values():
            answers[answer] = answers.get(answer, 0) + 1
        shown = json.dumps([{"number": number, **vars(fault), "what": told["what"]} for fault in found])
        faults += json.loads(shown.replace(str(places.root), "ROOT"))
    seconds = round(time.monotonic() - began, 2)
    return {
        "kind": kind.name,
        "start": start,
        "inputs": end - start,
        "seed": seed,
        "seconds": seconds,
        "answers": answers,
        "faults": faults,
    }


def warm_up(kinds: Iterable[Kind], places: Places) -> None:
    """Try a sound seed of each kind in this process, so that no child has to import or make what all of them need.

    Nothing of it may start a thread: there is none in a forked process, and locks that it holds stay closed.
    """
    import SimpleITK
    import tqdm

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    tqdm.tqdm.monitor_interval = 0
    places.enter()
    for kind in kinds:
        for number in range(3):
            places.empty()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                for door in kind.make(Chance(f"warm up {number}"), places, "none").doors:
                    with contextlib.suppress(Exception):
                        door.call()
    places.make()
    gc.collect()
    gc.freeze()
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise RuntimeError(f"{threads} threads were started, which do not survive a fork.")


def main() -> int:
    """Try, write, sum up; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20_000, help="inputs in all")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="try this one, and say all of it")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hostile", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        places = Places(Path(folder) / "root")
        places.make()
        Payloads.canary, Payloads.victim = places.canary, places.victim
        warm_up(KINDS.values(), places)
        if arguments.only:
            name, _, number = arguments.only.rpartition(":")
            faults, told = attempt(KINDS[name], int(number), arguments.seed, places)
            print(json.dumps({**told, "faults": [vars(fault) for fault in faults]}, indent=2))
            print(places.log.read_text(errors="replace") if places.log.exists() else "")
            return int(bool(faults))
        blocks = arguments.out / "blocks.jsonl"
        lines = blocks.read_text(encoding="utf-8").splitlines() if blocks.exists() else []
        done = {(line["kind"], line["start"]) for line in map(json.loads, lines) if line["seed"] == arguments.seed}
        each = -(-arguments.count // len(arguments.kinds))
        for start in range(0, each, BLOCK):
            for name in arguments.kinds:
                if (name, start) in done:
                    continue
                block = run_block(KINDS[name], start, min(start + BLOCK, each), arguments.seed, places)
                with blocks.open("a", encoding="utf-8") as file:
                    print(json.dumps(block), file=file)
                print(f"{name} {start}: {len(block['faults'])} faults, {block['seconds']} s", flush=True)
    return int(summary.write(arguments.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
