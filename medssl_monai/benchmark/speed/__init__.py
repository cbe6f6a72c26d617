"""How close a training step comes to its floor, where a run's time goes, and what a query costs.

The floor of a step is what no implementation of the method can do without: the forward passes that the method makes,
replayed on the tensors of one of its own steps, and one backward pass. Everything else (reading, views, losses,
optimizer, averaged weights, handlers) is overhead. Step and floor alternate in one process, so that a busy machine
slows both; every case has a process of its own, so that its peak of memory is its own.
"""

from medssl_monai.benchmark.speed.apart import apart
from medssl_monai.benchmark.speed.parts import shares_of_run
from medssl_monai.benchmark.speed.queries import SELECTORS, cost_of_query
from medssl_monai.benchmark.speed.report import as_text, speed
from medssl_monai.benchmark.speed.runs import REFERENCE, cases_of, step_of_bundle
from medssl_monai.benchmark.speed.step import measure_step

__all__ = [
    "REFERENCE",
    "SELECTORS",
    "apart",
    "as_text",
    "cases_of",
    "cost_of_query",
    "measure_step",
    "shares_of_run",
    "speed",
    "step_of_bundle",
]
