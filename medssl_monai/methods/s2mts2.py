"""S2MTS2: self-supervised mean teacher for semi-supervised learning (Liu et al., MLMI 2021, arXiv 2103.03629).

`JointContrastive` pre-trains on images without labels, `S2MTS2` goes on with few labels; a file of weights connects
them (`medssl_monai.networks.load_weights`). What we know is from the authors' code, https://github.com/FBLADL/semi-chest:
pre-training from revision ebe6f60, fine-tuning from 488c4ab, later removed. The text of the paper is not known to us.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.distributed import gather, shuffled
from medssl_monai.kinds import Kind
from medssl_monai.losses.contrastive import KeyQueue, joint_contrastive_loss, mean_key
from medssl_monai.methods.base import UNLABELED, Batch, Output, SSLMethod, Stream
from medssl_monai.networks.ema import EMATeacher, MomentumEncoder
from medssl_monai.networks.pretrained import load_weights
from medssl_monai.networks.projection import ProjectionNetwork
from medssl_monai.schedules import linear_rampup


class JointContrastive(SSLMethod):
    """Stage A: bring the views of an image together and away from other images, without labels.

    A query network learns by gradient; the keys are from a copy of it that follows slowly, of which only the parameters
    are averaged and BatchNorm has statistics of its own. See `medssl_monai.losses.joint_contrastive_loss`; with one key
    per image this is MoCo. The views are made by `medssl_monai.transforms.KeyViews`.

    Args:
        network: what to pre-train; images ``(B, C, *spatial)`` to vectors ``(B, dim)``.
        ramp_steps: optimizer steps until the full `strength`; the released code takes the whole run. Without a ramp the
            loss explodes at the start.
        strength: of the second-order term (lambda), after the ramp.
        temperature: T; the released code's, while that of the loss's authors has 0.2.
        queue_length: keys of earlier images to contrast with (K); the released code's, for 100,000 images. Should be
            no more than there are images in the pool, or an image has keys of its own among its negatives.
        key_decay: share of the old key network kept at each step (m).
        renormalise: bring mean keys to unit length, in the loss and the queue; the released code does not.
        shuffle: mix the images of all processes for the key network, see `medssl_monai.distributed.shuffled`.

    Raises:
        ValueError: if a value is out of its range.
    """

    streams: Mapping[str, Stream] = MappingProxyType({"unlabeled": UNLABELED})
    network: ProjectionNetwork

    def __init__(
        self,
        network: ProjectionNetwork,
        ramp_steps: int,
        strength: float = 2.0,
        temperature: float = 0.07,
        queue_length: int = 65536,
        key_decay: float = 0.999,
        renormalise: bool = False,
        shuffle: bool = True,
    ) -> None:
        super().__init__(network)
        self.strength = linear_rampup(strength, ramp_steps)
        self.temperature, self.renormalise, self.shuffle = temperature, renormalise, shuffle
        self.key = MomentumEncoder(network, key_decay)
        self.queue = KeyQueue(queue_length, network.dim)

    def forward(self, batch: Batch) -> Output:
        unlabeled = batch["unlabeled"]
        query = F.normalize(self.network(unlabeled["query"]).float(), dim=1)
        views = unlabeled["keys"]  # (B, M, C, *spatial)
        with torch.no_grad():
            rows = views.flatten(0, 1)
            keys = shuffled(self._keys, rows, self.steps_done) if self.shuffle else self._keys(rows)
            keys = keys.view(*views.shape[:2], -1)
        terms = joint_contrastive_loss(
            query,
            keys,
            self.queue.keys,
            self.temperature,
            self.strength(self.steps_done + 1),  # never 0, as in the code, where it changes with the epoch
            self.renormalise,
        )
        return {
            "loss": terms.losses.mean(),
            "infonce": terms.infonce.mean(),
            "spread": terms.spread.mean(),
            "found": (terms.positive > terms.negative.amax(dim=1)).float().mean(),
            "mean_key": mean_key(keys, self.renormalise),
        }

    def _keys(self, images: Tensor) -> Tensor:
        return F.normalize(self.key(images).float(), dim=1)

    def on_start(self) -> None:
        self.key.reset(self.network)

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        # The code moves the key network before each forward pass instead, by the same weights.
        self.key.update(self.network, self.steps_done)
        self.queue.update(gather(output["mean_key"]))
        super().after_step(batch, output)


class S2MTS2(SSLMethod):
    """Stage B: mean teacher from pre-trained weights, for one class per image or for findings.

    Student and teacher see the same view. The teacher, parameters and BatchNorm statistics averaged, is deployed.
    Unlike in the released code it becomes a copy of the student, and never the other way round, which lost the
    pre-trained weights; and it keeps less of its old weights in the first steps (`EMATeacher`), as all teachers here.

    Args:
        network: classifier; images ``(B, C, *spatial)`` to logits ``(B, K)``.
        ramp_steps: optimizer steps in which the weight rises from 0; the released code takes the whole run, by epochs.
        weight: of the consistency after the ramp.
        decay: share of the old teacher kept at each step (alpha).
        teacher_bn: BatchNorm of the teacher while training: ``eval``, its averaged statistics; or ``train``, those of
            the batch, as released: its running statistics then move by its own passes before they are averaged.
        shared_view: the student's unlabeled view is the teacher's; False: it is the strong one.
        teacher_weights: file of weights to start the teacher from, say the key network of stage A; None: the student.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`.

    Raises:
        ValueError: if a value is out of its range.
    """

    teacher: EMATeacher

    def __init__(
        self,
        network: nn.Module,
        ramp_steps: int,
        weight: float = 1.0,
        decay: float = 0.999,
        teacher_bn: Literal["eval", "train"] = "eval",
        shared_view: bool = True,
        teacher_weights: str | Path | None = None,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        if teacher_bn not in ("eval", "train"):
            raise ValueError(f"`teacher_bn` must be 'eval' or 'train', got {teacher_bn!r}.")
        self.weight = linear_rampup(weight, ramp_steps)
        self.shared_view, self.teacher_weights = shared_view, teacher_weights
        self.needs_strong_view = not shared_view
        self.teacher.always_eval = teacher_bn == "eval"

    def forward(self, batch: Batch) -> Output:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        with torch.no_grad():
            earlier = self.kind.outcomes(self.teacher(unlabeled["weak"]))
        view = unlabeled["weak" if self.shared_view else "strong"]
        images = torch.cat([labeled["image"], view])
        logits, logits_unlabeled = self.network(images).float().split([len(labeled["image"]), len(view)])
        supervised = self.criterion(logits, labeled["label"])
        consistency = F.mse_loss(self.kind.outcomes(logits_unlabeled), earlier)
        return {
            "loss": supervised + self.weight(self.steps_done) * consistency,
            "supervised": supervised,
            "consistency": consistency,
        }

    def on_start(self) -> None:
        super().on_start()
        if self.teacher_weights is not None:
            load_weights(self.teacher.network, self.teacher_weights)
