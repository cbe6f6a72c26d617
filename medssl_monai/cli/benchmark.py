"""``medssl benchmark``: run a grid of methods, queries and seeds."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("grid", type=Path, help="YAML file, such as benchmarks/boostmis/grid.yaml")
    parser.add_argument("folder", type=Path, nargs="?", help="where cells and results go; default: runs/NAME")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--dry_run", action="store_true", help="say what is left and what it costs")


def run(arguments: argparse.Namespace) -> int:
    """Run the cells; 1 if one of them has not finished."""
    import logging

    from medssl_monai.benchmark import run_benchmark

    logging.basicConfig(level=logging.INFO)
    states = run_benchmark(arguments.grid, arguments.folder, arguments.jobs, arguments.dry_run)
    return 0 if arguments.dry_run or all(state == "finished" for state, _ in states.values()) else 1


COMMAND = Command("benchmark", "run a grid of methods, queries and seeds; one table of all", declare, run)
