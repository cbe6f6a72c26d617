"""Start from weights that somebody else trained."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from medssl_monai import names
from medssl_monai.files import load_tensors
from medssl_monai.networks.segmentation import SegmentationNetwork

logger = logging.getLogger(__name__)
METADATA = "medssl_monai"
HEADS = ("head.", "projection.", "contrast.")
Part = Literal["continue", "load", "encoder"]
"""What to take of the weights of a segmentation network: everything; all but the output layer; all but the decoder and
the output layer. The names are those of SSAL's code, where a fourth is to load nothing."""


def prepare_network(
    network: nn.Module,
    device: torch.device | str = "cpu",
    pretrained: str | Path | None = None,
    num_classes: int | None = None,
    channels: int | None = None,
    part: Part = "continue",
) -> nn.Module:
    """Load weights into `network`, if a file is named, and move it to `device`.

    Args:
        network: to prepare, in place.
        device: where it goes.
        pretrained: file of weights.
        num_classes: of the data; None: not checked. Of an `EmbeddingClassifier` or a `SegmentationNetwork` only.
        channels: of the images; likewise, by the first convolution.
        part: what to take of the file, see `load_weights`.

    Raises:
        ValueError: if the network is for other classes or channels than the data, or the weights do not fit.
    """
    first = next((module for module in network.modules() if isinstance(module, _ConvNd)), None)
    classes = getattr(network, "num_classes", getattr(getattr(network, "head", None), "out_features", None))
    given = classes, getattr(first, "in_channels", None)
    for name, has, wanted in zip(("classes", "channels"), given, (num_classes, channels), strict=True):
        if None not in (has, wanted) and has != wanted:
            raise ValueError(f"the network is for {has} {name}, the data have {wanted}; mend `network_def`.")
    if pretrained:
        load_weights(network, pretrained, part)
    return network.to(device)


def load_weights(network: nn.Module, path: str | Path, part: Part = "continue") -> None:
    """Load a state dict into `network`; every key must match.

    Besides this package's own files, a state dict of torchvision's ResNet-50 fits `resnet50`: its ``fc`` is left out
    (the head is new), and its first convolution is summed over the colours for a one-channel network. Of a
    `medssl_monai.networks.ProjectionNetwork`, pre-trained without labels, a classifier takes the backbone and, if it is
    a `medssl_monai.networks.ProjectedClassifier`, the first layer of the projection; its head is new. To a
    `medssl_monai.networks.SegmentationNetwork` the plain state dict of its U-Net fits, too.

    Args:
        network: to load into.
        path: file of weights.
        part: ``continue``: all of them. Of a segmentation network also ``load``: all but the output layer, which stays
            as it is, say after restoration, where it had another number of channels; or ``encoder``: the bottleneck and
            what is before it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if keys or shapes do not match, or weights are not finite; it names them. Or if `part` is none of
            these.
    """
    content = load_tensors(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict (names and tensors); save `network.state_dict()`.")
    check_finite(content, path)
    wanted = network.state_dict()
    state = {str(key).removeprefix("module."): value for key, value in content.items()}
    if not any(key.startswith("backbone.") for key in state) and any(key.startswith("backbone.") for key in wanted):
        state = _from_backbone(state, wanted)
    if any(key.startswith("contrast.") for key in state):
        state = _from_pretraining(state, wanted)
    if wanted.keys() & (plain := {f"unet.{key}": value for key, value in state.items()}).keys():
        state = plain
    left = _left_out(network, part)
    state = {**state, **{key: wanted[key] for key in left}}
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    if missing or unexpected or shapes:
        differing = [
            f"{key}: {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}" for key in sorted(shapes)
        ]
        raise ValueError(
            f"the weights in {path} do not fit the network: {_in_words(state, wanted, shapes)}missing {missing[:5]} "
            f"({len(missing)} in all), unknown {unexpected[:5]} ({len(unexpected)}), other shape {differing[:5]} "
            f"({len(shapes)}). {_way_out(network, [*missing, *unexpected, *shapes])}"
        )
    network.load_state_dict(state)
    logger.info(f"Loaded {len(state) - len(left)} tensors from {path}.")
    if left:
        what = "the output layer" if part == "load" else "decoder and output layer"
        logger.info(f"Left out {what}, {len(left)} tensors, which stay as they were (`part: {part}`).")


def check_finite(weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that hold NaN or infinity: everything computed with them would be no number.

    Raises:
        ValueError: with the file that they are from.
    """
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"{path} holds weights that are not finite (NaN or infinity), in {len(bad)} of {len(weights)} tensors, the "
            f"first is {bad[0]}; the training has diverged, or the file is damaged. Use another, or train anew with a "
            "smaller learning rate."
        )


def _left_out(network: nn.Module, part: Part) -> list[str]:
    """Names of what `network` keeps."""
    if part not in get_args(Part):
        raise ValueError(f"`part` must be one of {list(get_args(Part))}, got {part!r}.")
    if part == "continue":
        return []
    if not isinstance(network, SegmentationNetwork):
        raise ValueError(f"`part: {part}` is for segmentation networks, and {type(network).__name__} is none.")
    return network.names_of("output") + (network.names_of("decoder") if part == "encoder" else [])


def _way_out(network: nn.Module, wrong: Sequence[str]) -> str:
    if isinstance(network, SegmentationNetwork) and set(wrong) <= set(network.names_of("output")):
        return "All but the output layer fits: take it with `part: load`, to train; or choose the network of the file."
    return "Choose the network that they belong to."


def _in_words(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], shapes: Sequence[str]) -> str:
    """Return what data the weights are for, where head or first convolution show that it is not the network's."""
    first = next((key for key, value in wanted.items() if value.ndim > 3), "")
    reasons = []
    for key, axis, name in (("head.weight", 0, "classes"), (first, 1, "image channels (1: grey, 3: colour)")):
        if key in shapes and state[key].ndim > axis and state[key].shape[axis] != wanted[key].shape[axis]:
            reasons.append(f"they are for {state[key].shape[axis]} {name}, the network for {wanted[key].shape[axis]}; ")
    return "".join(reasons)


def _from_backbone(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a classifier's plain state dict as that of an `EmbeddingClassifier` with a new head and projection."""
    result = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    stem = "backbone.conv1.weight"
    if stem in result and stem in wanted and result[stem].shape[1] == 3 and wanted[stem].shape[1] == 1:
        result[stem] = result[stem].sum(dim=1, keepdim=True)  # grey images as three equal colours
    head = {key: value for key, value in wanted.items() if key.startswith(HEADS)}
    counters = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked") and k not in result}
    return {**result, **head, **counters}


def _from_pretraining(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a `ProjectionNetwork` without what `wanted` has no place for, and with a new head."""
    kept = {key: value for key, value in state.items() if key in wanted or not key.startswith(HEADS)}
    if left := sorted({key.split(".")[0] for key in state.keys() - kept.keys()}):
        logger.info(f"The weights are of pre-training; left out: {', '.join(left)}.")
    return {**kept, **{key: value for key, value in wanted.items() if key.startswith("head.")}}


def describe(network: nn.Module, metadata: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    """Return the state dict of `network`, with plain values on how it came about (`weights_metadata` reads them).

    They travel where PyTorch keeps the versions of layers, so that the file remains a plain state dict.
    """
    state: OrderedDict[str, Tensor] = OrderedDict(network.state_dict())
    versions = getattr(network.state_dict(), "_metadata", {})
    state._metadata = {**versions, METADATA: dict(metadata)}  # type: ignore[attr-defined]
    return state


def weights_metadata(path: str | Path) -> dict[str, Any]:
    """Return what `describe` put into a file of weights; empty for a file of other origin.

    Raises:
        ValueError: if the file is damaged, or says what MONAI would evaluate, or names that classes cannot have.
    """
    told = getattr(load_tensors(path), "_metadata", {})
    told = dict(told.get(METADATA, {})) if isinstance(told, Mapping) else {}
    names.check_inert(told, str(path))
    for key in ("classes", "mask_classes"):
        names.check_classes(told.get(key) or (), "class", str(path))
    return told
