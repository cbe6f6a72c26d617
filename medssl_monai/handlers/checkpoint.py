"""Stop anywhere, continue as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.distributed import from_first, is_first, wait_for_all
from medssl_monai.engines.identity import Identity
from medssl_monai.files import load_tensors, save_tensors
from medssl_monai.networks.pretrained import check_finite


class TrainingCheckpoint:
    """Write one file with the whole state of a run after each epoch, and continue from it at the next start.

    The trainer is added to `objects` when attached; naming it in a bundle would be a circular reference. List this
    handler first: a run that is refused then has written nothing. What the others do at the end of an epoch is in the
    file all the same.

    Args:
        path: file to write and, if it exists, to continue from.
        objects: everything with ``state_dict`` and ``load_state_dict`` that the run changes.
        identity: what the run must share with the file.

    Raises:
        KeyError: at the start, if the file holds other objects.
        ValueError: at the start, if the file is damaged, holds weights that are not finite, or is of another run.
        OSError: at the end of an epoch, if the file cannot be written; the previous one is untouched.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        identity: Identity | None = None,
    ) -> None:
        self.path, self.objects = Path(path), dict(objects)
        self.identity = identity or Identity()
        self.told: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        self.objects["trainer"] = engine
        engine.add_event_handler(Events.STARTED, self.load)  # not earlier: ignite restarts a finished run from epoch 0

    def save(self, engine: Engine) -> None:
        """Write the state, in one step: a kill leaves the previous file or the new one."""
        if is_first():
            state = {name: item.state_dict() for name, item in self.objects.items()}
            save_tensors(self.path, {**state, "identity": self.told})

    def load(self, engine: Engine) -> None:
        """Continue from the file, if there is one."""
        if not engine.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)  # now, to be the last
        if is_first():
            self.told = self.identity.state()
        wait_for_all()
        if not self.path.exists():
            return
        state = load_tensors(self.path)
        identity = state.pop("identity", None) if isinstance(state, dict) else None
        if not isinstance(identity, dict):
            raise ValueError(f"{self.path} is no state of a run; move it away, or choose another `output_dir`.")
        if state.keys() != self.objects.keys():
            raise KeyError(
                f"{self.path} holds {sorted(state)}, this run has {sorted(self.objects)}; "
                "resume with the configuration that wrote it, or choose another `output_dir`."
            )
        try:
            self._check(engine, state, identity)
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            self._refuse(error)
        try:
            max_epochs = engine.state.max_epochs  # the configuration decides how long to train, not the file
            for name, item in self.objects.items():
                item.load_state_dict(state[name])
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            self._refuse(error)
        engine.state.max_epochs = max_epochs
        engine.logger.info(f"Continuing {self.path} after epoch {engine.state.epoch}.")

    def _refuse(self, error: Exception) -> NoReturn:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"{self.path} does not fit this run ({reason}); restore it from a copy, or choose another `output_dir`."
        ) from error

    def _check(self, engine: Engine, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Refuse the file of another run, before anything of it is loaded."""
        length, before = engine.state.epoch_length, state["trainer"]["epoch_length"]
        if length != before:
            raise ValueError(f"`epoch_length` was {before} when {self.path} was written and is {length} now; keep it.")
        if refusal := from_first(self.identity.refusal(identity, self.told) if is_first() else ""):
            same_length = state["trainer"]["max_epochs"] == engine.state.max_epochs
            longer = "" if same_length else ", and longer only where no schedule spans the run"
            raise ValueError(f"{self.path} {refusal}; resume with the same{longer}, or choose another `output_dir`.")
        for name, item in self.objects.items():
            if isinstance(item, nn.Module):
                weights = {key: state[name][key] for key, _ in item.named_parameters() if key in state[name]}
                check_finite(weights, self.path)
