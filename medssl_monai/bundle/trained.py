"""Checks of the weights that a configuration starts from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)


def check_trained(
    weights: str | Path, classes: Sequence[str], spacing: Sequence[float] | None, mask_classes: Sequence[str] = ()
) -> None:
    """Refuse a datalist whose classes, or volumes whose spacing, are not those that a model was trained on.

    Raises:
        ValueError: with both.
    """
    from medssl_monai.networks.pretrained import weights_metadata

    metadata = weights_metadata(weights)
    resampled = metadata.get("spacing")
    if resampled is not None and list(resampled) != list(spacing or ()):
        raise ValueError(f"{weights} was trained on volumes of {resampled} mm; set `spacing` to that, not {spacing}.")
    for trained, here in ((metadata.get("classes"), classes), (metadata.get("mask_classes"), mask_classes)):
        if trained and here and list(trained) != list(here):
            raise ValueError(
                f"{weights} was trained on the classes {trained}, the datalist has {list(here)}; use a datalist with "
                "the same classes in the same order."
            )


def warn_untrained(pretrained: str | Path | None) -> None:
    """Say what clusters are made of if `pretrained` names no weights: of the network as it starts."""
    if not pretrained:
        logger.warning(
            "`pretrained` names no weights: clusters are made with the network as it starts, and of an untrained one "
            "they are little better than random. Run configs/pretrain.yaml first, and name its models/pretrained.pt."
        )
