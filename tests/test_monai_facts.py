"""What MONAI 1.6.1 and ignite 0.5.5 really do; each test is one fact that the design rests on."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import DataLoader, Dataset
from monai.engines import IterationEvents, SupervisedEvaluator, SupervisedTrainer, Trainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from torch import nn

BUNDLE = Path(__file__).parents[1] / "bundles" / "boostmis"


# ---- ignite ---------------------------------------------------------------------------------------------------------
def test_iterator_is_kept_until_exhausted():
    """ignite opens a loader anew only after it raised StopIteration, not at each epoch."""
    opened = []

    class Loader:
        def __len__(self):
            return 6

        def __iter__(self):
            opened.append(1)
            return iter(range(6))

    Engine(lambda e, b: None).run(Loader(), max_epochs=2, epoch_length=3)
    assert len(opened) == 1  # two epochs, one iterator
    opened.clear()
    Engine(lambda e, b: None).run(Loader(), max_epochs=2, epoch_length=6)
    assert len(opened) == 2  # ends with the epoch: opened once per epoch


def test_new_iterator_is_opened_after_epoch_started():
    order = []

    class Loader(list):
        def __iter__(self):
            order.append("iter")
            return super().__iter__()

    engine = Engine(lambda e, b: None)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: order.append("epoch started"))
    engine.run(Loader([1, 2]), max_epochs=2)
    assert order == ["epoch started", "iter"] * 2


def test_epoch_length_must_not_change():
    """A shrinking epoch_length ends the run early: done means iteration >= epoch_length * max_epochs."""
    engine = Engine(lambda e, b: None)
    engine.state.max_epochs, engine.state.epoch_length = None, None

    @engine.on(Events.EPOCH_COMPLETED(once=2))
    def shrink(engine):
        engine.state.epoch_length = 4

    engine.run(list(range(10)), max_epochs=4)
    assert engine.state.epoch < 4


def test_loading_a_finished_state_before_run_restarts_from_zero():
    done = Engine(lambda e, b: None)
    done.run([0, 1], max_epochs=3)
    engine, steps = Engine(lambda e, b: steps.append(1)), []
    engine.load_state_dict(done.state_dict())
    engine.run([0, 1], max_epochs=3)
    assert len(steps) == 6  # trained all over again


def test_loading_a_finished_state_at_started_does_nothing():
    done = Engine(lambda e, b: None)
    done.run([0, 1], max_epochs=3)
    steps = []
    engine = Engine(lambda e, b: steps.append(1))
    engine.add_event_handler(Events.STARTED, lambda e: e.load_state_dict(done.state_dict()))
    engine.run([0, 1], max_epochs=3)
    assert not steps


def test_handlers_of_one_event_run_in_list_order():
    order, engine = [], Engine(lambda e, b: None)
    for name in "abc":
        engine.add_event_handler(Events.EPOCH_COMPLETED, order.append, name)
    engine.run([0], max_epochs=1)
    assert order == ["a", "b", "c"]


# ---- engines --------------------------------------------------------------------------------------------------------
def test_decollate_pads_the_shorter_stream_and_turns_losses_into_floats():
    class T(Trainer):
        def _iteration(self, engine, batch):
            engine.state.output = {"loss": torch.tensor(1.0)}
            engine.fire_event(IterationEvents.MODEL_COMPLETED)
            return engine.state.output

    batch = {"labeled": {"image": torch.zeros(2, 1)}, "unlabeled": {"weak": torch.zeros(3, 1)}}
    trainer = T(device="cpu", max_epochs=1, data_loader=[batch])
    trainer.run()
    assert len(trainer.state.batch) == 3
    assert trainer.state.batch[2]["labeled"] is None
    assert isinstance(trainer.state.output["loss"], float)


def test_epoch_of_a_distributed_sampler_is_set_for_a_plain_loader_only():
    from torch.utils.data import DistributedSampler

    class T(Trainer):
        def _iteration(self, engine, batch):
            return {}

    sampler = DistributedSampler([0, 1], num_replicas=1, rank=0)
    plain = DataLoader([0, 1], sampler=sampler)
    T(device="cpu", max_epochs=3, data_loader=plain).run()
    assert sampler.epoch == 3
    sampler.set_epoch(0)

    class Wrapper:
        def __len__(self):
            return len(plain)

        def __iter__(self):
            return iter(plain)

    T(device="cpu", max_epochs=3, data_loader=Wrapper()).run()
    assert sampler.epoch == 0


def test_checkpoint_saver_is_not_atomic(tmp_path):
    saver = CheckpointSaver(str(tmp_path), {"model": nn.Linear(1, 1)}, save_final=True)
    assert saver._final_checkpoint.save_handler._atomic is False


def test_trainer_amp_is_cuda_only():
    import inspect

    import monai.engines.trainer as m

    source = inspect.getsource(m)
    assert 'torch.autocast("cuda"' in source
    assert "torch.cuda.amp.GradScaler()" in source
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(2, 3), "label": torch.ones(2, 1)}],
        network=nn.Linear(3, 1),
        optimizer=None,
        loss_function=nn.MSELoss(),
        amp=True,
        decollate=False,
    )
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), 0.1)
    seen = []
    trainer.network.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.run()
    assert seen == [torch.float32]  # asked for mixed precision, got none
    assert "scaler" not in trainer.state_dict()


def test_best_metric_is_forgotten_on_resume(tmp_path):
    """MONAI's saver overwrites model.pt with the first, possibly worse, validation after a resume."""
    scores = iter([0.9, 0.1])

    def evaluator(network):
        from ignite.metrics import Metric

        class Score(Metric):
            def reset(self): ...
            def update(self, output): ...
            def compute(self):
                return next(scores)

        saver = CheckpointSaver(str(tmp_path), {"model": network}, save_key_metric=True, key_metric_filename="model.pt")
        return SupervisedEvaluator(
            device="cpu",
            val_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}],
            network=network,
            key_val_metric={"score": Score(output_transform=lambda o: (o["pred"], o["label"]))},
            val_handlers=[saver],
            decollate=False,
        )

    network = nn.Linear(1, 1)
    evaluator(network).run(1)
    best = torch.load(tmp_path / "model.pt", weights_only=True)
    best = best.get("model", best)["weight"].clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    evaluator(network).run(2)  # a new process, a worse score
    now = torch.load(tmp_path / "model.pt", weights_only=True)
    assert not torch.equal(best, now.get("model", now)["weight"])


def test_checkpoint_loader_refuses_numpy(tmp_path):
    import numpy as np

    class Box:
        def state_dict(self):
            return {"rng": np.random.RandomState(0)}

        def load_state_dict(self, state): ...

    saver = CheckpointSaver(str(tmp_path), {"box": Box()}, save_final=True, final_filename="last.pt")
    engine = Engine(lambda e, b: None)
    saver.attach(engine)
    engine.run([0])
    engine = Engine(lambda e, b: None)
    CheckpointLoader(str(tmp_path / "last.pt"), {"box": Box()}).attach(engine)
    with pytest.raises(Exception, match=r"[Ww]eights only load failed|weights_only"):
        engine.run([0])


# ---- data -----------------------------------------------------------------------------------------------------------
def test_cycle_freezes_augmentation():
    """itertools.cycle replays the first epoch's batches: the random transforms run once and never again."""
    data = Dataset([0.0] * 2, transform=lambda x: torch.rand(()))
    batches = itertools.cycle(DataLoader(data, batch_size=2))
    assert torch.equal(next(batches), next(batches))


def test_persistent_workers_do_not_see_a_changed_dataset():
    class D(torch.utils.data.Dataset):
        items = None

        def __init__(self):
            self.items = [0, 0]

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return self.items[i]

    data = D()
    loader = DataLoader(data, batch_size=2, num_workers=1, persistent_workers=True)
    next(iter(loader))
    data.items = [1, 1]
    assert next(iter(loader)).tolist() == [0, 0]


# ---- bundles --------------------------------------------------------------------------------------------------------
def test_first_config_file_decides_the_bundle_root(tmp_path):
    """A shared base file in another folder, listed first, moves metadata.json, logging.conf and the import root."""
    overlay, train = tmp_path / "overlay.yaml", BUNDLE / "configs" / "train.yaml"
    overlay.write_text("max_epochs: 1\n")
    metadata = str(train.with_name("metadata.json"))
    assert ConfigWorkflow([str(train), str(overlay)], logging_file=False).config_root_path == train.parent
    other = ConfigWorkflow([str(overlay), str(train)], logging_file=False, meta_file=metadata)
    assert other.config_root_path == tmp_path


def test_later_files_replace_whole_keys_unless_plus(tmp_path):
    (tmp_path / "a.yaml").write_text("x: {p: 1, q: 2}\nl: [1]\n")
    (tmp_path / "b.yaml").write_text("x: {p: 9}\n+l: [2]\n")
    (tmp_path / "c.yaml").write_text("x::p: 9\n")
    load = ConfigParser.load_config_files
    assert load([tmp_path / "a.yaml", tmp_path / "b.yaml"]) == {"x": {"p": 9}, "l": [1, 2]}
    assert load([tmp_path / "a.yaml", tmp_path / "c.yaml"])["x"] == {"p": 9, "q": 2}


def test_macro_paths_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "common.yaml").write_text("v: 3\n")
    (tmp_path / "train.yaml").write_text("x: '%common.yaml::v'\n")
    parser = ConfigParser()
    parser.read_config(tmp_path / "train.yaml")
    monkeypatch.chdir("/")
    with pytest.raises(FileNotFoundError):
        parser.parse()
    monkeypatch.chdir(tmp_path)
    parser.parse()
    assert parser.get_parsed_content("x") == 3


def test_naming_the_trainer_in_its_own_handler_is_circular():
    parser = ConfigParser(
        {
            "handlers": [{"_target_": "CheckpointSaver", "save_dir": ".", "save_dict": {"trainer": "@trainer"}}],
            "trainer": {"_target_": "builtins.dict", "train_handlers": "@handlers"},
        }
    )
    with pytest.raises(ValueError, match="circular"):
        parser.get_parsed_content("trainer")


def test_callable_mode_gives_a_partial():
    parser = ConfigParser(
        {
            "s": {"_target_": "medssl_monai.query.entropy", "_mode_": "callable"},
            "t": {"_target_": "medssl_monai.query.entropy", "_mode_": "callable", "budget": 3},
        }
    )
    from medssl_monai.query import entropy

    assert parser.get_parsed_content("s") is entropy
    assert parser.get_parsed_content("t").keywords == {"budget": 3}


def test_typo_in_argument_name_is_an_error_with_the_target():
    parser = ConfigParser({"m": {"_target_": "medssl_monai.methods.FixMatch", "network": "$None", "treshold": 0.9}})
    with pytest.raises(RuntimeError, match=r"methods\.FixMatch") as e:
        parser.get_parsed_content("m")
    assert "treshold" in str(e.value.__cause__)


@pytest.mark.slow
def test_import_of_a_package_does_not_import_its_modules():
    code = (
        "from monai.bundle import ConfigParser\n"
        "p = ConfigParser({'imports': ['$import medssl_monai'], 'x': '$medssl_monai.query.entropy'})\n"
        "p.get_parsed_content('imports')\n"
        "p.get_parsed_content('x')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert "has no attribute 'query'" in result.stderr


def test_fire_and_ignite_extras_do_not_bring_yaml():
    from importlib.metadata import requires

    extras = [r for r in requires("monai") if 'extra == "fire"' in r or 'extra == "ignite"' in r]
    assert extras
    assert not any("yaml" in r.lower() for r in extras)


def check(tmp_path, toy_datalist, metadata, interval):
    """Properties that MONAI finds missing in a bundle with this metadata and validation interval."""
    import json

    configs = tmp_path / "configs"
    configs.mkdir()
    whole = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    kept = {key: whole[key] for key in metadata}
    (configs / "metadata.json").write_text(json.dumps({**kept, "network_data_format": whole["network_data_format"]}))
    text = (BUNDLE / "configs" / "train.yaml").read_text()
    (configs / "train.yaml").write_text(text.replace('interval: "@val_interval"', f"interval: {interval}"))
    values = {"output_dir": str(tmp_path), "ckpt_dir": str(tmp_path), "datalist": str(toy_datalist)}
    run = ConfigWorkflow(str(configs / "train.yaml"), logging_file=False, labels=4, image_size=[16, 16], **values)
    run.initialize()
    return run.check_properties()


COMPLETE = ("version", "monai_version", "pytorch_version", "numpy_version")


def test_check_properties(tmp_path, toy_datalist):
    assert check(tmp_path, toy_datalist, COMPLETE, '"@val_interval"') == []


def test_check_properties_fails_on_a_literal_interval(tmp_path, toy_datalist):
    with pytest.raises(AttributeError, match="startswith"):
        check(tmp_path, toy_datalist, COMPLETE, 1)


def test_check_properties_fails_instead_of_listing_what_metadata_lacks(tmp_path, toy_datalist):
    with pytest.raises(KeyError, match="pytorch_version"):
        check(tmp_path, toy_datalist, COMPLETE[:2], '"@val_interval"')


def test_unused_config_keys_pass_silently():
    parser = ConfigParser({"network": 1, "netwrok": 2})
    assert parser.get_parsed_content("network") == 1


def test_override_of_a_misspelt_id_passes_silently():
    parser = ConfigParser({"max_epochs": 4, "trainer": {"_target_": "builtins.dict", "n": "@max_epochs"}})
    parser.update({"max_epoch": 1})
    assert parser.get_parsed_content("trainer") == {"n": 4}
