"""Two gloo processes through torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from support import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boostmis", "tear"])
def test_torchrun_asks_the_same_on_both_ranks(own_bundle, tiny, tmp_path, name):
    bundle = own_bundle(name)
    flags = [part for key, value in tiny().items() for part in (f"--{key}", json.dumps(value))]
    probe = tmp_path / "sitecustomize.py"  # each rank writes down what its pool holds at the end
    probe.write_text(
        "import atexit, json, os, gc\n"
        "def note():\n"
        "    from medssl_monai.data import LabelPool\n"
        "    pools = [o for o in gc.get_objects() if type(o) is LabelPool and len(o) == 40]\n"
        f"    json.dump([p.state_dict() for p in pools], open(r'{tmp_path}/rank' + os.environ['RANK'], 'w'))\n"
        "if 'RANK' in os.environ: atexit.register(note)\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "monai.bundle",
    ]
    command += ["run", "--config_file", "['configs/train.yaml','configs/multi_gpu_train.yaml']", *flags]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=bundle, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pools = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1)]
    assert pools[0] == pools[1] and len(pools[0]) == 1
    known = sum(label is not None for label in pools[0][0]["labels"])
    query = json.loads((tmp_path / "run" / "queries" / "round_00.json").read_text())
    assert known == 6 + len(query["items"])
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert sum(label is not None for label in state["pool"]["labels"]) == known
    assert not any(key.startswith("module.") for key in state["method"])
