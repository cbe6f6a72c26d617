"""One training step, measured against its floor."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from medssl_monai.benchmark.speed.passes import Pass, copied, record_passes, replay
from medssl_monai.benchmark.speed.resources import peak_memory, synchronize
from medssl_monai.engines.trainer import SSLTrainer


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
        synchronize(self.trainer.state.device)
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
        self.views = [copied(tensor) for tensor in tensors if tensor.is_floating_point()]

    def _stop(self, engine: Engine) -> None:
        if self._is_last_step(engine):
            wall, cpu = (now - then for now, then in zip(self._now(), self._started, strict=True))
            self.step.append(Cost(wall / engine.state.epoch_length, cpu / engine.state.epoch_length))

    def _floors(self, engine: Engine) -> None:
        if engine.state.epoch == 1:
            self._recording.close()
            self.peak_memory = peak_memory(engine.state.device)  # the gradient floor takes more than a step
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
