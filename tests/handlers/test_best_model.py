"""Keep the best weights."""

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from medssl_monai.files import load_tensors
from medssl_monai.handlers import BestModel, ValidationScores
from medssl_monai.kinds import Findings
from medssl_monai.methods import FixMatch
from medssl_monai.networks import weights_metadata


@pytest.fixture
def play(tmp_path):
    """Scripts epochs: each value is the metric after one; the network's weight is the epoch. Returns the handler."""

    def _play(*values, path=tmp_path / "model.pt", best=None, first=1, metric="auroc"):
        network = nn.Linear(1, 1)
        best = best or BestModel(path, network, metric, metadata={"seed": 3})
        best.network = network
        engine = Engine(lambda engine, batch: None)
        for epoch, value in enumerate(values, start=first):
            nn.init.constant_(network.weight, float(epoch))
            engine.state.epoch = epoch
            engine.state.metrics = {"accuracy": 0.0, **({} if value is None else {"auroc": value})}
            best(engine)
        return best

    return _play


def kept(path):
    return load_tensors(path)["weight"].item()


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ((0.5, 0.7, 0.6), 2),
        ((0.5, 0.5), 1),  # not better
        ((-0.3, -0.2), 2),
        ((0.5, float("nan"), float("inf"), None), 1),
        ((float("nan"), 0.2, 0.1), 2),
        ((None, None, 0.0), 3),
    ],
)
def test_the_highest_defined_value_is_best(play, tmp_path, values, epoch):
    best = play(*values)
    assert kept(tmp_path / "model.pt") == epoch
    assert best.epoch == epoch
    assert best.best == values[epoch - 1]


@pytest.mark.parametrize("undefined", [None, float("nan")])
def test_without_any_defined_value_the_latest_weights_are_there_and_none_is_best(play, tmp_path, undefined):
    best = play(undefined, undefined)
    assert kept(tmp_path / "model.pt") == 2
    assert best.best is None
    assert weights_metadata(tmp_path / "model.pt")["value"] is None


def test_a_resume_keeps_the_better_model_from_before(play, tmp_path):
    state = play(0.4, 0.9).state_dict()
    resumed = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    resumed.load_state_dict(state)
    play(0.8, None, best=resumed, first=3)
    assert kept(tmp_path / "model.pt") == 2
    assert (resumed.best, resumed.epoch) == (0.9, 2)
    play(0.95, best=resumed, first=5)
    assert kept(tmp_path / "model.pt") == 5


def test_state_of_a_run_without_a_best_value_goes_round(play, tmp_path):
    fresh = BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    fresh.load_state_dict(play(None).state_dict())
    assert fresh.state_dict() == {"best": None, "epoch": 0}


def test_state_is_plain_though_metrics_may_be_numpy(play, tmp_path):
    import numpy as np

    best = play(np.float64(0.5))
    torch.save(best.state_dict(), tmp_path / "state.pt")
    assert load_tensors(tmp_path / "state.pt") == {"best": 0.5, "epoch": 1}


def test_the_file_is_a_plain_state_dict_that_says_how_it_came_about(play, tmp_path):
    play(0.5)
    nn.Linear(1, 1).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert weights_metadata(tmp_path / "model.pt") == {"seed": 3, "epoch": 1, "metric": "auroc", "value": 0.5}


def test_the_mean_over_the_findings_that_are_defined_decides(tmp_path):
    """A finding that no validation image has must neither stop the run nor keep a model from being best."""
    network, best = nn.Linear(1, 1), BestModel(tmp_path / "model.pt", nn.Linear(1, 1))
    best.network = network
    label = {"label": torch.tensor([[1, 0, -1], [0, 0, 1]])}
    engine = Engine(lambda engine, batch: {"pred": {"label": batch}, "label": label})
    ValidationScores({"label": Findings(("a", "b", "c"))}).attach(engine)
    best.attach(engine)
    for epoch, logit in enumerate((-1.0, 1.0, 0.0)):
        nn.init.constant_(network.weight, float(epoch))
        engine.run([torch.tensor([[logit, 5.0, 0.0], [0.0, 0.0, 0.0]])])
    assert best.best == 1.0
    assert kept(tmp_path / "model.pt") == 1


def test_thresholds_of_findings_are_kept_with_the_weights(tmp_path):
    network = nn.Linear(1, 2)
    method = FixMatch(network, threshold=[0.5, 0.75], decay=None, kind=Findings(("a", "b")))
    engine = Engine(lambda engine, batch: None)
    BestModel(tmp_path / "model.pt", network, method=method).attach(engine)
    engine.run([0])
    kept = weights_metadata(tmp_path / "model.pt")
    assert kept["threshold"] == {"label": [[0.5], [0.75]]}
    assert (kept["kind"], kept["learned"]) == ("findings", ["label"])


def test_only_the_first_process_writes(play, tmp_path, monkeypatch):
    monkeypatch.setattr("medssl_monai.handlers.best_model.is_first", lambda: False)
    assert play(0.5).best == 0.5
    assert not (tmp_path / "model.pt").exists()


def test_attached_it_runs_once_per_pass(tmp_path):
    engine = Engine(lambda engine, batch: None)
    BestModel(tmp_path / "model.pt", nn.Linear(1, 1)).attach(engine)
    engine.run([0, 1])
    assert (tmp_path / "model.pt").exists()
