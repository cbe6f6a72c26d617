"""Archives and pickles as bytes whose parts can be lied about."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from formats import Array, zeros_deflated
from spoil import NUMBERS, Chance, Payloads, spoil_bytes, text


class Evil:
    """Leaves the canary behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (str(Payloads.canary), "w")


class Evil2:
    """Likewise, by a shell."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {Payloads.canary}",)


class Forged:
    """Calls what arrays are put together from, with arguments that no array has."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> Any:
        parts = (self.function, self.arguments)
        return parts if self.state is None else (*parts, self.state)


def forged(chance: Chance) -> Any:
    """Something in a pickle that is no array, although it seems to be one."""
    rebuild: Any = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    kind = np.dtype(chance.choice(["u1", "<i8", "O", "U4", "M8[ns]", "V8", "f8"]))
    shape = chance.choice([(4, 3072), (2**40,), (-1,), (), (0, 3072), (10**6, 3072)])
    data: Any = chance.choice([b"", b"\x41" * 64, ["a"], None, "text", bytes(4 * 3072)])
    states = [(1, shape, kind, False, data), (1, shape, "u1", False, data), (chance.choice(NUMBERS), shape), None, ()]
    return chance.choice(
        [
            Evil(),
            Evil2(),
            Forged(rebuild, (np.ndarray, (0,), b"b"), chance.choice(states)),
            Forged(rebuild, (np.ndarray, shape, chance.choice([b"b", b"O", "O", b"U"])), chance.choice(states)),
            Forged(
                np.dtype, (chance.choice(["O", "O8", "u1", "U9999999", "V2000000000", [("a", "O")], 3]), False, True)
            ),
            Forged(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 63)),
            Forged(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 27)),
            Forged(np.ndarray, (shape, "O")),
            Forged(np.ndarray, ((2**33,), "u1")),
            Forged(bytearray, (chance.choice([2**33, 10]),)),
            np.array([[1, "a"]], dtype=object),
        ]
    )


def spoil_array(array: Array, chance: Chance, what: list[str]) -> Array:
    """Another type, shape or values."""
    way = chance.randrange(9)
    what.append(f"array: way {way}")
    if way == 0:
        kinds = ["f4", "f8", "i8", "c8", "?", ">u2", "f2"] if array.dtype.kind in "biuf" else []
        return array.astype(chance.choice([*kinds, "U3", "S2", "O"]))
    if way == 1:
        return array[: chance.randrange(len(array) + 1)] if array.ndim else array
    if way == 2:
        return array[..., None] if chance.random() < 0.5 else array[None]
    if way == 3:
        return array.T
    if way == 4:
        return array.reshape(-1)
    if way == 5:
        spoiled = array.astype("f8") if array.dtype.kind in "biuf" else array
        if spoiled.dtype.kind == "f" and spoiled.size:
            spoiled.flat[chance.randrange(spoiled.size)] = chance.choice([np.nan, np.inf, -1, 1e300, 0.5, 256])
        return spoiled
    if way == 6:
        return np.array(
            [chance.choice([Evil(), Evil2(), None, text(chance)]) for _ in range(max(1, len(array)))], object
        )
    if way == 7:
        names = [text(chance)[:200].encode("utf-8", "replace").decode() for _ in range(max(1, len(array)))]
        return np.array(names)
    return np.array(chance.choice([0, 5, -1, 2.5]))


def npy(array: Array, chance: Chance | None = None, what: list[str] | None = None) -> bytes:
    """Return an array as a file; with `chance`, its header may lie."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    encoded = content.getvalue()
    if chance is None or what is None:
        return encoded
    way = chance.randrange(6)
    what.append(f"npy: way {way}")
    head, rest = (
        encoded[10 : 10 + struct.unpack("<H", encoded[8:10])[0]],
        encoded[10 + struct.unpack("<H", encoded[8:10])[0] :],
    )
    if way == 0:
        shape = chance.choice(
            ["(10000000000,)", "(100000, 100000, 3)", "(-1,)", "()", "(2, 3, 4", "'a'", "(1e9,)", "(3.0,)"]
        )
        head = head[: head.index(b"'shape':")] + f"'shape': {shape}, }}".encode()
    elif way == 1:
        descr = chance.choice(["'|O'", "'<U100000000'", "'V0'", "[('a', '<f4')]", "'<m8'", "5", "'<f16'", "'|b1'"])
        head = b"{'descr': " + descr.encode() + b", 'fortran_order': False, 'shape': (4,), }"
    elif way == 2:
        evaluated = Payloads.evaluated()[1][1:]
        head = b"{'descr': " + evaluated.encode() + b", 'fortran_order': False, 'shape': (4,), }"
    elif way == 3:
        head = b"{'descr': " + b"[" * 3000 + b"]" * 3000 + b", 'fortran_order': False, 'shape': (4,), }"
    elif way == 4:
        return spoil_bytes(encoded, chance, what)
    else:
        return encoded[:6] + bytes([chance.choice([0, 2, 3, 9]), 0]) + encoded[8:]
    return encoded[:8] + struct.pack("<H", len(head) + 1) + head + b"\n" + rest


@dataclass(frozen=True)
class Member:
    """Of a zip file; what the directory says of it may differ from what it is."""

    name: bytes
    data: bytes
    method: int = 0
    size: int | None = None
    crc: int | None = None
    flags: int = 0x800
    mode: int = 0o100644
    packed: int | None = None


def archive(members: list[Member]) -> bytes:
    """Return a zip file."""
    body, directory = b"", b""
    for one in members:
        size = len(one.data) if one.size is None else one.size
        crc = zlib.crc32(one.data) if one.crc is None else one.crc
        packed = len(one.data) if one.packed is None else one.packed
        facts = struct.pack(
            "<HHHHHIIIHH", 20, one.flags, one.method, 0, 33, crc, packed, size % 2**32, len(one.name), 0
        )
        directory += (
            b"PK\1\2"
            + struct.pack("<H", 0x314)
            + facts
            + struct.pack("<HHHII", 0, 0, 0, one.mode << 16, len(body))
            + one.name
        )
        body += b"PK\3\4" + facts + one.name + one.data
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def bomb(name: bytes, size: int = 3 * 2**30) -> Member:
    """Three gigabytes of zeros in three megabytes."""
    return Member(name, zeros_deflated(size, -15), method=8, size=size, crc=0)


def spoil_members(members: list[Member], chance: Chance, what: list[str]) -> list[Member]:
    """Members with other names, sizes, methods, contents, twice, or as links."""
    members = list(members)
    k, way = chance.randrange(len(members)), chance.randrange(10)
    one = members[k]
    what.append(f"zip: way {way} at {one.name!r}")
    if way < 2:
        name = text(chance) if chance.random() < 0.3 else chance.choice(Payloads.paths())
        members[k] = replace(one, name=name.encode("utf-8", "replace")[:60_000])
    elif way == 2:
        members[k] = replace(one, size=chance.choice([0, 1, 2**31, 2**32 - 1, len(one.data) * 1000]))
    elif way == 3:
        members[k] = replace(one, crc=0)
    elif way == 4:
        members[k] = replace(one, method=chance.choice([1, 8, 9, 12, 14, 93, 99]))
    elif way == 5:
        members[k] = replace(one, flags=chance.choice([1, 0x801, 0, 8, 0x2000, 0xFFFF]))
    elif way == 6:
        members.insert(
            chance.randrange(len(members) + 1), replace(one, data=chance.choice([b"", one.data[::-1], b"\0"]))
        )
    elif way == 7:
        members.insert(0, Member(one.name, os.fsencode(Payloads.victim), mode=0o120777))
    elif way == 8:
        members[k] = bomb(one.name)
    else:
        members[k] = replace(one, data=spoil_bytes(one.data, chance, what))
    return members
