"""Try one input in a process forked from this one, and watch it: time, memory, signals, traces that it leaves."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SECONDS, MEMORY, DISK = 10.0, 2 * 2**30, 2**29
"""Bounds of one input: time, resident bytes, bytes of one file that it writes."""
Expected = Literal["truth", "truth or refusal", "refusal", "anything"]
ANSWERS = (ValueError, OSError)
"""What a reader may raise; `FileNotFoundError` and `UnreadableImageError` are among them."""


class RefusedError(Exception):
    """A command ended with this message and a status other than 0."""


@dataclass
class Door:
    """One way into the package, and what should come of it.

    Attributes:
        name: of the function or command.
        call: gives what was understood, as plain values.
        names: a refusal has to name one of them: files, or ids where paths may not be named.
        expected: whether `call` must give `truth`, may refuse, must refuse, or may give anything.
        truth: as `call` should give it.
        also: documented exceptions beyond `ANSWERS`.
    """

    name: str
    call: Callable[[], Any]
    names: tuple[str, ...] = ()
    expected: Expected = "anything"
    truth: Any = None
    also: tuple[type[BaseException], ...] = ()


@dataclass
class Input:
    """What is tried: the doors to try it at, what was done to a valid seed, and the file that it is all about."""

    doors: Sequence[Door]
    what: list[str] = field(default_factory=list)
    main: Path | None = None


@dataclass
class Places:
    """Where an input may write (`source`, `out`, `temporary`), and all else, which must stay as it is.

    The box lies four folders deep, so that paths with ``..`` still end where somebody looks.
    """

    root: Path
    box: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self.box = self.root / "a" / "b" / "box"
        self.source, self.out = self.box / "source_folder", self.box / "out_folder"
        self.temporary = self.box / "temporary"
        self.home, self.canary, self.log = self.root / "home", self.root / "executed", self.root / "log"
        self.victim, self.cwd, self.key = self.root / "victim.txt", self.box / "here", self.root / "pseudonym.key"

    def make(self) -> None:
        """Everything anew."""
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in (self.home, self.cwd):
            folder.mkdir(parents=True)
        self.victim.write_text("untouched")
        self.key.write_text(hashlib.sha256(b"key").hexdigest() + "\n")
        self.key.chmod(0o600)
        self.empty()

    def empty(self) -> None:
        """Empty what an input may write to."""
        for folder in (self.source, self.out, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def enter(self) -> None:
        """Make this process look at these places for all that it might write."""
        os.chdir(self.cwd)
        os.environ |= {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "MEDSSL_KEY_FILE": str(self.key),
            "XDG_CACHE_HOME": str(self.out / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
        }

    def guarded(self) -> dict[str, tuple[int, int, int]]:
        """Mode, size and time of everything outside of where an input may write."""
        seen: dict[str, tuple[int, int, int]] = {}
        free = {str(self.source), str(self.out), str(self.temporary), str(self.log), str(self.canary)}
        folders = [str(self.root)]
        while folders:
            for entry in os.scandir(folders.pop()):
                if entry.path in free:
                    continue
                facts = entry.stat(follow_symlinks=False)
                inside = entry.is_dir(follow_symlinks=False)
                state = (0, 0) if inside else (facts.st_size, facts.st_mtime_ns)
                seen[entry.path] = (facts.st_mode, *state)
                if inside:
                    folders.append(entry.path)
        return seen


@dataclass
class Fault:
    """What went wrong at which door, where it comes from, and what was said."""

    fault: str
    door: str
    root: str
    text: str


def watch(make: Callable[[], Input], places: Places) -> tuple[list[Fault], dict[str, Any]]:
    """Make an input and try it in a process of its own.

    Returns:
        Faults, and what else is known: what was done to the seed (``what``), how each door answered (``answers``).
    """
    before = places.guarded()
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        _child(make, places, writer)
    os.close(writer)
    killed, received = _wait(process, reader)
    _, status, usage = os.wait4(process, 0)
    lines = [json.loads(line) for line in received.decode(errors="replace").splitlines() if line.endswith("}")]
    told: dict[str, Any] = {"what": [], "answers": {}}
    faults: list[Fault] = []
    door = "make"
    for line in lines:
        told["what"] = line.get("what", told["what"])
        door = line.get("door", door)
        if "answer" in line:
            told["answers"][door] = line["answer"]
        faults += [Fault(**fault) for fault in line.get("faults", ())]
    log = places.log.read_text(errors="replace") if places.log.exists() else ""
    if killed:
        faults.append(Fault(killed, door, _deepest(log), log[:400]))
    elif os.WIFSIGNALED(status):
        text = signal.Signals(os.WTERMSIG(status)).name
        faults.append(Fault("crash", door, f"{text} {_deepest(log)}", log[:400]))
    elif os.WEXITSTATUS(status):
        faults.append(Fault("harness", door, "the input could not be made", log[-2000:]))
    elif usage.ru_maxrss * 1024 > MEMORY:
        faults.append(Fault("memory", door, f"{usage.ru_maxrss // 2**20} GB resident", log[-400:]))
    if places.canary.exists():
        places.canary.unlink()
        faults.append(Fault("executed", door, f"executed at {door}", str(told["what"])))
    if (after := places.guarded()) != before:
        changed = sorted(path for path in after.keys() | before.keys() if after.get(path) != before.get(path))
        faults.append(Fault("written outside", door, f"written outside at {door}", str(changed[:3])))
        places.make()
    return faults, told


def _wait(process: int, reader: int) -> tuple[str, bytes]:
    """Return what a process writes until it ends, and why it was killed, if so."""
    start, received, killed = time.monotonic(), b"", ""
    with contextlib.closing(os.fdopen(reader, "rb", buffering=0)) as stream:
        while True:
            if select.select([stream], [], [], 0.01)[0]:
                block = stream.read(2**16)
                if not block:
                    return killed, received
                received += block
                continue
            late, large = time.monotonic() - start > SECONDS, _resident(process) > MEMORY
            if (late or large) and not killed:
                killed = "hang" if late else "memory"
                os.kill(process, signal.SIGUSR1)  # it says where it is
                time.sleep(0.2)
                os.kill(process, signal.SIGKILL)


def _resident(process: int) -> int:
    with contextlib.suppress(OSError):
        match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
        return int(match[1]) * 1024 if match else 0
    return 0


def _child(make: Callable[[], Input], places: Places, writer: int) -> None:
    """Never returns."""
    status = 3
    try:
        log = os.open(places.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, errors="replace", closefd=False) for number in (1, 2))
        faulthandler.enable(log)
        faulthandler.register(signal.SIGUSR1, log)
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        places.enter()
        tell = os.fdopen(writer, "w", 1)
        tried = make()
        print(json.dumps({"what": list(tried.what)}), file=tell, flush=True)
        for door in tried.doors:
            print(json.dumps({"door": door.name}), file=tell, flush=True)
            answer, faults = _try(door)
            if places.canary.exists():
                places.canary.unlink()
                faults.append(Fault("executed", door.name, f"executed at {door.name}", str(tried.what)))
            print(json.dumps({"answer": answer, "faults": [vars(f) for f in faults]}), file=tell, flush=True)
        full = [path for path in (*places.out.rglob("*"), *places.temporary.rglob("*")) if _size(path) >= DISK]
        if full:
            fault = Fault("memory", tried.doors[-1].name, "512 MB written to disk", full[0].name)
            print(json.dumps({"faults": [vars(fault)]}), file=tell, flush=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def _try(door: Door) -> tuple[str, list[Fault]]:
    try:
        answer = door.call()
    except RefusedError as error:
        return _refused(door, str(error), _shape(str(error)))
    except (*ANSWERS, *door.also) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if type(error) in (KeyError, UnicodeDecodeError, UnicodeEncodeError, json.JSONDecodeError) and " " not in text:
            return "traceback", [Fault("traceback", door.name, _root(error), f"{type(error).__name__}: {text}")]
        return _refused(door, text, _root(error))
    except BaseException as error:
        return "traceback", [Fault("traceback", door.name, _root(error), f"{type(error).__name__}: {error}")]
    if door.expected == "anything":
        return "accepted", []
    seen, truth = _plain(answer), _plain(door.truth)
    if door.expected == "refusal":
        return "differs", [Fault("differs", door.name, f"accepted at {door.name}", f"not refused: {seen}")]
    if seen != truth:
        text = f"understood {_first_difference(seen, truth)}"
        return "differs", [Fault("differs", door.name, f"read differently at {door.name}", text)]
    return "accepted", []


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _refused(door: Door, text: str, root: str) -> tuple[str, list[Fault]]:
    if door.expected == "truth":
        return "differs", [Fault("differs", door.name, f"refused a sound input at {door.name}", text)]
    if not any(name in text for name in door.names):
        return "no name", [Fault("no file name", door.name, root, text)]
    return "refused", []


def _first_difference(seen: Any, truth: Any, path: str = "") -> str:
    if isinstance(seen, dict) and isinstance(truth, dict):
        for key in sorted(seen.keys() | truth.keys()):
            if seen.get(key) != truth.get(key):
                return _first_difference(seen.get(key), truth.get(key), f"{path}/{key}")
    return f"{path}: {str(seen)[:150]} for {str(truth)[:150]}"


def _root(error: BaseException) -> str:
    """Type of an exception and the deepest frame in the package."""
    cause: BaseException | None = error
    while cause is not None:
        frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "/medssl_monai/" in frame.filename]
        if frames:
            return f"{type(error).__name__} in {frames[-1].filename.rpartition('/medssl_monai/')[2]}:{frames[-1].name}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _deepest(log: str) -> str:
    """Return the deepest frame in the package of what `faulthandler` wrote."""
    match = re.search(r'File ".*/medssl_monai/(\S+)", line \d+ in (\S+)', log)
    return f"in {match[1]}:{match[2]}" if match else "outside of the package"


def _shape(text: str) -> str:
    """Return a message without what differs between inputs."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|/\S+", "*", text)
    return "message: " + re.sub(r"\d+", "#", text)[:120]
