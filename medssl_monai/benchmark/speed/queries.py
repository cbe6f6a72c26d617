"""What a query costs."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from medssl_monai.benchmark.speed.resources import peak_memory, resident
from medssl_monai.networks.embedding import EmbeddingClassifier
from medssl_monai.pool.outputs import PoolOutputs
from medssl_monai.query.boostmis import DensityEntropy
from medssl_monai.query.instability import Instability

SELECTORS = ("instability", "density_entropy")


def cost_of_query(selector: str, count: int, dim: int = 512) -> dict[str, Any]:
    """Time and memory of one of BoostMIS's selectors on given features; in a process that has done nothing else.

    Args:
        selector: ``instability`` (of the embedding) or ``density_entropy``.
        count: samples.
        dim: width of their features.

    Returns:
        ``seconds``, ``cpu_seconds`` and ``extra_memory_mb``: the peak above what the process held with the features
        ready; None where the system does not tell.

    Raises:
        ValueError: if there is no such selector.
    """
    if selector not in SELECTORS:
        raise ValueError(f"`selector` must be one of {SELECTORS}, got {selector!r}.")
    generator = torch.Generator().manual_seed(0)
    network = EmbeddingClassifier(nn.Identity(), dim, 2)
    embedding, rows = torch.randn(count, dim, generator=generator), torch.arange(count)
    with torch.no_grad():
        probs = network.head(embedding).softmax(dim=1)
    outputs = PoolOutputs(rows, torch.zeros(count, dtype=torch.bool), probs, embedding=embedding, network=network)
    held = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    if selector == "instability":
        scores = Instability("embedding")(outputs, rows, generator)
    else:
        scores = DensityEntropy(neighbors=10)(outputs, rows)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_memory(torch.device("cpu"))
    return {
        "selector": selector,
        "samples": count,
        "features": dim,
        "scores": len(scores),
        "seconds": wall,
        "cpu_seconds": cpu,
        "extra_memory_mb": None if peak is None or held is None else max(0, peak - held) / 1e6,
    }
