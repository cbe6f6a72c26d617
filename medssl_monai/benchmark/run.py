"""Run the cells of a grid, each in a process of its own, and say what is left."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import medssl_monai
from medssl_monai.benchmark.grid import Cell, Grid, Pretraining, arguments, command, load_grid, plan
from medssl_monai.benchmark.results import draw_figures, write_results
from medssl_monai.files import private_mode, write_json, write_text

logger = logging.getLogger(__name__)

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


def run_benchmark(
    path: str | Path, out_dir: str | Path | None = None, jobs: int = 1, dry_run: bool = False
) -> dict[str, tuple[State, str]]:
    """Run what is left of a grid, and write the results of all that has finished.

    A cell lives in ``cells/HASH`` of the output folder: a copy of the bundle, the run, its log, and ``done.json`` or
    ``failed.json``. Finished cells are skipped, interrupted ones continued from their last checkpoint, failed ones
    tried again; one that fails leaves the others alone. Code, configuration, overrides, and what the datalist says are
    in the hash, so a change of any starts anew: run a long grid from a checkout of its own, with an output folder
    elsewhere. Machine, threads and versions of libraries are not; they stand beside the figures.

    A pre-training lives likewise in ``pretrained/HASH``. It is run when cells that start from it are left; where it
    fails, they fail with its reason.

    Before it starts, CPU hours are told. They come from finished cells of the same data and method, scaled by rounds;
    where there are none, from the first round of one such cell, which is run for this purpose only and counted as if
    every round had its start, so that it is an upper bound. Cells of one round are told as not measured at first, and
    so are pre-trainings.

    Args:
        path: grid file, see `medssl_monai.benchmark.load_grid`.
        out_dir: default: ``runs/NAME`` with the grid's name.
        jobs: cells at a time.
        dry_run: prepare the data, say what is left and what it costs, as far as that has been measured, and run
            nothing.

    Returns:
        State of every cell by its name, and the reason where it failed.

    Raises:
        ValueError: if the grid file is not valid, or `jobs` is not positive.
        FileNotFoundError: if the grid file or its data are not there.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}.")
    grid = load_grid(path)
    out_dir = Path(out_dir) if out_dir else Path("runs") / grid.name
    cells = plan(grid, out_dir)
    write_text(out_dir / "commands.sh", "".join(f"# {run.name}\n{command(run, grid)}\n" for run in _in_order(cells)))
    runs = {cell.hash: cell for cell in cells}
    states = {name: state_of(out_dir / cell.folder) for name, cell in runs.items()}
    left = [cell for name, cell in runs.items() if states[name][0] != "finished"]
    if dry_run:
        for run in _in_order(left):
            if (state := state_of(out_dir / run.folder)[0]) != "finished":
                logger.info(f"{state}: {run.name}\n  {command(run, grid)}")
        logger.info(_forecast(runs.values(), out_dir, jobs))
        return {cell.name: states[cell.hash] for cell in cells}
    _probe(left, {cell.kind for name, cell in runs.items() if states[name][0] == "finished"}, grid, out_dir)
    logger.info(_forecast(runs.values(), out_dir, jobs))
    with ThreadPoolExecutor(jobs) as executor:
        before: dict[str, Future[tuple[State, str]]] = {}
        futures: dict[Future[tuple[State, str]], Cell] = {}
        for run in _in_order(left):
            if isinstance(run, Pretraining):
                before[run.hash] = executor.submit(_run, run, grid, out_dir)
            else:
                first = before[run.pretraining.hash] if run.pretraining else None
                futures[executor.submit(_run, run, grid, out_dir, first)] = run
        try:
            for future in as_completed(futures):
                cell = futures[future]
                states[cell.hash] = state, reason = future.result()
                logger.info(f"{state}: {cell.name}{f': {reason}' if reason else ''}")
                logger.info(_forecast(runs.values(), out_dir, jobs))
                write_results(grid, cells, states, out_dir)  # each time, since the next cell may see the power cut
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    draw_figures(write_results(grid, cells, states, out_dir), out_dir)
    logger.info(f"Results: {out_dir / 'summary.md'}")
    return {cell.name: states[cell.hash] for cell in cells}


def state_of(folder: Path) -> tuple[State, str]:
    """Where a cell stands, and why it failed."""
    if (folder / "done.json").exists():
        return "finished", ""
    if (folder / "failed.json").exists():
        return "failed", str(json.loads((folder / "failed.json").read_text(encoding="utf-8"))["reason"])
    return ("interrupted" if (folder / "cell.json").exists() else "open"), ""


def _in_order(cells: Sequence[Cell]) -> Iterator[Cell | Pretraining]:
    """Of each seed first the pre-trainings, then the cells that need none: the others find theirs done, or nearly."""
    for _, same in itertools.groupby(cells, key=lambda cell: cell.seed):
        group = list(same)
        yield from {cell.pretraining.hash: cell.pretraining for cell in group if cell.pretraining}.values()
        yield from sorted(group, key=lambda cell: cell.pretraining is not None)


def environment(threads: int) -> dict[str, Any]:
    """Where figures are from: machine, versions, and the commit of this package's sources."""
    return {**_machine(), "threads": threads, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


@functools.cache
def _machine() -> dict[str, Any]:
    import monai
    import torch

    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "package": medssl_monai.__version__,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit, with ``+`` if package or bundles have changed since; empty where there is no repository."""
    root = Path(medssl_monai.__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", "medssl_monai/__init__.py")
        changed = git("status", "--porcelain", "--", "medssl_monai", "bundles")
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _run(
    run: Cell | Pretraining, grid: Grid, out_dir: Path, before: Future[tuple[State, str]] | None = None
) -> tuple[State, str]:
    """Run a cell or a pre-training to its end, after what comes before it, unless another process is at it."""
    if before is not None and (first := before.result())[0] != "finished":
        return first[0], f"its pre-training: {first[1] or first[0]}"
    folder = out_dir / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder) as lock:
        if lock is None:
            return "running", "another process is at it, perhaps one whose parent was killed"
        if (folder / "done.json").exists():
            return "finished", ""
        resumed = (folder / "run" / "state.pt").exists()
        write_json(folder / "cell.json", {"name": run.name, "hash": run.hash, "command": command(run, grid)})
        code, cost, log = _execute(arguments(run, run.folder), grid, out_dir, folder, lock)
        if code in (-signal.SIGINT, -signal.SIGTERM):
            return "interrupted", ""
        reason = _why(code, log) if code else _shortfall(run, folder / "run") if isinstance(run, Cell) else ""
        if reason:
            write_json(folder / "failed.json", {"reason": reason})
            return "failed", reason
        (folder / "failed.json").unlink(missing_ok=True)
        facts = {"cpu_seconds": round(cost.cpu, 1), "wall_seconds": round(cost.wall, 1), "resumed": resumed}
        write_json(folder / "done.json", {**facts, "environment": environment(grid.threads)})
        return "finished", ""


def _execute(
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


def _why(code: int, log: str) -> str:
    """What went wrong: the first error of the log, which the others follow from, without anything like a path."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", log, re.MULTILINE)
    if errors:
        return without_paths(errors[0])[:300]
    return f"ended by signal {-code}" if code < 0 else f"ended with status {code}; see its log.txt"


def without_paths(text: str) -> str:
    """The text without paths and names of image files, which may name persons."""
    text = re.sub(r"(['\"])[^'\"]*[/\\][^'\"]*\1", "(a path)", text)
    text = re.sub(r"[^\s'\"]*[/\\][^\s'\"]*", "(a path)", text)
    return re.sub(r"[^\s'\"]+\.(?:png|jpe?g|dcm|dicom|ima|nii|gz|npz|npy|csv|mat|zip)\b", "(a file)", text, flags=re.I)


def _shortfall(cell: Cell, run: Path) -> str:
    """Why the figures of a run that ended well cannot be compared; empty if they can."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((run / "rounds").glob("round_*.json"))]
    wanted = [cell.schedule.start + number * cell.schedule.budget for number in range(cell.schedule.rounds)]
    found = [record["labels"] for record in records]
    if found == wanted:
        return ""
    return f"its rounds had {found} labels, and the grid asks for {wanted}; see medssl_monai.query.ExactBudget"


def _done(run: Cell | Pretraining, out_dir: Path) -> bool:
    return (out_dir / run.folder / "done.json").exists()


def _probe(left: Sequence[Cell], finished: Collection[str], grid: Grid, out_dir: Path) -> None:
    """Measure the first round of one cell of every kind of which none has finished; not where it is the whole cell."""
    known = {*finished, *_measured(out_dir)}
    first: dict[str, Cell] = {}
    for cell in left:
        if cell.schedule.rounds > 1:
            first.setdefault(cell.kind, cell)
    for cell in (cell for kind, cell in first.items() if kind not in known):
        if cell.pretraining and _run(cell.pretraining, grid, out_dir)[0] != "finished":
            continue  # as the cell will say
        place = f"probes/{cell.kind}"
        folder = out_dir / place
        logger.info(f"Measuring the first round of: {cell.name}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        code, cost, log = _execute(arguments(cell, place, rounds=1), grid, out_dir, folder)
        shutil.rmtree(folder)
        if code:
            logger.warning(f"This failed: {_why(code, log)}")
        else:
            write_json(folder.with_suffix(".json"), {"cpu_seconds": cost.cpu, "wall_seconds": cost.wall})


def _measured(out_dir: Path) -> dict[str, Cost]:
    """Cost of a round by kind of cell, from probes."""
    found = {}
    for path in (out_dir / "probes").glob("*.json"):
        entry = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Cost(entry["cpu_seconds"], entry["wall_seconds"])
    return found


def _forecast(cells: Collection[Cell], out_dir: Path, jobs: int) -> str:
    """How many cells are left, what they need, and what that is based on."""
    measured = _measured(out_dir)
    stages = {cell.pretraining.hash: cell.pretraining for cell in cells if cell.pretraining}
    runs: list[Cell | Pretraining] = [*cells, *stages.values()]
    costs: dict[str, list[Cost]] = {}
    for run in runs:
        done = out_dir / run.folder / "done.json"
        if done.exists() and not (entry := json.loads(done.read_text(encoding="utf-8")))["resumed"]:
            rounds = run.schedule.rounds if isinstance(run, Cell) else 1
            cost = Cost(entry["cpu_seconds"], entry["wall_seconds"]) * (1 / rounds)
            costs.setdefault(run.kind, []).append(cost)
    need, basis, states = Cost(), Counter[str](), Counter[str]()
    for cell in cells:
        folder = out_dir / cell.folder
        state, _ = state_of(folder)
        states[state] += 1
        if state == "finished":
            continue
        rounds = cell.schedule.rounds - len(list((folder / "run" / "rounds").glob("round_*.json")))
        if known := costs.get(cell.kind):
            need += sum(known, Cost()) * (max(0, rounds) / len(known))
            basis["by finished cells of the same data and method"] += 1
        elif cell.kind in measured:
            need += measured[cell.kind] * max(0, rounds)
            basis["by the first round of one such cell, an upper bound"] += 1
        else:
            basis["not measured, and not counted"] += 1
    needed = {cell.pretraining.hash for cell in cells if cell.pretraining and not _done(cell, out_dir)}
    for name in sorted(needed):
        if _done(stages[name], out_dir):
            continue
        if known := costs.get(stages[name].kind):
            need += sum(known, Cost()) * (1 / len(known))
            basis["more for pre-training, by finished ones of the same data"] += 1
        else:
            basis["more for pre-training, not measured, and not counted"] += 1
    text = f"{states.pop('finished', 0)} of {len(cells)} cells have finished"
    text += "".join(f", {count} {state}" for state, count in states.items())
    if not basis:
        return f"{text}."
    hours = f"{need.cpu / 3600:.2f} CPU hours are left, {need.wall / 3600 / jobs:.2f} hours on the clock"
    return f"{text}; {hours} (cells: {'; '.join(f'{count} {how}' for how, count in basis.items())})."


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[IO[str] | None]:
    """Holds a cell; None if another process does, perhaps one whose parent was killed."""
    import fcntl

    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, private_mode())
    with os.fdopen(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file
