"""Killed with SIGKILL and started again with the same command, a run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT, assert_same_state, outputs_of

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.mark.slow
def test_killed_at_a_step_a_checkpoint_a_query_and_an_annotation(run_bundle, own_bundle, tiny, tmp_path):
    run_bundle(folder="whole")
    bundle = own_bundle("boostmis")
    overrides = json.dumps({**tiny("killed"), "bundle_root": str(bundle)})
    for moment in ("step", "checkpoint", "query", "annotation", "none"):
        command = [sys.executable, str(DRIVER), moment, str(bundle / "configs" / "train.yaml"), overrides]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == (0 if moment == "none" else -signal.SIGKILL), (moment, done.stderr[-2000:])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_same_state(*(torch.load(p / "state.pt", weights_only=True) for p in (whole, killed)))
    assert_same_state(*(torch.load(p / "models" / "model.pt", weights_only=True) for p in (whole, killed)))
    assert outputs_of(whole) == outputs_of(killed)
