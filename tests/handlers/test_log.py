"""One line per epoch, and a stop when training has gone wrong."""

import logging

import pytest
import torch
from ignite.engine import Engine, Events

from medssl_monai.handlers import EpochMean


def run(outputs, epochs=1, later=None):
    """An engine whose steps give these outputs, again in each epoch."""
    engine = Engine(lambda engine, batch: [{name: torch.tensor(value) for name, value in batch.items()}])
    EpochMean().attach(engine)
    if later:
        engine.add_event_handler(Events.EPOCH_COMPLETED, later)
    engine.run(outputs, max_epochs=epochs)
    return engine


def test_means_over_the_epoch_are_logged_and_kept_for_trackers(caplog):
    with caplog.at_level(logging.INFO):
        engine = run([{"loss": 1.0, "mask_rate": 0.0}, {"loss": 2.0, "mask_rate": 0.5}])
    assert engine.state.metrics == {"loss": 1.5, "mask_rate": 0.25}
    assert "Epoch 1/1: loss 1.5, mask_rate 0.25" in caplog.text


def test_every_epoch_starts_anew():
    assert run([{"loss": 1.0}, {"loss": 2.0}], epochs=3).state.metrics == {"loss": 1.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("position", [0, 1])
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(value, position):
    outputs = [{"loss": 1.0}, {"loss": 1.0}]
    outputs[position] = {"loss": value}
    saved = []
    with pytest.raises(RuntimeError, match=r"the loss of epoch 1 is (nan|inf); lower the learning rate"):
        run(outputs, later=lambda engine: saved.append(engine.state.epoch))
    assert saved == []


def test_another_scalar_may_be_undefined():
    engine = run([{"loss": 1.0, "grad_norm": float("nan")}])
    assert engine.state.metrics["loss"] == 1.0


def test_the_steps_own_output_is_not_summed_into():
    seen = []
    engine = Engine(lambda engine, batch: [{"loss": torch.tensor(1.0)}])
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.output[0]["loss"]))
    EpochMean().attach(engine)
    engine.run([0, 0, 0])
    assert [float(loss) for loss in seen] == [1.0, 1.0, 1.0]


def test_a_scalar_of_half_precision_is_averaged_in_full():
    engine = Engine(lambda engine, batch: [{"loss": torch.tensor(0.1, dtype=torch.float64)}])
    EpochMean().attach(engine)
    engine.run(range(1000))
    assert engine.state.metrics["loss"] == pytest.approx(0.1)
