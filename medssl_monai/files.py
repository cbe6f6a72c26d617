"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Whatever happens (a kill, a full disk), `path` holds the old content or the new one, never a part of it.

    Args:
        path: file to write; its folder is made if needed.
        write: is called with the temporary path.

    Raises:
        OSError: if the file could not be written; the previous content is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(
            f"could not write {path}: {error}. What was there before is unchanged; free some space or choose another "
            "`output_dir`, then start the same command again."
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since they are no JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def save_tensors(path: str | Path, content: Any) -> None:
    """`torch.save`, atomically."""
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load_tensors(path: str | Path) -> Any:
    """`torch.load` on the CPU with ``weights_only=True``, so that a file cannot run code.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"{path} cannot be read ({reason}). It is damaged or was not written by this package; restore it from a "
            "copy, or move it away to start anew."
        ) from error


def sha256(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
