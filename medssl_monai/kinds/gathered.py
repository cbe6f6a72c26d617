"""Scores of kinds with few cases per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medssl_monai.kinds.base import Kind
from medssl_monai.kinds.scores import Scores
from medssl_monai.unknown import UNKNOWN


class Gathered(Scores):
    """Keeps all outcomes and targets."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._outcomes: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, outcomes: Tensor, targets: Tensor) -> None:
        self._outcomes.append(outcomes.detach().cpu())
        self._targets.append(targets.cpu())

    @property
    def known(self) -> tuple[Tensor, Tensor]:
        """Outcomes and targets of all samples of which anything is known."""
        targets = torch.cat(self._targets)
        rows = self._rows(targets)
        return torch.cat(self._outcomes)[rows], targets[rows]

    def groups(self, group: Sequence[str]) -> list[str]:
        """Return whom those samples belong to, of the groups of all.

        Raises:
            ValueError: if there are not as many as samples.
        """
        rows = self._rows(torch.cat(self._targets)).tolist()
        return [str(own) for own, known in zip(group, rows, strict=True) if known]

    @staticmethod
    def _rows(targets: Tensor) -> Tensor:
        return (targets != UNKNOWN).unsqueeze(-1).flatten(1).any(dim=1)
