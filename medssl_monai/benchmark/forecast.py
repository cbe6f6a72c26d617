"""What is left of a grid, and what it costs."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from medssl_monai.benchmark.cells import Cell, Pretraining, arguments
from medssl_monai.benchmark.grid import Grid
from medssl_monai.benchmark.process import Cost, execute, failure, run_to_end, state_of
from medssl_monai.files import write_json

logger = logging.getLogger(__name__)


def probe(left: Sequence[Cell], finished: Collection[str], grid: Grid, out_dir: Path) -> None:
    """Measure the first round of one cell of every kind of which none has finished; not where it is the whole cell."""
    known = {*finished, *_measured(out_dir)}
    first: dict[str, Cell] = {}
    for cell in left:
        if cell.schedule.rounds > 1:
            first.setdefault(cell.kind, cell)
    for cell in (cell for kind, cell in first.items() if kind not in known):
        if cell.pretraining and run_to_end(cell.pretraining, grid, out_dir)[0] != "finished":
            continue  # as the cell will say
        place = f"probes/{cell.kind}"
        folder = out_dir / place
        logger.info(f"Measuring the first round of: {cell.name}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        code, cost, log = execute(arguments(cell, place, rounds=1), grid, out_dir, folder)
        shutil.rmtree(folder)
        if code:
            logger.warning(f"This failed: {failure(code, log)}")
        else:
            write_json(folder.with_suffix(".json"), {"cpu_seconds": cost.cpu, "wall_seconds": cost.wall})


def _done(run: Cell | Pretraining, out_dir: Path) -> bool:
    return (out_dir / run.folder / "done.json").exists()


def _measured(out_dir: Path) -> dict[str, Cost]:
    """Return the cost of a round by kind of cell, from probes."""
    found = {}
    for path in (out_dir / "probes").glob("*.json"):
        entry = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Cost(entry["cpu_seconds"], entry["wall_seconds"])
    return found


def forecast(cells: Collection[Cell], out_dir: Path, jobs: int) -> str:
    """Say how many cells are left, what they need, and what that is based on."""
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
