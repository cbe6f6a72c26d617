"""Keep a bundle's metadata true to what its network is trained on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.bundle.metadata import METADATA, described, metadata_of, write_metadata
from medssl_monai.distributed import is_first


def describe_data(
    bundle_root: str | Path,
    classes: Sequence[str],
    channels: int,
    image_size: Sequence[int],
    synthetic: bool,
    mask_classes: Sequence[str] = (),
) -> None:
    """Make the bundle's ``metadata.json`` say what its network is trained on; `inference.json` reads it from there.

    Where there are masks beside classes, the network's own output, ``pred``, is the masks, and ``classes`` another.

    Raises:
        ValueError: see `write_metadata`.
    """
    path = Path(bundle_root) / "configs" / METADATA
    if not is_first() or not path.exists():
        return
    before = metadata_of(bundle_root)
    metadata = copy.deepcopy(before)
    classes_of = {"pred": mask_classes, "classes": classes} if mask_classes else {"pred": classes}
    image, pred, *outputs = (
        described(metadata, "inputs", "image"),
        *(described(metadata, "outputs", k) for k in ("pred", *classes_of)),
    )
    if not all(isinstance(part, dict) for part in (image, pred, *outputs)):
        raise ValueError(
            f"{path} does not describe its network's images and outputs; take it from the bundle as it was."
        )
    image |= {"num_channels": channels, "spatial_shape": list(image_size)}
    image["channel_def"] = {str(i): "image" if channels == 1 else f"channel {i}" for i in range(channels)}
    if pred.get("format") == "segmentation":
        pred["spatial_shape"] = list(image_size)
    for output, names in zip(outputs, classes_of.values(), strict=True):
        output |= {"num_channels": len(names), "channel_def": {str(i): name for i, name in enumerate(names)}}
    metadata["data_type"] = "SYNTHETIC phantoms" if synthetic else "images named by a datalist"
    if metadata != before:
        write_metadata(path, metadata)


class DescribeBundle:
    """Write classes, channels and image size into ``metadata.json``, before the first weights are saved.

    Attached to the evaluator, so that a run that is refused at its start has changed nothing; list it before
    `BestModel`. Two runs of one bundle at a time each describe their own network, with words if they differ.

    Args:
        bundle_root: folder of the bundle.
        arguments: see `describe_data`.
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
