"""One class per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai import limits
from medssl_monai.kinds.base import Kind, Label, Read
from medssl_monai.kinds.gathered import Gathered
from medssl_monai.kinds.grammar import index_of
from medssl_monai.kinds.scores import Scores
from medssl_monai.metrics.classification import classification_metrics, evaluate_predictions
from medssl_monai.names import shown
from medssl_monai.unknown import UNKNOWN


class Classes(Kind):
    """K classes, of which each image has one; a label is an index."""

    word: ClassVar[str] = "classes"
    wanted: ClassVar[str] = "the name of one class"

    def names_in(self, label: Label) -> int:
        return cast(int, label) + 1

    @classmethod
    def recognizes(cls, value: object) -> bool:
        return type(value) is int

    def parse(self, value: object, folder: Path | None = None) -> Label:
        if isinstance(value, str):
            index = index_of(value.strip(), self.names)
            if index is None:
                if not self.names:
                    raise ValueError(f"is {shown(value)}, and must be a class index from 0")
                raise ValueError(f"is {shown(value)}, which is none of the {plural(self.noun)} {list(self.names)}")
            value = index
        return self.restore(value)

    def text(self, label: Label) -> str:
        return self.names[cast(int, label)] if self.names else str(label)

    def restore(self, value: object, listed: Label | None = None) -> Label:
        if type(value) is not int or value < 0 or (self.names and value >= len(self.names)):
            end = f" to {len(self.names) - 1}" if self.names else ""
            raise ValueError(f"is {shown(value)}, and must be a {self.noun} index from 0{end}")
        if not self.names:
            limits.check("max_classes", value + 1, "the label")
        return Label(value)

    def translate(self, label: Label, names: Sequence[str]) -> Label:
        if not self.names or not names:
            return label
        name = names[cast(int, label)]
        if name not in self.names:
            raise ValueError(f"is {name!r}, which the datalist lacks; mend its class names")
        return Label(self.names.index(name))

    def strata(self, label: Label) -> tuple[int, ...]:
        return (cast(int, label),)

    def targets(self, labels: Mapping[int, Label], index: Sequence[int], read: Read | None = None) -> Tensor:
        return torch.tensor([cast(int, labels.get(i, UNKNOWN)) for i in index], dtype=torch.long)

    def outcomes(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

    def logits(self, outcomes: Tensor) -> Tensor:
        return outcomes.log()

    def losses(self, logits: Tensor, wanted: Tensor) -> Tensor:
        wanted = wanted.detach() if wanted.dtype == torch.long else wanted.detach().to(logits.dtype)
        return F.cross_entropy(logits, wanted, reduction="none")

    def criterion(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def label_of(self, states: Tensor) -> Label | None:
        return Label(int(states))

    def scores(self, spacing: Sequence[float] | None = None, distances: bool = True) -> Scores:
        return ClassScores(self)


class ClassScores(Gathered):
    """Accuracy, ranking and calibration of classes, see `medssl_monai.metrics.evaluate_predictions`."""

    best: ClassVar[str] = "auroc"

    def quick(self) -> tuple[dict[str, float], dict[str, str], int]:
        outcomes, targets = self.known
        return *classification_metrics(outcomes.numpy(), targets.numpy(), self.kind.names), len(targets)

    def figures(self, group: Sequence[str]) -> dict[str, Any]:
        outcomes, targets = self.known
        found = evaluate_predictions(outcomes.numpy(), targets.numpy(), self.groups(group), classes=self.kind.names)
        return {"kind": self.kind.word, **found}


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    return noun + ("es" if noun.endswith("s") else "s")
