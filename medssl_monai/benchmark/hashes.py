"""What decides the result of a cell, as hashes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import medssl_monai
from medssl_monai.benchmark.grid import load_config
from medssl_monai.files import sha256

NOT_RUN = ("benchmark/", "report/", "cli/", "bundle/loop.py", "bundle/shipped.py", "__main__.py")
"""Parts of the package that no cell runs, or that decide none of its figures."""


@functools.cache
def code_sha256() -> str:
    """Return the hash of the sources of this package that a cell may run, whatever the commit is called or left out."""
    root = Path(medssl_monai.__file__).parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(NOT_RUN):
            content.update(f"{name}\0{sha256(path)}\n".encode())
    return content.hexdigest()


def config_sha256(bundle: Path, overlay: str | None = None) -> str:
    """Return the hash of a bundle's ``train.yaml`` with an overlay on top; comments and layout do not count."""
    return digest(load_config(bundle, overlay))


def contents(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what counts of values: of a file (a source, pretrained weights) its content, of a folder its name."""

    def content(value: Any) -> Any:
        if isinstance(value, Path) and value.is_dir():
            return value.name
        is_file = isinstance(value, str | Path) and Path(value).is_file()
        return sha256(value) if is_file else str(value) if isinstance(value, Path) else value

    return {key: content(value) for key, value in values.items()}


def digest(content: Any) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
