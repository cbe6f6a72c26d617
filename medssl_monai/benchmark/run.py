"""Run the cells of a grid, several at a time, and say what is left."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from medssl_monai.benchmark.cells import Cell, Pretraining, command, plan
from medssl_monai.benchmark.figures import draw_figures
from medssl_monai.benchmark.forecast import forecast, probe
from medssl_monai.benchmark.grid import load_grid
from medssl_monai.benchmark.process import State, run_to_end, state_of
from medssl_monai.benchmark.results import write_results
from medssl_monai.files import write_text

logger = logging.getLogger(__name__)


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

    Before it starts, it says how many CPU hours are left. They come from finished cells of the same data and method,
    scaled by rounds; where there are none, from the first round of one such cell, which is run for this purpose only
    and counted as if every round had its start, so that it is an upper bound. Cells of one round count as not measured
    at first, and so do pre-trainings.

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
        logger.info(forecast(runs.values(), out_dir, jobs))
        return {cell.name: states[cell.hash] for cell in cells}
    probe(left, {cell.kind for name, cell in runs.items() if states[name][0] == "finished"}, grid, out_dir)
    logger.info(forecast(runs.values(), out_dir, jobs))
    with ThreadPoolExecutor(jobs) as executor:
        before: dict[str, Future[tuple[State, str]]] = {}
        futures: dict[Future[tuple[State, str]], Cell] = {}
        for run in _in_order(left):
            if isinstance(run, Pretraining):
                before[run.hash] = executor.submit(run_to_end, run, grid, out_dir)
            else:
                first = before[run.pretraining.hash] if run.pretraining else None
                futures[executor.submit(run_to_end, run, grid, out_dir, first)] = run
        try:
            for future in as_completed(futures):
                cell = futures[future]
                states[cell.hash] = state, reason = future.result()
                logger.info(f"{state}: {cell.name}{f': {reason}' if reason else ''}")
                logger.info(forecast(runs.values(), out_dir, jobs))
                write_results(grid, cells, states, out_dir)  # each time, since the next cell may see the power cut
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    draw_figures(write_results(grid, cells, states, out_dir), out_dir)
    logger.info(f"Results: {out_dir / 'summary.md'}")
    return {cell.name: states[cell.hash] for cell in cells}


def _in_order(cells: Sequence[Cell]) -> Iterator[Cell | Pretraining]:
    """Yield by seed the pre-trainings, then the cells that need none: the others find theirs done, or nearly."""
    for _, same in itertools.groupby(cells, key=lambda cell: cell.seed):
        group = list(same)
        yield from {cell.pretraining.hash: cell.pretraining for cell in group if cell.pretraining}.values()
        yield from sorted(group, key=lambda cell: cell.pretraining is not None)
