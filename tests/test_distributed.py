"""Collectives, alone and in two processes."""

import pytest
import torch
from support import in_two_processes

from medssl_monai.distributed import shuffled


def test_alone_nothing_is_shuffled():
    seen = []
    rows = torch.rand(5, 2)
    assert torch.equal(shuffled(lambda part: seen.append(part) or part * 2, rows, seed=0), rows * 2)
    assert len(seen) == 1
    assert seen[0] is rows


TWO_PROCESSES = """
import torch
from medssl_monai.distributed import shuffled

seen, rows = [], torch.arange(8.0).view(8, 1) + 100 * rank
results = [shuffled(lambda part: seen.append(part.flatten().tolist()) or -part, rows, seed) for seed in (0, 0, 1)]
result = {"seen": seen, "results": [part.flatten().tolist() for part in results]}
"""


@pytest.mark.slow
def test_two_processes_mix_their_rows_and_get_their_own_results_back(tmp_path):
    ranks = in_two_processes(TWO_PROCESSES, tmp_path)
    for number, rank in enumerate(ranks):
        own = [float(value + 100 * number) for value in range(8)]
        assert rank["results"] == [[-value for value in own]] * 3
        assert rank["seen"][0] == rank["seen"][1] != rank["seen"][2]  # by the seed
        assert 0 < len(set(rank["seen"][0]) & set(own)) < 8
    assert sorted(ranks[0]["seen"][0] + ranks[1]["seen"][0]) == [*map(float, range(8)), *map(float, range(100, 108))]
