"""One cell or pre-training in a process of its own: started, waited for, and judged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import medssl_monai
from medssl_monai.benchmark.cells import Cell, Pretraining, arguments, command
from medssl_monai.benchmark.environment import environment
from medssl_monai.benchmark.grid import Grid
from medssl_monai.files import private_mode, write_json

State = Literal["finished", "failed", "interrupted", "running", "open"]
"""``interrupted``: began, and goes on from its last checkpoint; ``running``: in another process."""


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds."""

    cpu: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall)

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.cpu * factor, self.wall * factor)


def state_of(folder: Path) -> tuple[State, str]:
    """Return where a cell stands, and why it failed."""
    if (folder / "done.json").exists():
        return "finished", ""
    if (folder / "failed.json").exists():
        return "failed", str(json.loads((folder / "failed.json").read_text(encoding="utf-8"))["reason"])
    return ("interrupted" if (folder / "cell.json").exists() else "open"), ""


def run_to_end(
    run: Cell | Pretraining, grid: Grid, out_dir: Path, before: Future[tuple[State, str]] | None = None
) -> tuple[State, str]:
    """Run a cell or a pre-training to its end, after what comes before it, unless another process is at it."""
    if before is not None and (first := before.result())[0] != "finished":
        return first[0], f"its pre-training: {first[1] or first[0]}"
    folder = out_dir / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder) as lock:
        if lock is None:
            return "running", "another process is at it, perhaps one whose parent was killed"
        if (folder / "done.json").exists():
            return "finished", ""
        resumed = (folder / "run" / "state.pt").exists()
        write_json(folder / "cell.json", {"name": run.name, "hash": run.hash, "command": command(run, grid)})
        code, cost, log = execute(arguments(run, run.folder), grid, out_dir, folder, lock)
        if code in (-signal.SIGINT, -signal.SIGTERM):
            return "interrupted", ""
        reason = failure(code, log) if code else _shortfall(run, folder / "run") if isinstance(run, Cell) else ""
        if reason:
            write_json(folder / "failed.json", {"reason": reason})
            return "failed", reason
        (folder / "failed.json").unlink(missing_ok=True)
        facts = {"cpu_seconds": round(cost.cpu, 1), "wall_seconds": round(cost.wall, 1), "resumed": resumed}
        write_json(folder / "done.json", {**facts, "environment": environment(grid.threads)})
        return "finished", ""


def execute(
    words: Sequence[str], grid: Grid, out_dir: Path, folder: Path, lock: IO[str] | None = None
) -> tuple[int, Cost, str]:
    """Run Python with these arguments in the output folder; returns exit status, cost and what was logged.

    The lock is handed to the process, so that it lasts as long as either lives.
    """
    if not (folder / "bundle").exists():
        ignored = shutil.ignore_patterns("models", "eval", "__pycache__")
        shutil.copytree(grid.bundle, folder / ".bundle", dirs_exist_ok=True, ignore=ignored)
        (folder / ".bundle").rename(folder / "bundle")
    sources = [str(Path(medssl_monai.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(grid.threads))
    variables = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sources)}
    with (folder / "log.txt").open("a+", encoding="utf-8") as log:
        start, begin = log.tell(), time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=out_dir,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()] if lock else [],
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(start)
        cost = Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - begin)
        return process.returncode, cost, log.read()


def failure(code: int, log: str) -> str:
    """Return what went wrong: the first error of the log, which the others follow from, without paths."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", log, re.MULTILINE)
    if errors:
        return without_paths(errors[0])[:300]
    return f"ended by signal {-code}" if code < 0 else f"ended with status {code}; see its log.txt"


def without_paths(text: str) -> str:
    """Return the text without paths and names of image files, which may name persons."""
    text = re.sub(r"(['\"])[^'\"]*[/\\][^'\"]*\1", "(a path)", text)
    text = re.sub(r"[^\s'\"]*[/\\][^\s'\"]*", "(a path)", text)
    return re.sub(r"[^\s'\"]+\.(?:png|jpe?g|dcm|dicom|ima|nii|gz|npz|npy|csv|mat|zip)\b", "(a file)", text, flags=re.I)


def _shortfall(cell: Cell, run: Path) -> str:
    """Return why the figures of a run that ended well cannot be compared; empty if they can."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((run / "rounds").glob("round_*.json"))]
    wanted = [cell.schedule.start + number * cell.schedule.budget for number in range(cell.schedule.rounds)]
    found = [record["labels"] for record in records]
    if found == wanted:
        return ""
    return f"its rounds had {found} labels, and the grid asks for {wanted}; see medssl_monai.query.budget.ExactBudget"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[IO[str] | None]:
    """Hold a cell; None if another process does, perhaps one whose parent was killed."""
    import fcntl

    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, private_mode())
    with os.fdopen(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file
