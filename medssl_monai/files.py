"""Files that are either whole or not there, and that only their owner can read."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import zipfile
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
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
"""Name of a file that `write_atomically` has not put in place yet."""


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


def remove_leftovers(folder: str | Path) -> None:
    """Remove the new files that writers left in a folder when they were killed; only for who alone writes there."""
    for path in Path(folder).glob(".*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


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
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{path} would hold half a sign of Unicode, which no file can; mend the text.") from None
    write_atomically(path, lambda file: file.write(content), private)


def write_json(path: str | Path, content: Any, private: bool = True) -> None:
    """Write JSON atomically; NaN and infinity are refused, since they are no JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", private)


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file, which others may have written or damaged; see `parse_json`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: beginning with `path`, if it holds no JSON object.
    """
    path = Path(path)
    check_file(path)
    limits.check("max_json_bytes", path.stat().st_size, str(path))
    content = parse_json(path.read_bytes(), str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, and holds a {type(content).__name__}.")
    return content


def parse_json(content: bytes, name: str) -> Any:
    """Content of JSON that others wrote, in UTF-8, UTF-16 or UTF-32.

    Args:
        content: of a file.
        name: begins the messages.

    Raises:
        ValueError: if it is no JSON, holds NaN or infinity, has a key twice in one object, or is larger or deeper than
            is read.
    """
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not valid JSON: it is no text in UTF-8; save it as UTF-8.") from None
    limits.check("max_values", sum(text.count(sign) for sign in ",:[{"), name)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{name} is not read: its lists and objects are too deep in each other.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not read: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        count = Counter(key for key, _ in pairs)
        twice = next(key for key in count if count[key] > 1)
        told = next((f", of {key[:80]!r} {value[:80]!r}," for key, value in pairs if isinstance(value, str)), "")
        raise ValueError(
            f"one object{told} has the key {twice[:80]!r} {count[twice]} times; leave the one that is meant."
        )
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no number; leave out what is unknown.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"it holds {text[:40]}, which is larger than any number that is counted with; mend it.")
    return value


def set_aside(path: str | Path) -> Path:
    """Rename a file that somebody may still need: ``q.csv`` becomes ``q.previous1.csv``, or the next that is free."""
    path = Path(path)
    kept = next(new for n in itertools.count(1) if not (new := path.with_suffix(f".previous{n}{path.suffix}")).exists())
    return path.rename(kept)


def save_tensors(path: str | Path, content: Any, private: bool = True) -> None:
    """`torch.save`, atomically."""
    write_atomically(path, lambda file: torch.save(content, file), private)


def load_tensors(path: str | Path) -> Any:
    """`torch.load` on the CPU with ``weights_only=True``, so that a file cannot run code.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or holds more than tensors and plain values.
    """
    check_file(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch writes the checksums, and does not look at them
                if sum(member.file_size for member in archive.infolist()) > Path(path).stat().st_size:
                    raise zipfile.BadZipFile("it would unpack to more than there is")
                if (bad := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"{path} cannot be read ({reason}). It is damaged or was not written by this package; restore it from a "
            "copy, or move it away to start anew."
        ) from error


def check_file(path: str | Path) -> None:
    """Refuse what is no file: devices and pipes never end.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if it is a folder, a device or a pipe.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{path} is no file; name one.")
        raise FileNotFoundError(f"there is no file {path}.")


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
