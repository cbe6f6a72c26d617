"""Files below a folder: which are images, and why the others are none."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medssl_monai.names import natural
from medssl_monai.readers.formats import image_format

FEW = 5
"""Names that stand for all files passed over for one reason."""
NOT_READ = "not a format that is read"


class ImageFiles(NamedTuple):
    """The files below a folder.

    Attributes:
        images: relative paths of what looks like an image, in natural order.
        passed_over: relative paths of all else, by reason.
    """

    images: list[str]
    passed_over: dict[str, list[str]]

    def unused(self, tables: Collection[str], others: Mapping[str, list[str]] | None = None) -> dict[str, list[str]]:
        """Return `passed_over` without the `tables` and lists that were read, and with `others`, by reason."""
        rest = {reason: [name for name in names if name not in tables] for reason, names in self.passed_over.items()}
        return {reason: names for reason, names in {**rest, **(others or {})}.items() if names}


def image_files(folder: Path) -> ImageFiles:
    """Find what looks like an image, and all else; links to folders are followed, but none is read twice.

    What lies in the folder itself is read before what is linked, so that it keeps its own path.
    """
    found = ImageFiles([], {})
    root = os.path.realpath(folder)
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        links: list[str] = []
        for name in sorted(waiting, key=natural):
            real = os.path.realpath(folder / name)
            if name and (root + os.sep).startswith(real.rstrip(os.sep) + os.sep):
                found.passed_over.setdefault("link to a folder that holds this one", []).append(name)
            elif real in seen:
                found.passed_over.setdefault("link to a folder that was read already", []).append(name)
            else:
                links += _walk(folder, name, seen, found)
        waiting = links
    return ImageFiles(sorted(found.images, key=natural), found.passed_over)


def _walk(root: Path, start: str, seen: set[str], found: ImageFiles) -> list[str]:
    """Take down what lies below one folder; returns the links to folders, which are not followed."""
    links, waiting = [], [(start, False)]
    while waiting:
        folder, hidden = waiting.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            found.passed_over.setdefault(f"folder that cannot be opened ({error.strerror})", []).append(folder)
            continue
        seen.add(os.path.realpath(root / folder))
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            is_hidden = hidden or entry.name.startswith(".")
            if entry.is_dir(follow_symlinks=False):
                real = os.path.realpath(entry.path)
                if real not in seen:
                    waiting.append((name, is_hidden))
            elif os.path.isdir(entry.path) and not is_hidden:  # `entry.is_dir` raises for a link to itself
                links.append(name)
            elif reason := "hidden" if is_hidden else _not_an_image(Path(entry.path)):
                found.passed_over.setdefault(reason, []).append(name)
            else:
                found.images.append(name)
    return links


def _not_an_image(path: Path) -> str | None:
    """Return why a file is passed over; None: it is an image."""
    try:
        str(path).encode()
        if path.is_symlink() and not path.exists():
            return "broken link"
        if not path.is_file():
            return "neither a file nor a folder"
        if path.name == "DICOMDIR":
            return "index of DICOM files"
        return None if image_format(path) else NOT_READ
    except UnicodeEncodeError:
        return "name that is no text in UTF-8"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"


def by_suffix(passed_over: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Count unused files, given by reason, by suffix and reason, and name the first few of each."""
    result: dict[str, dict[str, Any]] = {}
    for reason, names in passed_over.items():
        for name in sorted(names, key=natural):
            name = name.encode(errors="backslashreplace").decode()
            suffix = _suffix(name)
            entry = result.setdefault(suffix, {}).setdefault(reason, {"count": 0, "items": []})
            entry["count"] += 1
            entry["items"] += [name] if len(entry["items"]) < FEW else []
    return dict(sorted(result.items()))


def in_words(unused: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the result of `by_suffix` as a text of one line."""
    return "; ".join(
        f"{entry['count']} x {suffix}: {reason} ({', '.join(entry['items'])}{', ...' * (entry['count'] > FEW)})"
        for suffix, reasons in unused.items()
        for reason, entry in reasons.items()
    )


def _suffix(name: str) -> str:
    suffix = re.search(r"(?<=[^/.])(\.nii)?\.[^./\s]{1,8}$", name)
    return suffix[0].lower() if suffix else "without suffix"
