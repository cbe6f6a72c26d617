"""Pickles of nothing but plain values and arrays of bytes or whole numbers; no code of anybody's is called for them."""

from __future__ import annotations

import math
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai import limits
from medssl_monai.prepare.layouts.dataset import Array

LARGEST = 2**28
"""Bytes of a file; those of CIFAR-100 are the largest, with 155 million."""
MOST = 3_000_000
"""Steps of a pickle; one of 50,000 images has some 400,000."""
NUMPY = {
    **{f"numpy.{core}.multiarray _reconstruct": "_reconstruct" for core in ("core", "_core")},  # before, since NumPy 2
    **{f"numpy.{core}.numeric _frombuffer": "_frombuffer" for core in ("core", "_core")},
    **{"numpy ndarray": "ndarray", "numpy dtype": "dtype"},
}
"""What pickles of arrays name, and what it is called here; of these names, `_call` makes arrays by itself."""
TYPE = re.compile(r"b1|[iu][1248]")
VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "UNICODE"),
    *("BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"),
}
TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class ForbiddenError(ValueError):
    """A pickle asked for something that is not allowed, which the message names."""


class _Name(str):
    """One of `NUMPY`."""


class _Part:
    """A type or an array that the pickle builds: filled by BUILD."""

    def __init__(self, kind: str, dtype: np.dtype[Any] | None = None, array: Array | None = None) -> None:
        self.kind, self.dtype, self.array = kind, dtype, array


def read_pickle(path: Path) -> Any:
    """Read a pickle with an interpreter of its own, which knows no more than it needs for such values.

    Returns:
        The value; if it is a dictionary, its arrays are NumPy's. Keys are numbers, texts or bytes. Texts of Python 2
        are bytes.

    Raises:
        ForbiddenError: if it asks for anything that is no array.
        ValueError: if it is no such pickle, or too long.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"it has {size:,} bytes, and {LARGEST:,} are the most that is read")
    machine = _Machine()
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(path.read_bytes())):
            if step > MOST:
                raise ValueError(f"it has more than {MOST:,} steps")
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        (value,) = machine.stack
    except (IndexError, KeyError, TypeError, OverflowError, ArithmeticError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    return {key: _filled(part) for key, part in value.items()} if isinstance(value, dict) else value


class _Machine:
    """The interpreter of `read_pickle`: a stack of values, marks in it, and a memory."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one operation."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in VALUES:
                stack.append(argument)
            case _ if name in TEXTS:
                stack.append(argument.encode("latin-1"))
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case _ if name in EMPTY:
                stack.append(EMPTY[name]())
            case _ if name in TUPLES:
                stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._cut()))
            case "LIST":
                stack.append(self._cut())
            case "APPEND":
                value = stack.pop()
                _expect(list, stack[-1]).append(value)
            case "APPENDS":
                values = self._cut()
                _expect(list, stack[-1]).extend(values)
            case "DICT":
                stack.append(_pairs(self._cut()))
            case "SETITEM":
                values = [stack.pop(-2), stack.pop()]
                _expect(dict, stack[-1]).update(_pairs(values))
            case "SETITEMS":
                values = self._cut()
                _expect(dict, stack[-1]).update(_pairs(values))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_find(argument))
            case "STACK_GLOBAL":
                stack[-2:] = [_find(f"{_expect(str, stack[-2])} {_expect(str, stack[-1])}")]
            case "REDUCE":
                stack[-2:] = [_call(stack[-2], _expect(tuple, stack[-1]))]
            case "BUILD":
                _build(_expect(_Part, stack[-2]), _expect(tuple, stack.pop()))
            case _:
                raise ForbiddenError(f"the operation {name}")

    def _cut(self) -> list[Any]:
        """Take what lies above the last mark off the stack."""
        start = self.marks.pop()
        top = self.stack[start:]
        del self.stack[start:]
        return top


def _expect(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it is damaged: a {type(value).__name__} stands in the place of another value")
    return value


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Return a dictionary whose keys are plain: the hash of a tuple of tuples of tuples can take for ever."""
    for key in values[::2]:
        _expect((str, bytes, int), key)
    return dict(zip(values[::2], values[1::2], strict=True))


def _find(name: str) -> _Name:
    if name not in NUMPY:
        raise ForbiddenError(name.replace(" ", ".", 1))
    return _Name(NUMPY[name])


def _call(function: Any, arguments: tuple[Any, ...]) -> _Part:
    match (_expect(_Name, function), *arguments):
        case ("dtype", str() | bytes() as name, *_):
            return _Part("type", _type(name))
        case ("_reconstruct", _Name(), (0,), _):
            return _Part("array")
        case ("_frombuffer", bytes() | bytearray() as content, _Part() as part, tuple() as shape, "C" | "F" as order):
            return _Part("array", array=_array(content, part, shape, order))
    raise ForbiddenError(f"an array made by {function} in an unusual way")


def _build(part: _Part, state: tuple[Any, ...]) -> None:
    match (part.kind, *state):
        case ("type", 3 | 4, "|" | "<" | ">" | b"|" | b"<" | b">" as order, None, None, None, -1, -1, 0, *rest) if (
            not any(rest)
        ):
            sign = order.decode() if isinstance(order, bytes) else order
            part.dtype = np.dtype(sign + _filled_type(part).str[1:])
        case ("array", 1, tuple() as shape, _Part() as dtype, fortran, bytes() | bytearray() as content):
            part.array = _array(content, dtype, shape, "F" if fortran else "C")
        case _:
            raise ForbiddenError(f"an unusual {part.kind}, as of objects")


def _type(name: str | bytes) -> np.dtype[Any]:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    if not TYPE.fullmatch(text):
        raise ForbiddenError(f"an array of the type {text[:20]!r}")
    return np.dtype(text)


def _filled_type(part: _Part) -> np.dtype[Any]:
    if part.dtype is None:
        raise ValueError("it is damaged: an array stands in the place of a type")
    return part.dtype


def _array(content: bytes | bytearray, part: _Part, shape: tuple[Any, ...], order: Any) -> Array:
    dtype = _filled_type(part)
    sides = [int(_expect(int, side)) for side in shape]
    if min(sides, default=0) < 0 or len(sides) > 8 or math.prod(sides) * dtype.itemsize != len(content):
        raise ValueError(f"it is damaged: {len(content)} bytes for an array of the shape {tuple(sides)}")
    limits.check("max_rows", sides[0] if sides else 1, "an array in it")
    if not content:
        return np.empty(sides, dtype)
    return np.frombuffer(content, dtype).reshape(sides, order=order)


def _filled(value: Any) -> Any:
    """Return the array in the place of what stands for it."""
    if not isinstance(value, _Part):
        return value
    if value.array is None:
        raise ValueError("it is damaged: an array without content")
    return value.array
