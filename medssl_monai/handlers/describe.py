"""Keep a bundle's metadata true to what its network is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events

from medssl_monai.bundle import describe_data


class DescribeBundle:
    """Write classes, channels and image size into ``metadata.json``, before the first weights are saved.

    Attached to the evaluator, so that a run that is refused at its start has changed nothing; list it before
    `BestModel`. See `medssl_monai.bundle.describe_data` for the arguments.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        classes: Sequence[str],
        channels: int,
        image_size: Sequence[int],
        synthetic: bool,
        mask_classes: Sequence[str] = (),
    ) -> None:
        self.arguments = (bundle_root, classes, channels, image_size, synthetic, mask_classes)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        describe_data(*self.arguments)
