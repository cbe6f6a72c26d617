"""All that ``medssl speed`` prints, measured and in words."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medssl_monai.benchmark.environment import environment
from medssl_monai.benchmark.speed.apart import apart
from medssl_monai.benchmark.speed.parts import shares_of_run
from medssl_monai.benchmark.speed.queries import SELECTORS, cost_of_query
from medssl_monai.benchmark.speed.runs import REFERENCE, cases_of, step_of_bundle


def speed(
    bundle: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    rounds: int = 5,
    steps: int = 10,
    run: Mapping[str, Any] | None = None,
    pools: Sequence[int] = (10_000, 100_000),
) -> dict[str, Any]:
    """Measure everything that ``medssl speed`` prints; takes minutes.

    Args:
        bundle: folder of a bundle; None: the shipped BoostMIS on phantoms. It is copied, and stays as it is.
        overrides: values of its configuration, such as ``datalist`` and ``device``; the reference takes ``device``.
            What is measured of the bundle is listed in `cases_of`.
        rounds: alternations of step and floor.
        steps: optimizer steps in each.
        run: values for the run whose parts are measured; default: one round of those that are configured.
        pools: sizes that the queries are measured at.

    Returns:
        ``steps``: `measure_step` by case; ``step_over_fixmatch``: seconds of a step of the bundle over those with
        FixMatch in its place, by precision; ``run``: `shares_of_run`; ``queries``: `cost_of_query`, and where it was.

    Raises:
        ValueError: if a case ends early, with its last words.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    name, values = None if bundle is None else str(bundle), dict(overrides or {})
    device = {key: value for key, value in values.items() if key == "device"}
    on_cuda = torch.cuda.is_available() and not str(values.get("device", "cuda")).startswith("cpu")
    precisions = {"float32": {"amp": False}, "amp": {"amp": True}} if on_cuda else {"": {}}
    wanted: dict[str, dict[str, Any]] = {"reference": {"bundle": None, "overrides": {**REFERENCE, **device}}}
    wanted |= cases_of(name, values)
    cases: dict[str, dict[str, Any]] = {}
    over_fixmatch = {}
    for precision, amp in precisions.items():
        for case, arguments in wanted.items():
            call = {**arguments, "overrides": {**arguments["overrides"], **amp}, "rounds": rounds, "steps": steps}
            cases[f"{case} {precision}".strip()] = apart(step_of_bundle, call)
        plain, step = (cases.get(f"bundle{w} {precision}".strip()) for w in (" with FixMatch", ""))
        if plain and step and step["method"] != "FixMatch":
            over_fixmatch[precision or "float32"] = step["seconds_per_step"] / plain["seconds_per_step"]
    return {
        "environment": environment(torch.get_num_threads()),
        "load_before": load,
        "steps": cases,
        "step_over_fixmatch": over_fixmatch,
        "run": _run_apart(name, {**values, **({"rounds": 1} if run is None else run)}),
        "queries": [
            apart(cost_of_query, {"selector": selector, "count": count}) for count in pools for selector in SELECTORS
        ],
        "skipped": [] if on_cuda else ["float32 and AMP on CUDA: there is no CUDA device, or the CPU was asked for"],
    }


def _run_apart(bundle: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `shares_of_run` in a process of its own, with the start of Python and the imports."""
    started = time.perf_counter()
    result = apart(shares_of_run, {"bundle": bundle, "overrides": overrides})
    total, seconds = time.perf_counter() - started, result.pop("seconds")
    seconds["start-up"] += total - sum(seconds.values())
    learning = seconds["forward"] + seconds["backward"]
    predicting = sum(value for part, value in seconds.items() if part.endswith(": forward"))
    return {
        **result,
        "seconds": total,
        "parts": dict(sorted(seconds.items(), key=lambda part: -part[1])),
        "forward_and_backward": learning / total,
        "with_forward_of_validation_and_query": (learning + predicting) / total,
    }


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report of `speed` for a terminal."""
    place = report["environment"]
    lines = [f"{place['cpu']}, {place['cores']} cores{place['gpu'] and ', ' + place['gpu']}; torch {place['torch']}, "
             f"{place['threads']} threads; load before the start: {_number(report['load_before'])}", ""]  # fmt: skip
    for case, step in report["steps"].items():
        lines += [*_step_lines(case, step), ""]
    lines += [
        f"a step of the bundle takes {ratio:.2f} times that of FixMatch in its place ({precision})"
        for precision, ratio in report["step_over_fixmatch"].items()
    ]
    run = report["run"]
    lines.append(f"a run of {run['rounds']} rounds and {run['steps']} steps: {run['seconds']:.1f} seconds")
    lines += [f"  {part:42} {value:8.2f} s {value / run['seconds']:7.1%}" for part, value in run["parts"].items()]
    lines += [
        f"  forward and backward of training: {run['forward_and_backward']:.1%} of the run; "
        f"with the forward of validation, report and query: {run['with_forward_of_validation_and_query']:.1%}",
        "",
        "queries, features given:",
    ]
    lines += [
        f"  {query['selector']:16} N = {query['samples']:<7} d = {query['features']}  {query['seconds']:7.2f} s "
        f"(processor {query['cpu_seconds']:.2f})  {_number(query['extra_memory_mb'])} MB above the features"
        for query in report["queries"]
    ]
    return "\n".join([*lines, *(f"skipped: {reason}" for reason in report["skipped"])])


def _step_lines(case: str, step: Mapping[str, Any]) -> list[str]:
    passes = " + ".join(f"{p['images']}{'' if p['gradient'] else ' without gradient'}" for p in step["passes"])
    lowest, highest = step["ratio_to_floor_range"]
    figures = {
        "ratio to floor": f"{step['ratio_to_floor']:.3f}  ({lowest:.3f} to {highest:.3f} in {step['rounds']} rounds of "
        f"{step['steps_per_round']} steps; processor time {step['ratio_to_floor_cpu']:.3f})",
        "ratio to gradient floor": f"{step['ratio_to_gradient_floor']:.3f}  (one pass with gradient of all "
        f"{step['views_per_step']} views)",
        "seconds per step": f"{step['seconds_per_step']:.4f}  (processor {step['cpu_seconds_per_step']:.4f}; floor "
        f"{step['floor_seconds']:.4f}, gradient floor {step['gradient_floor_seconds']:.4f})",
        "views per second": f"{step['views_per_second']:.0f}",
        "waiting for data": f"{step['waiting_for_data']:.1%}",
        "peak memory": f"{_number(step['peak_memory_mb'])} MB",
    }
    what = f"{case}: {step['method']}, {step['device']}, {step['precision']}; images per pass: {passes}"
    return [what, *(f"  {name:24} {value}" for name, value in figures.items())]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
