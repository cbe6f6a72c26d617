"""Hostile input for every reader: 300 of the inputs of ``benchmarks/hostile``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="inputs are watched through /proc")
def test_no_reader_fails_hangs_or_obeys_on_300_hostile_inputs(tmp_path):
    script = ROOT / "benchmarks" / "hostile" / "fuzz.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(tmp_path), "--count", "300", "--seed", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (tmp_path / "results.json").exists(), done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    found = [(root["fault"], root["root"], root["examples"][0]["text"]) for root in results["roots"]]
    assert not found
    assert results["total"]["inputs"] >= 300 and done.returncode == 0
    kinds = results["kinds"].values()
    assert all(kind.get("doors accepted", 0) for kind in kinds), "no sound seed was understood"
    assert sum(kind.get("doors refused", 0) for kind in kinds) > 60, "spoiled inputs were not refused"
