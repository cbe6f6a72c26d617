"""Hostile input for every reader: 300 of the inputs of ``benchmarks/hostile``, and whether its watch sees faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support import ROOT

HOSTILE = ROOT / "benchmarks" / "hostile"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="inputs are watched through /proc"),
]

EACH_FAULT = """
import json, os, sys, tempfile, time
import watch
from watch import Door, Input, Places
watch.SECONDS, watch.MEMORY = 1.0, 2**28
places = Places(watch.Path(tempfile.mkdtemp()) / "root")
places.make()

def fails(error):
    raise error

def asks_for(size):
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    return len(held)

calls = {
    "traceback": lambda: fails(TypeError("x")),
    "no file name": lambda: fails(ValueError("it is damaged")),
    "hang": lambda: time.sleep(9),
    "crash": lambda: os.kill(os.getpid(), 11),
    "executed": lambda: places.canary.touch(),
    "written outside": lambda: (places.home / "x").write_text("x"),
    "memory": lambda: asks_for(2**29),
    "differs": lambda: 2,
    "accepted": lambda: 1,
    "refused": lambda: fails(ValueError("x.png is damaged")),
    "inside": lambda: (places.out / "x").write_text("x"),
}
seen = {}
for name, call in calls.items():
    expected = "truth" if name in ("differs", "accepted") else "anything"
    places.empty()
    found, _ = watch.watch(lambda: Input([Door(name, call, ("x.png",), expected, 1)]), places)
    seen[name] = [fault.fault for fault in found]
print(json.dumps(seen))
"""


def run(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{HOSTILE}"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)


def test_every_fault_is_seen_and_nothing_else(tmp_path):
    done = run("-c", EACH_FAULT, cwd=tmp_path)
    seen = json.loads(done.stdout)
    for name in ("accepted", "refused", "inside"):
        assert seen.pop(name) == []
    assert seen == {name: [name] for name in seen} and len(seen) == 8


def test_no_reader_fails_hangs_or_obeys_on_300_hostile_inputs(tmp_path):
    done = run(HOSTILE / "fuzz.py", tmp_path, "--count", 300, "--seed", 1, cwd=tmp_path)
    assert (tmp_path / "results.json").exists(), done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    found = [(root["fault"], root["root"], root["examples"][0]["text"]) for root in results["roots"]]
    assert not found
    assert results["total"]["inputs"] >= 300 and done.returncode == 0
    for name, kind in results["kinds"].items():
        assert kind.get("doors accepted", 0), f"no sound seed of {name} was understood"
    assert results["total"]["doors refused"] > 60, "spoiled inputs were not refused"


def test_an_input_can_be_tried_again_by_its_number(tmp_path):
    tried = [run(HOSTILE / "fuzz.py", tmp_path, "--only", "NIfTI:7", cwd=tmp_path) for _ in range(2)]
    told = [json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])[0] for done in tried]
    assert told[0] == told[1] and told[0]["what"] and told[0]["answers"]
