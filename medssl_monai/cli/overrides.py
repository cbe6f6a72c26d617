"""Flags of the command line that override a bundle's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def parse_overrides(flags: Sequence[str]) -> dict[str, Any]:
    """Return ``--key value`` pairs as values by key, read as YAML.

    Raises:
        ValueError: if a flag has no value, or one that is no YAML.
    """
    import yaml

    values: dict[str, Any] = {}
    flags = [part for flag in flags for part in (flag.split("=", 1) if flag.startswith("--") else [flag])]
    for position in range(0, len(flags), 2):
        name = flags[position]
        if not name.startswith("--") or position + 1 == len(flags):
            raise ValueError(f"{name!r} must be a flag with a value, as in `--labels 20`.")
        text = flags[position + 1]
        refers = text.startswith(("@", "%", "$"))  # references, macros and expressions of MONAI are no YAML
        try:
            values[name[2:]] = text if refers else None if text == "None" else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ValueError(f"the value of {name}, {text[:80]!r}, is no YAML; put quotes around a text.") from None
    return values
