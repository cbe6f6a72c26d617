"""A class for each pixel or voxel."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.kinds.base import Kind, Label, Read
from medssl_monai.kinds.scores import Scores
from medssl_monai.kinds.threshold import Threshold
from medssl_monai.losses.masks import MaskLoss
from medssl_monai.metrics.masks import CaseScores, Unit, case_rows, case_scores, evaluate_masks, mask_metrics
from medssl_monai.names import shown


class Masks(Kind):
    """K classes of voxels, the background's first; a label is the path of a file, which a `Read` decodes."""

    word: ClassVar[str] = "masks"
    noun: ClassVar[str] = "class of masks"
    wanted: ClassVar[str] = "paths of masks, from the folder of that table"
    expected: ClassVar[str] = "expected Dice loss"

    @classmethod
    def recognizes(cls, value: object) -> bool:
        return isinstance(value, str)

    def parse(self, value: object, folder: Path | None = None) -> Label:
        label = cast(str, self.restore(value))
        if folder is None:
            return Label(label)
        found = _found(os.path.abspath(folder), label)
        if found is None:
            raise ValueError(f"is {shown(label)}, and there is no such file")
        return Label(found)

    def text(self, label: Label) -> str:
        return cast(str, label)

    def shown(self, label: Label) -> str:
        return "mask"  # a path may name a person

    def plain(self, label: Label, listed: Label | None) -> Any:
        return True if label == listed else label

    def restore(self, value: object, listed: Label | None = None) -> Label:
        if value is True:
            if listed is None:
                raise ValueError("is said to be named by the datalist, and is not; use the datalist of that file")
            return listed
        if not isinstance(value, str):
            raise ValueError(f"is {shown(value)}, and must be the path of a mask")
        if not value.strip():
            raise ValueError("is an empty path; leave it out for an image without a mask")
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            value = "\0"
        if "\0" in value:
            raise ValueError("must be the path of a file, and holds a sign that no path can hold")
        return Label(value)

    def translate(self, label: Label, names: Sequence[str]) -> Label:
        return label  # the file holds indices; whoever reads it knows its classes

    def file(self, label: Label) -> str | None:
        return cast(str, label)

    def strata(self, label: Label) -> tuple[int, ...]:
        return (0,)  # what a mask shows is not read for a draw

    @property
    def cases(self) -> tuple[int, ...] | None:
        return None

    def targets(self, labels: Mapping[int, Label], index: Sequence[int], read: Read | None = None) -> Tensor:
        if read is None:
            raise TypeError("the labels are masks, and there is nothing to read them with; give the labels `read`.")
        return read.targets(cast(Mapping[int, str], labels), index)

    def outcomes(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1).movedim(1, -1)

    def log_outcomes(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(dim=1).movedim(1, -1)

    def losses(self, logits: Tensor, wanted: Tensor) -> Tensor:
        wanted = wanted.detach() if wanted.dtype == torch.long else wanted.detach().movedim(-1, 1).to(logits.dtype)
        return F.cross_entropy(logits, wanted, reduction="none")

    def criterion(self) -> nn.Module:
        return MaskLoss()

    def kept(self, outcomes: Tensor) -> Tensor:
        return (
            outcomes.movedim(-1, 1).flatten(2).mean(dim=2)
        )  # the share of each class: no pool of voxels fits into memory

    def per_image(self, kept: Tensor, name: str) -> Tensor:
        raise ValueError(  # a mean over voxels says how large the foreground is, not how uncertain
            f"`{name}` asks for labels of whole images; for masks take `medssl_monai.query.mask_entropy`, "
            "`boundary_entropy`, `bald` or `dice_disagreement`."
        )

    def sure(self, kept: Tensor, threshold: Threshold) -> Tensor:
        return torch.zeros(len(kept), dtype=torch.bool)  # pseudo-labels are of voxels

    def label_of(self, states: Tensor) -> Label | None:
        return None

    def describe(self, kept: Tensor) -> dict[str, Any]:
        """Return the share of the voxels that each class but the background takes; it does not say how sure that is."""
        names = self.names or [str(k) for k in range(len(kept))]
        shares = zip(names[1:], kept[1:].tolist(), strict=True)
        return {"predicted": ", ".join(f"{name} {share:.1%}" for name, share in shares)}

    def differs(self, item: Mapping[str, Any], label: Label) -> bool:
        return False

    def expected_loss(self, outcomes: Tensor) -> Tensor:
        """Return the Dice loss of predicted masks if the outcomes are right ``(B,)``: a mean over all but background.

        Of a class with the voxels ``A`` that are predicted to be of it, it is ``1 - 2 E|A and Y| / (|A| + E|Y|)``. This
        ratio of expectations over true masks ``Y`` stands for the expectation of the ratio: it needs the probability of
        each voxel, and nothing of how they depend on each other. Where no voxel is predicted to be of a class, that
        would be 1 however improbable the class is, and images that lack a structure would come first. There, Dice is 1
        if the class is truly absent and 0 if it is not (`medssl_monai.metrics.masks`), and the loss is the chance that
        there is any of it: that of its most probable voxel, which is as low as it can be.
        """
        outcomes = outcomes.flatten(1, -2)
        predicted = torch.zeros_like(outcomes).scatter_(2, self.decide(outcomes).unsqueeze(2), 1.0)
        size, overlap = predicted.sum(dim=1), (outcomes * predicted).sum(dim=1)
        loss = torch.where(size > 0, 1.0 - 2.0 * overlap / (size + outcomes.sum(dim=1)), outcomes.amax(dim=1))
        return loss[:, 1:].mean(dim=1)

    def scores(self, spacing: Sequence[float] | None = None, distances: bool = True) -> Scores:
        return MaskScores(self, spacing, distances)


def _found(folder: str, text: str) -> str | None:
    """Return the file that a path in a table names, from the folder of the table; None if there is none."""
    for own in (text, text.replace("\\", "/")):
        for form in ("NFC", "NFD"):  # tables are read as NFC, and a Mac names files otherwise
            path = os.path.join(folder, unicodedata.normalize(form, own))
            if os.path.isfile(path):
                return path
    return None


class MaskScores(Scores):
    """Overlap and distances of each case; a batch is scored and forgotten."""

    best: ClassVar[str] = "dice"
    counted: ClassVar[str] = "masks"
    shown: ClassVar[Mapping[str, str]] = {
        "dice": "Dice",
        "hd95": "95 % Hausdorff distance",
        "asd": "average surface distance",
    }

    def __init__(self, kind: Kind, spacing: Sequence[float] | None = None, distances: bool = True) -> None:
        self.kind, self.spacing, self.distances = kind, spacing, distances
        self.unit: Unit = "pixels" if spacing is None else "mm"
        self._parts: list[CaseScores] = []

    def add(self, outcomes: Tensor, targets: Tensor) -> None:
        decided, classes = self.kind.decide(outcomes), outcomes.shape[-1]
        self._parts.append(case_scores(decided, targets.to(decided.device), classes, self.spacing, self.distances))

    def columns(self, figures: Mapping[str, Any]) -> dict[str, str]:
        return {name: title if name == "dice" else f"{title} ({figures['unit']})" for name, title in self.shown.items()}

    def quick(self) -> tuple[dict[str, float], dict[str, str], int]:
        cases = CaseScores.join(self._parts)
        values, undefined = mask_metrics(cases, self.kind.names, ["dice"])
        return {name: float(np.nanmean(of)) for name, of in values.items()}, undefined, int(cases.known.sum())

    def figures(self, group: Sequence[str]) -> dict[str, Any]:
        cases = CaseScores.join(self._parts)
        return {"kind": self.kind.word, **evaluate_masks(cases, group, self.kind.names, self.unit)}

    def rows(self, ids: Sequence[str]) -> list[list[object]] | None:
        return case_rows(CaseScores.join(self._parts), ids, self.kind.names, self.unit)
