"""The one interface that every semi-supervised method implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medssl_monai.data.datalist import Key
from medssl_monai.losses.masks import MaskLoss
from medssl_monai.losses.multilabel import MultiLabelCrossEntropy
from medssl_monai.networks.ema import EMATeacher
from medssl_monai.task import TASKS, Task, probabilities

Batch = Mapping[str, Mapping[str, Tensor]]
"""One mini-batch per stream: ``batch["labeled"]["image"]``, ``batch["unlabeled"]["weak"]``, ..."""

Output = dict[str, Tensor]
"""``"loss"`` (scalar, carries the graph), further scalars for the log, and whatever `after_step` may want."""


CRITERIA: Mapping[Task, type[nn.Module]] = {
    "multiclass": nn.CrossEntropyLoss,
    "multilabel": MultiLabelCrossEntropy,
    "segmentation": MaskLoss,
}
"""Loss of the labeled images where no other is given."""


class SSLMethod(nn.Module, ABC):
    """A training objective together with all the state that it needs.

    `forward` says what to minimise and changes nothing; `after_step` then changes everything that gradient descent
    does not. All state is parameters, sub-modules or buffers, so ``state_dict()`` is the whole checkpoint.

    Args:
        network: the student; ``network(images) -> logits``.
        decay: share of the old weights that the averaged copy of the student keeps at each step; None: no copy.
        criterion: loss of the labeled images, logits and labels to a scalar; None: the mean cross-entropy, over the
            images or over the findings that are known, and for masks `medssl_monai.losses.MaskLoss`. Unlabeled images
            have the method's own loss.
        task: ``multiclass``: logits are ``(B, K)`` and labels classes ``(B,)``; ``multilabel``: findings ``(B, K)``, 1
            present, 0 absent, -1 unknown; ``segmentation``: logits are ``(B, K, *spatial)`` and labels masks
            ``(B, *spatial)`` of classes, -1 unknown.

    Raises:
        ValueError: if `task` is none of these, or none of `tasks`, or `criterion` is for another one.

    Attributes:
        step: optimizer steps taken so far, a 0-d long buffer.
        steps_done: the same as a plain number, for schedules; reading it does not wait for the device.
        task: see above.
        tasks: those that the method is defined for.
        streams: names of the streams that `forward` reads.
        needs_strong_view: whether it reads strong views of unlabeled images, and not weak ones alone.
    """

    step: Tensor
    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel")
    streams: ClassVar[tuple[str, ...]] = ("labeled", "unlabeled")
    needs_strong_view: bool = True

    def __init__(
        self,
        network: nn.Module,
        decay: float | None = None,
        criterion: nn.Module | None = None,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"`task` must be one of {TASKS}, got {task!r}.")
        if task not in self.tasks:
            raise ValueError(
                f"{type(self).__name__} is defined for {' and '.join(self.tasks)}, not for {task}; for that take "
                f"{_methods_for(task)}."
            )
        self.network, self.task = network, task
        self.criterion = CRITERIA[task]() if criterion is None else criterion
        self._check_task(criterion=self.criterion)
        self.teacher = None if decay is None else EMATeacher(network, decay)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.steps_done = 0
        self.register_load_state_dict_post_hook(_read_step)  # type: ignore[no-untyped-call]

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Compute the losses of one mini-batch.

        Named ``forward`` and not ``loss`` because `torch.nn.parallel.DistributedDataParallel` synchronises gradients
        only for what runs inside the ``forward`` of the module that it wraps.
        """

    def on_start(self) -> None:
        """Prepare for step 0; called after pretrained weights were loaded, skipped when a run is resumed."""
        if self.teacher is not None:
            self.teacher.reset(self.network)

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        """Advance teachers, queues and histories; called once after every optimizer step."""
        if self.teacher is not None:
            self.teacher.update(self.network, self.steps_done)
        self.step += 1
        self.steps_done += 1

    def on_query(self, index: Tensor, query_size: tuple[int, int]) -> None:
        """Learn that the samples `index` were annotated.

        Args:
            index: positions in the datalist, on the CPU.
            query_size: how many samples the query returned, and how many it could have returned at most.
        """

    @property
    def learned(self) -> tuple[Key, ...]:
        """What of an item it learns to predict: its ``label``, a ``mask`` beside that, or both."""
        kinds: dict[Key, str] = {"label": "labeled", "mask": "masked"}
        return tuple(kind for kind, stream in kinds.items() if stream in self.streams)

    @property
    def inference_network(self) -> nn.Module:
        """The network to validate, query with and deploy: the averaged copy if there is one, else the student."""
        return self.network if self.teacher is None else self.teacher.network

    @property
    def confidence_threshold(self) -> float | list[Any] | None:
        """Confidence from which on an unlabeled image is pseudo-labeled at present; None: the method does not.

        Of findings, if they differ, a list of one for each, or a list of two such lists: for absence and for presence;
        as `medssl_monai.losses.pseudo_label.confident` takes it.
        """
        return None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, or of each finding for itself, shaped as `logits`."""
        return probabilities(logits, self.task)

    def _check_task(self, **parts: Any) -> None:
        """Refuse parts, by name, that are made for another task; None, and what names no task, fits all."""
        for name, part in parts.items():
            if getattr(part, "task", self.task) != self.task:
                raise ValueError(
                    f"`{name}` is made for the task {part.task!r}, and the method for {self.task!r}; give both the "
                    "same `task`."
                )

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters for the optimizer; leaves out frozen teachers."""
        return (p for p in self.parameters() if p.requires_grad)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for the optimizer, with weight decay on weights only, not on biases and normalisation layers."""
        parameters = list(self.trainable_parameters())
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]


def _methods_for(task: Task) -> str:
    """Names of the methods that learn labels of this kind."""
    methods = [method for method in SSLMethod.__subclasses__() if task in method.tasks and "labeled" in method.streams]
    return " or ".join(sorted(method.__name__ for method in methods))


def _read_step(method: SSLMethod, incompatible_keys: Any) -> None:
    method.steps_done = int(method.step)
