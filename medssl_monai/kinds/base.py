"""What a kind of label has to say: its grammar, its numbers and its figures.

A label is a row of *cases*, each of which is in one of S *states*: an image has one class, each finding is absent or
present, each voxel has a class. Two tensors follow from that, and what is written on them holds for every kind:
targets ``(B, *cases)``, the state of each case or -1 where nobody knows it, and outcomes ``(B, *cases, S)``, the
probability of each state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NewType, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai import names
from medssl_monai.kinds.scores import Scores
from medssl_monai.kinds.threshold import Given, Threshold
from medssl_monai.unknown import UNKNOWN

Label = NewType("Label", object)
"""A label, which its kind alone may look into: whatever it likes; `Kind.plain` makes a JSON value of it."""


class Read(Protocol):
    """Reads the masks that labels name."""

    def targets(self, paths: Mapping[int, str], index: Sequence[int]) -> Tensor:
        """Return classes ``(B, *spatial)`` of the samples `index`, -1 where nobody labeled; `paths` are by position."""

    def read(self, paths: Mapping[int, str]) -> None:
        """Decode those of `paths` that are not there yet."""

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Reasons by position for the masks that cannot be read."""


@dataclass(frozen=True)
class Kind(ABC):
    """One kind of label.

    Args:
        names: of the classes, findings, structures or grades, in the order of their index; empty if unknown.

    Attributes:
        word: names the kind in files and configurations.
        noun: what a name is of, in a sentence.
        wanted: how to write a label, for messages.
        ordered: whether the order of the names means something, so that nobody may choose one.
        expected: what `expected_loss` is called.
    """

    names: tuple[str, ...] = ()
    word: ClassVar[str]
    noun: ClassVar[str] = "class"
    wanted: ClassVar[str]
    ordered: ClassVar[bool] = False
    expected: ClassVar[str] = "expected error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))

    @classmethod
    def of_size(cls, count: int) -> Self:
        """Return the kind of `count` names that nobody told."""
        return cls(tuple(f"class {k}" for k in range(count)))

    def fitted(self, label: Label) -> Self:
        """Return the kind with as many names as `label` says that there are, if it says that and none are known."""
        return self

    def names_in(self, label: Label) -> int:
        """Return how many names there must be for `label`; 0 if it does not tell."""
        return 0

    def check(self, where: str) -> None:
        """Refuse names that cannot be told apart, or that the text of a label cannot carry.

        Raises:
            ValueError: beginning with `where`.
        """
        names.check_classes(self.names, self.noun, where, self.problem_of)

    # ---- the grammar of labels ----

    @classmethod
    def recognizes(cls, value: object) -> bool:
        """Whether a value of a datalist that says no kind is of this one."""
        return False

    def problem_of(self, name: str) -> str | None:
        """Return why the text of a label cannot carry a name, as the end of a sentence; None if it can."""
        return None

    @abstractmethod
    def parse(self, value: object, folder: Path | None = None) -> Label:
        """Return the label that a person wrote: a cell of a table, or what a client sends.

        Args:
            value: text, or a JSON value.
            folder: where relative paths start.

        Raises:
            ValueError: with the end of a sentence: what the value is, and what may be.
        """

    @abstractmethod
    def text(self, label: Label) -> str:
        """Return the cell of a table that `parse` reads back."""

    def shown(self, label: Label) -> str:
        """Return what a page or a log shows; no more than that, where the text may name a person."""
        return self.text(label)

    def plain(self, label: Label, listed: Label | None) -> Any:
        """Return what a file holds; `listed` is the label that the datalist has for the sample."""
        return label

    @abstractmethod
    def restore(self, value: object, listed: Label | None = None) -> Label:
        """Return the label of a value that `plain` wrote or a datalist holds.

        Raises:
            ValueError: as `parse`.
        """

    @abstractmethod
    def translate(self, label: Label, names: Sequence[str]) -> Label:
        """Return the label of a file that was written with other `names`.

        Raises:
            ValueError: with the end of a sentence, if it cannot be said with the names of this kind.
        """

    def known(self, label: Label) -> bool:
        """Whether the label says anything."""
        return True

    def certain(self, label: Label) -> bool:
        """Whether the label says something of every case."""
        return True

    def contradict(self, first: Label, second: Label) -> bool:
        """Whether two labels cannot both be right; what is unknown contradicts nothing, nor does a file."""
        if self.cases is None:
            return False
        one, other = self.targets({0: first, 1: second}, [0, 1])
        return bool(((one != other) & (one != UNKNOWN) & (other != UNKNOWN)).any())

    def file(self, label: Label) -> str | None:
        """Return the path of the file that a label is in; None if it is in none."""
        return None

    @abstractmethod
    def strata(self, label: Label) -> tuple[int, ...]:
        """Return every stratum of draws and splits that a label belongs to: one or several; -1: none of the names."""

    @property
    def example(self) -> Any:
        """A label as a client may send it, for messages."""
        return self.names[0] if self.names else 0

    @property
    def choices(self) -> str:
        """What a table offers a person to write; empty if its head says enough."""
        return ""

    # ---- numbers ----

    @property
    def width(self) -> int:
        """Logits of a network's head."""
        return len(self.names)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states that a case can be in."""
        return self.names

    @property
    def case_names(self) -> tuple[str, ...]:
        """Names of the cases of a sample; empty where cases have none."""
        return ()

    @property
    def states(self) -> int:
        """S, how many states a case can be in."""
        return len(self.state_names)

    @property
    def cases(self) -> tuple[int, ...] | None:
        """Shape of the cases of a sample; None if it differs from image to image."""
        return ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the outcomes of a sample, ``(*cases, S)``.

        Raises:
            ValueError: if it differs from image to image.
        """
        if self.cases is None:
            raise ValueError(
                f"{self.word} have no fixed number of cases: how many voxels there are differs from image to image. "
                "Leave out what keeps a row for each sample, such as an alignment or a history, or take a method "
                "without it, such as FixMatch."
            )
        return (*self.cases, self.states)

    @abstractmethod
    def targets(self, labels: Mapping[int, Label], index: Sequence[int], read: Read | None = None) -> Tensor:
        """Return the states of samples, -1 where they are unknown.

        Args:
            labels: known labels by position.
            index: positions ``(B,)``.
            read: reads what a label names, where it names a file.

        Returns:
            ``(B, *cases)`` long.

        Raises:
            TypeError: if labels name files and there is nothing to read them with.
        """

    @abstractmethod
    def outcomes(self, logits: Tensor) -> Tensor:
        """Return probabilities of the states ``(B, *cases, S)`` in float32."""

    def log_outcomes(self, logits: Tensor) -> Tensor:
        """Return logarithms of the outcomes, in the precision of the logits."""
        return logits.log_softmax(dim=1)

    def logits(self, outcomes: Tensor) -> Tensor:
        """Return logits whose outcomes these are, up to what no outcome depends on; infinite where one is certain.

        Raises:
            ValueError: if the kind does not say how.
        """
        raise ValueError(f"nothing says which logits {self.word} of given probabilities have; define `logits`.")

    @abstractmethod
    def losses(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of each case ``(B, *cases)``, for unlabeled images.

        Args:
            logits: of the network; carry the gradient.
            wanted: states ``(B, *cases)`` long, or outcomes ``(B, *cases, S)`` to learn.
        """

    @abstractmethod
    def criterion(self) -> nn.Module:
        """Return the loss of labeled images: logits and targets to a scalar, 0 where nothing is known."""

    def decide(self, outcomes: Tensor) -> Tensor:
        """Return the state ``(B, *cases)`` that each case is predicted to be in; the first of equals."""
        return outcomes.argmax(dim=-1)

    def kept(self, outcomes: Tensor) -> Tensor:
        """Return what of the outcomes is kept for every sample of a pool."""
        return outcomes

    def per_image(self, kept: Tensor, name: str) -> Tensor:
        """Return outcomes from what is kept.

        Raises:
            ValueError: if what `name` looks for, predictions of whole images, is not there.
        """
        return kept

    def sure(self, kept: Tensor, threshold: Threshold) -> Tensor:
        """Return which samples are confident in every case ``(N,)``."""
        return (
            self.confident(kept, threshold).flatten(1).all(dim=1) if kept.ndim > 2 else self.confident(kept, threshold)
        )

    @abstractmethod
    def label_of(self, states: Tensor) -> Label | None:
        """Return the label that the states ``(*cases)`` of one sample stand for; None if a file would have to say."""

    def describe(self, kept: Tensor) -> dict[str, Any]:
        """Return what a query says of the prediction for one sample, from what is kept of it."""
        states = self.decide(kept.unsqueeze(0))
        label = self.label_of(states[0])
        confidence = kept.unsqueeze(0).gather(-1, states.unsqueeze(-1)).amin()
        return {"predicted": "" if label is None else self.shown(label), "confidence": float(confidence)}

    def differs(self, item: Mapping[str, Any], label: Label) -> bool:
        """Whether the prediction that a query described (`describe`) was wrong."""
        return bool(self.shown(label) != item["predicted"])

    @abstractmethod
    def scores(self, spacing: Sequence[float] | None = None, distances: bool = True) -> Scores:
        """Return a fresh gatherer of figures.

        Args:
            spacing: mm between the voxels of the images, where cases lie on their grid; None: distances are in pixels.
            distances: whether to measure them, which takes long.
        """

    def probabilities(self, kept: Tensor) -> Tensor:
        """Return the probability of each name ``(N, names)``, from what is kept of N samples."""
        return kept

    def columns(self, kept: Tensor) -> dict[str, list[float]]:
        """Return the probabilities that a table of predictions shows, by name, from what is kept of N samples."""
        return dict(zip(self.names, self.probabilities(kept).T.tolist(), strict=True))

    # ---- written once for every kind ----

    def confidence(self, outcomes: Tensor) -> Tensor:
        """Return the probability of the decided state ``(B, *cases)``."""
        return outcomes.gather(-1, self.decide(outcomes).unsqueeze(-1)).squeeze(-1)

    def expected_loss(self, outcomes: Tensor) -> Tensor:
        """Return how wrong the decided states are if the outcomes are right ``(B,)``, in [0, 1] and float64.

        It is how often a case is in another state than the decided one; the mean over the cases.
        """
        errors = 1.0 - self.confidence(outcomes.double())
        return errors.flatten(1).mean(dim=1) if errors.ndim > 1 else errors

    def confident(self, outcomes: Tensor, threshold: Threshold) -> Tensor:
        """Return which cases count, ``(B, *cases)`` bool."""
        decided = self.decide(outcomes)
        confidence = outcomes.gather(-1, decided.unsqueeze(-1)).squeeze(-1)
        return confidence >= threshold.of(outcomes, decided)

    def one_hot(self, states: Tensor) -> Tensor:
        """Return certain outcomes ``(..., S)``; all 0 where a state is unknown."""
        return F.one_hot(states.clamp_min(0), self.states).float() * (states != UNKNOWN).unsqueeze(-1)

    def threshold(self, given: Given | Tensor) -> Threshold:
        """Return thresholds from a configuration.

        Args:
            given: a number; one for each name; or numbers by name of the state, such as ``{absent: 0.995, present:
                0.9}``, each one or one for each name.

        Raises:
            ValueError: if a threshold is not in [0, 1], or there are not as many as names.
        """
        if isinstance(given, Mapping):
            if set(given) != set(self.state_names):
                raise ValueError(
                    f"thresholds by state are of {list(self.state_names)}, got {list(given)}; give each one."
                )
            columns = [self._checked(given[state]).expand(self.cases or ()) for state in self.state_names]
            return Threshold(torch.stack(columns, dim=-1))
        values = self._checked(given)
        return Threshold(values if values.ndim == 0 else self._by_name(values))

    def _by_name(self, values: Tensor) -> Tensor:
        """Return thresholds by name as `Threshold` has them: a name is a state, unless a kind has it for a case."""
        return values

    def _checked(self, given: Any) -> Tensor:
        values = torch.as_tensor(given, dtype=torch.double)
        if not bool(((values >= 0.0) & (values <= 1.0)).all()):
            raise ValueError(f"a threshold is a probability and must be in [0, 1], got {given}.")
        if values.ndim > 1 or (values.ndim and self.names and len(values) not in (1, len(self.names))):
            raise ValueError(f"there are {len(values)} thresholds for {len(self.names)} names: give each one, or one.")
        return values.squeeze(0) if values.shape == (1,) else values

    def renamed(self, names: Sequence[str]) -> Self:
        """Return the same kind with other names."""
        return replace(self, names=tuple(names))
