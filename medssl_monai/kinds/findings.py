"""Findings, each of them absent, present or unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai import limits
from medssl_monai.kinds.base import Kind, Label, Read
from medssl_monai.kinds.gathered import Gathered
from medssl_monai.kinds.grammar import are_numbers, meant, numbers
from medssl_monai.kinds.scores import Scores
from medssl_monai.losses.findings import FindingCrossEntropy
from medssl_monai.metrics.classification import METRICS, classification_metrics, evaluate_predictions, left_out
from medssl_monai.names import NOTHING, find, fold, shown
from medssl_monai.unknown import UNKNOWN

MARKS = {1: "", UNKNOWN: "?"}
"""Before the name of a finding in a label's text."""


class Findings(Kind):
    """K findings; a label is a list of 1 (present), 0 (absent) and -1 (unknown).

    People write the names of what is there, separated by semicolons, and all others are absent. ``none``: all are. A
    finding with a question mark before it is unknown: ``effusion; ?mass``.
    """

    word: ClassVar[str] = "findings"
    noun: ClassVar[str] = "finding"
    wanted: ClassVar[str] = f"what is there, separated by semicolons, with '?' before what is unknown, or {NOTHING!r}"

    def fitted(self, label: Label) -> Self:
        return self.of_size(len(label)) if not self.names and isinstance(label, list) else self

    def names_in(self, label: Label) -> int:
        return len(cast(list[int], label))

    @classmethod
    def recognizes(cls, value: object) -> bool:
        return isinstance(value, list)

    def problem_of(self, name: str) -> str | None:
        if fold(name) == NOTHING:
            return "would mean that nothing is there"
        if ";" in name:
            return "holds ';', which stands between findings"
        return "begins with '?', which stands before what is unknown" if name.startswith("?") else None

    def parse(self, value: object, folder: Path | None = None) -> Label:
        given = value
        if isinstance(value, str):
            value = self._read(value)
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            present = [] if [fold(name) for name in value] == [NOTHING] else value
            value = {**dict.fromkeys(self.names, False), **{find(name, self.names) or name: True for name in present}}
        if isinstance(value, Mapping):
            value = self._states(value)
        if isinstance(value, list):
            label = self.restore(value)
            if not self.known(label):
                raise ValueError("says of every finding that it is unknown, so that there is no label; leave it empty")
            return label
        raise ValueError(
            f"is {shown(given)}; write what is there, separated by ';', out of {list(self.names)}, with '?' before "
            f"what is unknown, or {NOTHING!r}"
        )

    def _states(self, given: Mapping[str, Any]) -> list[int] | None:
        """Return a list from states by name: true, false, or null for unknown; None if they are something else."""
        named = {find(name, self.names) or name: state for name, state in given.items()}
        if len(named) < len(given) or not named.keys() <= set(self.names):
            return None
        states = [named.get(name) for name in self.names]
        if not all(state is None or (isinstance(state, int) and -1 <= state <= 1) for state in states):
            return None
        return [UNKNOWN if state is None else int(state) for state in states]

    def _read(self, text: str) -> list[int] | None:
        words = [part.strip() for part in text.split(";") if part.strip()]
        present = {word: meant(word, self.names) for word in words}
        asked = {
            word: meant(word[1:].strip(), self.names) for word in words if present[word] is None and word[0] == "?"
        }
        if self.names and len(words) == 1 and fold(words[0]) == NOTHING and present[words[0]] is None:
            return [0] * len(self.names)
        index = [asked.get(word, present[word]) for word in words]
        if words and None not in index and len(set(index)) == len(index):
            unknown = set(asked.values())
            return [UNKNOWN if k in unknown else int(k in index) for k in range(len(self.names))]
        found = numbers(text)
        return found if found and not (len(found) == 1 and are_numbers(self.names)) else None

    def text(self, label: Label) -> str:
        states = cast(list[int], label)
        if not self.names:
            return " ".join(map(str, states))
        pairs = zip(self.names, states, strict=True)
        return "; ".join(MARKS[state] + name for name, state in pairs if state in MARKS) or NOTHING

    def restore(self, value: object, listed: Label | None = None) -> Label:
        if not isinstance(value, list) or not value or any(type(v) is not int or v not in (-1, 0, 1) for v in value):
            raise ValueError(f"is {shown(value)}, and must hold 1 (present), 0 (absent) or -1 (unknown) per finding")
        if self.names and len(value) != len(self.names):
            raise ValueError(f"is {shown(value)}, with {len(value)} entries for {len(self.names)} findings")
        if not self.names:
            limits.check("max_classes", len(value), "the label")
        return Label(list(value))

    def plain(self, label: Label, listed: Label | None) -> Any:
        return list(label) if isinstance(label, list) else label  # no view of it

    def translate(self, label: Label, names: Sequence[str]) -> Label:
        if not self.names or not names:
            return label
        if lost := [name for name in names if name not in self.names]:
            raise ValueError(f"is of the findings {list(names)}, and the datalist lacks {lost}; mend its class names")
        states = dict(zip(names, cast(list[int], label), strict=True))
        return Label([states.get(name, UNKNOWN) for name in self.names])  # nobody looked for a new finding

    def known(self, label: Label) -> bool:
        return any(state != UNKNOWN for state in cast(list[int], label))

    def certain(self, label: Label) -> bool:
        return UNKNOWN not in cast(list[int], label)

    def strata(self, label: Label) -> tuple[int, ...]:
        states = cast(list[int], label)
        return tuple(k for k, state in enumerate(states) if state == 1) or (-1,)

    @property
    def example(self) -> Any:
        return list(self.names[:1])

    @property
    def choices(self) -> str:
        return "; ".join([NOTHING, *self.names]) if self.names else ""

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("absent", "present")

    @property
    def case_names(self) -> tuple[str, ...]:
        return self.names

    @property
    def cases(self) -> tuple[int, ...] | None:
        return (len(self.names),)

    def targets(self, labels: Mapping[int, Label], index: Sequence[int], read: Read | None = None) -> Tensor:
        width = len(self.names) or len(cast(list[int], next(iter(labels.values()), [])))
        unknown = [UNKNOWN] * width
        return torch.tensor([cast(list[int], labels.get(i, unknown)) for i in index], dtype=torch.long).view(-1, width)

    def outcomes(self, logits: Tensor) -> Tensor:
        present = logits.float().sigmoid()
        return torch.stack([1.0 - present, present], dim=-1)

    def log_outcomes(self, logits: Tensor) -> Tensor:
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)

    def logits(self, outcomes: Tensor) -> Tensor:
        return outcomes[..., 1].logit()

    def losses(self, logits: Tensor, wanted: Tensor) -> Tensor:
        both = F.pad(logits.unsqueeze(2), (1, 0)).flatten(0, 1)  # their softmax is the sigmoid
        wanted = wanted.detach().flatten(0, 1)
        wanted = wanted if wanted.dtype == torch.long else wanted.to(logits.dtype)
        return F.cross_entropy(both, wanted, reduction="none").view_as(logits)

    def criterion(self) -> nn.Module:
        return FindingCrossEntropy()

    def label_of(self, states: Tensor) -> Label | None:
        return Label([int(state) for state in states])

    def describe(self, kept: Tensor) -> dict[str, Any]:
        names = self.names or [str(k) for k in range(len(kept))]
        return {**super().describe(kept), "findings": dict(zip(names, kept[:, 1].tolist(), strict=True))}

    def differs(self, item: Mapping[str, Any], label: Label) -> bool:
        pairs = zip(item["findings"].values(), cast(list[int], label), strict=True)
        return any(state not in (UNKNOWN, int(p > 0.5)) for p, state in pairs)

    def probabilities(self, kept: Tensor) -> Tensor:
        return kept[..., 1]

    def _by_name(self, values: Tensor) -> Tensor:
        return values.unsqueeze(-1)  # a name is a case: the same for absent and present

    def scores(self, spacing: Sequence[float] | None = None, distances: bool = True) -> Scores:
        return FindingScores(self)


class FindingScores(Gathered):
    """Figures of the known pairs of a sample and a finding, see `medssl_monai.metrics.evaluate_predictions`."""

    best: ClassVar[str] = "auroc"
    titles: ClassVar[Mapping[str, str]] = {"n": "present", "absent": "absent"}

    def brief(
        self, undefined: Mapping[str, str], titles: Mapping[str, str] | None = None
    ) -> tuple[dict[str, str], list[str]]:
        """Many findings may lack every metric: they are told together, in a line for each metric."""
        return {name: undefined[name] for name in METRICS if name in undefined}, left_out(undefined, titles)

    def quick(self) -> tuple[dict[str, float], dict[str, str], int]:
        outcomes, targets = self.known
        return *classification_metrics(outcomes[..., 1].numpy(), targets.numpy(), self.kind.names), len(targets)

    def figures(self, group: Sequence[str]) -> dict[str, Any]:
        (outcomes, targets), names = self.known, self.kind.names
        found = evaluate_predictions(outcomes[..., 1].numpy(), targets.numpy(), self.groups(group), classes=names)
        return {"kind": self.kind.word, **found}
