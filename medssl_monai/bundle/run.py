"""Runs of a bundle: the workflow, and where it leaves its files."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl_monai import names
from medssl_monai.bundle.metadata import metadata_of
from medssl_monai.bundle.overrides import check_overrides, nested
from medssl_monai.data.datalist import Datalist


def workflow(
    config_files: Sequence[str | Path],
    workflow_type: str = "train",
    logging_file: str | bool | None = None,
    **overrides: Any,
) -> Any:
    """Return a `monai.bundle.ConfigWorkflow` with checked overrides.

    Args:
        config_files: of one bundle; later ones are overlays.
        workflow_type: ``train`` or ``infer``.
        logging_file: None: the bundle's; False: leave logging as it is.
        overrides: values by id.

    Raises:
        ValueError: if an override names nothing in the config files, or the bundle's metadata are damaged.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow

    files = [str(path) for path in config_files]
    metadata_of(Path(files[0]).parents[1])  # MONAI would evaluate what it says
    check_overrides(overrides, nested(ConfigParser.load_config_files(files)))
    return ConfigWorkflow(files, workflow_type=workflow_type, logging_file=logging_file, **overrides)


def path_value(path: str | Path) -> str:
    """Return a path as the value of a configuration: absolute, since MONAI evaluates what begins with ``$`` or ``@``.

    Raises:
        ValueError: if it holds a sign that MONAI replaces.
    """
    text = str(Path(path).absolute())
    if found := names.REFERENCE.search(text) or re.search("#", text):
        raise ValueError(
            f"{text} holds {found[0]!r}, which MONAI's configurations replace; give the folder another name."
        )
    return text


def output_dir(bundle_root: str | Path, data: Sequence[Any]) -> str:
    """Return the folder in which a training leaves its state and report: ``eval`` in the bundle.

    For a plain list (from another tool, such as MONAI Label) a new folder in there: the next list is that of another
    training, which must not be taken for this one, broken off.
    """
    folder = Path(bundle_root) / "eval"
    if isinstance(data, Datalist):
        return str(folder)
    return str(folder / (os.environ.get("TORCHELASTIC_RUN_ID") or time.strftime("%Y-%m-%d_%H-%M-%S")))
