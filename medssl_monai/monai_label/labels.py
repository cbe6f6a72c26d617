"""Classes and findings as clients and viewers hand them over: a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.monai_label.files import CLASS_BYTES, TooLargeError
from medssl_monai.names import NOTHING, find, fold
from medssl_monai.pool.pool import Label
from medssl_monai.pool.tables import parse_label
from medssl_monai.task import UNKNOWN, Task


def read_class(file: str | Path, classes: Sequence[str], task: Task | None = None) -> Label:
    """Return the class index or multi-hot list in a JSON file.

    The file is an object whose ``label`` is the name of the class or its index; or, for findings, a list of the names
    that are there (all others are absent), an object of names and ``true``, ``false`` or ``null`` for unknown, or a
    text as `medssl_monai.pool.tables.parse_label` takes it (``effusion; ?mass``, ``none``).

    Args:
        file: to read.
        classes: names of the classes or findings, in the order of their index.
        task: ``multiclass`` or ``multilabel``; None: as the file has it, where a name alone is a class.

    Raises:
        ValueError: if it says none of these; the message names what is accepted.
    """
    wanted = f"one of {list(classes)}" if task != "multilabel" else f"a list out of {list(classes)}"
    example = json.dumps({"label": classes[0] if task != "multilabel" else [classes[0]]})
    how = f"a label is a JSON object such as {example}"
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
    label = content["label"]
    if task != "multilabel" and isinstance(label, str):
        label = parse_label(label, classes)
    if task == "multilabel" or (task is None and not isinstance(label, int)):
        label = _findings(label, classes)
    if isinstance(label, list) and task != "multiclass" and any(value != UNKNOWN for value in label):
        return label
    if type(label) is int and task != "multilabel" and 0 <= label < len(classes):
        return label
    raise ValueError(f"the label is {content['label']!r}, and must be {wanted}; {how}.")


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


def _findings(value: Any, classes: Sequence[str]) -> list[int] | None:
    """Return a multi-hot list; None if `value` says none."""
    if isinstance(value, str):
        value = parse_label(value, classes, "multilabel")
    if isinstance(value, list) and value and all(type(state) is int for state in value):
        return value if len(value) == len(classes) and set(value) <= {-1, 0, 1} else None
    if isinstance(value, list):
        if not all(isinstance(name, str) for name in value):
            return None
        present = [] if [fold(name) for name in value] == [NOTHING] else value
        value = {**dict.fromkeys(classes, False), **{find(name, classes) or name: True for name in present}}
    if not isinstance(value, Mapping):
        return None
    named = {find(name, classes) or name: state for name, state in value.items()}
    if len(named) < len(value) or not named.keys() <= set(classes):
        return None
    states = [named.get(name) for name in classes]
    if not all(state is None or (isinstance(state, int) and -1 <= state <= 1) for state in states):
        return None
    return [UNKNOWN if state is None else int(state) for state in states]
