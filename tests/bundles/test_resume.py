"""An interrupted run continues bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import assert_same_state, outputs_of

CHOICES = [
    *[("boostmis", {"method_def": f"@methods::{m}"}) for m in ("boostmis", "fixmatch", "mean_teacher", "supervised")],
    *[("tear", {"methods::tear::adapl::previous": previous}) for previous in ("ema", "snapshot", "bank")],
    *[("s2mts2", {"methods::s2mts2::teacher_bn": mode}) for mode in ("eval", "train")],
    ("s2mts2", {"method_def": "@methods::freematch"}),
    pytest.param("tear", {"method_def": "@methods::flexmatch"}, marks=pytest.mark.every),
    pytest.param("boostmis", {"method_def": "@methods::softmatch"}, marks=pytest.mark.every),
    ("multimix", {"strategies::joint::costs": {"label": 4.0, "mask": 1.0}}),
]


@pytest.mark.parametrize(("name", "choice"), CHOICES, ids=str)
def test_interrupted_in_the_middle_of_an_epoch(run_bundle, cut_off, tmp_path, name, choice):
    run_bundle(name, folder="whole", **choice)
    # the second step of the third epoch: the second round has begun
    cut_off(lambda: run_bundle(name, folder="parts", **choice), 8)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert_same_state(*(torch.load(p / "state.pt", weights_only=True) for p in (whole, parts)))
    assert_same_state(*(torch.load(p / "models" / "model.pt", weights_only=True) for p in (whole, parts)))
    assert outputs_of(whole) == outputs_of(parts)
    assert len(outputs_of(whole)) == 8


@pytest.mark.parametrize("name", ["s2mts2", "boostmis", "ssal"])
def test_interrupted_in_the_middle_of_an_epoch_of_pre_training(pretrain, cut_off, tmp_path, name):
    pretrain(name, folder="whole")
    cut_off(lambda: pretrain(name, folder="parts"), 5)
    for file in ("state.pt", "models/pretrained.pt"):
        assert_same_state(*(torch.load(tmp_path / part / file, weights_only=True) for part in ("whole", "parts")))


@pytest.mark.parametrize("extra", [{"amp": True}, {"train::dataloader::streams::labeled::num_workers": 1}])
def test_continued_after_a_round(run_bundle, tmp_path, extra):
    run_bundle(folder="whole", **extra)
    steps = {"lr_scheduler::lr_lambda::total": 12, "methods::boostmis::threshold::last_step": 9}  # as in the whole run
    run_bundle(folder="parts", rounds=1, **steps, **extra)
    run_bundle(folder="parts", **extra)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert_same_state(*states)
    assert outputs_of(tmp_path / "whole") == outputs_of(tmp_path / "parts")


def test_a_finished_run_started_again_only_reports(run_bundle, finished, tmp_path):
    finished()
    before = (tmp_path / "run" / "state.pt").read_bytes()
    run = run_bundle()
    assert run.parser.get_parsed_content("method").steps_done == 12
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, this one has 1"),
        ({"epoch_length": 4}, "`epoch_length` was 3 .* is 4 now"),
    ],
)
def test_the_state_of_another_run_is_refused(run_bundle, finished, change, message):
    finished(rounds=1)
    with pytest.raises(RuntimeError) as error:
        run_bundle(**change)
    assert pytest.raises(ValueError, match=message).matches(error.value.__cause__)


def test_a_damaged_checkpoint_is_an_error_and_stays_where_it_is(run_bundle, finished, tmp_path):
    finished(rounds=1)
    path: Path = tmp_path / "run" / "state.pt"
    damaged = path.read_bytes()[:1000]
    path.write_bytes(damaged)
    with pytest.raises(RuntimeError) as error:
        run_bundle()
    assert "cannot be read" in str(error.value.__cause__)
    assert path.read_bytes() == damaged


def test_new_labels_or_another_method_do_not_continue_an_old_state(run_bundle, finished, tmp_path):
    """They would be dropped in silence."""
    finished()
    for change, message in (
        ({"labels": str(tmp_path / "run" / "pool.json")}, "with labels 6, this one has 'sha256 "),
        (
            {"method_def": "@methods::supervised"},
            "method_def '@methods::boostmis', this one has '@methods::supervised'",
        ),
    ):
        with pytest.raises(RuntimeError) as error:
            run_bundle(**change)
        assert message in str(error.value.__cause__)


def test_a_run_that_is_refused_has_changed_nothing(run_bundle, finished, own_bundle, toy_datalist, tmp_path):
    finished(rounds=1)
    metadata = own_bundle("boostmis") / "configs" / "metadata.json"
    before = metadata.read_bytes()
    other = tmp_path / "other.json"
    other.write_text(toy_datalist.read_text().replace('"left"', '"port"').replace('"labeled"', '"labeled"'))
    content = json.loads(other.read_text())
    content["training"] = content["training"][:-1]
    other.write_text(json.dumps(content))
    with pytest.raises(RuntimeError):
        run_bundle(datalist=str(other), dataset_dir=str(toy_datalist.parent))
    assert metadata.read_bytes() == before


def test_a_validation_list_without_labels_is_refused_before_training(run_bundle, toy_datalist, tmp_path):
    content = json.loads(toy_datalist.read_text())
    content["validation"] = [{k: v for k, v in item.items() if k != "label"} for item in content["validation"]]
    blind = tmp_path / "blind.json"
    blind.write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as error:
        run_bundle(datalist=str(blind), dataset_dir=str(toy_datalist.parent))
    assert "no validation image has a label" in str(error.value.__cause__)
    assert not (tmp_path / "run" / "state.pt").exists()


def test_multi_hot_labels_of_a_method_for_classes_are_refused_with_words(run_bundle, toy_datalist, tmp_path):
    content = json.loads(toy_datalist.read_text())
    for section in ("training", "validation", "testing"):
        for item in content[section]:
            item["label"] = [item["label"], 1]
    several = tmp_path / "several.json"
    several.write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as error:
        run_bundle(datalist=str(several), dataset_dir=str(toy_datalist.parent), label_kind="classes")
    assert "'training_0.png' is [0, 1], and must be a class index from 0 to 1" in str(error.value.__cause__)
