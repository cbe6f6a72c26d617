"""A guard against misspelt overrides, which MONAI lets pass in silence."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def check_overrides(names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Refuse an override that names nothing in a config; MONAI would let it pass in silence.

    Args:
        names: ids as on the command line, ``train::trainer::max_epochs`` or with ``#``.
        config: the config files, merged, without the overrides.

    Raises:
        ValueError: with the nearest name there is.
    """
    for name in names:
        here: Any = config
        for depth, key in enumerate(parts := re.split("::|#", name)):
            siblings = list(here) if isinstance(here, Mapping) else []
            if isinstance(here, list) and key.isdigit() and int(key) < len(here):
                here = here[int(key)]
            elif isinstance(here, Mapping) and key in here:
                here = here[key]
            elif isinstance(here, Mapping) and "_target_" in here and depth == len(parts) - 1:
                break  # one more argument of a component, which will check it itself
            else:
                near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.4)
                hint = f"; did you mean `--{'::'.join([*parts[:depth], near[0]])}`?" if near else ""
                raise ValueError(f"the override `--{name}` names nothing in the configuration{hint}")


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Apply `check_overrides` to the flags of a ``python -m monai.bundle run``; does nothing in another program.

    Args:
        arguments: the command line; default: this process's.

    Raises:
        ValueError: if a flag names nothing in the config files.
    """
    argv = list(sys.argv if arguments is None else arguments)
    if not (argv and Path(argv[0]).parent.name == "bundle" and "run" in argv[1:3]):
        return
    import monai.bundle
    from monai.bundle import ConfigParser

    flags: dict[str, Any] = {}
    for position, text in enumerate(argv):
        if match := re.match(r"--?([A-Za-z_][^=]*)(?:=(.*))?$", text, re.DOTALL):
            following = argv[position + 1] if position + 1 < len(argv) else ""
            flags[match[1].replace("-", "_")] = following if match[2] is None else match[2]
    if "args_file" in flags:
        flags = {**ConfigParser.load_config_file(flags["args_file"]), **flags}
    if "config_file" not in flags:
        return
    known = set(inspect.signature(monai.bundle.run).parameters)
    known |= set(inspect.signature(monai.bundle.ConfigWorkflow.__init__).parameters) | {"help", "workflow_name"}
    files = flags["config_file"]
    if isinstance(files, str):
        files = [part.strip(" '\"") for part in files.strip("[]()").split(",")]
    try:
        config = nested(ConfigParser.load_config_files(files))
    except ValueError as error:
        raise ValueError(f"`--config_file` {files}: {error}; name files of a bundle's configuration.") from error
    check_overrides([name for name in flags if name not in known], config)


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with keys such as ``train::handlers`` put into their places."""
    result: dict[str, Any] = {key: value for key, value in config.items() if "::" not in key}
    for key, value in config.items():
        here, parts = result, key.split("::")
        if len(parts) > 1:
            for part in parts[:-1]:
                child = here.get(part)
                here[part] = dict(child) if isinstance(child, Mapping) else {}
                here = here[part]
            here[parts[-1]] = value
    return result
