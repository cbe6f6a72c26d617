"""The one interface that every semi-supervised method implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from medssl_monai.kinds import DEFAULT, Kind, Threshold
from medssl_monai.networks.ema import EMATeacher

Batch = Mapping[str, Mapping[str, Tensor]]
"""One mini-batch per stream: ``batch["labeled"]["image"]``, ``batch["unlabeled"]["weak"]``, ..."""

Output = dict[str, Tensor]
"""``"loss"`` (scalar, carries the graph), further scalars for the log, and whatever `after_step` may want."""


class Stream(NamedTuple):
    """Where a stream's samples are drawn: which part of the labels it is of, and whether those are known."""

    part: str
    labeled: bool


LABELED, UNLABELED = Stream("label", True), Stream("label", False)


class SSLMethod(nn.Module, ABC):
    """A training objective together with all the state that it needs.

    `forward` says what to minimise and changes nothing; `after_step` then changes everything that gradient descent
    does not. All state is parameters, sub-modules or buffers, so ``state_dict()`` is the whole checkpoint.

    Args:
        network: the student; ``network(images) -> logits``.
        decay: share of the old weights that the averaged copy of the student keeps at each step; None: no copy.
        criterion: loss of the labeled images, logits and targets to a scalar; None: that of the kind of labels
            (`medssl_monai.kinds.Kind.criterion`). Unlabeled images have the method's own loss.
        kind: what the labels are, see `medssl_monai.kinds`; None: one class per image.

    Raises:
        ValueError: if labels of this kind have no fixed number of cases, and the method keeps a row for each sample.

    Attributes:
        step: optimizer steps taken so far, a 0-d long buffer.
        steps_done: the same as a plain number, for schedules; reading it does not wait for the device.
        kind: see above; of the part ``label``.
        streams: what `forward` reads, by name.
        needs_strong_view: whether it reads strong views of unlabeled images, and not weak ones alone.
        needs_fixed_cases: whether it keeps something for each case of each sample.
    """

    step: Tensor
    streams: Mapping[str, Stream] = MappingProxyType({"labeled": LABELED, "unlabeled": UNLABELED})
    needs_strong_view: bool = True
    needs_fixed_cases: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        decay: float | None = None,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__()
        self.network, self.kind = network, kind or DEFAULT()
        if self.needs_fixed_cases and self.kind.cases is None:
            self.kind.shape  # noqa: B018  # says why not
        self.criterion = self.kind.criterion() if criterion is None else criterion
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
    def kinds(self) -> Mapping[str, Kind]:
        """What the method learns to predict, by the part of the labels."""
        return {"label": self.kind} if "labeled" in self.streams else {}

    @property
    def inference_network(self) -> nn.Module:
        """The network to validate, query with and deploy: the averaged copy if there is one, else the student."""
        return self.network if self.teacher is None else self.teacher.network

    def thresholds(self) -> Mapping[str, Threshold]:
        """Return the confidence from which on cases are pseudo-labeled at present, by part; nothing if none are."""
        return {}

    def check_shape(self, **parts: Any) -> None:
        """Refuse parts, by name, that are made for outcomes of another shape; None, and what has no shape, fits all."""
        for name, part in parts.items():
            shape = getattr(part, "shape", None)
            if shape is None:
                continue
            wanted = self.kind.shape
            if len(shape) != len(wanted) or (self.kind.names and tuple(shape) != wanted):
                raise ValueError(
                    f"`{name}` is made for outcomes {tuple(shape)}, and these labels have {wanted}; give it "
                    "the `shape` of the kind of labels."
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


def _read_step(method: SSLMethod, incompatible_keys: Any) -> None:
    method.steps_done = int(method.step)
