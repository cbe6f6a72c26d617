"""Two gloo processes through torchrun."""

from __future__ import annotations

import json

import pytest
import torch
from support import assert_same_state, torchrun

NOTE = """
import atexit, gc, os, torch
def note():
    from medssl_monai.pool import LabelPool
    from medssl_monai.methods.base import SSLMethod
    pools = [max((o for o in gc.get_objects() if type(o) is LabelPool), key=len).state_dict()]
    methods = [o.state_dict() for o in gc.get_objects() if issubclass(type(o), SSLMethod)]
    torch.save({"pools": pools, "methods": methods}, FOLDER + "/rank" + os.environ["RANK"])
if "RANK" in os.environ: atexit.register(note)
"""


@pytest.fixture
def train_twice(own_bundle, tiny, tmp_path):
    """Runs a bundle in two processes; what the pool and the method of each hold at the end."""

    def _train(name, files, **overrides):
        (tmp_path / "sitecustomize.py").write_text(NOTE.replace("FOLDER", repr(str(tmp_path))))
        flags = [
            part for key, value in tiny(name=name, **overrides).items() for part in (f"--{key}", json.dumps(value))
        ]
        files = str([f"configs/{file}.yaml" for file in files])
        run = ["-m", "monai.bundle", "run", "--config_file", files, *flags]
        torchrun(*run, cwd=own_bundle(name), path=[tmp_path])
        ranks = [torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in (0, 1)]
        assert [(len(found["pools"]), len(found["methods"])) for found in ranks] == [(1, 1)] * 2
        return [(found["pools"][0], found["methods"][0]) for found in ranks]

    return _train


def common(state):
    """What two processes have alike: everything but the statistics of the batches that each saw."""
    return {name: value for name, value in state.items() if "running" not in name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["boostmis", "multimix", *(pytest.param(x, marks=pytest.mark.every) for x in ("tear", "s2mts2", "ssal"))]
)
def test_torchrun_asks_the_same_on_both_ranks(train_twice, tmp_path, name):
    masks_first = {"strategies::joint::costs": {"label": 4, "mask": 1}} if name == "multimix" else {}
    (pool, method), (other_pool, other_method) = train_twice(name, ["train", "multi_gpu_train"], **masks_first)
    assert pool == other_pool
    assert_same_state(common(method), common(other_method))
    if masks_first:
        assert sum(mask is not None for mask in pool["parts"]["mask"]["labels"]) == 4 + 3
        return
    known = sum(label is not None for label in pool["parts"]["label"]["labels"])
    query = json.loads((tmp_path / "run" / "queries" / "round_00.json").read_text())
    assert known == 6 + len(query["items"])
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert sum(label is not None for label in state["pool"]["parts"]["label"]["labels"]) == known
    assert not any(key.startswith("module.") for key in state["method"])


@pytest.mark.slow
def test_torchrun_pre_trains_one_network_with_one_queue(train_twice, tmp_path):
    stage_a = {"max_epochs": 2, "batch_size::unlabeled": 3, "contrast::queue_length": 40}
    states = train_twice("s2mts2", ["train", "pretrain", "multi_gpu_train"], pretrained=None, **stage_a)
    method, other = (common(method) for _, method in states)
    assert_same_state(method, other)
    assert method["queue.pointer"] == 36  # two epochs of three steps, of two processes with three images each
    kept = torch.load(tmp_path / "run" / "models" / "pretrained.pt", weights_only=True)
    assert_same_state(common(kept), {name: method[f"network.{name}"] for name in common(kept)})
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]["queue.pointer"] == 36


@pytest.mark.slow
@pytest.mark.every
def test_torchrun_restores_with_one_network(train_twice, tmp_path):
    stage_1 = {"max_epochs": 2, "batch_size::unlabeled": 3, "labels": 0}
    (_, method), (_, other) = train_twice("ssal", ["train", "pretrain", "multi_gpu_train"], **stage_1)
    assert_same_state(common(method), common(other))
    kept = torch.load(tmp_path / "run" / "models" / "pretrained.pt", weights_only=True)
    assert_same_state(common(kept), {name: method[f"network.{name}"] for name in common(kept)})
