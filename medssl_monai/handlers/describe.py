"""Keep a bundle's metadata true to what its network is trained on."""

from __future__ import annotations

from functools import partial
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.bundle import describe_data


class DescribeBundle:
    """Write classes, channels and image size into ``metadata.json``, before the first weights are saved.

    Attached to the evaluator, so that a run that is refused at its start has changed nothing; list it before
    `BestModel`. See `medssl_monai.bundle.describe_data` for the arguments.
    """

    def __init__(self, **arguments: Any) -> None:
        self.describe = partial(describe_data, **arguments)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.describe()
