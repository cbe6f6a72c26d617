"""Collectives, alone and in two processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from support import ROOT

from medssl_monai.distributed import shuffled


def test_alone_nothing_is_shuffled():
    seen = []
    rows = torch.rand(5, 2)
    assert torch.equal(shuffled(lambda part: seen.append(part) or part * 2, rows, seed=0), rows * 2)
    assert len(seen) == 1
    assert seen[0] is rows


TWO_PROCESSES = """
import json, sys
import torch, ignite.distributed as idist
from medssl_monai.distributed import shuffled

with idist.Parallel(backend="gloo"):
    rank, seen = idist.get_rank(), []
    rows = torch.arange(8.0).view(8, 1) + 100 * rank
    results = [shuffled(lambda part: seen.append(part.flatten().tolist()) or -part, rows, seed) for seed in (0, 0, 1)]
    content = {"seen": seen, "results": [result.flatten().tolist() for result in results]}
    json.dump(content, open(f"{sys.argv[1]}/rank{rank}.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_mix_their_rows_and_get_their_own_results_back(tmp_path):
    script = tmp_path / "shuffle.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for number, rank in enumerate(ranks):
        own = [float(value + 100 * number) for value in range(8)]
        assert rank["results"] == [[-value for value in own]] * 3
        assert rank["seen"][0] == rank["seen"][1] != rank["seen"][2]  # by the seed
        assert 0 < len(set(rank["seen"][0]) & set(own)) < 8
    assert sorted(ranks[0]["seen"][0] + ranks[1]["seen"][0]) == [*map(float, range(8)), *map(float, range(100, 108))]
