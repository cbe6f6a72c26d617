"""Decoded images on disk, shared by all runs of a machine.

The images of one list are one file, a *pack*: ``<folder>/<transform>/<images>.npy``, a NumPy array that is mapped into
memory, so that it may be larger than that, and after it a table of what each image was made from. The two parts of the
name are hashes: of the transform (`medssl_monai.data.fingerprint`), and of the content of all files and of what else
the items say. A file or transform that changes has another name, so nothing is ever out of date; nothing names a
person, a path or an id.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.data.fingerprint import NotCacheableError, fingerprint
from medssl_monai.data.item_files import KEY, NO_KEY, NO_STATE, STATE, is_unchanged, key_of, states_of
from medssl_monai.data.packs import END, Array, Pack
from medssl_monai.files import write_atomically

logger = logging.getLogger(__name__)

Rows = Callable[[Mapping[int, Array]], Iterator[Array | None]]
"""Gives the image of every item in order, None where it cannot be read; those in the mapping are known already."""

FORMAT = 1
LIMIT_GB = 20.0
OWN_FILE = re.compile(r"[0-9a-f]{64}/(\.[0-9a-f]{64}\.npy\.[0-9a-f]{16}\.tmp|[0-9a-f]{64}\.npy)")
"""Packs, relative to the root; whatever else is there is not ours to delete."""


class ImageCache:
    """The packs of one transform.

    A pack that is there is read without a lock; who makes one holds a lock, and others wait for it. Images that another
    pack of the same transform has are copied from there. Files count as unchanged, and are not read again, as long as
    path, inode, size and both time stamps (content and inode) are as they were. Not noticed: on Windows, which has no
    time stamp of the inode, new content of the same size under a time stamp that was set back.

    Args:
        folder: root of the cache, shared by all transforms; made with mode 0700.
        transform: deterministic.
        dtype: of the images that it is to make.

    Raises:
        NotCacheableError: if the transform has no fingerprint.
    """

    def __init__(self, folder: str | Path, transform: Any, dtype: str) -> None:
        self.root = Path(folder)
        self.folder = self.root / fingerprint((FORMAT, dtype, transform))

    def images(self, data: Sequence[Item], rows: Rows) -> Array | None:
        """Return the images of `data`, ``(N, C, *spatial)``; zeros where one cannot be read, None if none can.

        Images that could not be read are tried again each time, so that their reasons are those of today.

        Args:
            data: items.
            rows: makes what is not there yet.

        Raises:
            NotCacheableError: if an image was made from something else than the files that its item names.
            OSError: if there is no pack, and none can be written.
        """
        states = states_of(data)
        keys = self._keys(data, states)
        path = self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()}.npy"
        pack = _usable(path, rows)
        if pack is None:
            for folder in (self.root, self.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(self.folder / "lock"):
                pack = _usable(path, rows)
                if pack is None and not self._write(path, data, states, keys, rows):
                    return None
            pack = pack or Pack.open(path)
            if pack is None:
                raise OSError(errno.EIO, "what was written cannot be mapped into memory")
        else:
            logger.info(f"{len(data) - pack.keys.count(NO_KEY)} of {len(data)} images are in the cache.")
        with suppress(OSError):  # somebody else's, who lets us read
            os.utime(path)
        return pack.images

    def _keys(self, data: Sequence[Item], states: Sequence[bytes]) -> list[bytes]:
        """Return what the pixels of each item depend on, as a hash; `NO_KEY` if its file is not there."""
        wanted = {state for state in states if state != NO_STATE}
        known: dict[bytes, bytes] = {}
        for pack in self._packs():
            if wanted <= known.keys():
                break
            known.update((s, key) for s, key in zip(pack.states, pack.keys, strict=True) if s != NO_STATE)
        digests: dict[str, str] = {}
        return [known.get(state) or key_of(item, digests) for item, state in zip(data, states, strict=True)]

    def _packs(self) -> Iterator[Pack]:
        """Yield the packs of this transform, the last used first."""
        for path in sorted(self._own_files(f"{self.folder.name}/*.npy"), key=_last_use, reverse=True):
            pack = Pack.open(path)
            if pack is not None:
                yield pack

    def _own_files(self, pattern: str) -> list[Path]:
        found = self.root.glob(pattern)
        return [path for path in found if OWN_FILE.fullmatch(path.relative_to(self.root).as_posix())]

    def _write(
        self, path: Path, data: Sequence[Item], states: Sequence[bytes], keys: Sequence[bytes], rows: Rows
    ) -> bool:
        """Write a pack; tell whether there was an image to write."""
        known = self._copies(keys)
        stream = rows(known)
        head: list[Array | None] = []  # up to the first image, whose shape is that of all
        for row in stream:
            head.append(row)
            if row is not None:
                break
        if not head or head[-1] is None:
            return False
        first = head[-1]
        header = io.BytesIO()
        shape = {"descr": first.dtype.str, "fortran_order": False, "shape": (len(data), *first.shape)}
        np.lib.format.write_array_header_1_0(header, shape)
        self._make_room(header.tell() + len(data) * (first.nbytes + STATE + KEY) + END)
        logger.info(f"{len(known)} of {len(data)} images are in the cache, the others are read.")
        table: list[bytes] = []

        def write(file: BinaryIO) -> None:
            blank, crc = bytes(first.nbytes), zlib.crc32(header.getvalue())
            file.write(header.getvalue())
            for position, row in enumerate(itertools.chain(head, stream)):
                pixels = blank if row is None else row.tobytes()
                file.write(pixels)
                crc = zlib.crc32(pixels, crc)
                state, key = states[position], keys[position]
                if row is not None and key == NO_KEY:
                    raise NotCacheableError("an image is made from something else than the files of its item")
                kept = row is not None and (position in known or is_unchanged(data[position], state, key))
                table.append(state + key if kept else NO_STATE + NO_KEY)
            end = b"".join(table) + crc.to_bytes(4)
            file.write(end + zlib.crc32(end).to_bytes(4))

        try:
            write_atomically(path, write)
        finally:
            for left in self._own_files(f"{self.folder.name}/*.tmp"):  # of a run that was killed; we have the lock
                left.unlink(missing_ok=True)
        return True

    def _copies(self, keys: Sequence[bytes]) -> dict[int, Array]:
        """Return the images, by position, that packs of this transform have."""
        missing: dict[bytes, list[int]] = {}
        for position, key in enumerate(keys):
            if key != NO_KEY:
                missing.setdefault(key, []).append(position)
        known: dict[int, Array] = {}
        for pack in self._packs():
            if missing.keys().isdisjoint(pack.keys) or not pack.is_sound():
                continue
            for row, key in enumerate(pack.keys):
                known.update((position, pack.images[row]) for position in missing.pop(key, ()))
        return known

    def _make_room(self, size: int) -> None:
        """Delete what was not used for longest, of any transform, until `size` bytes fit into the limit.

        A process that has a deleted pack mapped goes on reading it.
        """
        limit = _limit()
        if size > limit:
            raise OSError(
                errno.EFBIG,
                f"{size / 1e9:.1f} GB are more than the {limit / 1e9:g} GB of MEDSSL_CACHE_GB; set it higher",
            )
        files = sorted(self._own_files("*/*"), key=_last_use)
        sizes = {path: _size(path) for path in files}
        total = sum(sizes.values())
        for path in files:
            if total + size <= limit:
                break
            with suppress(OSError):  # Windows keeps what is in use
                path.unlink()
                total -= sizes[path]
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise OSError(errno.ENOSPC, f"{size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free")


def _usable(path: Path, rows: Rows) -> Pack | None:
    """Return the pack at `path`, if it has every image that can be read."""
    pack = Pack.open(path)
    if pack is None or not pack.is_sound():
        return None
    if NO_KEY in pack.keys:
        known = {row: pack.images[row] for row, key in enumerate(pack.keys) if key != NO_KEY}
        if any(image is not None for row, image in enumerate(rows(known)) if row not in known):
            return None
    return pack


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process reads images for the cache; waiting for it.")
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, f"the file system has no locks ({error})") from error
    try:
        yield
    finally:
        lock.release()


def _limit() -> float:
    """Return the most bytes that the cache may hold."""
    text = os.environ.get("MEDSSL_CACHE_GB", "")
    try:
        limit = float(text or LIMIT_GB)
    except ValueError:
        raise ValueError(
            f"the environment variable MEDSSL_CACHE_GB must be a number of gigabytes, got {text!r}."
        ) from None
    return limit * 1e9


def _last_use(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
