"""Where the time of a run goes."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import IterationEvents

from medssl_monai.benchmark.speed.passes import outermost_calls
from medssl_monai.benchmark.speed.resources import synchronize
from medssl_monai.benchmark.speed.runs import PARTS, run_of_copy
from medssl_monai.engines.trainer import SSLTrainer


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
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.part] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, measured as `part`."""

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
        new_cache = {"cache_dir": str(Path(folder) / "cache")}
        run = run_of_copy(bundle, Path(folder), {**overrides, **new_cache})
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
