"""A bundle with a correction of class imbalance: one key, every learner."""

from __future__ import annotations

import pytest
import torch
from support import assert_same_state, outputs_of

WEIGHTED = {"criterion_def": "@criteria::weighted"}
ADJUSTED = {"criterion_def": "@criteria::logit_adjusted"}
BALANCED = {"balanced_sampling": True}


@pytest.fixture
def rare(tmp_path):
    """A table of labels: seven of the first class, two of the second."""
    path = tmp_path / "rare.csv"
    numbers = [0, 2, 4, 6, 8, 10, 12, 1, 3]
    path.write_text("id,label\n" + "".join(f"training_{n}.png,{n % 2}\n" for n in numbers))
    return str(path)


def weights(folder):
    return torch.load(folder / "state.pt", weights_only=True)["method"]["network.head.weight"]


@pytest.mark.parametrize("method", ["boostmis", "fixmatch", "mean_teacher", "supervised"])
def test_each_correction_reaches_each_method(run_bundle, rare, tmp_path, method):
    short = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 2, "query::budget": 0, "labels": rare}
    choices = {"plain": {}, "weighted": WEIGHTED, "adjusted": ADJUSTED, "balanced": BALANCED}
    for name, choice in choices.items():
        run_bundle(folder=name, method_def=f"@methods::{method}", **short, **choice)
    trained = [weights(tmp_path / name) for name in choices]
    assert all(torch.isfinite(w).all() for w in trained)
    for position, first in enumerate(trained):
        assert not any(torch.equal(first, other) for other in trained[position + 1 :])


def test_a_run_with_a_correction_continues_after_a_query_bit_for_bit(run_bundle, rare, tmp_path):
    extra = {**WEIGHTED, **BALANCED, "labels": rare}  # one at a time is the advice; here both at once are tested
    run_bundle(folder="whole", **extra)
    steps = {"lr_scheduler::lr_lambda::total": 12, "methods::boostmis::threshold::last_step": 9}  # as in the whole run
    run_bundle(folder="parts", rounds=1, **steps, **extra)
    run_bundle(folder="parts", **extra)
    assert_same_state(*(torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")))
    assert outputs_of(tmp_path / "whole") == outputs_of(tmp_path / "parts")


def test_a_correction_that_is_neither_true_nor_false_is_refused(run_bundle):
    with pytest.raises(RuntimeError) as error:
        run_bundle(balanced_sampling="false")  # as a shell passes it
    cause = error.value
    while cause.__cause__:
        cause = cause.__cause__
    assert "`balanced` must be True or False, got 'false'" in str(cause)
