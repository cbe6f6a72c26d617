"""What files of weights say of the labels that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import Datalist, Key
from medssl_monai.kinds import DEFAULT, Kind, kind_named
from medssl_monai.networks.pretrained import weights_metadata


def kind_of_weights(weights: str | Path, names: Sequence[str] = ()) -> Kind:
    """Return the kind of labels that a file of weights predicts; without a file, one class per image is assumed.

    Args:
        weights: file.
        names: of the classes, findings or structures, where the weights name none.

    Raises:
        ValueError: see `described_kind`.
    """
    return described_kind(weights_metadata(weights) if Path(weights).exists() else {}, names, where=str(weights))


def described_kind(
    about: Mapping[str, Any], names: Sequence[str] = (), part: Key = "label", where: str = "the weights"
) -> Kind:
    """Return the kind of labels that the metadata of weights tell.

    Args:
        about: as from `medssl_monai.networks.weights_metadata`.
        names: of the classes, findings or structures, where the weights name none.
        part: of the labels, where the weights are of several.
        where: what errors begin with, such as the file.

    Raises:
        ValueError: if there is no such kind, or it cannot have these names.
    """
    trained = Datalist(
        classes=about.get("classes") or (),
        mask_classes=about.get("mask_classes") or (),
        label_kind=about.get("kind", DEFAULT.word),
    )
    kind = kind_named(trained.kinds[part], trained.names[part] or names)
    kind.check(where)
    return kind
