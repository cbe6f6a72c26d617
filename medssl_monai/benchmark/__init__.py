"""Compare methods, queries and label budgets: a grid file, its cells one by one, and one table of all results."""

from medssl_monai.benchmark.cells import Cell, plan
from medssl_monai.benchmark.figures import draw_figures
from medssl_monai.benchmark.grid import Grid, Schedule, load_grid
from medssl_monai.benchmark.results import read_results, write_results
from medssl_monai.benchmark.run import run_benchmark
from medssl_monai.benchmark.summary import differences, summarize

__all__ = [
    "Cell",
    "Grid",
    "Schedule",
    "differences",
    "draw_figures",
    "load_grid",
    "plan",
    "read_results",
    "run_benchmark",
    "summarize",
    "write_results",
]
