"""Files that are either whole or not there, and that only their owner can read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from medssl_monai import limits

PRIVATE = 0o600
"""Files that name a person's images, or show them, are for their owner alone."""
MODE_VARIABLE = "MEDSSL_FILE_MODE"
"""Environment variable with another mode for private files, octal, such as 640."""


def write_atomically(
    path: str | Path, write: Callable[[BinaryIO], object], private: bool = True, synced: bool = True
) -> None:
    """Let `write` fill a new file beside `path`, then put it in place in one step.

    Whatever happens (a kill, a full disk), `path` holds the old content or the new one, never a part of it. The new
    file has a name that nobody can guess and no link is followed to it; file and folder are on the disk at the end.

    Args:
        path: file to write; its folder is made if needed.
        write: is called with the new file, open for binary writing.
        private: readable by the owner alone (mode 0600, or what the environment variable ``MEDSSL_FILE_MODE`` says);
            else as the umask has it, for what is passed on: weights, bundles, figures.
        synced: False leaves it to the system when the file is on the disk, for thousands that can be made anew.

    Raises:
        OSError: if the file could not be written; the previous content is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(temporary, flags, private_mode() if private else 0o666)
        with os.fdopen(handle, "w+b") as file:
            if private and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), private_mode())  # the umask may have taken what was asked for
            write(file)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if synced:
            _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise OSError(
            f"could not write {path}: {error}. What was there before is unchanged; free some space or choose another "
            "`output_dir`, then start the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def private_mode() -> int:
    """Mode of private files.

    Raises:
        ValueError: if the environment variable holds no mode that lets the owner read and write.
    """
    text = os.environ.get(MODE_VARIABLE, "")
    try:
        mode = int(text, 8) if text else PRIVATE
    except ValueError:
        mode = 0
    if not 0 <= mode <= 0o666 or mode & 0o600 != 0o600:
        raise ValueError(f"the environment variable {MODE_VARIABLE} must be a mode such as 600 or 640, got {text!r}.")
    return mode


def write_text(path: str | Path, text: str, private: bool = True) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")), private)


def write_json(path: str | Path, content: Any, private: bool = True) -> None:
    """Write JSON atomically; NaN and infinity are refused, since they are no JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", private)


def read_json(path: str | Path) -> Any:
    """Read a JSON file that others wrote.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is none, too large or nested too deeply, or an object has a key twice; it begins with the
            file's name.
    """
    path = Path(path)
    limits.check("max_json_bytes", path.stat().st_size, path.name)
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no readable JSON ({error}); restore it from a copy.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has the key {twice!r} twice")
    return content


def save_tensors(path: str | Path, content: Any, private: bool = True) -> None:
    """`torch.save`, atomically."""
    write_atomically(path, lambda file: torch.save(content, file), private)


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


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file last; not every system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
