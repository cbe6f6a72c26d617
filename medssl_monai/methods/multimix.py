"""MultiMix (Haque et al., ISBI 2021, https://arxiv.org/abs/2010.14731): classes and masks from few of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from medssl_monai.kinds import Kind, Masks, Threshold
from medssl_monai.kinds.threshold import Given
from medssl_monai.losses.joint import MaskConsistency, SmoothDiceLoss
from medssl_monai.losses.pseudo_label import weighted_mean
from medssl_monai.methods.base import LABELED, UNLABELED, Batch, Output, SSLMethod, Stream
from medssl_monai.networks.multimix import MultiMixNetwork

STREAMS: Mapping[str, Stream] = {
    "labeled": LABELED,
    "unlabeled": UNLABELED,
    "segmented": Stream("mask", True),
    "unsegmented": Stream("mask", False),
}
"""What images are drawn for, in the order of the weights."""


class MultiMix(SSLMethod):
    """One network learns to classify from few labels, and to segment from few masks, of the same images or of others.

    Images with a class and images without one teach the classification as in FixMatch; images with a mask teach the
    decoder by Dice, and images without one by the consistency of predictions. The loss (Eq. 1 and 2) is

        CE(labeled) + weight * CE(strong views of confident images) + mask_weight * Dice(segmented)
            + consistency_weight * KL(segmented || unsegmented)

    A weight of 0 leaves its stream out, of the loss as of the loader, and freezes the part of `network` that no loss
    reaches then: processes that share their gradients would wait for its own. With a network of ``bridge: none`` or
    ``concat`` the baselines of the paper are these:

    ============  ============  ========  =============  ====================  ========
    baseline      class_weight  weight    mask_weight    consistency_weight    bridge
    ============  ============  ========  =============  ====================  ========
    Enc           1             0         0              0                     none
    EncSSL        1             0.25      0              0                     none
    U-Net         0             0         5              0                     none
    UMTL          1             0         5              0                     none
    UMTLS         1             0         5              0                     concat
    UMTL-SSL      1             0.25      5              0                     none
    UMTL-SSL-S    1             0.25      5              0                     concat
    MultiMix      1             0.25      5              0.01                  concat
    ============  ============  ========  =============  ====================  ========

    As published, there is no averaged teacher (`decay`), and the norm is of instances, so that streams do not meet in
    batch statistics. The released loop sends all streams through the whole network at once; here only images of the
    mask streams go through decoder and saliency, which changes no loss, since nothing mixes images. Its consistency
    term is identically 0 (a softmax over one channel), so that the published MultiMix is
    UMTL-SSL-S: ours is `medssl_monai.losses.MaskConsistency`. That the last two differ in this term alone is our
    inference from the supplement.

    Args:
        network: with ``joint``, and a ``classifier`` that shares its encoder.
        threshold: confidence that a pseudo-label must reach (t), in [0, 1].
        weight: of the pseudo-labels (lambda).
        mask_weight: of Dice (alpha); the paper: 5 "for smaller labelled sets", its code always.
        consistency_weight: of the consistency (beta).
        class_weight: of the labeled images' cross-entropy; the paper has none, that is 1.
        mask_criterion: loss of masks; None: `medssl_monai.losses.SmoothDiceLoss`, the published one.
        consistency: None: `medssl_monai.losses.MaskConsistency`.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`; of the part ``label``.
        mask_kind: of the part ``mask``.

    Raises:
        ValueError: if a weight is negative, none is above 0, or pseudo-labels or a consistency have nothing to go by.

    Attributes:
        streams: ``labeled`` and ``unlabeled`` of classes, ``segmented`` and ``unsegmented`` of masks, as the weights
            ask.
    """

    needs_fixed_cases: ClassVar[bool] = True
    network: MultiMixNetwork
    threshold: Tensor

    def __init__(
        self,
        network: MultiMixNetwork,
        threshold: Given = 0.7,
        weight: float = 0.25,
        mask_weight: float = 5.0,
        consistency_weight: float = 0.01,
        class_weight: float = 1.0,
        mask_criterion: nn.Module | None = None,
        consistency: nn.Module | None = None,
        decay: float | None = None,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
        mask_kind: Masks | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        self.mask_kind = mask_kind or Masks()
        self.register_buffer("threshold", self.kind.threshold(threshold).values, persistent=False)
        self.mask_criterion = SmoothDiceLoss() if mask_criterion is None else mask_criterion
        self.consistency = MaskConsistency() if consistency is None else consistency
        self.weights = {
            "supervised": class_weight,
            "unsupervised": weight,
            "masks": mask_weight,
            "consistency": consistency_weight,
        }
        if min(self.weights.values()) < 0 or max(self.weights.values()) == 0:
            raise ValueError(f"weights must be at least 0, and one of them more, got {self.weights}.")
        for needs, of in (("unsupervised", "supervised"), ("consistency", "masks")):
            if self.weights[needs] and not self.weights[of]:
                raise ValueError(f"without the loss `{of}` there is nothing for `{needs}` to go by; set both to 0.")
        self.streams = {
            name: STREAMS[name] for name, share in zip(STREAMS, self.weights.values(), strict=True) if share
        }
        if "labeled" not in self.streams:
            network.classifier.head.requires_grad_(False)
        if "segmented" not in self.streams:
            network.decoder.requires_grad_(False)
            network.output.requires_grad_(False)

    def forward(self, batch: Batch) -> Output:
        output: Output = {}
        if "labeled" in self.streams:
            output |= self._classes(batch)
        if "segmented" in self.streams:
            output |= self._masks(batch)
        terms = [self.weights[name] * output[name] for name in self.weights if name in output]
        return {"loss": torch.stack(terms).sum(), **output}

    def _classes(self, batch: Batch) -> Output:
        """Of images with a class and, as their weak views are predicted, of images without one."""
        labeled, classifier = batch["labeled"], self.network.classifier
        if "unlabeled" not in self.streams:
            return {"supervised": self.criterion(classifier(labeled["image"]).float(), labeled["label"])}
        unlabeled = batch["unlabeled"]
        with torch.no_grad():
            outcomes = self.kind.outcomes(classifier(unlabeled["weak"]))
            counted = self.kind.confident(outcomes, Threshold(self.threshold)).float()
        images = torch.cat([labeled["image"], unlabeled["strong"]])
        logits, strong = classifier(images).float().split([len(labeled["image"]), len(unlabeled["strong"])])
        losses = self.kind.losses(strong, self.kind.decide(outcomes))
        return {
            "supervised": self.criterion(logits, labeled["label"]),
            "unsupervised": weighted_mean(losses, counted),  # over all, whether they count or not
            "mask_rate": counted.mean(),
            "confidence": self.kind.confidence(outcomes),
        }

    def _masks(self, batch: Batch) -> Output:
        """Of images with a mask and, compared with these, of images without one."""
        segmented = batch["segmented"]
        if "unsegmented" not in self.streams:
            return {"masks": self.mask_criterion(self.network(segmented["image"]).float(), segmented["label"])}
        images = torch.cat([segmented["image"], batch["unsegmented"]["weak"]])
        logits, others = (
            self.network(images).float().split([len(segmented["image"]), len(batch["unsegmented"]["weak"])])
        )
        return {
            "masks": self.mask_criterion(logits, segmented["label"]),
            "consistency": self.consistency(logits, others),
        }

    @property
    def kinds(self) -> Mapping[str, Kind]:
        own = {"label": self.kind, "mask": self.mask_kind}
        return {stream.part: own[stream.part] for stream in self.streams.values() if stream.labeled}

    def thresholds(self) -> Mapping[str, Threshold]:
        return {"label": Threshold(self.threshold)} if "unlabeled" in self.streams else {}
