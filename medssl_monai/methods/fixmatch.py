"""FixMatch (Sohn et al., NeurIPS 2020, https://arxiv.org/abs/2001.07685)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.kinds.threshold import Given
from medssl_monai.losses.pseudo_label import DistributionAlignment, Normalization, sharpen, weighted_mean
from medssl_monai.methods.base import Batch, Output, SSLMethod


class FixMatch(SSLMethod):
    """Train on confident pseudo-labels of weakly augmented images, predicted from strongly augmented ones.

    The weak view runs without gradient, in a forward pass of its own (the student in training mode, as published, but
    with batch statistics of the weak views alone); labeled and strong views share one pass and its BatchNorm.

    Learning findings is ours: the pseudo-label of each finding in each image is its more probable state, present or
    absent, and counts by itself. Mind rare findings. Where one image in fifty has a finding, a network that has only
    learnt this much predicts 0.02 for every image: "absent", at 98 %. Nearly all absences count and hardly a presence,
    so that the unlabeled loss teaches absence alone; `mask_rate`, the share of all pairs, is high and says little. A
    threshold of absence above the share of images without the finding, 0.995 say, lets only those count in which it is
    less likely than in others; a lower threshold of presence lets in more that have it.

    For masks, ours too, each voxel has a pseudo-label and counts by itself, so that the strong view may change
    intensities only: it must show each voxel in the same place. What holds of rare findings holds of small classes:
    most voxels that count are background, padding included, and `mask_rate`, the share of voxels, says little.

    Args:
        network: images ``(B, C, *spatial)`` to logits, as the kind of labels wants them.
        threshold: confidence that a pseudo-label must reach to count, in [0, 1] (tau, Eq. 4): a number, one for each
            name, or numbers by state, such as ``{absent: 0.995, present: 0.9}``; see `medssl_monai.kinds.Kind`.
        weight: weight of the unlabeled loss (lambda_u, Sec. 2.3).
        alignment: distribution alignment of the weak predictions (Sec. 2.5), off by default; none for masks.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`.

    Raises:
        ValueError: if a threshold is not in [0, 1], there are not as many as names, or `alignment` is for other labels.
    """

    threshold: Tensor

    def __init__(
        self,
        network: nn.Module,
        threshold: Given = 0.95,
        weight: float = 1.0,
        alignment: DistributionAlignment | None = None,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        self.check_shape(alignment=alignment)
        self.register_buffer("threshold", self.kind.threshold(threshold).values, persistent=False)
        self.weight, self.alignment = weight, alignment

    def forward(self, batch: Batch) -> Output:
        return weak_to_strong(self, batch, self.weights, self.weight, self.alignment)[0]

    def weights(self, outcomes: Tensor) -> Tensor:
        """Return what each case of the weak views counts ``(B, *cases)``; methods that are built on this differ here.

        Args:
            outcomes: of the weak views, ``(B, *cases, S)``.
        """
        return self.kind.confident(outcomes, self.thresholds()["label"]).float()

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        if self.alignment is not None:
            self.alignment.update(gather(output["mean_outcomes"].unsqueeze(0)).mean(dim=0))
        super().after_step(batch, output)

    def thresholds(self) -> Mapping[str, Threshold]:
        return {"label": Threshold(self.threshold)}


def weak_to_strong(
    method: SSLMethod,
    batch: Batch,
    weights: Callable[[Tensor], Tensor],
    weight: float,
    alignment: DistributionAlignment | None = None,
    normalization: Normalization = "batch",
    temperature: float | None = None,
) -> tuple[Output, Tensor]:
    """Return the step of FixMatch and of what is built on it: pseudo-labels of weak views teach strong views.

    Args:
        method: whose network learns.
        batch: streams ``labeled`` and ``unlabeled``.
        weights: what each case counts ``(B, *cases)``, of the outcomes of the weak views ``(B, *cases, S)``: of a
            threshold 0 and 1, and whatever else may depend on the batch.
        weight: of the unlabeled loss.
        alignment: of the outcomes, before they are weighed.
        normalization: see `medssl_monai.losses.weighted_mean`.
        temperature: None: learn the decided states; else the sharpened outcomes.

    Returns:
        ``loss`` and its parts, ``mask_rate``, of the weak views ``outcomes``, ``decided`` and ``confidence``
        ``(B, *cases)``, ``weights``, and, with an alignment, the ``mean_outcomes`` to update it with; beside it the
        logits of the strong views, which carry the graph.
    """
    labeled, unlabeled, kind = batch["labeled"], batch["unlabeled"], method.kind
    output: Output = {}
    with torch.no_grad():  # targets carry no gradient: a third of the step is saved
        outcomes = kind.outcomes(method.network(unlabeled["weak"]))
        if alignment is not None:
            outcomes, output["mean_outcomes"] = alignment(outcomes)
        counted, decided = weights(outcomes), kind.decide(outcomes)
    images = torch.cat([labeled["image"], unlabeled["strong"]])
    logits, strong = method.network(images).float().split([len(labeled["image"]), len(unlabeled["strong"])])
    supervised = method.criterion(logits, labeled["label"])  # Eq. 3
    wanted = decided if temperature is None else sharpen(outcomes, temperature)
    unsupervised = weighted_mean(kind.losses(strong, wanted), counted, normalization)  # Eq. 4
    output |= {
        "loss": supervised + weight * unsupervised,
        "supervised": supervised,
        "unsupervised": unsupervised,
        "mask_rate": counted.mean(),
        "confidence": kind.confidence(outcomes),
        "outcomes": outcomes,
        "decided": decided,
        "weights": counted,
    }
    return output, strong


def shape_of_means(kind: Kind) -> tuple[int, ...]:
    """Return the shape ``(*cases, S)`` of what a method keeps for each state, or ``(S,)`` where voxels share it.

    Raises:
        ValueError: if the states are not known.
    """
    if not kind.states:
        raise ValueError("this method keeps something for each class and must know them: give it a `kind` with names.")
    return (*(kind.cases or ()), kind.states)


def rows(kind: Kind, outcomes: Tensor) -> Tensor:
    """Return outcomes ``(n, *cases, S)`` of which a mean over the first axis is one for each case.

    Where the number of cases differs from image to image, each is a row of its own ``(n, S)``: voxels share one mean.
    """
    return outcomes.flatten(0, -2) if kind.cases is None else outcomes
