"""How much of what others made is taken in, before memory or disk is given to it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import NamedTuple

PACKED_TIMES, PACKED_BYTES = 100, 2**28
"""What unpacks to more than so many bytes, and to more than so many times its size, is no set of images."""


class Limit(NamedTuple):
    """A bound: its usual value, and what is counted."""

    usual: int
    unit: str


LIMITS = {
    "max_classes": Limit(1_000, "classes"),
    "max_rows": Limit(5_000_000, "rows"),
    "max_table_bytes": Limit(2**28, "bytes of text"),
    "max_json_bytes": Limit(2**27, "bytes of JSON"),
    "max_values": Limit(10_000_000, "keys and values of JSON"),
    "max_voxels": Limit(2**29, "pixels or voxels"),  # a CT of 512 x 512 x 2,048
    "max_bytes": Limit(2**33, "bytes unpacked"),
    "max_files": Limit(300_000, "files"),
    "max_file_bytes": Limit(2**29, "bytes in one file"),
}
"""By name: ``--max_rows N`` of `medssl prepare`, the environment variable ``MEDSSL_MAX_ROWS`` elsewhere."""

_raised: ContextVar[Mapping[str, int]] = ContextVar("limits", default=MappingProxyType({}))


@contextmanager
def raised(**limits: int | None) -> Iterator[None]:
    """Other bounds than usual while something is read; None leaves a bound as it is.

    Raises:
        ValueError: if a bound is no whole number above 0.
    """
    own = {name: _bound(value, f"`{name}`") for name, value in limits.items() if value is not None}
    token = _raised.set({**_raised.get(), **own})
    try:
        yield
    finally:
        _raised.reset(token)


def limit(name: str) -> int:
    """Return the bound that holds now: as `raised`, else as the environment says, else the usual one.

    Raises:
        ValueError: if the environment variable of that name holds no whole number above 0.
    """
    variable = f"MEDSSL_{name.upper()}"
    own, told = _raised.get().get(name), os.environ.get(variable)
    if own is not None:
        return own
    return _bound(told, f"the environment variable {variable}") if told else LIMITS[name].usual


def _bound(value: object, what: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise ValueError(f"{what} must be a whole number above 0, got {value!r}.")
    return int(text)


def check(name: str, count: int, what: str) -> None:
    """Refuse what is larger than a bound.

    Args:
        name: of the bound.
        count: how many there would be.
        what: begins the message, such as the name of a file.

    Raises:
        ValueError: if `count` is above the bound, or below 0; it names what raises the bound.
    """
    unit = LIMITS[name].unit
    if count < 0:
        raise ValueError(f"{what} says that it holds {count} {unit}; it is damaged.")
    if count > (most := limit(name)):
        raise ValueError(
            f"{what} holds {count:,} {unit}, and {most:,} are the most that is read; if this is meant, raise the bound "
            f"with `--{name} {count}` of `medssl prepare`, or with the environment variable MEDSSL_{name.upper()}."
        )


def check_voxels(shape: Sequence[int], what: str) -> None:
    """Refuse an image by the shape that its header tells, all axes counted; see `check`."""
    negative = [side for side in shape if side < 0]
    check("max_voxels", negative[0] if negative else math.prod(int(side) for side in shape), what)


def check_unpacked(count: int, packed: int, what: str) -> None:
    """Refuse an archive by the bytes that it says to unpack to, and by how much more than its own size that is.

    Args:
        count: bytes unpacked.
        packed: bytes of the archive.
        what: begins the message.
    """
    check("max_bytes", count, what)
    if count > PACKED_BYTES and count > PACKED_TIMES * packed:
        raise ValueError(
            f"{what} would unpack to {count:,} bytes, {count // max(packed, 1):,} times its size, as files do that are "
            "made to fill a disk; if this is meant, unpack it yourself."
        )
