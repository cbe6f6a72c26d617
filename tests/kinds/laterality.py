"""A kind of label that the package does not have, as another one may add it."""

from typing import ClassVar

import torch

from medssl_monai.kinds import Findings, Kind
from medssl_monai.kinds.findings import FindingScores

SIDES = ("left", "right")


class Laterality(Kind):
    """Seen left, right, on both sides or on none; a label is a set, which JSON does not have. Else two findings."""

    word: ClassVar[str] = "laterality"
    noun: ClassVar[str] = "side"
    wanted: ClassVar[str] = "left, right, left+right or neither"
    state_names, case_names, cases = Findings.state_names, Findings.case_names, Findings.cases
    outcomes, log_outcomes, logits, losses = Findings.outcomes, Findings.log_outcomes, Findings.logits, Findings.losses
    criterion, probabilities, _by_name = Findings.criterion, Findings.probabilities, Findings._by_name

    def parse(self, value, folder=None):
        sides = value.split("+") if isinstance(value, str) and value != "neither" else []
        if value != "neither" and (not sides or not set(SIDES).issuperset(sides)):
            raise ValueError(f"is {value!r}, and must be {self.wanted}")
        return frozenset(sides)

    def text(self, label):
        return "+".join(sorted(label)) or "neither"

    def plain(self, label, listed):
        return self.text(label)

    def restore(self, value, listed=None):
        return self.parse(value)

    def translate(self, label, names):
        return label

    def strata(self, label):
        return (len(label),)

    def targets(self, labels, index, read=None):
        rows = [[int(side in labels[i]) for side in self.names] if i in labels else [-1, -1] for i in index]
        return torch.tensor(rows, dtype=torch.long).view(-1, 2)

    def label_of(self, states):
        return frozenset(side for side, state in zip(self.names, states.tolist(), strict=True) if state)

    def scores(self, spacing=None, distances=True):
        return FindingScores(self)
