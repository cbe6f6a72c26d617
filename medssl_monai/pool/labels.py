"""Who knows what: the labels of one part of a datalist, and which of them are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medssl_monai.data.datalist import FLAGS, Item, Key, hash_items
from medssl_monai.kinds import KINDS, Kind, Label, Read, chosen_kind
from medssl_monai.pool.draws import DRAWS, Draw
from medssl_monai.pool.files import is_table, read_part
from medssl_monai.pool.ids import ids_of, nfc, spellings
from medssl_monai.pool.tables import read_answers, shared_files, unread
from medssl_monai.seeds import seed_of_part
from medssl_monai.tables import Table

Subset = Literal["labeled", "unlabeled", "all"]

ASKED_BY: dict[Key, str] = {"label": "labels", "mask": "mask_labels"}
"""The value of a configuration that says how many are known."""


SHOWN = 300
"""Characters of a reason, which may quote a cell."""


class Given(NamedTuple):
    """What became of the answers in a table: ids whose label was taken, and a reason for each that was refused."""

    accepted: list[str]
    refused: list[str]


class Labels:
    """The labels of one part of a datalist and which of them are known; the only place that knows a label.

    Datasets yield images; the trainer takes the targets from here by ``batch["index"]``. A new or corrected label
    therefore changes this object and nothing else. A label that is hidden (``"labeled": false``, or left out by
    `known`) is not in here at all. A label that says nothing, such as findings that are all unknown, counts as none.

    Args:
        datalist: items; position r is the `index` r of everything else.
        known: which labels are known at the start. None: as the datalist says (an item counts as labeled if its flag
            says so or, without a flag, if it has a label). A whole number: a draw of as many items. A fraction up to
            1.0: likewise, of all items that have a label (both draw anew, whatever the flags say). A path: the labels
            in that file, written by `medssl_monai.pool.LabelPool.save` or a table with the columns ``id`` and `key`.
        key: which part: ``label``, or ``mask`` for the masks that items have beside their label. Draws of both are
            independent.
        names: of the classes, findings or structures, in the order of their index; default: as the datalist says.
        kind: what a label is, by its word or as an object; None: as the datalist says, or its values look, or as the
            file of `known` says. To be named where nothing tells, since persons give all labels; one class per image
            is assumed then.
        read: reads the files that labels name, where they name any.
        seed: decides the draw.
        draw: of a number or fraction: ``balanced``, as many of each class as there are
            (`medssl_monai.pool.draws.balanced_draw`), or ``stratified``, each class at its frequency.

    Attributes:
        kind: what a label is.
        query_size: of the query that the labels of a file were given to, see `LabelPool`.

    Raises:
        ValueError: if `known` asks for more than there is, or names an id that the datalist lacks, or labels do not fit
            the kind, or `draw` or `key` is none.
    """

    def __init__(
        self,
        datalist: Sequence[Item],
        known: int | float | str | Path | None = None,
        key: Key = "label",
        names: Sequence[str] = (),
        kind: Kind | str | None = None,
        read: Read | None = None,
        seed: int = 0,
        draw: Draw = "balanced",
    ) -> None:
        if key not in FLAGS:
            raise ValueError(f"`key` must be one of {tuple(FLAGS)}, got {key!r}.")
        if draw not in DRAWS:
            raise ValueError(f"`draw` must be one of {tuple(DRAWS)}, got {draw!r}.")
        self.key: Key = key
        self.read, self.query_size = read, (0, 0)
        self.datalist_sha256 = str(getattr(datalist, "sha256", "")) or hash_items(datalist)
        self.synthetic = bool(getattr(datalist, "synthetic", False))
        self.ids = ids_of(datalist)
        self.position = {name: position for position, name in enumerate(self.ids)}
        self._spelled = spellings(self.ids)
        self._sources = [item.get("source") for item in datalist]
        self._images = [str(item.get("image", position)) for position, item in enumerate(datalist)]
        self._excluded = torch.zeros(len(self.ids), dtype=torch.bool)
        values = {position: item[key] for position, item in enumerate(datalist) if item.get(key) is not None}
        file = None if known is None or isinstance(known, int | float) or known in ("null", "None") else Path(known)
        saved = None if file is None or is_table(file) else read_part(file, key)
        names = names or tuple(getattr(datalist, "names", {}).get(key, ()))
        said = kind or getattr(datalist, "kinds", {}).get(key) or ""
        self.kind = chosen_kind(said, values.values(), names, "" if saved is None else saved["kind"])
        found = {p: self._restore(p, value) for p, value in values.items()}
        self._listed = {p: label for p, label in found.items() if self.kind.known(label)}
        self._labels: list[Label | None] = [None] * len(self.ids)
        self._targets: Tensor | None = None
        self._counts: Tensor | None = None
        self._kept: dict[int, Label] | None = None
        if file is not None:
            self._load(file, saved)
            return
        if known is None or isinstance(known, str):
            chosen = [position for position in self._listed if datalist[position].get(FLAGS[key], True)]
        else:
            chosen = self._drawn(known, seed_of_part(seed, list(FLAGS).index(key)), draw)
        self._set_all({position: self._listed[position] for position in chosen}, labeled=False)

    def _restore(self, position: int, value: Any) -> Label:
        try:
            return self.kind.restore(value)
        except ValueError as error:
            raise ValueError(f"the {self.key} of {self.ids[position]!r} {error}.") from None

    def _drawn(self, known: Any, seed: int, draw: Draw) -> list[int]:
        count = round(known * len(self._listed)) if isinstance(known, float) and known <= 1 else int(known)
        positions = sorted(self._listed)
        if not 0 <= count <= len(positions):
            raise ValueError(
                f"`{ASKED_BY[self.key]}` asks for {count} items, and the training section has {len(positions)} with a "
                f"{self.key}."
            )
        drawn = DRAWS[draw]([self.kind.strata(self._listed[p]) for p in positions], count, seed)
        return [positions[i] for i in drawn]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """Which samples are labeled, ``(N,)`` bool."""
        return torch.tensor([label is not None for label in self._labels], dtype=torch.bool)

    def label(self, index: int) -> Label | None:
        """Return the known label of one sample, or None."""
        return self._labels[index]

    def hidden(self) -> dict[int, Label]:
        """Return the labels that the datalist has and that are not known here, by position of what can be read."""
        return {p: self._listed[p] for p in self.indices("unlabeled").tolist() if p in self._listed}

    def id_of(self, name: str) -> str:
        """Return the id of the datalist that is `name`, however Unicode writes its accents; `name` if there is none."""
        return self._spelled.get(nfc(name), name)

    def files(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield id, image and label file of every sample: that of the known label, else that of the hidden one."""
        for position, label in enumerate(self._labels):
            own = self._listed.get(position) if label is None else label
            yield self.ids[position], self._images[position], None if own is None else self.kind.file(own)

    def exclude(self, index: Iterable[int]) -> None:
        """Leave samples out of `indices` and `targets`, whose files cannot be read; their labels stay known."""
        self._excluded[list(index)] = True
        self._forget()

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Reasons by position for label files that cannot be read, of the labels that are known now.

        Raises:
            ValueError: if they are not to be skipped, see `medssl_monai.data.Masks`.
        """
        if self.read is None:
            return {}
        self.read.read({i: file for i, label in self._known().items() if (file := self.kind.file(label)) is not None})
        return self.read.unreadable

    def indices(self, subset: Subset) -> Tensor:
        """Return positions of `subset`, ascending, as a 1-d long tensor; without those that `exclude` named."""
        chosen = {"labeled": self.mask, "unlabeled": ~self.mask, "all": torch.ones(len(self), dtype=torch.bool)}[subset]
        return (chosen & ~self._excluded).nonzero().squeeze(1)

    def drawable(self, subset: Subset) -> Tensor:
        """Return `indices` to train on and to ask for: of several sources, of those that have a known label."""
        positions = self.indices(subset)
        sources = {self._sources[i] for i in self.indices("labeled").tolist()}
        if not sources or sources >= set(self._sources):
            return positions
        return positions[[self._sources[i] in sources for i in positions.tolist()]]

    def targets(self, index: Tensor) -> Tensor:
        """Return the states of samples ``(B,)``, ``(B, *cases)`` on their device; -1 where unknown or excluded.

        Raises:
            TypeError: if labels are in files and there is nothing to read them with.
            ValueError: see `medssl_monai.data.Masks.targets`.
        """
        if self.kind.cases is None:
            return self.kind.targets(self._known(), index.tolist(), self.read).to(index.device)
        if self._targets is None:
            self._targets = self.kind.targets(self._known(), range(len(self)), self.read)
        self._targets = self._targets.to(index.device)
        return self._targets[index]

    def counts(self, device: torch.device | str = "cpu") -> Tensor:
        """Return how many known labels have each state, ``(*cases, S)`` long, without those that `exclude` named.

        Counted anew only after a label has changed, and kept on the device, so that a training step can ask for it.

        Raises:
            ValueError: if labels have no fixed number of cases.
        """
        self.kind.shape  # noqa: B018  # says why not
        if self._counts is None:
            self._counts = self.kind.one_hot(self.targets(torch.arange(len(self)))).sum(dim=0).long()
        self._counts = self._counts.to(device)
        return self._counts

    def _known(self) -> Mapping[int, Label]:
        if self._kept is None:  # the same object until a label changes
            pairs = enumerate(zip(self._labels, self._excluded.tolist(), strict=True))
            self._kept = {i: label for i, (label, out) in pairs if label is not None and not out}
        return self._kept

    def annotate(self, index: Iterable[int] | Tensor, labels: Iterable[Label]) -> None:
        """Make labels known; all or nothing.

        Raises:
            ValueError: if a sample is labeled already, occurs twice, or a label says nothing; by id.
        """
        self._change(index, labels, labeled=False)

    def correct(self, index: Iterable[int] | Tensor, labels: Iterable[Label]) -> None:
        """Replace known labels; all or nothing.

        Raises:
            ValueError: if a sample is not labeled, occurs twice, or a label says nothing; by id.
        """
        self._change(index, labels, labeled=True)

    def take(self, table: Table, path: Path, correct: bool = False) -> Given:
        """Give the labels of a table; bad rows are refused by their line, and the others are taken.

        Args:
            table: see `medssl_monai.pool.tables.read_answers`.
            path: of the table.
            correct: replace known labels instead of adding new ones.
        """
        answers = read_answers(table, path, self.key, self.kind, self.id_of)
        found = {name: answer.label for name, answer in answers.items() if answer.label is not None}
        shared = shared_files(self.files(), found, self.kind)
        taken: dict[int, Label] = {}
        refused = []
        for name, answer in answers.items():
            problem = answer.problem
            if name not in self.position:
                problem = f"{name!r} is not in the datalist"
            elif answer.label is not None:
                problem = self.refusal(name, answer.label, labeled=correct) or shared.get(name, "")
            if answer.label is not None and not problem:
                taken[self.position[name]] = answer.label
            else:
                refused.append(answer.where + (problem if len(problem) <= SHOWN else f"{problem[:SHOWN]} ..."))
        self._set_all(taken, labeled=correct)
        return Given([self.ids[position] for position in taken], refused)

    def refusal(self, name: str, label: Label, labeled: bool) -> str | None:
        """Return why `label` cannot be given to the sample `name`, or None.

        Args:
            name: id of the sample.
            label: what it would get, of this kind.
            labeled: whether the sample must, or must not, be labeled already.
        """
        if name not in self.position:
            return f"{name!r} is not in the datalist"
        current = self._labels[self.position[name]]
        if (current is not None) != labeled:
            if labeled:
                return f"{name!r} has no {self.key} yet"
            return f"{name!r} is {FLAGS[self.key]} already; correct it instead"
        try:
            known = self.kind.known(self.kind.restore(self.kind.plain(label, None)))
        except ValueError as error:
            return f"the {self.key} of {name!r} {error}"
        return None if known else f"the {self.key} of {name!r} says nothing; leave it empty"

    def content(self) -> dict[str, Any]:
        """Return what a file says of this part."""
        return {
            "key": self.key,
            "kind": self.kind.word,
            "names": list(self.kind.names),
            "labels": {name: label for name, label in zip(self.ids, self._plain(), strict=True) if label is not None},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return plain values by id."""
        return {"ids": list(self.ids), "labels": self._plain()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over labels by id; the datalist may have become longer, or be in another order.

        Raises:
            ValueError: if the datalist lacks a sample that the state knows, or what it says is no label.
        """
        if len(state["ids"]) != len(state["labels"]):
            raise ValueError("the checkpoint has not one label, or none, for each id; it is damaged.")
        taken = self._restored(dict(zip(state["ids"], state["labels"], strict=True)), self.kind, "the checkpoint")
        for position, label in taken.items():
            self._labels[position] = label
        self._forget()
        self.exclude(self.unreadable)

    def _plain(self) -> list[Any]:
        """Return the labels as files have them."""
        return [
            None if label is None else self.kind.plain(label, self._listed.get(i))
            for i, label in enumerate(self._labels)
        ]

    def _restored(self, table: Mapping[str, Any], kind: Kind, source: str) -> dict[int, Label | None]:
        """Return labels by position, from values by id that a file has of `kind`."""
        if lost := [name for name in table if self.id_of(name) not in self.position]:
            raise ValueError(
                f"{source} knows {len(lost)} samples that the datalist lacks, the first is {lost[0]!r}; use the "
                "datalist that it was written with, or a longer one."
            )
        taken: dict[int, Label | None] = {}
        for name, value in table.items():
            position = self.position[self.id_of(name)]
            if position in taken:
                raise ValueError(f"{source} has {name!r} twice, written in two ways that Unicode takes for one.")
            try:
                label = None if value is None else kind.restore(value, self._listed.get(position))
                if label is not None and kind.names != self.kind.names:
                    label = self.kind.translate(label, kind.names)
            except ValueError as error:
                raise ValueError(f"{source}: the {self.key} of {name!r} {error}.") from None
            taken[position] = label
        return taken

    def _load(self, file: Path, saved: Mapping[str, Any] | None) -> None:
        if saved is None:
            table = Table.read(file)
            refused = unread(table) + self.take(table, file).refused
            if refused:
                more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
                raise ValueError(f"{file}: " + "; ".join(refused[:3]) + more + ".")
            return
        if saved["kind"] != self.kind.word:
            raise ValueError(f"{file} holds {saved['kind']}, and these labels are {self.kind.word}; name another file.")
        self.query_size = saved["query_size"]
        found = self._restored(saved["labels"], KINDS[saved["kind"]](tuple(saved["names"])), str(file))
        known = {p: label for p, label in found.items() if label is not None}
        self._set_all(known, labeled=False, source=f"{file}: ")

    def _forget(self) -> None:
        self._targets = self._counts = self._kept = None

    def _set_all(self, table: Mapping[int, Label], labeled: bool, source: str = "") -> None:
        """Give labels by position, all or nothing."""
        reasons = (self.refusal(self.ids[p], label, labeled) for p, label in table.items())
        refused = [reason for reason in reasons if reason]
        if refused:
            more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
            raise ValueError(source + "; ".join(refused[:3]) + more + ".")
        for position, label in table.items():
            self._labels[position] = label
        self._forget()

    def _change(self, index: Iterable[int] | Tensor, labels: Iterable[Label], labeled: bool) -> None:
        positions = [int(i) for i in index]
        table = dict(zip(positions, labels, strict=True))
        if len(table) != len(positions):
            twice = next(p for p in positions if positions.count(p) > 1)
            raise ValueError(f"the sample {self.ids[twice]!r} occurs more than once.")
        self._set_all(table, labeled)
