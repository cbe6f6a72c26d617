"""Methods beside the bundles' own, and one that is not in the package: all the same to whatever works with them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from bundles.test_every_bundle import CLASSIFIERS
from support import assert_same_state, outputs_of

OWN = '''
"""A method that somebody keeps in a file of their own."""

import torch

from medssl_monai.kinds import Threshold
from medssl_monai.methods import FixMatch, Targets


class MedianMatch(FixMatch):
    """Half of the pseudo-labels count: those above a running median of the confidence."""

    def __init__(self, network, momentum=0.5, **arguments):
        super().__init__(network, threshold=0.0, **arguments)
        self.momentum = momentum
        self.register_buffer("median", torch.tensor(0.5))

    def thresholds(self):
        return {"label": Threshold(self.median)}

    @torch.no_grad()
    def after_step(self, batch, output):
        self.median.lerp_(output["confidence"].median(), 1 - self.momentum)
        super().after_step(batch, output)

    @torch.no_grad()
    def targets(self, images, index):
        outcomes = self.kind.outcomes(self.network(images))
        decided, confidence = self.kind.decide(outcomes), self.kind.confidence(outcomes)
        counted = self.kind.confident(outcomes, self.thresholds()["label"])
        return Targets(outcomes, decided, self.kind.one_hot(decided), counted, -confidence.log())
'''
METHOD = {"_target_": "median_match.MedianMatch", "network": "@network", "momentum": 0.6, "kind": "@kind"}


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    """A folder with the method and a configuration file of it, from which Python imports."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "median_match.py").write_text(OWN)
    (tmp_path / "own" / "own.yaml").write_text(yaml.safe_dump({"method_def": METHOD}))
    monkeypatch.syspath_prepend(tmp_path / "own")
    return tmp_path / "own"


def rounds(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "rounds").glob("*.json"))]


def check_outputs(folder):
    """Pseudo-labels were checked, queries asked, weights and page written; the records of the rounds."""
    records = rounds(folder)
    assert len(records) == 2
    assert all({"threshold", "unlabeled", "accepted"} <= record["pseudo_labels"].keys() for record in records)
    query = json.loads((folder / "queries" / "round_00.json").read_text())
    assert query["items"] and all(item["predicted"] in ("left", "right") for item in query["items"])
    assert records[1]["labels"] == 6 + len(query["items"])
    assert (folder / "report.html").is_file() and (folder / "models" / "model.pt").is_file()
    return records


@pytest.mark.parametrize("method", ["flexmatch", "freematch", "softmatch"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.every) for name in CLASSIFIERS])
def test_every_classifier_takes_every_learner(run_bundle, tmp_path, name, method):
    # not BoostMIS's own query: it asks for doubtful images, and these learners begin with thresholds below all of them
    run_bundle(name, method_def=f"@methods::{method}", **{"query::strategy": "@strategies::entropy"})
    check_outputs(tmp_path / "run")


def test_a_method_from_outside_is_queried_reported_judged_and_continued(own_method, run_bundle, cut_off, tmp_path):
    """As a mapping, and as a file beside the bundle's: both runs are one, though the second is cut off between."""
    run_bundle(folder="whole", method_def=METHOD)
    records = check_outputs(tmp_path / "whole")
    for record in records:
        assert record["estimator"].keys() == {"validation", "unlabeled"}
        assert record["pseudo_labels"]["threshold"] not in (0.0, 0.5)  # its own, which moves
    cut_off(lambda: run_bundle(folder="parts", overlays=(str(own_method / "own.yaml"),)), 8)
    states = [torch.load(tmp_path / folder / "state.pt", weights_only=True) for folder in ("whole", "parts")]
    assert_same_state(*states)
    assert outputs_of(tmp_path / "whole") == outputs_of(tmp_path / "parts")


def test_a_method_from_outside_is_chosen_on_the_command_line(own_method, run_bundle, tmp_path):
    """``--method_def "%own.yaml::method_def"``, as a macro of MONAI."""
    run_bundle("tear", method_def=f"%{own_method / 'own.yaml'}::method_def", rounds=1)
    assert "estimator" in rounds(tmp_path / "run")[0]
