"""Who may write now: one process at a time changes a file, and one run at a time has a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medssl_monai.distributed import from_first, is_first
from medssl_monai.files import private_mode, remove_leftovers

try:
    import fcntl
except ImportError:  # Windows: as a file system without locks
    fcntl = None  # type: ignore[assignment]

RUN_LOCK = ".run.lock"
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_held: dict[str, _RunLock] = {}


@contextmanager
def changing(path: str | Path, seconds: float = 60.0) -> Iterator[None]:
    """Let nobody else change a file between reading and writing it.

    Everybody who reads, changes and writes the file must do it inside this; who only reads need not. The lock is that
    of the operating system on ``.NAME.lock`` beside the file, which stays there; it is free when its holder dies.

    Args:
        path: file to change; it need not exist.
        seconds: how long to wait for others.

    Raises:
        OSError: if others do not let go of it in time, or nothing can be locked there.
    """
    path = Path(os.path.realpath(path))
    name = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(name, timeout=seconds, mode=private_mode())
        lock.acquire()
    except Timeout as error:
        raise OSError(
            f"{path} is being changed by another process, and has been for {seconds:g} s; wait until that has ended, "
            "then start the same command again."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OSError(
            f"{path} cannot be locked ({error}), and without a lock what others write at the same time would be lost; "
            "keep it in a folder of your own, on a disk with locks."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def holding(*folders: str | Path) -> Iterator[None]:
    """Have folders for one run, and remove what a killed one left half written there.

    The first process of a run takes the lock and the others wait for what it says, so that all go on or none. Who
    holds a folder may take it again in the same thread: a loop has the folders of its rounds, and so have the trainings
    that it starts.

    The lock is that of the operating system on ``.run.lock`` in the folder, which says who has it: free when its
    holder dies, kept by one that is stopped. Where there are no such locks (some network file systems), the file
    itself is the lock; that of a process which has died on this very machine is taken over, any other is refused.
    On a file system whose locks are for each machine alone, runs of two machines do not see each other.

    Args:
        folders: that the run writes to; made if needed.

    Raises:
        OSError: if a run has one of them, in every process alike; it says which process, where and since when.
    """
    with ExitStack() as stack:
        refusal = None
        if is_first():
            try:
                for folder in folders:
                    stack.enter_context(_held_by_thread(Path(folder)))
            except OSError as error:
                refusal = str(error)
        if (refusal := from_first(refusal)) is not None:
            raise OSError(refusal)
        yield


def check_free(folder: str | Path) -> None:
    """Refuse to change files of a run that is at work.

    Raises:
        OSError: if a run has the folder; it says which process, where and since when.
    """
    if (Path(folder) / RUN_LOCK).exists():
        _RunLock(Path(folder)).release()


@contextmanager
def _held_by_thread(folder: Path) -> Iterator[None]:
    name = os.path.realpath(folder)
    own = _held.get(name)
    if own is not None and own.thread == threading.get_ident():
        yield
        return
    lock = _held[name] = _RunLock(folder)
    try:
        for place in (folder, folder / "rounds", folder / "queries"):
            remove_leftovers(place)
        yield
    finally:
        if _held.pop(name, None) is lock:  # not in a child
            lock.release()


class _InUseError(OSError):
    """Somebody else has it."""


class _RunLock:
    """The lock of a folder, taken.

    Args:
        folder: made if needed.

    Raises:
        OSError: if another has it, or nothing can be written there.

    Attributes:
        thread: that has it.
        handle: of the lock file.
    """

    def __init__(self, folder: Path) -> None:
        self.thread, self.path = threading.get_ident(), folder / RUN_LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.handle = self._take()
            os.truncate(self.handle, 0)
            os.write(self.handle, json.dumps(_own_facts()).encode())
        except _InUseError:
            raise
        except OSError as error:
            raise OSError(f"{folder} cannot be locked for this run: {error}; choose another `output_dir`.") from error

    def release(self) -> None:
        """Remove the file, if it is still ours, and free the lock with it."""
        with contextlib.suppress(OSError):
            if self._in_place(self.handle):
                self.path.unlink()
        os.close(self.handle)

    def _take(self) -> int:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        while True:
            with ExitStack() as stack:
                try:
                    handle, made = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, private_mode()), True
                except FileExistsError:
                    try:
                        handle, made = os.open(self.path, flags), False
                    except FileNotFoundError:
                        continue  # its holder has just ended
                stack.callback(os.close, handle)
                locked = _lock(handle)
                free = made or self._take_over(handle) if locked is None else locked
                if not free:
                    raise _InUseError(self._refusal(_facts(handle), locked is None))
                if self._in_place(handle):
                    stack.pop_all()
                    return handle

    def _in_place(self, handle: int) -> bool:
        """Whether the file has its name: its last holder may have removed it after we opened it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), self.path.stat(follow_symlinks=False))
        return False

    def _take_over(self, handle: int) -> bool:
        """Where the file is the lock: remove it, if its process has died on this machine; one of us at a time."""
        if not _has_died(_facts(handle)):
            return False
        removing = self.path.with_name(f"{RUN_LOCK}.removing")
        try:
            os.close(os.open(removing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, private_mode()))
        except FileExistsError:
            return False
        try:
            if self._in_place(handle):
                self.path.unlink()
        finally:
            removing.unlink()
        return True  # to be made anew, by whoever is the first

    def _refusal(self, facts: dict[str, Any], is_lock: bool) -> str:
        folder, who = self.path.parent, "another run"
        if facts:
            who = f"process {facts['pid']} on {facts['host']}, which has run there since {facts['since']}"
        words = f"{folder} is in use by {who}; wait until that has ended, or choose another folder (`output_dir`)."
        if is_lock and (facts.get("machine") != _machine() or _has_died(facts)):
            words += f" If you are sure that it has ended, free the folder: rm -f {shlex.quote(str(self.path))}*"
        return words


def _lock(handle: int) -> bool | None:
    """Lock an open file; False if another has it, None if there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        return None
    return True


def _own_facts() -> dict[str, Any]:
    pid = os.getpid()
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": pid, "host": socket.gethostname(), "since": since, "machine": _machine(), "start": _start(pid)}


def _facts(handle: int) -> dict[str, Any]:
    """Return what a lock file says of its holder; nothing if that has not come to writing it."""
    try:
        facts = json.loads(os.pread(handle, 4096, 0))
        whole = isinstance(facts, dict) and facts.keys() == _own_facts().keys() and isinstance(facts["pid"], int)
        return facts if whole else {}
    except (OSError, ValueError):
        return {}


def _machine() -> str:
    """Return which start of which machine, as far as process ids go: two containers are not the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When a process began, in ticks of its machine; empty if there is none, or nobody says."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _has_died(facts: dict[str, Any]) -> bool:
    """Whether the holder of a lock surely runs no longer: one of this machine, whose number none or another has."""
    return bool(facts) and facts["machine"] == _machine() != "" and facts["start"] != _start(facts["pid"])


def _forget() -> None:
    """Let a child, such as a loader's, hold nothing, so that its parent's locks do not outlive the parent."""
    for lock in _held.values():
        os.close(lock.handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
