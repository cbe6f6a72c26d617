"""The measurements of `medssl speed`: what they count, and that they tell slow from fast. No figure is asserted."""

from __future__ import annotations

import contextlib
import copy
import json
from collections import Counter
from types import MappingProxyType

import pytest
import torch
from ignite.engine import Events
from methods.test_multimix import CONFIGURATIONS, weights_of
from torch import nn
from torch.nn import functional as F

from medssl_monai.benchmark import speed
from medssl_monai.benchmark.speed.parts import Stopwatch
from medssl_monai.benchmark.speed.passes import Pass, record_passes, replay
from medssl_monai.bundle.shipped import copy_bundle, shipped_bundles
from medssl_monai.engines import SSLTrainer
from medssl_monai.methods import FixMatch, MeanTeacher, MultiMix
from medssl_monai.methods.base import UNLABELED, SSLMethod
from medssl_monai.networks import MultiMixNetwork, small_resnet
from medssl_monai.pool import LabelPool, Labels

STEP = {
    "method", "device", "precision", "threads", "rounds", "steps_per_round", "passes", "views_per_step",
    "views_per_second", "seconds_per_step", "cpu_seconds_per_step", "floor_seconds", "floor_cpu_seconds",
    "gradient_floor_seconds", "gradient_floor_cpu_seconds", "ratio_to_floor", "ratio_to_floor_range",
    "ratio_to_floor_cpu", "ratio_to_gradient_floor", "waiting_for_data", "peak_memory_mb",
}  # fmt: skip
SHORT = {"epochs_per_round": 1, "labels": 6, "image_size": [16, 16], "device": "cpu", "query::budget": 2}


class Clock:
    """A time that passes only when something takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


CLOCK = Clock()


class Body(nn.Module):
    """Takes a second per call, and remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 8)
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, images):
        CLOCK.sleep(1.0)
        self.calls.append((len(images), torch.is_grad_enabled(), self.training))
        return self.linear(images.flatten(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Linear(8, 2)

    def embed(self, images):
        return self.body(images)

    def forward(self, images):
        return self.head(self.body(images))


class Stub(SSLMethod):
    """Passes of every kind: a teacher, the network without gradient, and body and head one by one; four seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(Net(), decay=0.9)
        self.seconds = seconds

    def forward(self, batch):
        CLOCK.sleep(self.seconds)
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        with torch.no_grad():
            target = self.teacher(unlabeled["weak"]).softmax(dim=1)
            self.network(unlabeled["weak"][:3])
        logits = self.network.head(self.network.embed(unlabeled["strong"]))
        loss = F.cross_entropy(self.network(labeled["image"]), labeled["label"])
        return {"loss": loss + F.cross_entropy(logits, target)}


class PreTraining(SSLMethod):
    """A network with gradient on queries, another without on keys; two seconds, and those that the loss takes."""

    streams = MappingProxyType({"unlabeled": UNLABELED})

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(Net(), decay=0.9)
        self.seconds = seconds

    def forward(self, batch):
        CLOCK.sleep(self.seconds)
        views = batch["unlabeled"]
        with torch.no_grad():
            keys = self.teacher(views["keys"].flatten(0, 1)).unflatten(0, (6, 2)).mean(dim=1)
        return {"loss": F.mse_loss(self.network(views["query"]), keys)}


@pytest.fixture
def clock(monkeypatch):
    for module in ("parts", "step"):
        monkeypatch.setattr(f"medssl_monai.benchmark.speed.{module}.time", CLOCK)
    return CLOCK


def batches(length: int):
    for _ in range(length):
        labeled = {"image": torch.rand(4, 1, 8, 8), "index": torch.arange(4)}
        unlabeled = {"weak": torch.rand(6, 1, 8, 8), "strong": torch.rand(6, 1, 8, 8), "index": torch.arange(6)}
        yield {"labeled": labeled, "unlabeled": unlabeled}


def key_batches(length: int):
    for _ in range(length):
        views = {"query": torch.rand(6, 1, 8, 8), "keys": torch.rand(6, 2, 1, 8, 8)}
        yield {"unlabeled": {**views, "index": torch.arange(6)}}


class Loader:
    def __init__(self, seconds: float = 0.0, batches=batches) -> None:
        self.seconds, self.batches = seconds, batches

    def __len__(self):
        return 2

    def __iter__(self):
        for batch in self.batches(2):
            CLOCK.sleep(self.seconds)
            yield batch


def trainer_of(method: SSLMethod, epochs: int = 3, seconds: float = 0.0, batches=batches, **options) -> SSLTrainer:
    pool = LabelPool(Labels([{"image": str(i), "id": str(i), "label": i % 2} for i in range(8)]))
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.01)
    return SSLTrainer("cpu", epochs, Loader(seconds, batches), method, optimizer, pool, **options)


def passes_of(method: SSLMethod) -> list[Pass]:
    (batch,) = batches(1)
    batch["labeled"]["label"] = torch.tensor([0, 1, 0, 1])
    with record_passes(method.train()) as passes:
        method(batch)
    return passes


def test_the_floor_makes_exactly_the_passes_of_the_method():
    method = Stub()
    passes = passes_of(method)
    student, teacher = method.network, method.teacher
    assert [p.module for p in passes] == [teacher, student, student.body, student.head, student]
    calls, asked = student.body.calls, teacher.network.body.calls
    done = list(calls), list(asked)
    assert done == ([(3, False, True), (6, True, True), (4, True, True)], [(6, False, False)])
    replay(passes)
    assert (calls, asked) == (done[0] * 2, done[1] * 2)


def test_the_floor_goes_back_through_every_pass_with_gradient_and_leaves_none_behind():
    method = Stub()
    passes = passes_of(method)
    visited = []
    for name, parameter in method.network.named_parameters():
        parameter.register_hook(lambda gradient, name=name: visited.append(name))
    replay(passes)
    assert sorted(visited) == ["body.linear.bias", "body.linear.weight", "head.bias", "head.weight"]
    assert all(p.grad is None for p in method.parameters())


def test_nothing_is_recorded_once_it_is_over():
    method = Stub()
    passes = passes_of(method)
    count = len(passes)
    method.network(torch.rand(2, 1, 8, 8))
    assert len(passes) == count
    assert not any(module._forward_hooks for module in method.modules())


def test_a_method_without_gradient_has_a_floor_without_backward():
    network = Net()
    replay([Pass(network, (torch.rand(2, 1, 8, 8),), grad=False, training=False)])
    assert network.body.calls == [(2, False, False)]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (FixMatch(small_resnet(2, width=2)), [(6, False, "train"), (10, True, "train")]),
        (MeanTeacher(small_resnet(2, width=2)), [(6, False, "eval"), (10, True, "train")]),
    ],
)
def test_the_figures_of_a_step_fit_each_other(method, expected):
    report = speed.measure_step(trainer_of(method, epochs=4))
    assert report.keys() == STEP
    assert [(p["images"], p["gradient"], p["mode"]) for p in report["passes"]] == expected
    assert (report["rounds"], report["steps_per_round"], report["views_per_step"]) == (3, 2, 16)
    assert report["views_per_second"] == pytest.approx(16 / report["seconds_per_step"])
    lowest, highest = report["ratio_to_floor_range"]
    assert 0 < lowest <= report["ratio_to_floor"] <= highest
    assert 0 <= report["waiting_for_data"] < 1
    positive = [value for key, value in report.items() if key.startswith(("ratio", "views")) and "range" not in key]
    assert all(value > 0 for value in positive)
    assert report["peak_memory_mb"] is None or report["peak_memory_mb"] > 1
    assert json.loads(json.dumps(report)) == report


def test_a_step_that_does_nothing_else_is_at_its_floor(clock):
    report = speed.measure_step(trainer_of(Stub()))
    assert (report["seconds_per_step"], report["cpu_seconds_per_step"], report["floor_seconds"]) == (4.0, 2.0, 4.0)
    assert (report["ratio_to_floor"], report["ratio_to_floor_range"], report["waiting_for_data"]) == (
        1.0,
        [1.0, 1.0],
        0,
    )
    assert (report["gradient_floor_seconds"], report["ratio_to_gradient_floor"]) == (1.0, 4.0)  # one pass of 16 views
    assert report["views_per_second"] == 4.0


def test_a_slow_method_and_a_slow_loader_show(clock):
    slow = speed.measure_step(trainer_of(Stub(seconds=2.0)))
    assert (slow["seconds_per_step"], slow["floor_seconds"], slow["ratio_to_floor"]) == (6.0, 4.0, 1.5)
    assert slow["waiting_for_data"] == 0
    waiting = speed.measure_step(trainer_of(Stub(), seconds=1.0))
    assert (waiting["seconds_per_step"], waiting["floor_seconds"]) == (5.0, 4.0)
    assert waiting["waiting_for_data"] == pytest.approx(0.2)


def test_the_floor_of_pre_training_is_its_two_networks_and_nothing_else(clock):
    method = PreTraining(seconds=1.0)
    report = speed.measure_step(trainer_of(method, batches=key_batches))
    assert [(p["images"], p["gradient"]) for p in report["passes"]] == [(12, False), (6, True)]
    assert (report["seconds_per_step"], report["floor_seconds"], report["ratio_to_floor"]) == (3.0, 2.0, 1.5)
    assert (report["views_per_step"], report["gradient_floor_seconds"]) == (18, 1.0)
    assert (18, True, True) in method.network.body.calls  # the gradient floor: every view in one batch


def test_handlers_of_each_step_count_and_those_of_an_epoch_do_not(clock):
    trainer = trainer_of(Stub())
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: clock.sleep(100))
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: clock.sleep(100))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: clock.sleep(4))
    report = speed.measure_step(trainer)
    assert (report["seconds_per_step"], report["ratio_to_floor"]) == (8.0, 2.0)


def test_the_floor_is_that_of_the_method_in_training_and_leaves_it_there(clock):
    method = Stub()
    speed.measure_step(trainer_of(method))
    assert method.network.training and not method.teacher.training
    assert all(p.grad is not None for p in method.trainable_parameters())  # of the last step, untouched


# ---- classes and masks: a pass that asks for a gradient itself -------------------------------------------------------

MULTIMIX = {
    "Enc": [("classifier", 4, True)],
    "EncSSL": [("classifier", 5, False), ("classifier", 9, True)],
    "U-Net": [("", 3, True)],
    "UMTL": [("classifier", 4, True), ("", 3, True)],
    "UMTLS": [("classifier", 4, True), ("", 3, True)],
    "UMTL-SSL": [("classifier", 5, False), ("classifier", 9, True), ("", 3, True)],
    "UMTL-SSL-S": [("classifier", 5, False), ("classifier", 9, True), ("", 3, True)],
    "MultiMix": [("classifier", 5, False), ("classifier", 9, True), ("", 5, True)],
}
"""Part of the network, the whole being nameless, how many images it gets, and whether with gradient."""


def multimix(name: str = "MultiMix", **kwargs) -> MultiMix:
    torch.manual_seed(0)
    network = MultiMixNetwork(channels=(2, 4, 6), bridge=CONFIGURATIONS[name][1], **kwargs)
    return MultiMix(network, threshold=0.5, **weights_of(name))


def joint_batches(length: int):
    """Streams of different sizes; masks come with their images, as those of patches do."""
    for _ in range(length):
        images, mask = torch.rand(14, 1, 16, 16), torch.randint(2, (3, 16, 16))
        yield {
            "labeled": {"image": images[:4], "index": torch.arange(4)},
            "unlabeled": {"weak": images[4:9], "strong": torch.rand(5, 1, 16, 16), "index": torch.arange(5)},
            "segmented": {"image": images[9:12], "label": mask, "index": torch.arange(3)},
            "unsegmented": {"weak": images[12:], "index": torch.arange(2)},
        }


@contextlib.contextmanager
def work_of(network: MultiMixNetwork, monkeypatch):
    """What the network does: each run of a block, each gradient it asks for, and weights that a backward reaches."""
    done: list[tuple] = []
    grad = torch.autograd.grad

    def asked(outputs, inputs, *args, **kwargs):
        if isinstance(inputs, torch.Tensor):  # of images, and not the floor's own, of all weights
            done.append(("saliency", len(inputs)))
        return grad(outputs, inputs, *args, **kwargs)

    def ran(module, inputs, output):
        modes = torch.is_grad_enabled(), output.requires_grad, module.training
        done.append((names[module], len(inputs[0]), *modes, *inputs[1:]))

    encoder = network.classifier.backbone.blocks
    names = {block: ("encoder" if part is encoder else "decoder", number)
             for part in (encoder, network.decoder) for number, block in enumerate(part)}  # fmt: skip
    reached: list[str] = []
    handles = [block.register_forward_hook(ran) for block in names]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_hook(lambda gradient, name=name: reached.append(name)))
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", asked)
        yield done, reached
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("name", MULTIMIX)
def test_the_floor_of_multimix_is_its_passes_and_saliencies(name, dropout, monkeypatch):
    """The same blocks on as many images, in the same modes, the same inner gradients, and one way back."""
    method = multimix(name, dropout=dropout).train()
    (batch,) = joint_batches(1)
    batch["labeled"]["label"] = torch.tensor([0, 1, 0, 1])
    with work_of(method.network, monkeypatch) as (step, learned), record_passes(method) as passes:
        method(batch)["loss"].backward()
    names = {module: part for part, module in method.network.named_modules()}
    assert [(names[p.module], len(p.inputs[0]), p.grad) for p in passes] == MULTIMIX[name]
    assert all(p.training and p.name == "__call__" and not p.inputs[0].requires_grad for p in passes)
    with work_of(method.network, monkeypatch) as (floor, reached):
        replay(passes)
    assert floor == step
    bridge, runs = method.network.bridge == "concat", Counter(part for part, *_ in step)
    assert runs["saliency"] == bridge
    assert runs["decoder", 0] == runs["decoder", 1] == sum(part == "" for part, *_ in MULTIMIX[name])
    assert runs["encoder", 0] == len(MULTIMIX[name]) + (bridge and dropout > 0)  # the saliency's pass has no dropout
    assert sorted(reached) == sorted(learned)
    assert set(learned) == {name for name, parameter in method.network.named_parameters() if parameter.grad is not None}


class Jointly(SSLMethod):
    """Asks the network for everything at once, and the averaged copy for embeddings."""

    def __init__(self) -> None:
        super().__init__(MultiMixNetwork(channels=(2, 4, 6)), decay=0.9)

    def forward(self, batch):
        with torch.no_grad():
            embedding, _ = self.teacher.network.with_embedding(batch["unlabeled"]["weak"])
        class_logits, mask_logits, _ = self.network.joint(batch["labeled"]["image"])
        loss = F.cross_entropy(class_logits, batch["labeled"]["label"])
        return {"loss": loss + mask_logits.square().mean() + embedding.mean()}


def test_what_a_network_says_beside_its_call_is_a_pass_as_well(monkeypatch):
    method = Jointly().train()
    (batch,) = joint_batches(1)
    batch["labeled"]["label"] = torch.tensor([0, 1, 0, 1])
    with work_of(method.network, monkeypatch) as (step, learned), record_passes(method) as passes:
        method(batch)["loss"].backward()
        own = copy.deepcopy(method.network)
        assert own.joint.__self__ is own
    assert [(p.module, p.name, len(p.inputs[0]), p.grad, p.training) for p in passes] == [
        (method.teacher.network, "with_embedding", 5, False, False),
        (method.network, "joint", 4, True, True),
    ]
    assert "joint" not in vars(method.network) and "with_embedding" not in vars(method.teacher.network)
    with work_of(method.network, monkeypatch) as (floor, reached):
        replay(passes)
    assert floor == step
    assert sorted(reached) == sorted(learned) == sorted(name for name, _ in method.network.named_parameters())


def test_the_steps_of_multimix():
    """The gradient floor is what the released loop does: all views of all streams through the whole network."""
    items = [{"image": str(i), "id": str(i), "label": i % 2, "mask": f"{i}.png"} for i in range(8)]
    method = multimix()
    pool = LabelPool([Labels(items), Labels(items, key="mask")])
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.01)
    loader = Loader(batches=joint_batches)
    report = speed.measure_step(SSLTrainer("cpu", 3, loader, method, optimizer, pool))
    assert report.keys() == STEP
    assert [tuple(p.values()) for p in report["passes"]] == [
        (5, False, "train"),
        (9, True, "train"),
        (5, True, "train"),
    ]
    assert (report["method"], report["views_per_step"]) == ("MultiMix", 19)
    assert report["ratio_to_floor"] > 0 and report["gradient_floor_seconds"] > 0


def test_autocast_holds_for_the_floor_as_well():
    method, seen = Stub(), []
    method.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    report = speed.measure_step(trainer_of(method, epochs=2, amp=True))
    assert report["precision"] == "bfloat16"
    assert set(seen) == {torch.bfloat16}


def test_a_trainer_that_only_warms_up_is_refused():
    with pytest.raises(ValueError, match="`max_epochs` must be 2 or more, got 1"):
        speed.measure_step(trainer_of(Stub(), epochs=1))


def test_a_stopwatch_counts_every_second_once(clock):
    watch = Stopwatch(torch.device("cpu"))
    work = watch.timed("inner", lambda: clock.sleep(3))
    watch.start("outer")
    clock.sleep(1)
    work()
    watch.stop()
    clock.sleep(5)
    watch.start("rest")
    assert watch.seconds == {"rest": 5, "outer": 1, "inner": 3}


def test_the_steps_of_a_bundle(toy_datalist, tmp_path):
    bundle = copy_bundle("boostmis", tmp_path / "bundle")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    small = {**SHORT, "datalist": str(toy_datalist), "cache_dir": None, "batch_size": {"labeled": 4, "unlabeled": 6}}
    report = speed.step_of_bundle(str(bundle), small, rounds=2, steps=2)
    assert report["method"] == "BoostMIS"
    assert [p["images"] for p in report["passes"]] == [6, 10]
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_the_steps_of_pre_training(toy_datalist):
    small = {**SHORT, "datalist": str(toy_datalist), "cache_dir": None, "batch_size::unlabeled": 6}
    report = speed.step_of_bundle(None, small, rounds=2, steps=2, overlays=["pretrain.yaml"])
    assert report.keys() == STEP
    assert report["method"] == "JointContrastive"
    assert [tuple(p.values()) for p in report["passes"]] == [(6, True, "train"), (12, False, "train")]
    assert (report["rounds"], report["views_per_step"]) == (2, 18)


def test_the_steps_of_a_bundle_that_starts_without_labels(toy_masks):
    bundle = str(shipped_bundles() / "ssal")
    small = {"device": "cpu", "image_size": [16, 16], "datalist": str(toy_masks), "cache_dir": None}
    small |= {"networks::small_unet::width": 4, "query::cold_start": 6, "batch_size::labeled": 4}
    report = speed.step_of_bundle(bundle, small, rounds=2, steps=2)
    assert (report["method"], [p["images"] for p in report["passes"]]) == ("Supervised", [4])
    stage_1 = speed.step_of_bundle(bundle, {**small, "batch_size::unlabeled": 6}, 2, 2, ["pretrain.yaml"])
    assert (stage_1["method"], [p["images"] for p in stage_1["passes"]]) == ("Restoration", [6])
    on_volumes = [case["overlays"] for name, case in speed.cases_of(bundle, {}).items() if "on volumes" in name]
    assert on_volumes == [["train_3d.yaml"], ["train_3d.yaml"], ["train_3d.yaml", "pretrain.yaml"]]


def test_the_steps_of_a_bundle_of_classes_and_masks(toy_joint):
    bundle = str(shipped_bundles() / "multimix")
    small = {"device": "cpu", "image_size": [16, 16], "datalist": str(toy_joint), "cache_dir": None, "labels": 6}
    small |= {"mask_labels": 4, "networks::small_multimix::channels": [2, 4, 6]}
    small |= {"batch_size": {"labeled": 4, "unlabeled": 5, "segmented": 3, "unsegmented": 2}}
    (case,) = speed.cases_of(bundle, small).values()  # it has no FixMatch, and no stage before
    report = speed.step_of_bundle(**case, rounds=2, steps=2)
    assert report["method"] == "MultiMix"
    assert [(p["images"], p["gradient"]) for p in report["passes"]] == [(5, False), (9, True), (5, True)]
    assert report["views_per_step"] == 4 + 2 * 5 + 3 + 2


def test_what_is_measured_of_a_bundle_is_what_it_has(tmp_path):
    values = {"method_def": "@methods::supervised", "labels": 6}
    bundle = str(copy_bundle("s2mts2", tmp_path / "bundle"))
    cases = speed.cases_of(bundle, values)
    assert {case.pop("bundle") for case in cases.values()} == {bundle}
    assert cases == {
        "bundle": {"overrides": values},
        "bundle with FixMatch": {"overrides": {**values, "method_def": "@methods::fixmatch"}},
        "pre-training": {"overrides": {"labels": 6}, "overlays": ["pretrain.yaml"]},
    }
    configs = tmp_path / "bundle" / "configs"
    (configs / "pretrain.yaml").unlink()
    (configs / "train.yaml").write_text("methods: {own: null}\n")
    assert list(speed.cases_of(bundle, values)) == ["bundle"]


def test_the_parts_of_a_run(toy_datalist):
    small = {**SHORT, "datalist": str(toy_datalist), "rounds": 2, "epoch_length": 2}
    report = speed.shares_of_run(None, {**small, "batch_size::labeled": 4, "batch_size::unlabeled": 6})
    assert report["steps"] == 4
    assert report["seconds"].keys() == {
        "start-up", "reading images", "waiting for data", "views", "forward", "losses", "backward", "optimizer",
        "after_step (averaged weights, thresholds)", "handlers", "validation", "validation: forward", "query",
        "query: forward", "checkpoint", "round report", "round report: forward", "rest",
    }  # fmt: skip
    assert all(value > 0 for value in report["seconds"].values())


def test_a_selector_runs_on_given_features_and_tells_its_memory():
    for selector in speed.SELECTORS:
        cost = speed.cost_of_query(selector, 200, dim=16)
        assert (cost["scores"], cost["samples"], cost["features"]) == (200, 200, 16)
        assert cost["seconds"] > 0
        assert cost["extra_memory_mb"] is None or cost["extra_memory_mb"] >= 0
    with pytest.raises(ValueError, match="`selector` must be one of"):
        speed.cost_of_query("margin", 10)


@pytest.mark.slow
@pytest.mark.every
def test_the_whole_report_as_text_and_json(toy_datalist, monkeypatch):
    small = {"batch_size": {"labeled": 2, "unlabeled": 2}, "image_size": [16, 16]}
    monkeypatch.setattr(
        "medssl_monai.benchmark.speed.report.REFERENCE",
        {**speed.REFERENCE, **small, "datalist": str(toy_datalist), "labels": 6},
    )
    overrides = {**SHORT, "datalist": str(toy_datalist), "epoch_length": 2, "cache_dir": None}
    overrides["batch_size::unlabeled"] = 6
    report = speed.speed(None, overrides, rounds=1, steps=1, pools=[50])
    assert json.loads(json.dumps(report)) == report
    assert report.keys() == {
        "environment", "load_before", "steps", "step_over_fixmatch", "run", "queries", "skipped",
    }  # fmt: skip
    assert set(report["steps"]) == {"reference", "bundle", "bundle with FixMatch", "pre-training"}
    assert report["steps"]["pre-training"]["method"] == "JointContrastive"
    assert report["steps"]["bundle with FixMatch"]["method"] == "FixMatch"
    assert report["step_over_fixmatch"]["float32"] > 0
    assert all(step.keys() == STEP for step in report["steps"].values())
    run = report["run"]
    assert sum(run["parts"].values()) == pytest.approx(run["seconds"])
    assert 0 < run["forward_and_backward"] < run["with_forward_of_validation_and_query"] < 1
    assert [(query["selector"], query["samples"]) for query in report["queries"]] == [
        ("instability", 50), ("density_entropy", 50),
    ]  # fmt: skip
    text = speed.as_text(report)
    for word in (
        "reference: FixMatch",
        "bundle: BoostMIS",
        "ratio to gradient floor",
        "checkpoint",
        "skipped: ",
        "times that of FixMatch",
    ):
        assert word in text


@pytest.mark.slow
def test_a_case_that_fails_says_why():
    with pytest.raises(ValueError, match=r"`step_of_bundle` ended early: .*`--no_such_thing` names nothing"):
        speed.apart(speed.step_of_bundle, {"bundle": None, "overrides": {"no_such_thing": 1}})
