"""What reaches the app: from which hosts, and what a request may say.

MONAI puts some values of a request into a configuration, which it evaluates, MONAI Label others into paths and into the
environment of its processes. So a request says what is named here and nothing else, each value of its own type.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PREDICTIONS = "original"
"""Tag of predictions; what a model says never takes the place of a reader's label."""


class Field(NamedTuple):
    """What a value of a request is, in words, and a function that gives it; None: it is none."""

    words: str
    read: Callable[[Any], Any]


def _text(value: Any) -> str | None:
    plain = isinstance(value, str) and len(value) <= 256 and value.isprintable()
    return str.__str__(value) if plain else None  # of an enumeration, its value


def _switch(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    """Viewers send what was typed into a field."""
    text = str(value) if type(value) in (int, str) else ""
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else None


def _images(value: Any) -> Any:
    named = isinstance(value, list) and all(_text(name) for name in value)
    return value if named else _one_of("all", "labeled", "unlabeled").read(value)


def _one_of(*choices: str) -> Field:
    words = " or ".join(repr(choice) for choice in choices)
    return Field(words, lambda value: next((one for one in choices if isinstance(value, str) and value == one), None))


TEXT, SWITCH = Field("a text of one line, at most 256 characters", _text), Field("true or false", _switch)
COUNT = Field("a whole number from 0", _count)
GPUS = Field(
    "'all' or numbers such as '0,1'",
    lambda value: value if isinstance(value, str) and re.fullmatch(r"all|\d+(,\d+)*", value, re.ASCII) else None,
)
COMMON = {"client_id": TEXT, "device": TEXT, "gpus": GPUS, "multi_gpu": SWITCH}
"""`known_device` sees to what a device is."""
INFER = {
    **COMMON,
    **{"model": TEXT, "image": TEXT, "save_label": SWITCH, "label_tag": _one_of(PREDICTIONS)},
    "result_extension": _one_of("", ".nii", ".nii.gz", ".nrrd", ".png"),
    **{"result_dtype": TEXT, "result_compress": SWITCH, "restore_label_idx": SWITCH},
    "logging": _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
}
"""MONAI Label's viewers ask for a type and compression as well; a mask is of 8 bits all the same."""
FIELDS: dict[str, dict[str, Field]] = {
    "infer": INFER,
    "batch_infer": {
        **INFER,
        **{"images": Field("'all', 'labeled', 'unlabeled' or a list of ids", _images)},
        **{"max_workers": COUNT, "max_batch_size": COUNT},
    },
    "train": {
        **COMMON,
        **{
            "model": TEXT,
            "pretrained": SWITCH,
            "max_epochs": Field("a whole number from 1", lambda value: _count(value) or None),
        },
    },
    "scoring": {**COMMON, "method": TEXT, "force": SWITCH},
    "activelearning": {"client_id": TEXT, "strategy": TEXT},
}


def checked(kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with nothing but known values of their own types; those that are null are left out.

    Args:
        kind: a key of `FIELDS`.
        request: as it came.

    Raises:
        ValueError: with the first name or value that is refused, and what is taken.
    """
    result = {}
    for name, value in request.items():
        if name not in FIELDS[kind]:
            raise ValueError(f"{name[:40]!r} is nothing that {kind} takes; it takes {', '.join(sorted(FIELDS[kind]))}.")
        if value is None:
            continue
        field = FIELDS[kind][name]
        result[name] = field.read(value)
        if result[name] is None:
            raise ValueError(f"`{name}` must be {field.words}, got {value!r:.60}.")
    return result


def known_device(device: Any) -> str:
    """Return a device as torch names it, since a configuration evaluates this value.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(device, str) or not re.fullmatch(r"cpu|mps|cuda(:\d{1,2})?", device, re.ASCII):
        raise ValueError(f"`device` must be 'cpu', 'cuda' or 'cuda:0', or a name that /info/ has, got {device!r:.60}.")
    return device


def served_at(argv: Sequence[str]) -> str | None:
    """Return the host that ``monailabel start_server`` listens at, by its own reading of its command line.

    Args:
        argv: of this process; MONAI Label keeps the host nowhere else.

    Returns:
        None if the server was started in another way.
    """
    if not argv or Path(argv[0]).parts[-2:] != ("monailabel", "main.py"):
        return None
    from monailabel.main import Main

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            arguments, _ = Main().args_parser().parse_known_args(argv[1:])
    except SystemExit:
        return None
    return getattr(arguments, "host", None)


def check_host(host: str | None) -> None:
    """Refuse a host that others than this machine may reach, or that is not known.

    Raises:
        ValueError: with what to do.
    """
    if host == "localhost":
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host or "").is_loopback:
            return
    where = f"listens at {host!r}" if host is not None else "may listen anywhere, for all that this app can learn"
    raise ValueError(
        f"the server {where}, and whoever reaches it reads every study and changes every label, without a password. "
        "Start it with `--host 127.0.0.1`, and put a proxy with a password before it if others are to use it "
        "(docs/monai-label.md); or say that this is meant: `--conf public true`."
    )
