"""The overlay that fits a probe on frozen embeddings, in every bundle."""

from __future__ import annotations

import json

import pytest
import torch
from support import BUNDLES

from medssl_monai.networks import ProjectionNetwork, small_resnet

NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/probe.yaml"))


@pytest.fixture
def pretrained(own_bundle):
    """Puts weights of a pre-training where `pretrain.yaml` leaves them."""

    def _save(name):
        torch.manual_seed(0)
        network = ProjectionNetwork(small_resnet(2))
        path = own_bundle(name) / "models" / "pretrained.pt"
        path.parent.mkdir()
        torch.save(network.state_dict(), path)
        return network

    return _save


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_writes_a_round_and_leaves_the_pretrained_encoder_as_it_is(name, kind, pretrained, run_bundle, tmp_path):
    before = pretrained(name).backbone.state_dict()
    run = run_bundle(name, "probe", ("probe.yaml",), probe=kind)
    (path,) = (tmp_path / "probe" / "rounds").iterdir()
    record = json.loads(path.read_text())
    assert (record["round"], record["labels"], record["evaluation"]["n"]) == (0, 6, 16)
    assert 0 <= record["evaluation"]["metrics"]["auroc"]["low"] <= 1
    assert f"{kind} probe" in (tmp_path / "probe" / "report.html").read_text()
    after = run.parser.get_parsed_content("network").backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_what_a_probe_takes_is_a_choice(pretrained, run_bundle):
    pretrained("s2mts2")
    run = run_bundle("s2mts2", "probe", ("probe.yaml",), probe="knn", **{"probes::knn::neighbours": 3})
    assert run.parser.get_parsed_content("method_def").inference_network.neighbours == 3


def test_without_a_pre_training_it_says_which_file_is_missing(run_bundle):
    with pytest.raises(RuntimeError) as error:
        run_bundle("s2mts2", "probe", ("probe.yaml",))
    assert isinstance(error.value.__cause__, FileNotFoundError)
    assert "models/pretrained.pt" in str(error.value.__cause__)
