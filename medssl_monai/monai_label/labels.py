"""Classes and findings as clients and viewers hand them over: a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.kinds import DEFAULT, KINDS, Kind, Label
from medssl_monai.monai_label.files import CLASS_BYTES, TooLargeError


def read_class(file: str | Path, kind: Kind | None, names: Sequence[str] = ()) -> Label:
    """Return the label in a JSON file.

    The file is an object whose ``label`` is what `medssl_monai.kinds.Kind.parse` takes: of a class its name or index;
    of findings a list of the names that are there (all others are absent), an object of names and ``true``, ``false``
    or ``null`` for unknown, or a text such as ``effusion; ?mass`` or ``none``.

    Args:
        file: to read.
        kind: what the label must be of; None: as the file has it, where a name alone is a class.
        names: of the classes or findings, in the order of their index, where `kind` is None.

    Raises:
        ValueError: if it says none of these; the message names what is accepted.
    """
    possible = [one(tuple(names)) for one in dict.fromkeys((DEFAULT, *KINDS.values()))]
    kinds = [one for one in possible if one.cases is not None] if kind is None else [kind]
    how = f"a label is a JSON object such as {json.dumps({'label': kinds[0].example})}"
    try:
        content = json.loads(_text(Path(file)), object_pairs_hook=_object)
    except TooLargeError:
        raise
    except _TwiceError as error:
        raise ValueError(f"the file has {error.args[0]!r} twice; {how}.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"the file is no JSON; {how}.") from None
    if not isinstance(content, Mapping) or "label" not in content:
        raise ValueError(f"the file has no 'label'; {how}.")
    reason = ""
    for one in kinds:
        try:
            return one.parse(content["label"])
        except ValueError as error:
            reason = reason or str(error)
    raise ValueError(f"the label {reason}; {how}.")


class _TwiceError(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        content = stream.read(CLASS_BYTES + 1)
    if len(content) > CLASS_BYTES:
        raise TooLargeError(f"the file has more than the {CLASS_BYTES:,} bytes that a class or findings take.")
    return content.decode("utf-8")
