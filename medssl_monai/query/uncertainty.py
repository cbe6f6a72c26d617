"""Uncertainty sampling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medssl_monai.query.base import PoolOutputs, Query, top_unlabeled
from medssl_monai.task import Task

Findings = Literal["sum", "max"]
"""How the uncertainties of an image's findings become one: their sum, or that of the most uncertain finding."""


def entropy(outputs: PoolOutputs, budget: int, generator: torch.Generator, findings: Findings = "sum") -> Query:
    """Highest predictive entropy, in nats (Settles 2009, Sec. 3.1).

    Multi-label: each finding has the entropy of a coin. Their sum is the entropy of all answers together, if findings
    were independent; it prefers images of which little is clear. The largest alone prefers images with one open
    question, however clear the rest is. With many rare findings neither is known to beat `random`: compare.

    Args:
        outputs: see `PoolOutputs`.
        budget: how many.
        generator: not used.
        findings: multi-label: their ``sum``, or the ``max``.

    Raises:
        ValueError: for masks.
    """
    refuse_masks(outputs, "entropy")
    return top_unlabeled(outputs, predictive_entropy(outputs.probs, outputs.task, findings), budget, "entropy")


def margin(outputs: PoolOutputs, budget: int, generator: torch.Generator, findings: Findings = "sum") -> Query:
    """Smallest gap between the two most probable classes (Scheffer et al. 2001).

    Multi-label: the gap of a finding is that between present and absent; see `entropy` for the arguments and errors.
    """
    refuse_masks(outputs, "margin")
    if outputs.task == "multilabel":
        gap = combine(-(2 * outputs.probs - 1).abs(), findings)
        return top_unlabeled(outputs, gap, budget, "margin")
    first, second = outputs.probs.topk(2, dim=1).values.unbind(dim=1)
    return top_unlabeled(outputs, second - first, budget, "margin")


def random(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
    """Uniformly at random: the baseline that every other strategy has to beat."""
    score = torch.empty(len(outputs))
    score[outputs.index.argsort()] = torch.rand(len(outputs), generator=generator)  # tied to the sample, not to its row
    return top_unlabeled(outputs, score, budget, "random")


def predictive_entropy(probs: Tensor, task: Task, findings: Findings = "sum") -> Tensor:
    """Entropy ``(N, ...)`` in nats of probabilities ``(N, K, ...)``, see `entropy`."""
    if task == "multilabel":
        return combine(torch.special.entr(probs) + torch.special.entr(1 - probs), findings)
    return torch.special.entr(probs).sum(dim=1)


def combine(of_findings: Tensor, findings: Findings) -> Tensor:
    """One value ``(N,)`` for each image from those of its findings ``(N, K)``.

    Raises:
        ValueError: if `findings` is neither ``sum`` nor ``max``.
    """
    if findings not in ("sum", "max"):
        raise ValueError(f"`findings` must be 'sum' or 'max', got {findings!r}.")
    return of_findings.sum(dim=1) if findings == "sum" else of_findings.amax(dim=1)


def refuse_masks(outputs: PoolOutputs, name: str) -> None:
    """A mean over voxels says how large the foreground is, not how uncertain: refuse to take one for the other."""
    if outputs.task == "segmentation":
        raise ValueError(
            f"`{name}` asks for labels of whole images; for masks take `medssl_monai.query.mask_entropy`, "
            "`boundary_entropy`, `bald` or `dice_disagreement`."
        )
