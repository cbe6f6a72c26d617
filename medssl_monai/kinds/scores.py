"""How good predictions are, and what pages and logs say of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor


class Scores(ABC):
    """Gathers predictions batch by batch, and says how good they are.

    Attributes:
        best: the metric that selects weights; the higher the better.
        counted: what is counted, in the plural.
        shown: the metrics that every table and figure has, with their titles.
        titles: of further figures, where the page has no other.
    """

    best: ClassVar[str]
    counted: ClassVar[str] = "images"
    shown: ClassVar[Mapping[str, str]] = {"accuracy": "accuracy", "f1_macro": "macro-F1", "auroc": "AUROC"}
    titles: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def add(self, outcomes: Tensor, targets: Tensor) -> None:
        """Take in outcomes and targets of a batch; a sample of which nothing is known counts as none."""

    @abstractmethod
    def quick(self) -> tuple[dict[str, float], dict[str, str], int]:
        """Return metrics, reasons for those that are undefined, and how many samples they are of; no intervals."""

    @abstractmethod
    def figures(self, group: Sequence[str]) -> dict[str, Any]:
        """Return all figures with intervals, ready for JSON.

        Args:
            group: whom each sample belongs to, in the order in which they were added.

        Returns:
            ``kind``, ``n`` and ``groups`` (counts), ``metrics`` (``{name: {"value", "low", "high"}}``), ``undefined``
            (reasons), ``per_class`` and ``interval``.
        """

    def rows(self, ids: Sequence[str]) -> list[list[object]] | None:
        """Return a table of every sample, its head first, for a file of its own; None if there is nothing to tell."""
        return None

    def columns(self, figures: Mapping[str, Any]) -> dict[str, str]:
        """Return `shown` for figures that were written, with units."""
        return dict(self.shown)

    def brief(
        self, undefined: Mapping[str, str], titles: Mapping[str, str] | None = None
    ) -> tuple[dict[str, str], list[str]]:
        """Return the reasons to tell one by one, and lines that say the others together.

        Args:
            undefined: reasons by metric.
            titles: of the metrics to speak of; None: all, by their names.
        """
        return dict(undefined), []
