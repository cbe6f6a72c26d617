"""What makes a run this run and no other: its choices, its data, and the pixels of its images."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver
from torch import Tensor

import medssl_monai
from medssl_monai.data.datalist import FLAGS, hash_items
from medssl_monai.data.images import ImageDataset
from medssl_monai.files import sha256

logger = logging.getLogger(__name__)

PLACES = {"bundle_root", "ckpt_dir", "output_dir", "datalist", "dataset_dir", "cache_dir", "device", "rank", "title"}
"""Where a run is and what it is called; another place makes no other run."""
LENGTH = {"rounds", "max_epochs"}
"""A run may become longer. What is computed from them, such as a schedule, may not."""
DATA = {"train::dataset::data", "validate::dataset::data", "_meta_"}
"""Known by their hashes, or by what the configuration makes of them, such as `classes`."""
WIRING = {
    *("train::dataloader", "train::handlers", "train::trainer", "method", "initialize", "run", "finalize"),
    *("validate::dataloader", "validate::inferer", "validate::best_model", "validate::handlers", "validate::evaluator"),
}
"""How the choices are put together; equal in all bundles, but for several processes. The choices are what it names."""
HANDLERS = {"train::handlers", "validate::handlers"}
OWN_HANDLERS = ("medssl_monai.", "ValidationHandler", "LrScheduleHandler")
"""Those of others, such as trackers, watch a run and choose nothing."""
SHOWN = 10
"""Images that a message names."""


class Identity:
    """Tells a run from others, so that it is not continued with other choices or data.

    In a bundle the choices are all plain values of the configuration that the run uses, overrides included, whoever
    gave them; nobody needs to list them. Left out are `PLACES`, `LENGTH` and the numbers of workers. An expression
    counts as what it comes to, a file (labels, weights) as its content.

    Args:
        sections: datasets by section. Of each, the hash of its part of the datalist and a hash of each image, as it is
            after the preprocessing, and of the files of its masks belong to the identity.
        facts: further plain values.
    """

    def __init__(self, sections: Mapping[str, ImageDataset] | None = None, **facts: Any) -> None:
        self.sections, self.facts = dict(sections or {}), facts
        self.parser = building_parser()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; to be asked for when the run starts, when everything is built."""
        facts = {f"{name} section": _hash(dataset)[:16] for name, dataset in self.sections.items()}
        return {
            "facts": {**facts, **self.facts, **(choices(self.parser) if self.parser else {})},
            "images": {name: image_hashes(dataset) for name, dataset in self.sections.items()},
            "version": medssl_monai.__version__,
        }

    def refusal(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        """Why a run must not be continued; empty if it may.

        Args:
            before: `state` of the run that wrote the checkpoint.
            now: `state` of this one.
        """
        if differing := differences(before["facts"], now["facts"]):
            return f"was written by a run with {'; with '.join(differing)}"
        for name, dataset in self.sections.items():
            if len(now["images"][name]) == 0:
                continue
            changed = (before["images"][name] != now["images"][name]).nonzero().flatten().tolist()
            if changed:
                names = ", ".join(str(dataset.data[i].get("id", i)) for i in changed[:SHOWN])
                more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
                return (
                    f"was written by a run whose images of the {name} section, or masks of them, had another content "
                    f"than the files have now: {names}{more}"
                )
        if before["version"] != now["version"]:
            logger.warning(f"This run was begun with version {before['version']} and goes on with {now['version']}.")
        return ""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs, with both values; once, if several keys differ alike, by the nearest to the top of them."""
    keys = sorted(before.keys() | now.keys(), key=lambda key: (key.count("::"), key))
    differing = [key for key in keys if before.get(key) != now.get(key) or (key in before) != (key in now)]
    both = [key for key in differing if key in before and key in now]  # the others follow from these
    keys_of: dict[tuple[str, str], str] = {}
    for key in both or differing:
        keys_of.setdefault((repr(before.get(key)), repr(now.get(key))), key)
    return [f"{key} {old}, this one has {new}" for (old, new), key in keys_of.items()]


def choices(parser: ConfigParser) -> dict[str, Any]:
    """Return the plain values, by id, of all that a run of this configuration uses; the run must have been built.

    Args:
        parser: of the whole configuration, with its overrides.
    """
    found: dict[str, Any] = {}
    seen: set[str] = set()
    resolved = parser.ref_resolver.resolved_content
    weights = getattr(resolved.get("validate::best_model"), "path", "")  # they may be what the run started from as well
    waiting = ["initialize", "run"]
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            for leaf, text in _leaves(key, parser.get(key)):
                names = _references(text)
                waiting += names
                if not _is_below(leaf, WIRING) and leaf not in LENGTH:
                    value = _value(leaf, text, names, resolved)
                    if _is_file(value):
                        is_written = os.path.realpath(value) == os.path.realpath(weights)
                        value = "the weights that it writes" if is_written else f"sha256 {sha256(value)[:16]}"
                    found[leaf] = value
    return found


def _leaves(key: str, config: Any) -> Iterator[tuple[str, Any]]:
    """Yield plain values, references and expressions below an id; a list of plain values is one."""
    if _is_below(key, PLACES | DATA) or key.rpartition("::")[2] in ("num_workers", "_desc_"):
        return
    if isinstance(config, Mapping):
        children: Any = config.items()
    elif isinstance(config, list | tuple) and not _is_literal(config):
        children = enumerate(config)
    else:
        yield key, config
        return
    for name, value in children:
        target = value.get("_target_", "") if isinstance(value, Mapping) else ""
        if key not in HANDLERS or not target or str(target).startswith(OWN_HANDLERS):
            yield from _leaves(f"{key}::{name}", value)


def _value(key: str, text: Any, names: Sequence[str], resolved: Mapping[str, Any]) -> Any:
    """Return what a leaf comes to, if that is plain and the same everywhere; else how it is written."""
    value = text
    if isinstance(text, str) and text.startswith(("$", "@")):
        value = resolved.get(names[0] if text.startswith("@") and names else key, text)
        if not _is_plain(value) or (text.startswith("@") and _is_below(names[0], DATA | PLACES)):
            return text
        here = set(names) & PLACES  # a path, say; but classes may come from the bundle's metadata
        if here and not _is_file(value) and (isinstance(value, str) or here & {"device", "rank"}):
            return text
    value = list(value) if isinstance(value, tuple) else value
    return value if _is_plain(value) else type(value).__name__


def _references(text: Any) -> list[str]:
    return list(ReferenceResolver.match_refs_pattern(text)) if isinstance(text, str) else []


def _is_below(key: str, top: set[str]) -> bool:
    return any(key == name or key.startswith(f"{name}::") for name in top)


def _is_literal(value: Any) -> bool:
    """Say whether a part of a configuration says itself what it is: a number, a word, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    return not isinstance(value, dict) and not (isinstance(value, str) and value.startswith(("$", "@")))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and bool({".", os.sep} & set(value)) and os.path.isfile(value)


def building_parser() -> ConfigParser | None:
    """Return the parser that is just building this object, if one is.

    MONAI gives no component a way to its configuration.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back
    return None


def _hash(dataset: ImageDataset) -> str:
    return str(getattr(dataset.data, "sha256", "")) or hash_items(dataset.data)


def image_hashes(dataset: ImageDataset) -> Tensor:
    """Return a hash of each image after the preprocessing, and of the files of its masks: ``(N,)`` int64.

    Empty where a run is to stop for images that cannot be read; `RoundReport` names those of all sections.
    """
    try:
        rows = dataset.images
    except ValueError:
        return torch.zeros(0, dtype=torch.int64)
    return torch.tensor([_row_hash(rows[i], item) for i, item in enumerate(dataset.data)], dtype=torch.int64)


def _row_hash(row: Tensor, item: Mapping[str, Any]) -> int:
    digest = hashlib.sha256(row.contiguous().numpy().tobytes())
    for path in (item.get(key) for key in FLAGS):
        if isinstance(path, str) and os.path.isfile(path):
            digest.update(sha256(path).encode())
    return int.from_bytes(digest.digest()[:8], "little", signed=True)
