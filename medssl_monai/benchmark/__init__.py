"""Compare methods, queries and label budgets: a grid file, its cells one by one, and one table of all results."""

from medssl_monai.benchmark.grid import Cell, Grid, Schedule, load_grid, plan
from medssl_monai.benchmark.results import differences, draw_figures, read_results, summarize, write_results
from medssl_monai.benchmark.run import run_benchmark

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
