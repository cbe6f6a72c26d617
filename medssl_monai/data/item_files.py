"""The state and the content of the files of an item, and what else its pixels depend on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable

from medssl_monai.data.datalist import Item
from medssl_monai.files import sha256

HIDDEN = ("group", "label", "labeled", "mask", "masked")
"""Keys of an item that its pixels cannot depend on, since no transform is shown them."""
DETACHED = (".hdr", ".img", ".mhd", ".nhdr")
"""Formats that keep their pixels in another file."""
SETTLED_S = 2.0
"""A file that was written less than this before it was looked at may change again without a newer time stamp."""
STATE, KEY = 16, 32
"""Bytes of a state and of a key."""
NO_STATE, NO_KEY = bytes(STATE), bytes(KEY)


def states_of(data: Iterable[Item]) -> list[bytes]:
    """Return for each item which files it names, in which state, and what else it says, as a hash of `STATE` bytes.

    `NO_STATE` stands for an item of which that is not certain.
    """
    settled, seen = time.time() - SETTLED_S, dict[str, str]()  # the slices of a volume share a file

    def state(item: Item) -> bytes:
        try:
            for path in (paths := _paths(item)):
                if path not in seen:
                    seen[path] = ";".join(_state_of_file(file, settled) for file in _files(path))
            text = "|".join([*(seen[path] for path in paths), _rest(item)])
        except (OSError, TypeError, ValueError):
            return NO_STATE
        return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=STATE).digest()

    return [state(item) for item in data]


def _state_of_file(path: str, settled: float) -> str:
    facts = os.stat(path)
    if max(facts.st_mtime, facts.st_ctime) > settled:
        raise ValueError("it may still be changing")
    path = path if os.path.isabs(path) else os.path.abspath(path)  # the second is slow
    return f"{path} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def is_unchanged(item: Item, state: bytes, key: bytes) -> bool:
    """Tell whether an item's files are still what they were before they were decoded."""
    return states_of([item]) == [state] if state != NO_STATE else key_of(item, {}) == key


def key_of(item: Item, digests: dict[str, str]) -> bytes:
    """Return what the pixels of an item depend on, as a hash of `KEY` bytes; `NO_KEY` if a file is not there.

    Args:
        item: of a datalist.
        digests: remembers files from call to call, since the slices of a volume share one.
    """
    try:
        for path in (paths := _paths(item)):
            if path not in digests:
                digests[path] = repr([(os.path.relpath(file, path), sha256(file)) for file in _files(path)])
        return hashlib.sha256(repr([*(digests[path] for path in paths), _rest(item)]).encode()).digest()
    except (OSError, TypeError, ValueError):
        return NO_KEY


def _paths(item: Item) -> list[str]:
    image = item["image"]
    return [str(path) for path in (image if isinstance(image, list | tuple) else [image])]


def _files(path: str) -> list[str]:
    """Return a file itself, or all files below a folder."""
    if os.path.isdir(path):
        return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    if path.lower().endswith(DETACHED):
        raise ValueError("pixels in another file")
    return [path]


def _rest(item: Item) -> str:
    """Return what an item says beyond its name, its files and what is hidden, as JSON."""
    rest = {key: item[key] for key in item if key not in ("image", "id", *HIDDEN)}
    return json.dumps(rest, sort_keys=True) if rest else ""
