"""Archives of others: what they say of themselves is checked before any of it takes memory or disk."""

from __future__ import annotations

import io
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from medssl_monai import limits
from medssl_monai.names import fold, problem_of

BLOCK = 2**20
ENTRY = 256
"""Bytes that a file takes in the directory of an archive, generously; the least are 46."""
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}


class Archive:
    """A ``.zip`` file, or an ``.npz``, which is one; to be used in a ``with`` statement.

    Args:
        path: of the file.

    Attributes:
        name: of the file, which begins all messages.
        members: what it holds, by name, without folders.

    Raises:
        ValueError: if it is damaged, or holds too many files.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.size, self._wanted = path.name, path.stat().st_size, 0
        self._file = _Bounded(path)
        try:
            self._zip = zipfile.ZipFile(self._file)
        except Exception as error:
            self._file.close()
            if isinstance(error, _TooManyError):
                raise ValueError(str(error)) from None
            raise ValueError(f"{self.name} is cut short or damaged ({error}); download or copy it anew.") from error
        files = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        self.members = {info.filename: info for info in files}
        self._alike = Counter(fold(info.filename) for info in files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()

    def check(self, names: Iterable[str], most: str = "max_file_bytes") -> int:
        """Refuse members that cannot be unpacked safely, by name.

        Args:
            names: of the members that are wanted now; they add up with those before.
            most: bound of a single one.

        Returns:
            How many bytes all that were checked say to have.

        Raises:
            ValueError: if one has a name that leaves the folder or that not every system can keep, shares its name with
                another, is a link, is encrypted, is packed in an unknown way, or if one or all are too large.
        """
        for name in names:
            info = self.members[name]
            limits.check(most, info.file_size, f"{self.name}: {name!r}")
            if problem := self._problem(info):
                raise ValueError(f"{self.name} holds {name!r}, which {problem}.")
            self._wanted += info.file_size
        limits.check_unpacked(self._wanted, self.size, self.name)
        return self._wanted

    def _problem(self, info: zipfile.ZipInfo) -> str | None:
        name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in name or ":" in name:
            return "would be written outside the output folder, or by another name; unpack and pack it anew"
        if "\0" in info.orig_filename:
            return "has a longer name that is not shown; pack it anew"
        if problem := problem_of(name):
            return f"{problem}; rename it"
        if any(part.startswith(".") or part != part.rstrip(". ") for part in parts):
            return "has a part that begins or ends with a dot or ends with a blank; rename it"
        if self._alike[fold(name)] > 1:
            return "is there more than once, or has a name that differs in case or accents alone; rename one of them"
        if kind not in (0, stat.S_IFREG):
            return "is a link or a device and no file; pack what it stands for"
        if info.flag_bits & 1:
            return "is encrypted; unpack it with its password"
        return None if info.compress_type in METHODS else "is packed in a way that is not known; pack it as usual"

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the content of a member, piece by piece; no more than it says to hold.

        Raises:
            ValueError: if it is damaged.
        """
        info, count = self.members[name], 0
        try:
            with self._zip.open(info) as member:
                while block := member.read(BLOCK):
                    count += len(block)
                    yield block
            if count != info.file_size:
                raise zipfile.BadZipFile(f"{count} bytes instead of {info.file_size}")
        except Exception as error:  # damage can raise nearly anything
            raise ValueError(
                f"{self.name}: {name!r} is damaged ({error}); download or copy the archive anew."
            ) from error

    def read(self, name: str) -> bytearray:
        """Return a whole member, once `check` has passed it."""
        content, end = bytearray(self.members[name].file_size), 0
        for block in self.blocks(name):
            content[end : end + len(block)] = block
            end += len(block)
        return content


class _TooManyError(ValueError):
    """The directory of an archive is too long."""


class _Bounded(io.FileIO):
    """A file that refuses to read more at once than a bearable directory has: `zipfile` takes that in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            limits.check("max_files", max(size or 0, 0) // ENTRY, Path(str(self.name)).name)
        except ValueError as error:
            raise _TooManyError(str(error)) from None
        return super().read(-1 if size is None else size) or b""
