"""The one trainer that runs every method."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from ignite.engine import Events
from ignite.utils import convert_tensor
from monai.engines import IterationEvents, Trainer
from torch import nn
from torch.optim import Optimizer

from medssl_monai.locks import holding
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.pool.labels import ASKED_BY
from medssl_monai.pool.pool import LabelPool

AmpDtype = Literal["float16", "bfloat16"]
PrepareViews = Callable[[Mapping[str, Any], torch.Generator], dict[str, Any]]


class SSLTrainer(Trainer):
    """Batch to device, labels by index, views, forward, backward, optimizer step, `after_step`.

    ``engine.state.output`` is a list of one dict with the scalars that the method returned, detached: what MONAI's
    handlers expect of a trainer (``from_engine(["loss"], first=True)``). Fires the usual
    `monai.engines.IterationEvents`. Nothing in a step waits for the device.

    Args:
        device: where to train.
        max_epochs: epochs to run, counted from the very first.
        train_data_loader: yields a `medssl_monai.methods.Batch` of images and indices, and ends with the epoch.
        method: objective to minimise; may be wrapped in `torch.nn.parallel.DistributedDataParallel`.
        optimizer: over ``method.trainable_parameters()``.
        pool: gives the labels of the labeled streams (`medssl_monai.methods.Stream`), whose kinds must be those of the
            method.
        views: random views of a batch on the device, `medssl_monai.transforms.Views`; None: the loader made them.
        train_handlers: attached in this order, and called in this order for one and the same event.
        amp: autocast on the type of `device`.
        amp_dtype: default: float16 with a gradient scaler on CUDA, bfloat16 elsewhere. Float16 on the CPU is refused.
        folders: that the run writes to, and nobody else meanwhile, see `medssl_monai.locks.holding`.

    Attributes:
        generator: draws the views; `medssl_monai.handlers.EpochSeed` seeds it.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable[Batch],
        method: nn.Module,
        optimizer: Optimizer,
        pool: LabelPool,
        views: PrepareViews | None = None,
        train_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        amp_dtype: AmpDtype | None = None,
        folders: Sequence[str | Path] = (),
    ) -> None:
        device = torch.device(device)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            handlers=train_handlers,
            amp=amp,
            decollate=False,  # the streams differ in batch size; see tests/test_monai_facts.py
            non_blocking=True,
        )
        self.method, self.optimizer, self.pool, self.views = method, optimizer, pool, views
        self.folders = folders
        self.amp_dtype = getattr(torch, amp_dtype or ("float16" if device.type == "cuda" else "bfloat16"))
        if amp and self.amp_dtype == torch.float16 and device.type != "cuda":
            raise ValueError(f"float16 needs CUDA, and the device is {device}; use `amp_dtype: bfloat16`.")
        self.generator = torch.Generator(device)
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=amp and self.amp_dtype == torch.float16)
        self.add_event_handler(Events.STARTED, self._start)  # after the handlers of the list, which may load weights

    def _start(self) -> None:
        self._check_kinds()
        unlabeled = {stream.part for stream in self.core.streams.values() if not stream.labeled}
        for key in unlabeled & self.core.kinds.keys():
            if len(self.pool[key].drawable("unlabeled")) == 0:
                self.logger.warning(
                    f"No image is without {key}s, and {type(self.core).__name__} learns from such: labeled images "
                    f"stand in, without their {key}s. Hide some with `{ASKED_BY[self.pool[key].key]}`, or choose a "
                    "supervised method."
                )
        if self.core.steps_done == 0:
            self.core.on_start()

    def _check_kinds(self) -> None:
        name = type(self.core).__name__
        for key, kind in self.core.kinds.items():
            if key not in self.pool.parts:
                raise ValueError(f"{name} learns {key}s as well, and the pool has none; give it the part {key!r}.")
            own = self.pool[key].kind
            if own.word != kind.word:
                raise ValueError(
                    f"the {key}s are {own.word}, and {name} learns {kind.word}; give it the `kind` of the labels, or "
                    "other labels."
                )

    @property
    def core(self) -> SSLMethod:
        """The method itself, without a parallel wrapper."""
        return cast(SSLMethod, getattr(self.method, "module", self.method))

    def run(self) -> None:  # as in monai.engines.Trainer
        """Train; continues where ``state`` stands.

        Raises:
            OSError: if another run is at work in one of the `folders`.
        """
        with holding(*self.folders):
            super(Trainer, self).run()  # not Trainer.run, which makes a fresh CUDA-only scaler at every call

    def state_dict(self) -> OrderedDict[str, Any]:
        return OrderedDict(super().state_dict(), grad_scaler=self.grad_scaler.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def prepare(self, batchdata: Mapping[str, Any]) -> Batch:
        """Move a batch to the device, join the labels and make the views."""
        batch = {name: dict(stream) for name, stream in batchdata.items()}
        for name, stream in self.core.streams.items():
            if stream.labeled and name in batch and "label" not in batch[name]:  # patches come with theirs
                batch[name]["label"] = self.pool[stream.part].targets(batch[name]["index"])
        batch = cast(dict[str, Any], convert_tensor(batch, self.state.device, self.non_blocking))
        return batch if self.views is None else self.views(batch, self.generator)

    def _iteration(self, engine: SSLTrainer, batchdata: Mapping[str, Any]) -> list[Output]:  # type: ignore[override]
        batch = engine.prepare(batchdata)
        engine.method.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(engine.state.device.type, dtype=engine.amp_dtype, enabled=engine.amp):
            output = engine.method(batch)
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine.grad_scaler.scale(output["loss"]).backward()
        engine.grad_scaler.unscale_(engine.optimizer)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)  # gradients are in true units: clip or inspect here
        engine.grad_scaler.step(engine.optimizer)
        engine.grad_scaler.update()

        output = {name: value.detach() for name, value in output.items()}
        engine.core.after_step(batch, output)
        engine.state.output = [{name: value for name, value in output.items() if value.ndim == 0}]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
