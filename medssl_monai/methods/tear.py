"""TEAR (Yang, Liu, Chen, Ibragimov & Yuan, MICCAI 2022, LNCS 13438, chapter 12, doi 10.1007/978-3-031-16452-1_12).

What the authors released (https://github.com/CityU-AIM-Group/TEAR, revision 8bf0450) lacks the estimator that the
method is about and does not run; the paper's formulas are not known to us. `TEAR` says what is theirs and what is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.kinds.threshold import Given
from medssl_monai.losses.pseudo_label import QueueAlignment, weighted_mean
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.methods.estimator import AdaPL, Previous, relaxed_targets
from medssl_monai.methods.prototypes import IPH
from medssl_monai.networks.ema import EMATeacher
from medssl_monai.networks.embedding import EmbeddingClassifier
from medssl_monai.networks.modes import evaluating
from medssl_monai.schedules import constant, linear_rampup


class Targets(NamedTuple):
    """What `TEAR` would teach for some images.

    Attributes:
        outcomes: student's prediction, ``(B, *cases, S)``.
        pseudo_label: states ``(B, *cases)``.
        targets: ``(B, *cases, S)``.
        mask: whether the case would be learnt from, ``(B, *cases)`` bool.
        estimated_loss: ``(B, *cases)``; 0 where nothing is known, or without `AdaPL`.
    """

    outcomes: Tensor
    pseudo_label: Tensor
    targets: Tensor
    mask: Tensor
    estimated_loss: Tensor


class TEAR(SSLMethod):
    """FixMatch with targets as soft as their estimated loss (`AdaPL`) and prototypes that agree over time (`IPH`).

    From the released code: the labeled loss, confident pseudo-labels of weak views, aligned by a queue of 32 batches,
    the mean over all unlabeled images and not over the selected ones, the averaged teacher (0.999), weights 1 and 0.1.
    From the figure: predictions and features of an earlier model on weak views, a target whose peak is lowered while
    all other classes gain alike, prototypes of both models that need no labels. Ours, since neither code nor formulas
    are known: the estimate of the loss, how it relaxes the target, that the mask stays, how prototypes are paired, and
    the ramp. The figure draws a second random view for the earlier model; code and this class give both models the same
    one, so that they differ by time alone. Without `adapl`, `iph` and `ramp_steps` this is FixMatch.

    BatchNorm: weak views have a pass of their own, labeled and strong views share one, as in
    `medssl_monai.methods.FixMatch` (one pass for all three in the released code); the features of `IPH` are from these.
    Only steps with `IPH` keep the weak views' gradient. Teacher and earlier model are always in evaluation mode; the
    teacher's running statistics are averaged (copied in the released code, see `medssl_monai.networks.EMATeacher`).
    `AdaPL` costs a further pass of the student over the weak views, in evaluation mode, without gradient and before
    the others move the running statistics: models of equal weights and statistics have a discrepancy of exactly 0,
    without the noise of batch statistics and dropout. Pseudo-label and mask are FixMatch's, in training mode, dropout
    included.

    Findings are learnt as in `medssl_monai.methods.FixMatch`, whose words on rare findings hold here, with a relaxed
    target for each finding of each image. `IPH` compares features, so that nothing changes.

    Args:
        network: classifier with ``embed`` and ``head``.
        threshold: confidence that a pseudo-label must reach to count (tau; code 0.95), see
            `medssl_monai.methods.FixMatch`.
        weight: weight of the unlabeled loss (lambda_u; code 1).
        alignment: of the weak predictions before they are pseudo-labels; the code has it on, with its defaults.
        adapl: relaxes targets; None: hard pseudo-labels.
        iph: prototype loss; None: none.
        decay: see `SSLMethod`.
        ramp_steps: steps in which the unlabeled and the prototype loss rise from 0 to their weights; 0: at once. Our
            proposal is a tenth of the run.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`.

    Raises:
        ValueError: if a value is out of its range, a part is for labels of another shape, or the released prototype
            block has not one cluster per class, or several cases per image.
    """

    needs_fixed_cases: ClassVar[bool] = True
    network: EmbeddingClassifier
    teacher: EMATeacher
    threshold: Tensor

    def __init__(
        self,
        network: EmbeddingClassifier,
        threshold: Given = 0.95,
        weight: float = 1.0,
        alignment: QueueAlignment | None = None,
        adapl: AdaPL | None = None,
        iph: IPH | None = None,
        decay: float = 0.999,
        ramp_steps: int = 0,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        self.check_shape(alignment=alignment, adapl=adapl)
        self.register_buffer("threshold", self.kind.threshold(threshold).values, persistent=False)
        if ramp_steps < 0:
            raise ValueError(f"`ramp_steps` counts optimizer steps and must not be negative, got {ramp_steps}.")
        self.weight, self.alignment = weight, alignment
        self.adapl, self.iph = adapl, iph
        self.ramp = linear_rampup(1.0, ramp_steps) if ramp_steps else constant()
        if iph is not None:
            if iph.mode == "official" and self.kind.cases:
                raise ValueError(
                    "the released prototype block compares clusters with classes, and findings are none: take the mode "
                    "'shared' or 'matched'."
                )
            if iph.mode == "official" and iph.num_clusters != network.head.out_features:
                raise ValueError(
                    f"the released prototype block compares clusters with classes: `num_clusters` must be "
                    f"{network.head.out_features}, got {iph.num_clusters}."
                )
            iph.allocate(network.head.in_features)
        self.snapshot = EMATeacher(network, decay=0.0) if self.previous == "snapshot" else None

    @property
    def previous(self) -> Previous | None:
        """Which earlier model the estimate is from, see `AdaPL`; None: there is no estimate."""
        return None if self.adapl is None else self.adapl.previous

    def thresholds(self) -> Mapping[str, Threshold]:
        return {"label": Threshold(self.threshold)}

    def on_start(self) -> None:
        super().on_start()
        if self.snapshot is not None:
            self.snapshot.reset(self.network)

    def forward(self, batch: Batch) -> Output:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        weak, count = unlabeled["weak"], len(labeled["image"])
        iph = self.iph if self.iph is not None and self.steps_done % self.iph.interval == 0 else None
        output: Output = {}
        estimate: Tensor | None = None
        with torch.no_grad():  # before the student's running statistics move
            if iph is not None:
                teacher = cast(EmbeddingClassifier, self.teacher.network)
                teacher_embedding = teacher.embed(torch.cat([labeled["image"], weak]))
                teacher_outcomes = self.kind.outcomes(teacher.head(teacher_embedding))
            if self.adapl is not None:
                known = iph is not None and self.previous == "ema"  # no second pass of the teacher
                earlier = teacher_outcomes[count:] if known else self._earlier(weak)
                output["outcomes"] = self._present(weak)
                output["estimate"] = estimate = self.adapl(output["outcomes"], unlabeled["index"], earlier)
                output["estimated_loss"] = estimate.nan_to_num(nan=0.0).mean()
        with torch.set_grad_enabled(iph is not None and torch.is_grad_enabled()):
            weak_embedding = self.network.embed(weak)
        embedding = self.network.embed(torch.cat([labeled["image"], unlabeled["strong"]]))
        logits, logits_strong = self.network.head(embedding).float().split([count, len(unlabeled["strong"])])
        supervised = self.criterion(logits, labeled["label"])
        with torch.no_grad():
            outcomes, own = self.kind.outcomes(self.network.head(weak_embedding)), self.kind.outcomes(logits)
            if self.alignment is not None:
                outcomes, output["mean_outcomes"] = self.alignment(outcomes, own)
            counted = self.kind.confident(outcomes, Threshold(self.threshold)).float()
        wanted = self.kind.decide(outcomes) if estimate is None else self._relax(outcomes, estimate)
        unsupervised = weighted_mean(self.kind.losses(logits_strong, wanted), counted)  # as in the code, over all
        terms = self.weight * unsupervised
        if iph is not None:
            both = torch.cat([embedding[:count], weak_embedding]).float()
            with torch.autocast(both.device.type, enabled=False):
                output |= iph(both, teacher_embedding.float(), count, torch.cat([own, outcomes]), teacher_outcomes)
            terms = terms + iph.weight * output["prototype"]
        if self.snapshot is not None:
            output["parameters"] = torch.cat([p.detach().flatten() for p in self.network.parameters()])
        return {
            "loss": supervised + self.ramp(self.steps_done) * terms,
            "supervised": supervised,
            "unsupervised": unsupervised,
            "mask_rate": counted.mean(),
            "confidence": self.kind.confidence(outcomes),
            **output,
        }

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        if self.alignment is not None:
            self.alignment.update(gather(output["mean_outcomes"].unsqueeze(0)).mean(dim=0))
        if self.adapl is not None:
            index = gather(batch["unlabeled"]["index"])
            self.adapl.update(index, gather(output["estimate"]), gather(output["outcomes"]))
        if self.iph is not None and "centers" in output:
            self.iph.update(output)
        if self.snapshot is not None:
            # the parameters from before the optimizer step, with the present BatchNorm statistics
            _restore(self.snapshot.network, output["parameters"], self.network.buffers())
        super().after_step(batch, output)

    @torch.no_grad()
    def targets(self, images: Tensor, index: Tensor) -> Targets:
        """Return the pseudo-labels that images would be taught now; all models in evaluation mode, no state changes.

        The alignment is by the batches of training alone. The estimate leans on the history that training stored for
        `index`, if there is any.

        Args:
            images: ``(B, C, *spatial)``.
            index: which samples they are, ``(B,)``; -1: none of the datalist, without history.
        """
        outcomes = self._present(images)
        aligned = outcomes if self.alignment is None else self.alignment.align(outcomes)
        pseudo_label = self.kind.decide(aligned)
        estimate = torch.zeros_like(pseudo_label, dtype=aligned.dtype)
        if self.adapl is not None:
            estimate = self.adapl(outcomes, index.to(outcomes.device), self._earlier(images))
        return Targets(
            outcomes,
            pseudo_label,
            self._relax(aligned, estimate),
            self.kind.confident(aligned, Threshold(self.threshold)),
            estimate.nan_to_num(nan=0.0),
        )

    def _relax(self, outcomes: Tensor, estimate: Tensor) -> Tensor:
        weight = torch.ones_like(estimate) if self.adapl is None else self.adapl.weight(estimate)
        return relaxed_targets(self.kind.decide(outcomes), weight, outcomes.shape[-1])

    def _present(self, images: Tensor) -> Tensor:
        """Return the student's outcomes in evaluation mode."""
        with evaluating(self.network):
            return self.kind.outcomes(self.network(images))

    def _earlier(self, images: Tensor) -> Tensor | None:
        """Return the outcomes of the earlier model; None if they are in the bank."""
        if self.previous == "bank":
            return None
        model = self.teacher if self.snapshot is None else self.snapshot
        return self.kind.outcomes(model(images))


def _restore(network: nn.Module, parameters: Tensor, buffers: Iterable[Tensor]) -> None:
    """Copy parameters, flat and one after the other, and buffers into `network`."""
    kept: list[Tensor] = [*network.parameters()]
    parts = torch.split(parameters, [p.numel() for p in kept])
    torch._foreach_copy_(kept, [part.view_as(p) for part, p in zip(parts, kept, strict=True)])
    for mine, new in zip(network.buffers(), buffers, strict=True):
        mine.copy_(new)
