"""From which probability on a prediction counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Given = float | Sequence[float] | Mapping[str, float | Sequence[float]]
"""Thresholds as a configuration has them, see `Kind.threshold`."""


@dataclass(frozen=True, eq=False)
class Threshold:
    """Confidence from which on a case counts, by the state that it is predicted to be in.

    Args:
        values: probabilities, broadcast against ``(*cases, S)`` and never against the batch.
    """

    values: Tensor

    def of(self, outcomes: Tensor, decided: Tensor) -> Tensor:
        """Return the threshold of each case, which broadcasts against `decided` ``(B, *cases)``."""
        values = self.values.to(outcomes)
        if values.ndim == 0:
            return values
        return values.expand(outcomes.shape[1:]).expand(outcomes.shape).gather(-1, decided.unsqueeze(-1)).squeeze(-1)

    def plain(self) -> Any:
        """Return what a file holds; `of_plain` reads it."""
        return self.values.tolist()

    @classmethod
    def of_plain(cls, content: Any) -> Threshold:
        """Return what `plain` wrote."""
        return cls(torch.as_tensor(content, dtype=torch.double))
