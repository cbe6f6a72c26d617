"""What configurations ask of their data and of the bundle's metadata: classes, channels, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai import limits, names
from medssl_monai.bundle.metadata import METADATA, described
from medssl_monai.data.datalist import Datalist
from medssl_monai.kinds import DEFAULT, kind_named, kind_of


def classes_of(data: Sequence[Any], metadata: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes, from the datalist or else from the bundle's metadata.

    Args:
        data: a section; a plain list (from another tool) has no names.
        metadata: content of ``metadata.json``.

    Raises:
        ValueError: if these are no names of classes, see `medssl_monai.names.check_classes`.
    """
    found, where = list(getattr(data, "classes", ())), getattr(data, "name", "") or "the datalist"
    labels = [item["label"] for item in data if isinstance(item, Mapping) and item.get("label") is not None]
    word = getattr(data, "label_kind", "")
    kind = kind_named(word) if word else kind_of(labels) or DEFAULT()
    if isinstance(data, Datalist) and not found:
        count = max((kind.names_in(label) for label in labels), default=0)
        limits.check("max_classes", count, where)
        found = [str(index) for index in range(count)]
    if not found:
        key = "classes" if "classes" in described(metadata, "outputs") else "pred"
        found, where = _channel_names(metadata, key), METADATA
    kind.renamed(found).check(where)
    return found


def mask_classes_of(data: Sequence[Any], metadata: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes of masks beside classes, background first, as `classes_of` finds those."""
    found = list(getattr(data, "mask_classes", ())) or _channel_names(metadata, "pred")
    names.check_classes(found, "class of masks", getattr(data, "name", "") or METADATA)
    return found


def _channel_names(metadata: Mapping[str, Any], output: str) -> list[str]:
    channels = described(metadata, "outputs", output, "channel_def")
    keys = [str(index) for index in range(len(channels))] if isinstance(channels, Mapping) else []
    if not keys or set(keys) != channels.keys():
        raise ValueError(f"{METADATA}: the channel_def of {output!r} must map every index from 0 on to a name.")
    return [channels[key] for key in keys]


def channels_of(data: Sequence[Any], metadata: Mapping[str, Any]) -> int:
    """Return the number of channels of the images, from the datalist or else from the bundle's metadata."""
    return len(getattr(data, "modality", ())) or _counts([described(metadata, "inputs", "image", "num_channels")])[0]


def image_size_of(metadata: Mapping[str, Any]) -> list[int]:
    """Return the size of the images that the network takes, from the bundle's metadata."""
    return _counts(described(metadata, "inputs", "image", "spatial_shape"))


def _counts(sizes: Any) -> list[int]:
    if not isinstance(sizes, list | tuple) or not sizes or any(type(n) is not int or n < 1 for n in sizes):
        raise ValueError(f"{METADATA} says {names.shown(sizes)} of the images, and whole numbers above 0 are needed.")
    limits.check_voxels(sizes, f"an image of the size in {METADATA}")
    return list(sizes)
