"""How close a training step comes to its floor, where a run's time goes, and what a query costs.

The floor of a step is what no implementation of the method can do without: the forward passes that the method makes,
replayed on the tensors of one of its own steps, and one backward pass. Everything else (reading, views, losses,
optimizer, averaged weights, handlers) is overhead. Step and floor alternate in one process, so that a busy machine
slows both; every case has a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple, cast

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from torch import Tensor, nn

from medssl_monai.bundle.overrides import nested
from medssl_monai.bundle.run import workflow
from medssl_monai.bundle.shipped import copy_bundle, shipped_bundles
from medssl_monai.engines.trainer import SSLTrainer
from medssl_monai.networks.embedding import EmbeddingClassifier
from medssl_monai.query.base import PoolOutputs
from medssl_monai.query.boostmis import DensityEntropy, Instability

REFERENCE: dict[str, Any] = {
    "datalist": None,
    "labels": 24,
    "image_size": [64, 64],
    "batch_size": {"labeled": 16, "unlabeled": 7 * 16},
    "method_def": "@methods::fixmatch",
    "network_def": {
        "_target_": "medssl_monai.networks.resnet18",
        "num_classes": "$len(@classes)",
        "in_channels": "@channels",
    },
}
"""What makes the shipped bundle the reference: FixMatch, ResNet-18, 64 pixels, 16 labeled and 7 x 16 unlabeled."""

SELECTORS = ("instability", "density_entropy")
PARTS = {  # of a run, by the class of the handler that does it
    "ValidationHandler": "validation",
    "QueryHandler": "query",
    "TrainingCheckpoint": "checkpoint",
    "LatestWeights": "checkpoint",
    "RoundReport": "round report",
    "EstimatorReport": "estimator report",
}
ENTRANCES = ("joint", "with_embedding")
"""Methods that make a pass through a network without a call of it, where a network has them."""

# The floor


class Pass(NamedTuple):
    """One forward pass of a network: what ran on what, with or without gradient, in training mode or not.

    What the pass does inside itself, such as the gradient that a saliency is, belongs to it. `name` is the method that
    was called, of `ENTRANCES` or the module itself.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    grad: bool
    training: bool
    name: str = "__call__"


@contextlib.contextmanager
def outermost_calls(
    method: nn.Module, before: Callable[[nn.Module, tuple[Any, ...], str], None], after: Callable[[], None]
) -> Iterator[None]:
    """Call `before` and `after` around every call of a module with parameters that no other such call contains.

    A call of one of its `ENTRANCES` is one of the module; `before` gets module, inputs and the name of what was called.
    """
    depth = 0

    def enter(module: nn.Module, inputs: tuple[Any, ...], name: str = "__call__") -> None:
        nonlocal depth
        if depth == 0:
            before(module, inputs, name)
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            after()

    def entrance(name: str) -> Callable[..., Any]:
        def call(module: nn.Module, *inputs: Any) -> Any:
            enter(module, inputs, name)
            try:
                return getattr(type(module), name)(module, *inputs)
            finally:
                leave()

        return call

    with contextlib.ExitStack() as undo:
        for module in method.modules():
            if module is method or next(module.parameters(), None) is None:
                continue
            undo.callback(module.register_forward_pre_hook(enter).remove)
            undo.callback(module.register_forward_hook(leave, always_call=True).remove)
            for name in ENTRANCES:
                if hasattr(type(module), name):
                    vars(module)[name] = MethodType(entrance(name), module)  # bound, so that copies call themselves
                    undo.callback(vars(module).pop, name)
        yield


def _copy(value: Any) -> Any:
    return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


@contextlib.contextmanager
def record_passes(method: nn.Module) -> Iterator[list[Pass]]:
    """Collect the forward passes that `method` makes, with copies of their inputs."""
    passes: list[Pass] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], name: str) -> None:
        passes.append(Pass(module, tuple(map(_copy, inputs)), torch.is_grad_enabled(), module.training, name))

    with outermost_calls(method, record, lambda: None):
        yield passes


def replay(passes: list[Pass]) -> None:
    """Make the passes, and one backward pass through those with gradient; the gradients are thrown away."""
    outputs: list[Tensor] = []
    wanted: dict[int, Tensor] = {}
    for module, inputs, grad, training, name in passes:
        if module.training != training:
            module.train(training)
        with torch.set_grad_enabled(grad):
            result = getattr(module, name)(*inputs)
        if grad:
            outputs += [tensor for tensor in _tensors(result) if tensor.requires_grad]
            leaves = [*module.parameters(), *_tensors(inputs)]
            wanted |= {id(leaf): leaf for leaf in leaves if leaf.requires_grad}
    if outputs:
        gradients = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, list(wanted.values()), gradients, allow_unused=True)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in what a network returned."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, list | tuple) else []


# One step against it


class Cost(NamedTuple):
    """Seconds of one step: on the clock, and of all threads of this process."""

    wall: float
    cpu: float


@dataclass
class StepClock:
    """Measure the epochs of a trainer, and the floors between them; the first epoch warms up.

    An epoch is measured from the opening of its loaders to the last handler of its last step: what happens once an
    epoch, such as validation, is no part of a step.
    """

    trainer: SSLTrainer
    passes: list[Pass] = field(default_factory=list)
    views: list[Tensor] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    step: list[Cost] = field(default_factory=list)
    floor: list[Cost] = field(default_factory=list)
    gradient_floor: list[Cost] = field(default_factory=list)
    peak_memory: int | None = None

    def attach(self) -> None:
        """Listen to the trainer, after all of its handlers."""
        for event, handler in (
            (Events.EPOCH_STARTED, self._start),
            (Events.GET_BATCH_STARTED, self._wait),
            (Events.GET_BATCH_COMPLETED, self._waited),
            (Events.ITERATION_STARTED, self._record),
            (Events.ITERATION_COMPLETED, self._stop),
            (Events.EPOCH_COMPLETED, self._floors),
        ):
            self.trainer.add_event_handler(event, handler)
        self._recording = contextlib.ExitStack()

    def _now(self) -> tuple[float, float]:
        _synchronize(self.trainer.state.device)
        return time.perf_counter(), time.process_time()

    def _is_last_step(self, engine: Engine) -> bool:
        return bool(engine.state.iteration % engine.state.epoch_length == 0)

    def _start(self, engine: Engine) -> None:
        self.waited.append(0.0)
        self._started = self._now()

    def _wait(self, engine: Engine) -> None:
        self._waiting = time.perf_counter()

    def _waited(self, engine: Engine) -> None:
        self.waited[-1] += (time.perf_counter() - self._waiting) / engine.state.epoch_length

    def _record(self, engine: Engine) -> None:
        if engine.state.epoch == 1 and self._is_last_step(engine):
            core = self.trainer.core
            self.passes = self._recording.enter_context(record_passes(core))
            self._recording.callback(core.register_forward_pre_hook(self._take_views).remove)

    def _take_views(self, method: nn.Module, inputs: tuple[Any, ...]) -> None:
        (batch,) = inputs
        tensors = [tensor for stream in batch.values() for tensor in stream.values()]
        self.views = [_copy(tensor) for tensor in tensors if tensor.is_floating_point()]

    def _stop(self, engine: Engine) -> None:
        if self._is_last_step(engine):
            wall, cpu = (now - then for now, then in zip(self._now(), self._started, strict=True))
            self.step.append(Cost(wall / engine.state.epoch_length, cpu / engine.state.epoch_length))

    def _floors(self, engine: Engine) -> None:
        if engine.state.epoch == 1:
            self._recording.close()
            self.peak_memory = _peak_memory(engine.state.device)  # the gradient floor takes more than a step
            shape = self.passes[0].inputs[0].shape[1:]  # of an image; the keys of pre-training are (B, M, *shape)
            self.views = [view.reshape(-1, *shape) for view in self.views if view.shape[-len(shape) :] == shape]
            self.all_views = [Pass(self.trainer.core.network, (torch.cat(self.views),), grad=True, training=True)]
        self.floor.append(self._time(self.passes, engine))
        self.gradient_floor.append(self._time(self.all_views, engine))

    def _time(self, passes: list[Pass], engine: Engine) -> Cost:
        before, steps = self._now(), engine.state.epoch_length
        for _ in range(steps):
            with torch.autocast(engine.state.device.type, dtype=self.trainer.amp_dtype, enabled=self.trainer.amp):
                replay(passes)
        return Cost(*((now - then) / steps for now, then in zip(self._now(), before, strict=True)))


def measure_step(trainer: SSLTrainer) -> dict[str, Any]:
    """Run a trainer and compare its steps with their floors.

    Args:
        trainer: with two epochs or more; the first one warms up and does not count.

    Returns:
        Medians over the epochs. ``ratio_to_floor``: a step over the passes that the method makes and one backward pass
        (`replay`); the median of the ratios of neighbours, with the lowest and the highest, and ``..._cpu`` the same
        of processor time. ``ratio_to_gradient_floor``: over one pass with gradient of all views in one batch, as
        public implementations make it. ``waiting_for_data``: share of the step. ``peak_memory_mb``: of the process
        before any floor ran; on CUDA of the tensors on the device.

    Raises:
        ValueError: if there is nothing but the epoch that warms up.
    """
    if trainer.state.max_epochs < 2:
        raise ValueError(
            f"the first epoch only warms up, so `max_epochs` must be 2 or more, got {trainer.state.max_epochs}."
        )
    clock = StepClock(trainer)
    clock.attach()
    if trainer.state.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.state.device)
    trainer.run()
    step, floor, gradient_floor = clock.step[1:], clock.floor[1:], clock.gradient_floor[1:]
    ratios = [a.wall / b.wall for a, b in zip(step, floor, strict=True)]
    wall, views = _median(step, "wall"), sum(len(view) for view in clock.views)
    return {
        "method": type(trainer.core).__name__,
        "device": str(trainer.state.device),
        "precision": str(trainer.amp_dtype).removeprefix("torch.") if trainer.amp else "float32",
        "threads": torch.get_num_threads(),
        "rounds": len(step),
        "steps_per_round": trainer.state.epoch_length,
        "passes": [
            {"images": len(p.inputs[0]), "gradient": p.grad, "mode": "train" if p.training else "eval"}
            for p in clock.passes
        ],
        "views_per_step": views,
        "views_per_second": views / wall,
        "seconds_per_step": wall,
        "cpu_seconds_per_step": _median(step, "cpu"),
        "floor_seconds": _median(floor, "wall"),
        "floor_cpu_seconds": _median(floor, "cpu"),
        "gradient_floor_seconds": _median(gradient_floor, "wall"),
        "gradient_floor_cpu_seconds": _median(gradient_floor, "cpu"),
        "ratio_to_floor": statistics.median(ratios),
        "ratio_to_floor_range": [min(ratios), max(ratios)],
        "ratio_to_floor_cpu": statistics.median(a.cpu / b.cpu for a, b in zip(step, floor, strict=True)),
        "ratio_to_gradient_floor": statistics.median(
            a.wall / b.wall for a, b in zip(step, gradient_floor, strict=True)
        ),
        "waiting_for_data": statistics.median(w / s.wall for w, s in zip(clock.waited[1:], step, strict=True)),
        "peak_memory_mb": None if clock.peak_memory is None else clock.peak_memory / 1e6,
    }


def _median(costs: list[Cost], name: str) -> float:
    return statistics.median(getattr(cost, name) for cost in costs)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int | None:
    """Most bytes so far: of the tensors on a CUDA device, else of the process; None where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def step_of_bundle(
    bundle: str | None,
    overrides: Mapping[str, Any],
    rounds: int = 5,
    steps: int = 10,
    overlays: Sequence[str] = (),
) -> dict[str, Any]:
    """`measure_step` of a bundle's own trainer on its own files; see `speed` for the other arguments.

    The handlers of every step stay; validation, query, checkpoint and the report of a round are switched off.

    Args:
        bundle: see `speed`.
        overrides: see `speed`.
        rounds: see `speed`.
        steps: see `speed`.
        overlays: configuration files of the bundle on top of its ``train.yaml``.
    """
    length = {"epochs_per_round": rounds + 1, "max_epochs": rounds + 1, "epoch_length": steps}
    off = {"rounds": 1, "val_interval": rounds + 2, "query::budget": 0}
    with tempfile.TemporaryDirectory() as folder:
        run = _workflow(bundle, Path(folder), {**overrides, **length, **off}, overlays)
        for position, handler in enumerate(run.parser["train::handlers"]):
            if handler["_target_"].rpartition(".")[2] in PARTS:
                run.parser[f"train::handlers::{position}::_disabled_"] = True
        if run.parser.get("labels") == 0:  # a cold start's answer, without its query
            run.parser["labels"] = run.parser["query::cold_start"]
        run.initialize()
        pool, dataset, trainer = (
            run.parser.get_parsed_content(f) for f in ("pool", "train::dataset", "train::trainer")
        )
        pool.quarantine(dataset.unreadable)
        return measure_step(trainer)


def _workflow(bundle: str | None, folder: Path, overrides: Mapping[str, Any], overlays: Sequence[str] = ()) -> Any:
    """A run of a copy of the bundle that writes to `folder` only."""
    root = folder / "bundle"
    if bundle is None:
        copy_bundle("boostmis", root)
    else:
        shutil.copytree(bundle, root, ignore=shutil.ignore_patterns("eval", "__pycache__"))
    own = {"bundle_root": str(root), "output_dir": str(folder / "run"), "ckpt_dir": str(folder / "models")}
    return workflow([root / "configs" / name for name in ("train.yaml", *overlays)], **{**overrides, **own})


# Where the time of a run goes


class Stopwatch:
    """Seconds by part; a part within another counts for itself only."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)
        self._parts, self._since = ["rest"], time.perf_counter()

    def start(self, part: str) -> None:
        self._charge()
        self._parts.append(part)

    def stop(self) -> None:
        self._charge()
        self._parts.pop()

    @property
    def part(self) -> str:
        return self._parts[-1]

    def _charge(self) -> None:
        _synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.part] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, measured as `part`."""

        @functools.wraps(function)  # ignite looks at the arguments of a handler
        def call(*args: Any, **kwargs: Any) -> Any:
            self.start(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.stop()

        return call


def _time_handler(handler: Any, watch: Stopwatch) -> None:
    """Let everything that `handler` attaches to an engine be measured."""
    part, attach = PARTS.get(type(handler).__name__, "handlers"), handler.attach

    def attach_timed(engine: Any) -> None:
        plain = engine.add_event_handler
        engine.add_event_handler = lambda event, function, *a, **k: plain(event, watch.timed(part, function), *a, **k)
        try:
            attach(engine)
        finally:
            del engine.add_event_handler

    handler.attach = attach_timed


def _time_trainer(trainer: SSLTrainer, watch: Stopwatch) -> None:
    """Let the parts of every step be measured."""

    def start(part: str) -> Callable[..., None]:
        return lambda *_: watch.start(part)

    def stop(*_: Any) -> None:
        watch.stop()

    core: Any = trainer.core
    for event, function in (
        (Events.GET_BATCH_STARTED, start("waiting for data")),
        (Events.GET_BATCH_COMPLETED, stop),
        (IterationEvents.LOSS_COMPLETED, start("backward")),
        (IterationEvents.BACKWARD_COMPLETED, stop),
    ):
        trainer.add_event_handler(event, function)
    core.register_forward_pre_hook(start("losses"))
    core.register_forward_hook(stop)
    core.after_step = watch.timed("after_step (averaged weights, thresholds)", core.after_step)
    trainer.optimizer.register_step_pre_hook(start("optimizer"))
    trainer.optimizer.register_step_post_hook(stop)
    if trainer.views is not None:
        trainer.views = watch.timed("views", trainer.views)


def shares_of_run(bundle: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Run a bundle as it is configured, and measure the parts; see `speed` for the arguments.

    Images are read and decoded anew, since the run has a cache of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        clock = Stopwatch(torch.device("cpu"))
        clock.start("start-up")
        own_cache = {"cache_dir": str(Path(folder) / "cache")}
        run = _workflow(bundle, Path(folder), {**overrides, **own_cache})
        run.initialize()
        content = run.parser.get_parsed_content
        clock.device = torch.device(content("device"))
        for handler in content("train::handlers"):
            _time_handler(handler, clock)
        trainer = content("train::trainer")
        _time_trainer(trainer, clock)
        clock.stop()
        clock.start("reading images")
        for name in ("train::dataset", "validate::dataset"):
            with contextlib.suppress(ValueError):  # the run itself will say so
                _ = content(name).images
        clock.stop()

        def forward(*_: Any) -> None:
            clock.start("forward" if clock.part == "losses" else f"{clock.part}: forward")

        with outermost_calls(trainer.core, forward, clock.stop):
            run.run()
        run.finalize()
        clock.start("rest")  # settles what went before
        steps = int(trainer.state.iteration)
        return {"seconds": dict(clock.seconds), "steps": steps, "rounds": content("rounds")}


def cases_of(bundle: str | None, overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of `step_of_bundle` for the steps of a bundle; see `speed`.

    ``bundle`` as it is configured; ``bundle with FixMatch``, if it has ``@methods::fixmatch``; ``pre-training``, if it
    has a ``pretrain.yaml``; these ``on volumes`` as well, if it has a ``train_3d.yaml``. A step of pre-training reads
    no labels, and no FixMatch could stand in its place: its floor is forward and backward of the query network on the
    query views, and forward of the key network on the key views; of restoration, of the network on distorted images.
    """
    from monai.bundle import ConfigParser

    configs = (shipped_bundles() / "boostmis" if bundle is None else Path(bundle)) / "configs"
    config = nested(ConfigParser.load_config_files([str(configs / "train.yaml")]))
    cases: dict[str, dict[str, Any]] = {"bundle": {"overrides": {**overrides}}}
    if "fixmatch" in (config.get("methods") or {}):
        cases["bundle with FixMatch"] = {"overrides": {**overrides, "method_def": "@methods::fixmatch"}}
    if (configs / "pretrain.yaml").exists():
        own = {key: value for key, value in overrides.items() if key != "method_def"}  # it brings its method
        cases["pre-training"] = {"overrides": own, "overlays": ["pretrain.yaml"]}
    if (configs / "train_3d.yaml").exists():
        cases |= {
            f"{name} on volumes": {**case, "overlays": ["train_3d.yaml", *case.get("overlays", ())]}
            for name, case in cases.items()
        }
    return {name: {"bundle": bundle, **arguments} for name, arguments in cases.items()}


# What a query costs


def cost_of_query(selector: str, count: int, dim: int = 512, classes: int = 2, neighbors: int = 10) -> dict[str, Any]:
    """Time and memory of one of BoostMIS's selectors on given features; in a process that has done nothing else.

    Args:
        selector: ``instability`` (of the embedding) or ``density_entropy``.
        count: samples.
        dim: width of their features.
        classes: of the linear head.
        neighbors: M of the density.

    Returns:
        ``seconds``, ``cpu_seconds`` and ``extra_memory_mb``: the peak above what the process held with the features
        ready; None where the system does not tell.

    Raises:
        ValueError: if there is no such selector.
    """
    if selector not in SELECTORS:
        raise ValueError(f"`selector` must be one of {SELECTORS}, got {selector!r}.")
    generator = torch.Generator().manual_seed(0)
    network = EmbeddingClassifier(nn.Identity(), dim, classes)
    embedding, rows = torch.randn(count, dim, generator=generator), torch.arange(count)
    with torch.no_grad():
        probs = network.head(embedding).softmax(dim=1)
    outputs = PoolOutputs(rows, torch.zeros(count, dtype=torch.bool), probs, embedding, network)
    held = _resident()
    wall, cpu = time.perf_counter(), time.process_time()
    if selector == "instability":
        scores = Instability("embedding")(outputs, rows, generator)
    else:
        scores = DensityEntropy(neighbors=neighbors)(outputs, rows)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak_memory(torch.device("cpu"))
    return {
        "selector": selector,
        "samples": count,
        "features": dim,
        "scores": len(scores),
        "seconds": wall,
        "cpu_seconds": cpu,
        "extra_memory_mb": None if peak is None or held is None else max(0, peak - held) / 1e6,
    }


def _resident() -> int | None:
    """Bytes that this process holds at present; None where nobody knows."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


# The whole report


def speed(
    bundle: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    rounds: int = 5,
    steps: int = 10,
    run: Mapping[str, Any] | None = None,
    pools: Sequence[int] = (10_000, 100_000),
) -> dict[str, Any]:
    """Everything that ``medssl speed`` prints; takes minutes.

    Args:
        bundle: folder of a bundle; None: the shipped BoostMIS on phantoms. It is copied, and stays as it is.
        overrides: values of its configuration, such as ``datalist`` and ``device``; the reference takes ``device``.
            What is measured of the bundle is listed in `cases_of`.
        rounds: alternations of step and floor.
        steps: optimizer steps in each.
        run: values for the run whose parts are measured; default: one round of those that are configured.
        pools: sizes that the queries are measured at.

    Returns:
        ``steps``: `measure_step` by case; ``step_over_fixmatch``: seconds of a step of the bundle over those with
        FixMatch in its place, by precision; ``run``: `shares_of_run`; ``queries``: `cost_of_query`, and where it was.

    Raises:
        ValueError: if a case ends early, with its last words.
    """
    from medssl_monai.benchmark.environment import environment

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    name, values = None if bundle is None else str(bundle), dict(overrides or {})
    device = {key: value for key, value in values.items() if key == "device"}
    on_cuda = torch.cuda.is_available() and not str(values.get("device", "cuda")).startswith("cpu")
    precisions = {"float32": {"amp": False}, "amp": {"amp": True}} if on_cuda else {"": {}}
    wanted: dict[str, dict[str, Any]] = {"reference": {"bundle": None, "overrides": {**REFERENCE, **device}}}
    wanted |= cases_of(name, values)
    cases: dict[str, dict[str, Any]] = {}
    over_fixmatch = {}
    for precision, amp in precisions.items():
        for case, arguments in wanted.items():
            own = {**arguments, "overrides": {**arguments["overrides"], **amp}, "rounds": rounds, "steps": steps}
            cases[f"{case} {precision}".strip()] = apart(step_of_bundle, own)
        plain, own_step = (cases.get(f"bundle{w} {precision}".strip()) for w in (" with FixMatch", ""))
        if plain and own_step and own_step["method"] != "FixMatch":
            over_fixmatch[precision or "float32"] = own_step["seconds_per_step"] / plain["seconds_per_step"]
    return {
        "environment": environment(torch.get_num_threads()),
        "load_before": load,
        "steps": cases,
        "step_over_fixmatch": over_fixmatch,
        "run": _run_apart(name, {**values, **({"rounds": 1} if run is None else run)}),
        "queries": [
            apart(cost_of_query, {"selector": selector, "count": count}) for count in pools for selector in SELECTORS
        ],
        "skipped": [] if on_cuda else ["float32 and AMP on CUDA: there is no CUDA device, or the CPU was asked for"],
    }


def _run_apart(bundle: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`shares_of_run` in a process of its own, with the start of Python and the imports."""
    started = time.perf_counter()
    result = apart(shares_of_run, {"bundle": bundle, "overrides": overrides})
    total, seconds = time.perf_counter() - started, result.pop("seconds")
    seconds["start-up"] += total - sum(seconds.values())
    learning = seconds["forward"] + seconds["backward"]
    predicting = sum(value for part, value in seconds.items() if part.endswith(": forward"))
    return {
        **result,
        "seconds": total,
        "parts": dict(sorted(seconds.items(), key=lambda part: -part[1])),
        "forward_and_backward": learning / total,
        "with_forward_of_validation_and_query": (learning + predicting) / total,
    }


def apart(work: Callable[..., dict[str, Any]], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a function of this file returns, called in a fresh process.

    Raises:
        ValueError: if the process fails.
    """
    code = (
        "import json, sys; from pathlib import Path; import medssl_monai.benchmark.speed as speed; "
        "result = getattr(speed, sys.argv[1])(**json.loads(sys.argv[2])); "
        "Path(sys.argv[3]).write_text(json.dumps(result))"
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-c", code, work.__name__, json.dumps(arguments), str(answer)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(f"the measurement `{work.__name__}` ended early: {last}")
        return cast(dict[str, Any], json.loads(answer.read_text(encoding="utf-8")))


def as_text(report: Mapping[str, Any]) -> str:
    """The report of `speed` for a terminal."""
    place = report["environment"]
    lines = [f"{place['cpu']}, {place['cores']} cores{place['gpu'] and ', ' + place['gpu']}; torch {place['torch']}, "
             f"{place['threads']} threads; load before the start: {_number(report['load_before'])}", ""]  # fmt: skip
    for case, step in report["steps"].items():
        lines += [*_step_lines(case, step), ""]
    lines += [
        f"a step of the bundle takes {ratio:.2f} times that of FixMatch in its place ({precision})"
        for precision, ratio in report["step_over_fixmatch"].items()
    ]
    run = report["run"]
    lines.append(f"a run of {run['rounds']} rounds and {run['steps']} steps: {run['seconds']:.1f} seconds")
    lines += [f"  {part:42} {value:8.2f} s {value / run['seconds']:7.1%}" for part, value in run["parts"].items()]
    lines += [
        f"  forward and backward of training: {run['forward_and_backward']:.1%} of the run; "
        f"with the forward of validation, report and query: {run['with_forward_of_validation_and_query']:.1%}",
        "",
        "queries, features given:",
    ]
    lines += [
        f"  {query['selector']:16} N = {query['samples']:<7} d = {query['features']}  {query['seconds']:7.2f} s "
        f"(processor {query['cpu_seconds']:.2f})  {_number(query['extra_memory_mb'])} MB above the features"
        for query in report["queries"]
    ]
    return "\n".join([*lines, *(f"skipped: {reason}" for reason in report["skipped"])])


def _step_lines(case: str, step: Mapping[str, Any]) -> list[str]:
    passes = " + ".join(f"{p['images']}{'' if p['gradient'] else ' without gradient'}" for p in step["passes"])
    lowest, highest = step["ratio_to_floor_range"]
    figures = {
        "ratio to floor": f"{step['ratio_to_floor']:.3f}  ({lowest:.3f} to {highest:.3f} in {step['rounds']} rounds of "
        f"{step['steps_per_round']} steps; processor time {step['ratio_to_floor_cpu']:.3f})",
        "ratio to gradient floor": f"{step['ratio_to_gradient_floor']:.3f}  (one pass with gradient of all "
        f"{step['views_per_step']} views)",
        "seconds per step": f"{step['seconds_per_step']:.4f}  (processor {step['cpu_seconds_per_step']:.4f}; floor "
        f"{step['floor_seconds']:.4f}, gradient floor {step['gradient_floor_seconds']:.4f})",
        "views per second": f"{step['views_per_second']:.0f}",
        "waiting for data": f"{step['waiting_for_data']:.1%}",
        "peak memory": f"{_number(step['peak_memory_mb'])} MB",
    }
    what = f"{case}: {step['method']}, {step['device']}, {step['precision']}; images per pass: {passes}"
    return [what, *(f"  {name:24} {value}" for name, value in figures.items())]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
