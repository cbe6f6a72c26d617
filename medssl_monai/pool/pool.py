"""The labels and which of them are known, and loaders that follow it."""

from __future__ import annotations

import copy
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import ignite.distributed as idist
import torch
from monai.data import DataLoader, set_rnd
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from medssl_monai import names
from medssl_monai.data.datalist import FLAGS, SYNTHETIC, Item, Key, check_label, hash_items
from medssl_monai.data.images import ImageDataset
from medssl_monai.data.mask_store import Masks
from medssl_monai.files import read_json, set_aside, write_json
from medssl_monai.locks import changing
from medssl_monai.names import NOTHING
from medssl_monai.pool.patches import PatchDataset
from medssl_monai.pool.tables import take_table
from medssl_monai.seeds import seed_of_epoch, seed_of_part
from medssl_monai.task import TASKS, UNKNOWN, Task

Subset = Literal["labeled", "unlabeled", "all"]
Draw = Literal["balanced", "stratified"]
Label = int | list[int] | str
"""Class index, multi-hot list (1 present, 0 absent, -1 unknown), or path of a mask."""

KINDS = {"multiclass": "a class index", "multilabel": "a multi-hot list", "segmentation": "the path of a mask"}
"""What a label is, by task."""
BY_NAME = ("multiclass", "multilabel")
"""Tasks whose labels people write as names."""

logger = logging.getLogger(__name__)


class LabelPool:
    """The labels of a datalist and which of them are known; the only place that knows a label.

    Datasets yield images; the trainer takes the targets from here by ``batch["index"]``. A new or corrected label
    therefore changes this object and nothing else. A label that is hidden (``"labeled": false``, or left out by
    `labels`) is not in here at all. A multi-hot label of which every finding is unknown counts as none.

    Of a datalist with classes and masks there are two pools, the one of masks `beside` that of classes; what is said
    here of labels then holds for masks, ``masked`` and the names of their classes. Files, state and quarantine of the
    pool of classes include those of the other.

    Args:
        datalist: items; position r is the `index` r of everything else.
        labels: which labels are known at the start. None: as the datalist says (an item counts as labeled if its
            ``labeled`` flag says so or, without a flag, if it has a ``label``). A whole number: a draw of as many
            items. A fraction up to 1.0: likewise, of all items that have a label (both draw anew, whatever the flags
            say). A path: the labels in that file, written by `save` or a CSV table with the columns ``id`` and
            ``label``.
        num_classes: K; 0 if unknown. Labels out of range are refused.
        classes: names of the classes, accepted in place of an index.
        seed: decides the draw.
        draw: of a number or fraction: ``balanced``, as many of each class as there are (`balanced_draw`), or
            ``stratified``, each class at its frequency (`stratified_draw`).
        task: whether labels are class indices or multi-hot lists; None: as the labels of the datalist, known or hidden,
            or as the file says that `save` wrote. To be named where neither tells, since persons give all labels.
        masks: reads the masks, where labels are masks and `targets` are asked for.
        key: ``mask``: a pool of the masks that items have beside their ``label``; draws are independent of those of the
            other pool, and a CSV table of `labels` has the column ``mask``.
        beside: the pool of the masks of the same datalist. A file of `save` has both, and fills both.

    Attributes:
        query_size: how many samples the last query returned and how many it could have returned at most.
        beside: see above.
        asked: `labels` as given, and of a pool of masks `beside` this one those.

    Raises:
        ValueError: if `labels` asks for more than there is, or names an id that the datalist lacks, or if `draw` is
            neither, or labels do not fit the `task`; if `key` is no such.
    """

    def __init__(
        self,
        datalist: Sequence[Item],
        labels: int | float | str | Path | None = None,
        num_classes: int = 0,
        classes: Sequence[str] = (),
        seed: int = 0,
        draw: Draw = "balanced",
        task: Task | None = None,
        masks: Masks | None = None,
        key: Key = "label",
        beside: LabelPool | None = None,
    ) -> None:
        if key not in FLAGS:
            raise ValueError(f"`key` must be one of {tuple(FLAGS)}, got {key!r}.")
        if key == "mask" and task not in (None, "segmentation"):
            raise ValueError(f"the task of a pool of masks is 'segmentation', not {task!r}; leave `task` out.")
        if draw not in DRAWS:
            raise ValueError(f"`draw` must be one of {tuple(DRAWS)}, got {draw!r}.")
        if task is not None and task not in TASKS:
            raise ValueError(f"`task` must be one of {TASKS}, or None, got {task!r}.")
        self.key: Key = key
        self.classes = tuple(classes or getattr(datalist, "classes" if key == "label" else "mask_classes", ()))
        self.num_classes = num_classes or len(self.classes)
        self.ids = [str(item.get("id", position)) for position, item in enumerate(datalist)]
        self.position = {name: position for position, name in enumerate(self.ids)}
        self._spelled = {nfc(name): name for name in self.ids}
        if len(self._spelled) != len(self.ids):
            twice = next(name for name, times in Counter(map(nfc, self.ids)).items() if times > 1)
            raise ValueError(f"the id {twice!r} occurs more than once in the datalist; every item needs its own id.")
        self.datalist_sha256 = str(getattr(datalist, "sha256", "")) or hash_items(datalist)
        self.synthetic = bool(getattr(datalist, "synthetic", False))
        self.query_size = (0, 0)
        self.masks = masks
        self.beside = beside
        self.asked: list[Any] = [labels, *(beside.asked if beside is not None else ())]
        if beside is not None and (key, beside.key, beside.ids) != ("label", "mask", self.ids):
            raise ValueError("`beside` must be a pool of masks (key='mask') over the same datalist as that of classes.")
        self._sources = [item.get("source") for item in datalist]
        self._images = [str(item.get("image", position)) for position, item in enumerate(datalist)]
        self._labels: list[Label | None] = [None] * len(self.ids)
        self._excluded = torch.zeros(len(self.ids), dtype=torch.bool)
        self._targets: Tensor | None = None
        self._counts: Tensor | None = None
        self._mask_paths: dict[int, str] | None = None
        known = {position: item[key] for position, item in enumerate(datalist) if is_known(item.get(key))}
        self._listed_masks = {position: label for position, label in known.items() if isinstance(label, str)}
        self._task = "segmentation" if key == "mask" else task or task_of(known.values())
        if task_of(known.values()) == "multilabel":
            self.num_classes = self.num_classes or len(next(iter(known.values())))
        if labels in ("null", "None"):  # as a command line may pass it
            labels = None
        if isinstance(labels, (str, Path)):
            self._load(Path(labels))
            return
        if labels is None:
            chosen = [position for position in known if datalist[position].get(FLAGS[key], True)]
        else:
            count = round(labels * len(known)) if isinstance(labels, float) and labels <= 1 else int(labels)
            positions = sorted(known)
            chosen = [positions[i] for i in DRAWS[draw]([known[p] for p in positions], count, seed_of(seed, key), key)]
        self._set_all({position: known[position] for position in chosen}, labeled=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """Which samples are labeled, ``(N,)`` bool."""
        return torch.tensor([label is not None for label in self._labels], dtype=torch.bool)

    @property
    def task(self) -> Task:
        """What the labels are: multi-hot lists, masks, or class indices; also where nothing tells."""
        return self._task or task_of(self._labels) or "multiclass"

    @property
    def mask_classes(self) -> list[str]:
        """Names of the classes of masks `beside` classes; none without such."""
        return [] if self.beside is None else list(self.beside.classes)

    def only(self, learned: Sequence[Key]) -> LabelPool:
        """The pool to measure a method by that learns these kinds of labels (`SSLMethod.learned`).

        It is this pool with the one `beside` it, one of both alone, or this pool, if nothing is beside it.
        """
        if self.beside is None or {"label", "mask"} <= set(learned):
            return self
        if "mask" in learned:
            return self.beside
        alone = copy.copy(self)
        alone.beside = None
        return alone

    def label(self, index: int) -> Label | None:
        """The known label of one sample, or None."""
        return self._labels[index]

    @property
    def example(self) -> Label | None:
        """A known label, which others must be like; None if there is none."""
        return next((label for label in self._labels if label is not None), None)

    def id_of(self, name: str) -> str:
        """The id of the datalist that is `name`, however Unicode writes its accents; `name` if there is none."""
        return self._spelled.get(nfc(name), name)

    def masks_of_images(self) -> Iterator[tuple[str, str, str | None]]:
        """Id, image and mask of every sample: the mask that is known, else the one that the datalist hides."""
        for position, label in enumerate(self._labels):
            mask = self._listed_masks.get(position) if label is None else label
            yield self.ids[position], self._images[position], mask if isinstance(mask, str) else None

    def exclude(self, index: Iterable[int]) -> None:
        """Leave samples out of `indices` and `targets`, whose images cannot be read; their labels stay known."""
        positions = list(index)
        self._excluded[positions] = True
        self._forget()
        if self.beside is not None:
            self.beside.exclude(positions)

    def quarantine(self, images: Iterable[int] = (), learned: Sequence[Key] = ("label", "mask")) -> None:
        """`exclude` samples whose images cannot be read, and those whose masks cannot, from the pool of these alone.

        Args:
            images: positions of the images, as from `ImageDataset.unreadable`.
            learned: `SSLMethod.learned`; masks `beside` labels that nobody learns are not read.

        Raises:
            ValueError: if bad masks are not to be skipped, see `Masks.read`.
        """
        self.exclude([*images, *self.unreadable])
        if self.beside is not None and "mask" in learned:
            self.beside.exclude(self.beside.unreadable)

    def indices(self, subset: Subset) -> Tensor:
        """Positions of `subset`, ascending, as a 1-d long tensor; without those that `exclude` named."""
        chosen = {"labeled": self.mask, "unlabeled": ~self.mask, "all": torch.ones(len(self), dtype=torch.bool)}[subset]
        return (chosen & ~self._excluded).nonzero().squeeze(1)

    def streamed(self, subset: Subset) -> Tensor:
        """`indices` to train on and to ask for: where there are several sources, of those that have a known label."""
        positions = self.indices(subset)
        sources = {self._sources[i] for i in self.indices("labeled").tolist()}
        if not sources or sources >= set(self._sources):
            return positions
        return positions[[self._sources[i] in sources for i in positions.tolist()]]

    def targets(self, index: Tensor) -> Tensor:
        """Labels as a tensor; -1 where nothing is known or excluded.

        Class indices are ``(B,)``, multi-hot labels ``(B, K)``, masks ``(B, *spatial)``.

        Raises:
            TypeError: for masks without a reader.
            ValueError: see `Masks.targets`.
        """
        if self.task == "segmentation":
            return self._masks().targets(self._paths(), index.tolist()).to(index.device)
        if self._targets is None:
            known = next((label for label in self._labels if label is not None), None)
            findings = len(known) if isinstance(known, list) else self.num_classes
            unknown = [UNKNOWN] * findings if self.task == "multilabel" else UNKNOWN
            self._targets = torch.tensor([unknown if label is None else label for label in self._labels])
            self._targets[self._excluded] = UNKNOWN
        self._targets = self._targets.to(index.device)
        return self._targets[index]

    def _masks(self) -> Masks:
        if self.masks is None:
            raise TypeError("the labels of this pool are masks, and it has nothing to read them with; give it `masks`.")
        return self.masks

    def _paths(self) -> dict[int, str]:
        if self._mask_paths is None:  # the same object until a label changes
            kept = enumerate(zip(self._labels, self._excluded.tolist(), strict=True))
            self._mask_paths = {i: str(label) for i, (label, out) in kept if label is not None and not out}
        return self._mask_paths

    @property
    def unreadable(self) -> dict[int, str]:
        """Position to reason of masks that cannot be read, of the labels that are known now; nothing of other labels.

        Raises:
            ValueError: if they are not to be skipped, see `Masks.read`.
        """
        if self.task != "segmentation" or self.masks is None:
            return {}
        self.masks.read(self._paths())
        return self.masks.unreadable

    def class_counts(self, num_classes: int, device: torch.device | str = "cpu") -> Tensor:
        """How many known labels each class has, ``(num_classes,)`` long, without those that `exclude` named.

        Counted anew only after a label has changed, and kept on the device, so that a training step can ask for it.

        Raises:
            ValueError: if the labels are multi-hot (see `finding_counts`) or masks, or name a class from `num_classes`
                on.
        """
        if self.task != "multiclass":
            kind = "multi-hot" if self.task == "multilabel" else "masks"
            raise ValueError(f"the labels are {kind}, and the classes of one-class labels are counted here.")
        if self._counts is None or len(self._counts) != num_classes:
            targets = self.targets(torch.arange(len(self)))
            counts = torch.bincount(targets[targets >= 0], minlength=num_classes)
            if len(counts) > num_classes:
                raise ValueError(
                    f"class {len(counts) - 1} has labels, and a network of {num_classes} classes lacks it."
                )
            self._counts = counts
        self._counts = self._counts.to(device)
        return self._counts

    def finding_counts(self, device: torch.device | str = "cpu") -> Tensor:
        """In how many known labels each finding is absent and present, ``(K, 2)`` long; see `class_counts`.

        Raises:
            ValueError: if the labels are not multi-hot.
        """
        if self.task != "multilabel":
            raise ValueError("the labels are not multi-hot, and the findings of multi-hot labels are counted here.")
        if self._counts is None:
            targets = self.targets(torch.arange(len(self)))
            self._counts = torch.stack([(targets == 0).sum(dim=0), (targets == 1).sum(dim=0)], dim=1)
        self._counts = self._counts.to(device)
        return self._counts

    def annotate(self, index: Iterable[int] | Tensor, labels: Iterable[Label]) -> None:
        """Make labels known; all or nothing.

        Raises:
            ValueError: if a sample is labeled already, occurs twice, or a label is not valid; by id.
        """
        self._change(index, labels, labeled=False)

    def correct(self, index: Iterable[int] | Tensor, labels: Iterable[Label]) -> None:
        """Replace known labels; all or nothing.

        Raises:
            ValueError: if a sample is not labeled, occurs twice, or a label is not valid; by id.
        """
        self._change(index, labels, labeled=True)

    def refusal(self, name: str, label: Label, labeled: bool, others: Label | None = None) -> str | None:
        """Why `label` cannot be given to the sample `name`, or None.

        Args:
            name: id of the sample.
            label: what it would get.
            labeled: whether the sample must, or must not, be labeled already.
            others: a label of the kind that is asked for; default: one that the pool knows.
        """
        if name not in self.position:
            return f"{name!r} is not in the datalist"
        current = self._labels[self.position[name]]
        if (current is not None) != labeled:
            if labeled:
                return f"{name!r} has no {self.key} yet"
            return f"{name!r} is {FLAGS[self.key]} already; correct it instead"
        by_name = self._task in BY_NAME or (self._task is None and not {".", "/", "\\"} & set(str(label)))
        if isinstance(label, str) and self.classes and by_name:
            if self.task == "multilabel":
                return (
                    f"the label of {name!r} is {label!r}; write what is there, separated by ';', out of "
                    f"{list(self.classes)}, with '?' before what is unknown, or {NOTHING!r}"
                )
            return f"the {self.key} of {name!r} is {label!r}, which is none of the classes {list(self.classes)}"
        try:
            check_label(label, self.num_classes, f"the {self.key} of {name!r}")
        except ValueError as error:
            return str(error)
        if not is_known(label):
            return f"of {name!r} every finding is unknown, so that there is no label; leave it empty"
        others = self.example if others is None else others
        others = label if others is None else others
        if type(others) is not type(label) or (isinstance(label, list) and len(label) != len(cast(list[int], others))):
            return f"the {self.key} of {name!r} is {label!r}, but others are like {others!r}"
        if self._task is not None and task_of([label]) != self._task:
            wanted = {"multilabel": "a multi-hot list", "segmentation": "the path of a mask"}.get(
                self._task, "a class index"
            )
            return f"the {self.key} of {name!r} is {label!r}, and the task of this pool, {self._task}, needs {wanted}"
        return None

    def save(self, path: str | Path) -> None:
        """Write the known labels by id, with the datalist's hash; `LabelPool(labels=path)` reads the file.

        Of a mask that the datalist names it says no more than that: ``true``. Paths of files may name patients, and
        files may be moved together with their datalist. Other masks are written by their paths. Who has read the file
        before and changes it does both inside `medssl_monai.locks.changing`.
        """
        write_json(
            path,
            {
                "synthetic": self.synthetic,
                **({"notice": SYNTHETIC} if self.synthetic else {}),
                "datalist_sha256": self.datalist_sha256,
                **self._content(),
                **({} if self.beside is None else {"beside": self.beside._content()}),
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
            content = _pool_content(path)
        except ValueError:
            return False
        pairs = [(self, content), *([] if self.beside is None else [(self.beside, content.get("beside"))])]
        known = [(dict(zip(own.ids, own._kept(), strict=True)), part["labels"] if part else {}) for own, part in pairs]
        return all(own.get(name) == label for own, labels in known for name, label in labels.items())

    def _content(self) -> dict[str, Any]:
        """What a file says of this pool alone."""
        return {
            "key": self.key,
            "classes": list(self.classes),
            "task": self._task or task_of(self._labels),
            "query_size": list(self.query_size),
            "labels": {name: label for name, label in zip(self.ids, self._kept(), strict=True) if label is not None},
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "ids": list(self.ids),
            "labels": [list(label) if isinstance(label, list) else label for label in self._kept()],
            "query_size": list(self.query_size),
            **({} if self.beside is None else {"beside": self.beside.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over labels by id; the datalist may have become longer, or be in another order.

        Raises:
            ValueError: if the datalist lacks a sample that the state knows, or what it says is no label.
        """
        check_query_size(state["query_size"], "the checkpoint")
        if len(state["ids"]) != len(state["labels"]):
            raise ValueError("the checkpoint has not one label, or none, for each id; it is damaged.")
        self._check_known(state["ids"], "the checkpoint")
        known = dict(zip(map(self.id_of, state["ids"]), state["labels"], strict=True))
        for name, label in self._found(known, "the checkpoint").items():
            if label is not None:
                check_label(label, self.num_classes, f"the checkpoint: the {self.key} of {name!r}")
            self._set(self.position[name], label)
        self.exclude(self.unreadable)
        if self.beside is not None:
            self.beside.load_state_dict(state["beside"])
        self.query_size = (int(state["query_size"][0]), int(state["query_size"][1]))

    def _kept(self) -> list[Label | bool | None]:
        """The labels as files have them, see `save`."""
        return [
            True if label is not None and self._listed_masks.get(i) == label else label
            for i, label in enumerate(self._labels)
        ]

    def _found(self, table: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Labels by id, as files have them, with the datalist's masks."""
        lost = [
            name for name, label in table.items() if label is True and self.position[name] not in self._listed_masks
        ]
        if lost:
            raise ValueError(
                f"{source} says that the datalist names masks of {len(lost)} samples, and it does not, the first is "
                f"{lost[0]!r}; use the datalist that it was written with, or a longer one."
            )
        return {
            name: self._listed_masks[self.position[name]] if label is True else label for name, label in table.items()
        }

    def _check_known(self, names: Iterable[str], source: str) -> None:
        lost = [name for name in names if self.id_of(name) not in self.position]
        if lost:
            raise ValueError(
                f"{source} knows {len(lost)} samples that the datalist lacks, the first is {lost[0]!r}; use the "
                "datalist that it was written with, or a longer one."
            )

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"`labels` names {path}, and there is no such file.")
        if is_table(path):
            take_table(self, path)
            return
        content = _pool_content(path)
        self._take_content(content, path)
        if self.beside is not None and "beside" in content:
            self.beside._take_content(content["beside"], path)

    def _take_content(self, content: Mapping[str, Any], path: Path) -> None:
        """The labels that a file of `save` holds, in place of those that are known."""
        if content["key"] != self.key:
            raise ValueError(f"{path} holds {content['key']}s, and this is a pool of {self.key}s; name another file.")
        table, self.query_size = content["labels"], (content["query_size"][0], content["query_size"][1])
        self._task = self._task or content["task"]
        if self.classes and content["classes"] and list(self.classes) != content["classes"]:
            table = {name: self._translate(label, content["classes"], path) for name, label in table.items()}
        self._check_known(table, str(path))
        spelled = {self.id_of(name): label for name, label in table.items()}
        if len(spelled) != len(table):
            raise ValueError(f"{path} has an id twice, written in two ways that Unicode takes for one; remove one.")
        self._labels = [None] * len(self.ids)
        found = {self.position[name]: label for name, label in self._found(spelled, str(path)).items()}
        self._set_all(found, labeled=False, source=f"{path}: ")

    def _translate(self, label: Label, names: Sequence[str], path: Path) -> Label:
        """The label of a file whose classes are in another order, by their names."""
        lost = [name for name in names if name not in self.classes]
        if lost and (isinstance(label, list) or (type(label) is int and names[label] in lost)):
            raise ValueError(f"{path} has the classes {list(names)}, the datalist lacks {lost}; mend its class names.")
        if type(label) is int:
            return self.classes.index(names[label])
        if isinstance(label, list):
            return [label[names.index(name)] if name in names else -1 for name in self.classes]
        return label

    def _set(self, position: int, label: Label | None) -> None:
        self._labels[position] = label
        self._forget()

    def _forget(self) -> None:
        self._targets = self._counts = self._mask_paths = None

    def _set_all(self, table: Mapping[int, Label], labeled: bool, source: str = "") -> None:
        """Give labels by position, all or nothing."""
        others = next((known for known in self._labels if known is not None), next(iter(table.values()), None))
        reasons = (self.refusal(self.ids[p], label, labeled, others) for p, label in table.items())
        refused = [reason for reason in reasons if reason]
        if refused:
            more = f" (and {len(refused) - 3} more)" if len(refused) > 3 else ""
            raise ValueError(source + "; ".join(refused[:3]) + more + ".")
        for position, label in table.items():
            self._set(position, label)

    def _change(self, index: Iterable[int] | Tensor, labels: Iterable[Label], labeled: bool) -> None:
        positions = [int(i) for i in index]
        table = dict(zip(positions, labels, strict=True))
        if len(table) != len(positions):
            twice = next(p for p in positions if positions.count(p) > 1)
            raise ValueError(f"the sample {self.ids[twice]!r} occurs more than once.")
        self._set_all(table, labeled)


PARTS = {"key", "classes", "task", "query_size", "labels"}
"""What a file of `LabelPool.save` says of each pool."""
HEAD = {"synthetic", "notice", "datalist_sha256", "beside"}


def _pool_content(path: Path) -> dict[str, Any]:
    """What a file of `LabelPool.save` holds, checked as far as that goes without the datalist.

    Raises:
        ValueError: beginning with `path`, if it is damaged, or no such file.
    """
    content = read_json(path)
    parts = [content, *([content["beside"]] if "beside" in content else [])]
    for part, keys in zip(parts, (PARTS | HEAD, PARTS), strict=False):
        if not isinstance(part, dict) or not PARTS <= part.keys() <= keys:
            raise ValueError(f"{path} is no file of labels that a run or `medssl annotate` wrote; name such a file.")
        if part["key"] not in tuple(FLAGS) or part["task"] not in (None, *TASKS):
            raise ValueError(f"{path}: 'key' is {part['key']!r} and 'task' {part['task']!r}; it is damaged.")
        check_query_size(part["query_size"], str(path))
        if not isinstance(part["classes"], list) or not isinstance(part["labels"], dict):
            raise ValueError(f"{path}: 'classes' must be a list and 'labels' an object; it is damaged.")
        names.check_classes(part["classes"], "class", str(path), findings=part["task"] == "multilabel")
        for name, label in part["labels"].items():
            if label is not True:  # a mask of the datalist
                check_label(label, len(part["classes"]), f"{path}: the {part['key']} of {name!r}")
    return content


def check_query_size(size: Any, source: str) -> None:
    """Refuse what is not how many samples a query returned, and how many it could have.

    Raises:
        ValueError: beginning with `source`.
    """
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int or not 0 <= n < 2**31 for n in size):
        raise ValueError(f"{source}: 'query_size' must be two whole numbers from 0, such as [4, 10], got {size!r}.")


def is_table(path: str | Path) -> bool:
    """Whether a file of labels is a table that a person fills in, and not what `LabelPool.save` writes."""
    return Path(path).suffix.lower() != ".json"


def nfc(name: str) -> str:
    """A name whose accents are written in one way, as tables have them."""
    return unicodedata.normalize("NFC", name)


def is_known(label: Label | None) -> bool:
    """Whether a label says anything: it is there, and not every finding of it is unknown."""
    return label is not None and not (isinstance(label, list) and all(value == UNKNOWN for value in label))


def task_of(labels: Iterable[Label | None]) -> Task | None:
    """What the first label says of all; None if there is none."""
    first = next((label for label in labels if label is not None), None)
    if first is None:
        return None
    return "segmentation" if isinstance(first, str) else "multilabel" if isinstance(first, list) else "multiclass"


def seed_of(seed: int, key: Key) -> int:
    """Of a draw of labels or masks: with one seed for both, the same images would be drawn."""
    return seed_of_part(seed, list(FLAGS).index(key))


def balanced_draw(labels: Sequence[Label], count: int, seed: int, key: Key = "label") -> list[int]:
    """Positions of `count` labels, as many of each class as there are, in ascending order.

    A class with too few gives all it has, and the others fill up. Multi-hot labels are drawn for each finding in turn
    (all-zero counts as a class of its own); what else an image shows is not counted, so that findings which come with
    others are chosen more often.

    Raises:
        ValueError: if `count` is negative or there are fewer labels (`key`) than `count`.
    """
    order = _shuffled(len(labels), count, seed, key)
    queues: dict[Any, list[int]] = {}
    for position in reversed(order):  # popped from the end
        label = labels[position]
        present = [k for k, value in enumerate(label) if value == 1] if isinstance(label, list) else [_class(label)]
        for finding in present or ["none"]:
            queues.setdefault(finding, []).append(position)
    chosen: set[int] = set()
    while len(chosen) < count:
        for finding in sorted(queues, key=str):
            queue = queues[finding]
            while queue and queue[-1] in chosen:
                queue.pop()
            if queue and len(chosen) < count:
                chosen.add(queue.pop())
    return sorted(chosen)


def stratified_draw(labels: Sequence[Label], count: int, seed: int, key: Key = "label") -> list[int]:
    """Positions of `count` labels, of each class its share (largest remainders), in ascending order.

    A class whose share is less than one label has one, as long as there are as many labels as classes.

    Raises:
        ValueError: if `count` is negative or there are fewer labels (`key`) than `count`; if labels are multi-hot.
    """
    order = _shuffled(len(labels), count, seed, key)
    if any(isinstance(label, list) for label in labels):
        raise ValueError("a stratified draw needs one class per image, and the labels are multi-hot; draw balanced.")
    of_class: dict[Any, list[int]] = {}
    for position in order:
        of_class.setdefault(_class(labels[position]), []).append(position)
    share = {key: count * len(positions) / len(labels) for key, positions in of_class.items()}
    least = 1 if count >= len(share) else 0
    number = {key: max(least, int(wanted)) for key, wanted in share.items()}
    while (left := count - sum(number.values())) != 0:  # a minimum of one may have given too many
        step = 1 if left > 0 else -1
        keys = [key for key in sorted(share, key=str) if step > 0 or number[key] > least]
        number[max(keys, key=lambda key: step * (share[key] - number[key]))] += step
    return sorted(position for key, positions in of_class.items() for position in positions[: number[key]])


def _class(label: Any) -> Any:
    """What a draw tells apart: classes, and not the paths of masks."""
    return 0 if isinstance(label, str) else label


ASKED_BY: dict[Key, str] = {"label": "labels", "mask": "mask_labels"}
"""The value of a configuration that says how many are known."""

DRAWS = {"balanced": balanced_draw, "stratified": stratified_draw}


def _shuffled(size: int, count: int, seed: int, key: Key) -> list[int]:
    if not 0 <= count <= size:
        raise ValueError(f"`{ASKED_BY[key]}` asks for {count} items, and the training section has {size} with a {key}.")
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()


class PoolSampler(Sampler[int]):
    """Draw a fixed number of positions per epoch from one side of a pool.

    The pool is read anew at every ``iter()``, so an annotation takes effect with the next epoch. Positions are drawn
    as a sequence of permutations: none is repeated before all were seen. Several processes share one sequence. When
    nothing is left on the unlabeled side, labeled samples stand in, without their labels. Images of a source (datalist)
    of which no label is known are not drawn: what they look like differs with the source, and a method that compares
    labeled and unlabeled images would learn that.

    Args:
        pool: pool to draw from.
        subset: which side of it.
        num_samples: positions per epoch and process.
        seed: together with the epoch, decides the order.
        balanced: draw every class that has a label equally often (labeled side only), see `balanced_order`. Few images
            of a rare class are then seen very often.

    Raises:
        ValueError: if `balanced` is asked for another side.
        TypeError: if `balanced` is neither true nor false.
    """

    def __init__(
        self, pool: LabelPool, subset: Subset, num_samples: int, seed: int = 0, balanced: bool = False
    ) -> None:
        if not isinstance(balanced, bool):  # a shell's "false" would be true
            raise TypeError(f"`balanced` must be True or False, got {balanced!r}.")
        if balanced and subset != "labeled":
            raise ValueError(f"only labeled samples can be balanced, not {subset!r}; switch `balanced` off.")
        self.pool, self.subset, self.num_samples, self.seed = pool, subset, num_samples, seed
        self.balanced, self.epoch = balanced, 0

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        positions = self.pool.streamed(self.subset)
        if len(positions) == 0 and self.subset == "unlabeled":
            positions = self.pool.streamed("all")
        if len(positions) == 0:
            lost = len(self.pool) - len(self.pool.indices("all"))
            raise ValueError(
                f"no {self.subset} samples to draw from; the pool has {len(self.pool)} samples"
                f"{f', {lost} of them unreadable' if lost else ''}. Give some items a {self.pool.key}, or name a table "
                f"of {self.pool.key}s with `{ASKED_BY[self.pool.key]}`."
            )
        generator = torch.Generator().manual_seed(seed_of_epoch(self.seed, self.epoch))
        rank, world_size = idist.get_rank(), idist.get_world_size()
        total = self.num_samples * world_size
        if self.balanced:
            order = balanced_order(self.pool.targets(positions), total, generator)
        else:
            order = permutations(len(positions), total, generator)
        yield from positions[order[rank:total:world_size]].tolist()


def permutations(count: int, total: int, generator: torch.Generator) -> Tensor:
    """`total` of the numbers below `count`: one permutation after the other."""
    rounds = -(-total // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:total]


def balanced_order(targets: Tensor, total: int, generator: torch.Generator) -> Tensor:
    """`total` positions in `targets`, of every class as many as of any other, give or take one.

    Blocks of one position per class, its classes in random order; each class goes through permutations of its own
    positions, so that those of one class are drawn equally often as well, give or take one. Of multi-hot labels each
    finding stands for the images that show it, and one class more for those of which no finding is known to be present;
    an image with several findings is drawn for each of them, so that findings that come together come more often.

    Args:
        targets: known class indices, ``(N,)``, or multi-hot, ``(N, K)``.
        total: positions to draw.
        generator: draws them.
    """
    if targets.ndim > 1:
        present = targets == 1
        members = torch.cat([present, ~present.any(dim=1, keepdim=True)], dim=1).T
        classes = [own.nonzero().squeeze(1) for own in members if own.any()]
    else:
        classes = [(targets == k).nonzero().squeeze(1) for k in torch.bincount(targets).nonzero()]
    blocks = -(-total // len(classes))
    order = torch.stack([own[permutations(len(own), blocks, generator)] for own in classes], dim=1)
    shuffle = torch.rand(order.shape, generator=generator).argsort(dim=1)
    return order.gather(1, shuffle).flatten()[:total]


def pool_loader(
    dataset: Dataset[Any],
    pool: LabelPool,
    subset: Subset,
    batch_size: int,
    epoch_length: int,
    seed: int = 0,
    balanced: bool = False,
    foreground: float = 0.33,
    **kwargs: Any,
) -> DataLoader:
    """A loader that yields exactly `epoch_length` batches of one side of a pool.

    Args:
        dataset: item ``i`` must be sample ``i`` of the pool's datalist. An `ImageDataset` with a `patch_size` gives
            random patches of that size.
        pool: pool to draw from.
        subset: which side of it.
        batch_size: samples per batch.
        epoch_length: batches per epoch, whatever the size of the subset.
        seed: see `PoolSampler`.
        balanced: see `PoolSampler`.
        foreground: share of the labeled patches around a voxel of foreground, see `PatchDataset`.
        kwargs: passed on to `monai.data.DataLoader`.

    Raises:
        ValueError: if dataset and pool differ in length.
    """
    length = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not declare it
    if patch_size := getattr(dataset, "patch_size", None):
        if pool.beside is not None or pool.key == "mask":
            raise ValueError("labels beside masks are of whole images, and not of patches; set `patch_size` to null.")
        known = pool if subset == "labeled" else None
        dataset = PatchDataset(cast(ImageDataset, dataset), patch_size, known, foreground)
    if length != len(pool):
        raise ValueError(f"the dataset has {length} items, the pool {len(pool)}; both must share one datalist.")
    sampler = PoolSampler(pool, subset, num_samples=batch_size * epoch_length, seed=seed, balanced=balanced)
    return batch_loader(dataset, batch_size=batch_size, sampler=sampler, **kwargs)


def batch_loader(dataset: Dataset[Any], batch_size: int, **kwargs: Any) -> DataLoader:
    """MONAI's loader; a dataset that gathers whole batches itself (``collate`` attribute) is not collated again."""
    collate = getattr(dataset, "collate", None)
    return DataLoader(dataset, batch_size=batch_size, **({"collate_fn": collate} if collate else {}), **kwargs)


class MultiStreamLoader:
    """Read several loaders in step: ``{"labeled": batch, "unlabeled": batch, ...}``.

    It ends with its loaders and is opened anew for every epoch, which is when annotations and seeds take effect.

    Args:
        streams: loaders of equal length, by name; None leaves a stream out.
        seed: with the epoch, seeds random transforms that run in this process (``num_workers=0``).

    Raises:
        ValueError: if the loaders differ in length.
    """

    def __init__(self, streams: Mapping[str, DataLoader | None], seed: int = 0) -> None:
        self.streams = {name: loader for name, loader in streams.items() if loader is not None}
        lengths = {name: len(loader) for name, loader in self.streams.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"streams must have equal lengths, got {lengths}; set `epoch_length` of each alike.")
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentations to produce; `medssl_monai.handlers.EpochSeed` calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for position, loader in enumerate(self.streams.values()):
            if isinstance(loader.sampler, PoolSampler):
                loader.sampler.set_epoch(self.epoch)
            if loader.num_workers == 0:
                set_rnd(loader.dataset, seed_of_epoch(self.seed, self.epoch) * len(self.streams) + position)
        for batches in zip(*self.streams.values(), strict=True):
            yield dict(zip(self.streams, batches, strict=True))
