"""One grade per image, of several in rising order: a near miss is better than a far one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.kinds.base import Label
from medssl_monai.kinds.classes import Classes
from medssl_monai.kinds.gathered import Gathered
from medssl_monai.kinds.scores import Scores
from medssl_monai.metrics.bootstrap import Floats, draw_groups, interval
from medssl_monai.unknown import UNKNOWN

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
"""Of the intervals."""


class Grades(Classes):
    """K grades in rising order; a label is an index.

    A network has K - 1 logits, of which number k says whether the grade is higher than k (Frank and Hall, ECML 2001,
    https://doi.org/10.1007/3-540-44795-4_13). Nothing makes such probabilities fall with k, so each is taken as the
    least of those up to it, and no grade has a negative one. The decided grade is the median, of which the expected
    distance is the least; another grade may be more probable.

    Classes and grades look alike in a table: that there is an order has to be said (``label_kind``).
    """

    word: ClassVar[str] = "grades"
    noun: ClassVar[str] = "grade"
    wanted: ClassVar[str] = "the name of one grade"
    ordered: ClassVar[bool] = True
    expected: ClassVar[str] = "expected distance in steps of the scale, over their number"

    @classmethod
    def recognizes(cls, value: object) -> bool:
        return False

    def check(self, where: str) -> None:
        super().check(where)
        if len(self.names) == 1:
            raise ValueError(f"{where}: there is one grade, {self.names[0]!r}; give two or more, the lowest first.")

    def translate(self, label: Label, names: Sequence[str]) -> Label:
        if self.names and names and tuple(names) != self.names:
            raise ValueError(
                f"is of the grades {list(names)}, whose number and order count, and the datalist has "
                f"{list(self.names)}; mend its class names"
            )
        return label

    @property
    def width(self) -> int:
        return max(len(self.names) - 1, 0)

    def outcomes(self, logits: Tensor) -> Tensor:
        return _of_steps(logits.float())

    def log_outcomes(self, logits: Tensor) -> Tensor:
        return _of_steps(logits).clamp_min(torch.finfo(logits.dtype).tiny).log()

    def logits(self, outcomes: Tensor) -> Tensor:
        return _higher(outcomes).logit()

    def losses(self, logits: Tensor, wanted: Tensor) -> Tensor:
        higher = self._steps(wanted) if wanted.dtype == torch.long else _higher(wanted.detach())
        higher = higher.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, higher, reduction="none").mean(dim=1)

    def _steps(self, states: Tensor) -> Tensor:
        """Return 1 for each step of the scale ``(B, K - 1)`` that the grade is above, else 0."""
        return (states.unsqueeze(-1) > torch.arange(self.width, device=states.device)).float()

    def criterion(self) -> nn.Module:
        return StepCrossEntropy()

    def decide(self, outcomes: Tensor) -> Tensor:
        return (outcomes.cumsum(dim=-1)[..., :-1] < 0.5).sum(dim=-1)

    def expected_loss(self, outcomes: Tensor) -> Tensor:
        outcomes = outcomes.double()
        steps = torch.arange(outcomes.shape[-1], device=outcomes.device)
        far = (steps - self.decide(outcomes).unsqueeze(-1)).abs()
        return (outcomes * far).sum(dim=-1) / max(len(steps) - 1, 1)

    def scores(self, spacing: Sequence[float] | None = None, distances: bool = True) -> Scores:
        return GradeScores(self)


class StepCrossEntropy(nn.Module):
    """Mean binary cross-entropy of the K - 1 questions whether a grade is higher, over the known samples."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar, 0 where nothing is known; `target` ``(B,)`` holds grades, or -1."""
        known = (target != UNKNOWN).unsqueeze(1).expand_as(logits)
        higher = (target.unsqueeze(1) > torch.arange(logits.shape[1], device=logits.device)).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, higher, reduction="none")
        return torch.where(known, losses, 0.0).sum() / known.sum().clamp_min(1)


def _of_steps(logits: Tensor) -> Tensor:
    """Return the probabilities of K grades from K - 1 logits ``(B, K - 1, ...)``, the grade last."""
    higher = F.pad(logits.movedim(1, -1).sigmoid().cummin(dim=-1).values, (1, 0), value=1.0)
    return higher - F.pad(higher[..., 1:], (0, 1))


def _higher(outcomes: Tensor) -> Tensor:
    """Return the probability that the grade is higher, for each but the highest."""
    return (1.0 - outcomes.cumsum(dim=-1)[..., :-1]).clamp(0.0, 1.0)


class GradeScores(Gathered):
    """Agreement and distance of grades.

    - ``quadratic_kappa``: agreement beyond chance, where a miss counts by the square of its distance (Cohen, Psychol.
      Bull. 1968, https://doi.org/10.1037/h0026256); 1: perfect, 0: as chance would have it.
    - ``mean_absolute_error``: mean distance, in grades.
    - ``accuracy``, and ``off by d``: the share of the images that are d grades off.
    """

    best: ClassVar[str] = "quadratic_kappa"
    shown: ClassVar[Mapping[str, str]] = {
        "quadratic_kappa": "quadratic kappa",
        "mean_absolute_error": "mean error (grades)",
        "accuracy": "accuracy",
    }
    titles: ClassVar[Mapping[str, str]] = {"recall": "right", "mean_absolute_error": "mean error (grades)"}

    def _decided(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Return true and decided grades, and how many samples have probabilities that are not finite."""
        outcomes, targets = self.known
        broken = int((~outcomes.isfinite().all(dim=-1)).sum())
        return targets.numpy(), self.kind.decide(outcomes).numpy(), broken

    def _reasons(self, table: Floats, count: int, broken: int) -> tuple[dict[str, float], dict[str, str]]:
        metrics = _metrics(table[None])
        if not count:
            return {}, dict.fromkeys(metrics, "there is no sample")
        if broken:
            return {}, dict.fromkeys(metrics, f"{broken} of {count} samples have probabilities that are not finite")
        values = {name: float(value[0]) for name, value in metrics.items() if np.isfinite(value[0])}
        return values, {name: "one grade alone occurs and is predicted" for name in metrics if name not in values}

    def quick(self) -> tuple[dict[str, float], dict[str, str], int]:
        truth, decided, broken = self._decided()
        table = _tables(truth, decided, self.kind.states, np.zeros(len(truth), dtype=int), 1)[0]
        values, undefined = self._reasons(table, len(truth), broken)
        return {name: value for name, value in values.items() if name in self.shown}, undefined, len(truth)

    def figures(self, group: Sequence[str]) -> dict[str, Any]:
        truth, decided, broken = self._decided()
        group = self.groups(group)
        draws, member = draw_groups(group, RESAMPLES, SEED) if group else (np.ones((1, 1), int), np.zeros(0, int))
        by_group = _tables(truth, decided, self.kind.states, member, draws.shape[1])
        table = by_group.sum(axis=0)
        values, undefined = self._reasons(table, len(truth), broken)
        metrics: dict[str, dict[str, float]] = {name: {"value": value} for name, value in values.items()}
        if len(set(group)) > 1:
            resampled = _metrics(np.einsum("rg,gij->rij", draws, by_group))
            for name in metrics:
                if (bounds := interval(resampled[name], LEVEL)) is not None:
                    metrics[name] |= dict(zip(("low", "high"), bounds, strict=True))
        return {
            "kind": self.kind.word,
            "n": len(truth),
            "groups": len(set(group)),
            "metrics": metrics,
            "undefined": undefined,
            "per_class": {} if broken else self._by_grade(table),
            "interval": f"{100 * LEVEL:g} % group bootstrap, {RESAMPLES} resamples, seed {SEED}",
        }

    def _by_grade(self, table: Floats) -> dict[str, dict[str, float]]:
        steps = np.arange(len(table))
        found: dict[str, dict[str, float]] = {}
        for k, (name, row) in enumerate(zip(self.kind.names, table, strict=True)):
            found[name] = {"n": int(row.sum())}
            if row.sum():
                far = float((row * np.abs(steps - k)).sum() / row.sum())
                found[name] |= {"recall": float(row[k] / row.sum()), "mean_absolute_error": far}
        return found


def _tables(
    truth: NDArray[np.int64], decided: NDArray[np.int64], states: int, member: NDArray[Any], groups: int
) -> Floats:
    """Return how often each true grade was taken for each grade, by group ``(groups, K, K)``."""
    tables = np.zeros((groups, states, states))
    np.add.at(tables, (member, truth, decided), 1.0)
    return tables


def _metrics(tables: Floats) -> dict[str, Floats]:
    """Return figures of R tables ``(R, K, K)``, true grades in rows; NaN where they are undefined."""
    steps = np.arange(tables.shape[-1])
    far = np.abs(steps[:, None] - steps)
    count = tables.sum(axis=(1, 2))
    chance = tables.sum(axis=2)[:, :, None] * tables.sum(axis=1)[:, None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [cast(Floats, (tables * (far == d)).sum(axis=(1, 2)) / count) for d in steps]
        kappa = 1.0 - (tables * far**2).sum(axis=(1, 2)) * count / (chance * far**2).sum(axis=(1, 2))
        error = (tables * far).sum(axis=(1, 2)) / count
    found = {"quadratic_kappa": kappa, "mean_absolute_error": error, "accuracy": shares[0] if shares else error}
    return found | {f"off by {d}": shares[d] for d in steps[1:].tolist()}
