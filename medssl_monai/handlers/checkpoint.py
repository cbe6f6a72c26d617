"""Stop anywhere, continue as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.distributed import is_first, wait_for_all
from medssl_monai.files import load_tensors, save_tensors


class TrainingCheckpoint:
    """Write one file with the whole state of a run after each epoch, and continue from it at the next start.

    The trainer is added to `objects` when attached; naming it in a bundle would be a circular reference. List this
    handler last, so that the file holds what the other handlers of the epoch did.

    Args:
        path: file to write and, if it exists, to continue from.
        objects: everything with ``state_dict`` and ``load_state_dict`` that the run changes.
        identity: plain values that the run must share with the file, such as the seed and the datalist's hash.
        resume: ignore an existing file if False.

    Raises:
        KeyError: at the start, if the file holds other objects.
        ValueError: at the start, if the file is damaged, or is of another run.
        OSError: at the end of an epoch, if the file cannot be written; the previous one is untouched.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        identity: Mapping[str, Any] | None = None,
        resume: bool = True,
    ) -> None:
        self.path, self.objects, self.resume = Path(path), dict(objects), resume
        self.identity = dict(identity or {})

    def attach(self, engine: Engine) -> None:
        self.objects["trainer"] = engine
        engine.add_event_handler(Events.STARTED, self.load)  # not earlier: ignite restarts a finished run from epoch 0
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write the state, in one step: a kill leaves the previous file or the new one."""
        if is_first():
            state = {name: item.state_dict() for name, item in self.objects.items()}
            save_tensors(self.path, {**state, "identity": self.identity})

    def load(self, engine: Engine) -> None:
        """Continue from the file, if there is one."""
        wait_for_all()
        if not (self.resume and self.path.exists()):
            return
        state = load_tensors(self.path)
        identity = state.pop("identity", {})
        if state.keys() != self.objects.keys():
            raise KeyError(
                f"{self.path} holds {sorted(state)}, this run has {sorted(self.objects)}; "
                "resume with the configuration that wrote it, or choose another `output_dir`."
            )
        for name, value in self.identity.items():
            if identity.get(name) != value:
                raise ValueError(
                    f"{self.path} was written by a run with {name} {identity.get(name)!r}, this one has {value!r}; "
                    "resume with the same, or choose another `output_dir`."
                )
        length, before = engine.state.epoch_length, state["trainer"]["epoch_length"]
        if length != before:
            raise ValueError(f"`epoch_length` was {before} when {self.path} was written and is {length} now; keep it.")
        max_epochs = engine.state.max_epochs  # the configuration decides how long to train, not the file
        for name, item in self.objects.items():
            item.load_state_dict(state[name])
        engine.state.max_epochs = max_epochs
        engine.logger.info(f"Continuing {self.path} after epoch {engine.state.epoch}.")
