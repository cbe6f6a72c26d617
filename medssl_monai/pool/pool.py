"""The labels of all parts of a datalist."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import SYNTHETIC
from medssl_monai.files import set_aside, write_json
from medssl_monai.locks import changing
from medssl_monai.pool.files import check_query_size, read_pool
from medssl_monai.pool.labels import Labels

logger = logging.getLogger(__name__)


class LabelPool:
    """The labels of a datalist by part, such as ``label``, and ``mask`` beside it.

    It is no mapping: ignite takes those apart when it saves a checkpoint, and `len` is the number of samples.

    Args:
        parts: labels of one and the same datalist, each of another key; the first is what is asked for where nothing
            says which.

    Attributes:
        parts: by key.
        query_size: how many samples the last query returned and how many it could have returned at most.

    Raises:
        ValueError: if parts are of several datalists, or have one key.
    """

    def __init__(self, parts: Sequence[Labels] | Labels) -> None:
        given = [parts] if isinstance(parts, Labels) else list(parts)
        self.parts: dict[str, Labels] = {labels.key: labels for labels in given}
        if len(self.parts) != len(given) or any(labels.ids != given[0].ids for labels in given):
            raise ValueError("the parts of a pool must be of one datalist, and each of another key.")
        self.first = given[0]
        self.ids, self.position = self.first.ids, self.first.position
        self.query_size: tuple[int, int] = self.first.query_size
        self.datalist_sha256, self.synthetic = self.first.datalist_sha256, self.first.synthetic

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: str) -> Labels:
        if key not in self.parts:
            raise KeyError(f"the labels have no {key!r}; their parts are {list(self.parts)}.")
        return self.parts[key]

    def names_of(self, key: str) -> list[str]:
        """Return the names of classes, findings or structures of a part; none if there is no such part."""
        return list(self.parts[key].kind.names) if key in self.parts else []

    def of(self, keys: Iterable[str]) -> LabelPool:
        """Return the pool to measure a method by that learns these parts (`medssl_monai.methods.SSLMethod.kinds`).

        It shares the labels with this one. Parts that are not there are left out; if none is, it is this pool.
        """
        wanted = set(keys)
        chosen = [labels for key, labels in self.parts.items() if key in wanted]
        if not chosen or len(chosen) == len(self.parts):
            return self
        pool = LabelPool(chosen)
        pool.query_size = self.query_size
        return pool

    def exclude(self, index: Iterable[int]) -> None:
        """Leave samples out, whose images cannot be read; their labels stay known."""
        positions = list(index)
        for labels in self.parts.values():
            labels.exclude(positions)

    def quarantine(self, images: Iterable[int] = (), learned: Iterable[str] | None = None) -> None:
        """`exclude` samples whose images cannot be read, and from each part those whose label files cannot.

        Args:
            images: positions of the images, as from `medssl_monai.data.ImageDataset.unreadable`.
            learned: parts that the method learns; files of others are not read. None: all.

        Raises:
            ValueError: if bad files are not to be skipped, see `medssl_monai.data.Masks`.
        """
        self.exclude(images)
        wanted = set(self.parts if learned is None else learned)
        for key, labels in self.parts.items():
            if key in wanted:
                labels.exclude(labels.unreadable)

    def save(self, path: str | Path) -> None:
        """Write the known labels by id, with the datalist's hash; `Labels(known=path)` reads the file.

        Of a label file that the datalist names it says no more than that: ``true``. Paths of files may name patients,
        and files may be moved together with their datalist. Others are written by their paths. Who has read the file
        before and changes it does both inside `medssl_monai.locks.changing`.
        """
        first, *others = (labels.content() for labels in self.parts.values())
        write_json(
            path,
            {
                "synthetic": self.synthetic,
                **({"notice": SYNTHETIC} if self.synthetic else {}),
                "datalist_sha256": self.datalist_sha256,
                "query_size": list(self.query_size),
                **first,
                **({"others": others} if others else {}),
            },
        )

    def save_over(self, path: str | Path) -> None:
        """`save` where this pool's own earlier file is; one that holds other labels is kept beside it.

        A run does not read its file again, so that what somebody else wrote there is none of its labels.
        """
        with changing(path):
            if Path(path).exists() and not self._covers(Path(path)):
                kept = set_aside(path)
                logger.warning(f"{Path(path).name} held labels that this run does not have; it is {kept.name} now.")
            self.save(path)

    def _covers(self, path: Path) -> bool:
        """Whether all labels of a file are those that `save` would write."""
        try:
            content = read_pool(path)
        except ValueError:
            return False
        for part in (content, *content.get("others", [])):
            own = self.parts[part["key"]].content() if part["key"] in self.parts else {"labels": {}}
            if any(own["labels"].get(name) != label for name, label in part["labels"].items()):
                return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain values by part and id."""
        parts = {key: labels.state_dict() for key, labels in self.parts.items()}
        return {"query_size": list(self.query_size), "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the labels of all parts, by id.

        Raises:
            ValueError: if the state has other parts, or see `Labels.load_state_dict`.
        """
        check_query_size(state["query_size"], "the checkpoint")
        if state["parts"].keys() != self.parts.keys():
            raise ValueError(f"the checkpoint has the labels {list(state['parts'])}, and this run {list(self.parts)}.")
        for key, content in state["parts"].items():
            self.parts[key].load_state_dict(content)
        self.query_size = (int(state["query_size"][0]), int(state["query_size"][1]))
