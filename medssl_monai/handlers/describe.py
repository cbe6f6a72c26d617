"""Keep a bundle's metadata true to what its network is trained on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.bundle.run import describe_data
from medssl_monai.distributed import is_first


class DescribeBundle:
    """Write classes, channels and image size into ``metadata.json``, before the first weights are saved.

    Attached to the evaluator, so that a run that is refused at its start has changed nothing; list it before
    `BestModel`. Two runs of one bundle at a time each describe their own network, with words if they differ.

    Args:
        bundle_root: folder of the bundle.
        arguments: see `medssl_monai.bundle.run.describe_data`.
    """

    def __init__(self, bundle_root: str | Path, **arguments: Any) -> None:
        self.describe = partial(describe_data, bundle_root=bundle_root, **arguments)
        self.path = Path(bundle_root) / "configs" / "metadata.json"
        self.written = ""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if not is_first() or not self.path.exists():
            return
        if self.written and self.path.read_text(encoding="utf-8") != self.written:
            engine.logger.warning(
                "Another run has described its network in this bundle's metadata.json, and this one describes its own "
                "again; give runs on other data a bundle of their own (`medssl bundle`), or inference mixes them up."
            )
        self.describe()
        self.written = self.path.read_text(encoding="utf-8")
