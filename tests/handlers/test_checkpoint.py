"""Stop anywhere, continue as if nothing had happened."""

import logging
import stat
import zipfile

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

import medssl_monai
from medssl_monai.engines.identity import Identity
from medssl_monai.files import load_tensors, save_tensors
from medssl_monai.handlers import TrainingCheckpoint


class Counter:
    """The smallest object with a state."""

    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class Run:
    """A trainer that counts its steps; `epochs` of `length` steps."""

    def __init__(self, path, epochs, length=3, names=("counter",), **kwargs):
        self.objects = {name: Counter() for name in names}
        self.path, self.epochs, self.data, self.seen = path, epochs, list(range(length)), []
        self.engine = Engine(self.step)
        self.checkpoint = TrainingCheckpoint(path, self.objects, **kwargs)
        self.engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: self.seen.append(engine.state.epoch))
        self.checkpoint.attach(self.engine)

    def step(self, engine, batch):
        for item in self.objects.values():
            item.value += 1

    def __call__(self):
        self.engine.run(self.data, max_epochs=self.epochs)
        return self

    @property
    def steps(self):
        return next(iter(self.objects.values())).value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "state.pt"


def test_a_stopped_run_continues_with_the_next_epoch(path):
    Run(path, epochs=2)()
    run = Run(path, epochs=5)()
    assert run.seen == [3, 4, 5]
    assert run.steps == 15


def test_a_finished_run_started_again_does_nothing(path):
    Run(path, epochs=2)()
    before = path.read_bytes()
    run = Run(path, epochs=2)()
    assert run.seen == []
    assert run.steps == 6
    assert path.read_bytes() == before


def test_the_configuration_decides_how_long_to_train(path):
    Run(path, epochs=4)()
    assert Run(path, epochs=6)().engine.state.max_epochs == 6


def test_the_file_holds_everything_by_name_and_the_trainer(path):
    Run(path, epochs=1, names=("method", "pool"), identity=Identity(seed=0))()
    state = load_tensors(path)
    assert state.keys() == {"method", "pool", "trainer", "identity"}
    assert state["identity"] == {"facts": {"seed": 0}, "images": {}, "version": medssl_monai.__version__}
    assert state["trainer"]["epoch_length"] == 3


def test_the_callers_dictionary_is_left_alone(path):
    run = Run(path, epochs=1)()
    assert set(run.objects) == {"counter"}


def test_what_other_handlers_do_at_the_end_of_an_epoch_is_kept(path):
    run = Run(path, epochs=1, names=("early", "late"))
    run.engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: setattr(run.objects["late"], "value", 99))
    run()
    assert load_tensors(path)["late"]["value"] == 99


def test_a_run_that_is_refused_has_not_called_the_handlers_after_it(path):
    Run(path, epochs=1, identity=Identity(seed=0))()
    run, called = Run(path, epochs=2, identity=Identity(seed=1)), []
    run.engine.add_event_handler(Events.STARTED, lambda engine: called.append(1))
    with pytest.raises(ValueError, match="seed 0, this one has 1"):
        run()
    assert called == []


@pytest.mark.parametrize("names", [("counter", "best_model"), ("other",)])
def test_other_objects_are_refused(path, names):
    Run(path, epochs=1)()
    with pytest.raises(KeyError, match=r"holds \['counter', 'trainer'\], this run has .*choose another `output_dir`"):
        Run(path, epochs=2, names=names)()


@pytest.mark.parametrize("identity", [{"seed": 1}, {"seed": 0, "datalist": "abc"}])
def test_another_run_s_file_is_refused(path, identity):
    Run(path, epochs=1, identity=Identity(seed=0))()
    message = r"was written by a run with (seed 0, this one has 1|datalist None, .*'abc'); resume .*`output_dir`"
    with pytest.raises(ValueError, match=message):
        Run(path, epochs=2, identity=Identity(**identity))()


def test_the_same_identity_is_accepted(path):
    Run(path, epochs=1, identity=Identity(seed=0, datalist="abc"))()
    assert Run(path, epochs=2, identity=Identity(seed=0, datalist="abc"))().seen == [2]


def test_another_epoch_length_is_refused(path):
    """ignite would take the length of the file and never open the loader anew."""
    Run(path, epochs=1, length=3)()
    with pytest.raises(ValueError, match=r"`epoch_length` was 3 when .* was written and is 4 now; keep it"):
        Run(path, epochs=2, length=4)()


def test_a_refused_file_stays_as_it_is(path):
    Run(path, epochs=1)()
    before = path.read_bytes()
    for kwargs in ({"names": ("other",)}, {"length": 9}, {"identity": Identity(seed=1)}):
        with pytest.raises((KeyError, ValueError)):
            Run(path, epochs=2, **kwargs)()
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_damaged_file_is_an_error_and_not_a_new_start(path, keep):
    Run(path, epochs=1)()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"state\.pt cannot be read .*restore it from a copy, or move it away"):
        Run(path, epochs=2)()


def test_a_write_that_fails_stops_the_run_and_keeps_the_last_state(path, monkeypatch):
    Run(path, epochs=2)()
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left on device"):
        Run(path, epochs=3)()
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert Run(path, epochs=3)().steps == 9


def test_only_the_first_process_writes(path, monkeypatch):
    monkeypatch.setattr("medssl_monai.handlers.checkpoint.is_first", lambda: False)
    Run(path, epochs=1)()
    assert not path.exists()


def test_it_says_where_it_continues(path, caplog):
    Run(path, epochs=2)()
    with caplog.at_level(logging.INFO):
        Run(path, epochs=3)()
    assert "after epoch 2" in caplog.text


def test_modules_and_optimizers_go_round(path):
    def make(epochs):
        torch.manual_seed(epochs)
        net = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

        def step(engine, batch):
            optimizer.zero_grad()
            net(torch.full((1, 2), float(batch))).sum().backward()
            optimizer.step()

        engine = Engine(step)
        TrainingCheckpoint(path, {"net": net, "optimizer": optimizer}).attach(engine)
        engine.run([1, 2], max_epochs=epochs)
        return net, optimizer

    make(1)
    net, optimizer = make(2)
    torch.testing.assert_close(dict(net.state_dict()), dict(load_tensors(path)["net"]))
    assert optimizer.state_dict()["state"][0]["momentum_buffer"].abs().sum() > 0


def test_one_wrong_byte_anywhere_in_the_values_is_refused(path):
    Run(path, epochs=1, identity=Identity(seed=0))()
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
    start = members["data.pkl"].header_offset + 30 + len(members["data.pkl"].filename)
    content = start + int.from_bytes(whole[members["data.pkl"].header_offset + 28 :][:2], "little")
    for position in range(content, content + members["data.pkl"].file_size, 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        with pytest.raises(ValueError, match=r"state\.pt cannot be read .*restore it from a copy"):
            Run(path, epochs=2, identity=Identity(seed=0))()


def test_one_wrong_byte_in_a_weight_is_refused(tmp_path):
    weights = torch.linspace(0, 1, 1000)
    save_tensors(tmp_path / "model.pt", {"weight": weights})
    content = bytearray((tmp_path / "model.pt").read_bytes())
    content[content.index(weights.numpy().tobytes()) + 2001] ^= 1
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt cannot be read .*the checksum of .*data/0 is wrong"):
        load_tensors(tmp_path / "model.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_other_values_are_not(path, bad):
    class Net(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)
            self.register_buffer("memory", torch.full((3,), float("nan")))  # nothing seen yet

    def run(value, epochs):
        net = Net()
        engine = Engine(lambda engine, batch: nn.init.constant_(net.weight, value))
        TrainingCheckpoint(path, {"net": net}).attach(engine)
        engine.run([1], max_epochs=epochs)

    run(1.0, 1)
    run(bad, 2)
    with pytest.raises(
        ValueError, match=r"state\.pt holds weights that are not finite .* in 1 of 2 .* first is weight"
    ):
        run(1.0, 3)


@pytest.mark.parametrize("content", [[1], {"counter": 1}, {"identity": 3, "counter": {}, "trainer": {}}])
def test_a_file_that_is_no_state_is_refused_by_name(path, content):
    save_tensors(path, content)
    with pytest.raises(ValueError, match=r"state\.pt is no state of a run"):
        Run(path, epochs=1)()


@pytest.mark.parametrize("change", [{"counter": {}}, {"counter": 3}, {"trainer": {}}, {"identity": {}}])
def test_a_state_with_something_else_in_it_is_refused_by_name(path, change):
    Run(path, epochs=1)()
    save_tensors(path, {**load_tensors(path), **change})
    with pytest.raises(ValueError, match=r"state\.pt does not fit this run .*restore it from a copy"):
        Run(path, epochs=2)()


def test_the_file_is_private(path):
    Run(path, epochs=1)()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
