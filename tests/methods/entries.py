"""The methods that the battery runs (`methods.test_every_method`); a new one joins by a line in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from methods.test_multimix import CONFIGURATIONS, weights_of
from torch import Tensor, nn

from medssl_monai.kinds import Classes, Findings, Kind, Masks
from medssl_monai.losses import DistributionAlignment, QueueAlignment
from medssl_monai.methods import (
    IPH,
    S2MTS2,
    TEAR,
    AdaPL,
    AdaptiveThreshold,
    BoostMIS,
    CrossPseudoSupervision,
    FixMatch,
    FlexMatch,
    FreeMatch,
    MeanTeacher,
    MultiMix,
    Restoration,
    SoftMatch,
    SSLMethod,
    Supervised,
)
from medssl_monai.networks import MultiMixNetwork, small_resnet

SAMPLES = 12


class Segmenter(nn.Module):
    """Two layers that keep the size of the image."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.backbone = nn.Sequential(convolution(1, 4, 3, padding=1), norm(4), nn.ReLU())
        self.head = convolution(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


@dataclass(frozen=True)
class Form:
    """What a method learns from: a network, images of a size, and labels of a kind."""

    network: Callable[[], nn.Module]
    kind: Kind
    size: tuple[int, ...] = (16, 16)

    def images(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, 1, *self.size, generator=generator)

    def labels(self, kind: Kind, count: int, generator: torch.Generator) -> Tensor:
        """Random states, some of them unknown where a label has several cases."""
        cases = self.size if kind.cases is None else kind.cases
        return torch.randint(-1 if cases else 0, kind.states, (count, *cases), generator=generator)


def no_change(method: Any) -> None:
    """The network alone decides what is sure."""


@dataclass(frozen=True)
class Entry:
    """A method, and what the battery must know of it.

    Attributes:
        make: builds it on a network, for labels of a kind.
        form: see there.
        told: least and greatest threshold that it may tell and use; None: it has no pseudo-labels by confidence.
        unsure: what must change, beside a network that finds all states alike, so that nothing is sure.
        frozen: parts of the network that have nothing to learn from.
        targets: outputs of which no gradient may reach the views that targets are made of.
        rest: what its loss holds beside that of labeled images where nothing is sure.
        every: whether it runs with ``--all`` only.
    """

    make: Callable[[Any, Kind], SSLMethod]
    form: Form
    told: tuple[float, float] | None = None
    unsure: Callable[[Any], None] = no_change
    frozen: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("loss",)
    rest: Callable[[Any, Any], Any] = field(default=lambda method, output: 0.0)
    every: bool = False

    def method(self, seed: int = 0) -> SSLMethod:
        """A fresh one, on a network of this seed."""
        torch.manual_seed(seed)
        return self.make(self.form.network(), self.form.kind)

    def batch(self, method: SSLMethod, labeled: int = 3, unlabeled: int = 5) -> dict[str, dict[str, Tensor]]:
        """Every stream and view, whether the method reads it or not; further streams are as large as their opposite."""
        g, form = torch.Generator().manual_seed(1), self.form
        weak, strong = form.images(unlabeled, g), form.images(unlabeled, g)
        batch = {
            "labeled": {
                "image": form.images(labeled, g),
                "label": form.labels(form.kind, labeled, g),
                "index": torch.arange(labeled),
            },
            "unlabeled": {"weak": weak, "strong": strong, "index": torch.arange(unlabeled) + 4},
        }
        # a pair of views for restoration: the networks here have three outputs
        batch["unlabeled"] |= {"distorted": strong, "image": weak.detach().expand(-1, 3, *form.size)}
        for name in method.streams.keys() - batch.keys():
            part, known = method.streams[name]
            count = unlabeled if known else labeled
            batch[name] = {"image" if known else "weak": form.images(count, g), "index": torch.arange(count)}
            if known:
                batch[name]["label"] = form.labels(method.kinds[part], count, g)
        return batch

    def make_unsure(self, method: SSLMethod) -> None:
        """Let every state be as probable as the others, so that nothing is confident."""
        set_head(method, torch.zeros(3))
        self.unsure(method)

    def make_sure(self, method: SSLMethod) -> None:
        """Let the first class, or the first finding and no other, be certain of every image."""
        set_head(method, torch.tensor([100.0, -100.0, -100.0]))


def head_of(network: Any) -> Any:
    """The last layer of a classifier, or of a network for masks."""
    return getattr(network, "classifier", network).head


def set_head(method: SSLMethod, logits: Tensor) -> None:
    """Let the network and its copies predict these logits for every image."""
    head = head_of(method.network)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(logits)
    method.on_start()


# ---- forms -----------------------------------------------------------------------------------------------------------

K = 3
CLASSES = Form(lambda: small_resnet(num_classes=K, width=2), Classes.of_size(K))
FINDINGS = replace(CLASSES, kind=Findings.of_size(K))
MASKS = {
    "2-D masks": Form(lambda: Segmenter(2), Masks.of_size(K)),
    "3-D masks": Form(lambda: Segmenter(3), Masks.of_size(K), (6, 5, 4)),
}
SURE = {"classes": (0.4, 0.4), "findings": (0.51, 0.52)}
"""Thresholds that the entries set: above chance, and low enough for a network that knows nothing."""


def alignment(kind: Kind) -> DistributionAlignment:
    return DistributionAlignment([0.35, 0.35, 0.3] if not kind.cases else [[0.5, 0.5], [0.5, 0.5], [0.51, 0.49]], 0.9)


def threshold(kind: Kind, **options: Any) -> AdaptiveThreshold:
    alpha = 0.42 if kind.cases else 0.3
    return AdaptiveThreshold(SAMPLES, kind.shape, **{"alpha": alpha, "beta": 0.1, "minimum": 0.0, **options})


def adapl(kind: Kind, previous: Any, **options: Any) -> AdaPL:
    weight = {"minimum_weight": 0.75} if kind.cases else {}
    return AdaPL(SAMPLES, kind.shape, previous=previous, **weight, **options)


def tear(net: Any, kind: Kind, **options: Any) -> TEAR:
    return TEAR(net, **{"threshold": 0.52 if kind.cases else 0.4, "decay": 0.9, "kind": kind, **options})


def all_used(method: Any) -> None:
    """Every sample is kept as one state, all states alike: no threshold is lowered."""
    rows = torch.arange(SAMPLES) % method.kind.states
    method.kept.copy_(rows.view(-1, *[1] * (method.kept.ndim - 1)).expand_as(method.kept))


def above_all(method: Any) -> None:
    """The mean confidence of earlier batches is above every confidence."""
    method.confidence.fill_(10.0)


def far_above_all(method: Any) -> None:
    """Likewise, and it hardly varied."""
    method.mean.fill_(10.0)
    method.variance.fill_(1e-12)


def prototypes(method: Any, output: Any) -> Tensor:
    """They do not ask for confidence, and those of labeled images share a pass with the strong views."""
    return method.ramp(method.steps_done) * method.iph.weight * output["prototype"]


def of_masks(method: Any, output: Any) -> Any:
    """The losses of the streams of masks."""
    return sum(method.weights[name] * output[name] for name in ("masks", "consistency") if name in output)


# ---- methods ---------------------------------------------------------------------------------------------------------

IPH_TARGETS = {"targets": ("supervised", "unsupervised"), "rest": prototypes}
"""What holds of prototypes, which compare features of weak views as well."""


def fixmatch(**options: Any) -> Callable[[Any, Kind], SSLMethod]:
    return lambda net, kind: FixMatch(net, **{"threshold": 0.4, "decay": 0.9, "kind": kind, **options})


def boostmis(**options: Any) -> Callable[[Any, Kind], SSLMethod]:
    return lambda net, kind: BoostMIS(net, threshold(kind), **{"decay": 0.9, "kind": kind, **options})


def on_classes() -> dict[str, Entry]:
    sure = {"form": CLASSES, "told": SURE["classes"]}
    return {
        "supervised": Entry(lambda net, kind: Supervised(net, decay=0.9, kind=kind), CLASSES),
        "fixmatch": Entry(fixmatch(), **sure),
        "fixmatch, student only": Entry(fixmatch(decay=None), **sure),
        "fixmatch, aligned": Entry(lambda net, kind: FixMatch(net, 0.4, alignment=alignment(kind), kind=kind), **sure),
        "flexmatch": Entry(
            lambda net, kind: FlexMatch(net, SAMPLES, 0.4, decay=0.9, kind=kind), CLASSES, (0.0, 0.4), all_used
        ),
        "freematch": Entry(
            lambda net, kind: FreeMatch(net, momentum=0.9, decay=0.9, kind=kind), CLASSES, (0.2, 0.41), above_all
        ),
        "softmatch": Entry(
            lambda net, kind: SoftMatch(net, momentum=0.9, decay=0.9, kind=kind), CLASSES, (0.0, 1.0), far_above_all
        ),
        "softmatch, not aligned": Entry(
            lambda net, kind: SoftMatch(net, momentum=0.9, uniform=False, kind=kind),
            CLASSES,
            (0.0, 0.41),
            far_above_all,
        ),
        "mean_teacher": Entry(lambda net, kind: MeanTeacher(net, decay=0.9, kind=kind), CLASSES),
        "cross pseudo supervision": Entry(lambda net, kind: CrossPseudoSupervision(net, decay=0.9, kind=kind), CLASSES),
        "boostmis": Entry(boostmis(), **sure),
        "boostmis, per batch": Entry(
            lambda net, kind: BoostMIS(net, threshold(kind, scope="batch"), normalization="selected", kind=kind), **sure
        ),
        "boostmis, soft and aligned": Entry(
            lambda net, kind: BoostMIS(net, threshold(kind), temperature=0.5, alignment=alignment(kind), kind=kind),
            **sure,
        ),
        "s2mts2": Entry(lambda net, kind: S2MTS2(net, ramp_steps=3, decay=0.9, kind=kind), CLASSES),
        "s2mts2, as released but for the view": Entry(
            lambda net, kind: S2MTS2(net, 3, teacher_bn="train", shared_view=False, kind=kind), CLASSES
        ),
        "tear, plain": Entry(tear, **sure),
        "tear, aligned": Entry(
            lambda net, kind: tear(net, kind, alignment=QueueAlignment(kind.shape, length=3)), **sure
        ),
        "tear, aligned to the labeled": Entry(
            lambda net, kind: tear(net, kind, alignment=QueueAlignment(kind.shape, labeled_target=True)), **sure
        ),
        "tear, adapl of the teacher": Entry(
            lambda net, kind: tear(net, kind, adapl=adapl(kind, "ema", history_decay=0.5)), **sure
        ),
        "tear, adapl of a snapshot": Entry(
            lambda net, kind: tear(net, kind, adapl=adapl(kind, "snapshot", discrepancy="kl", gamma=4.0)), **sure
        ),
        "tear, adapl of a bank": Entry(
            lambda net, kind: tear(net, kind, adapl=adapl(kind, "bank", discrepancy="tv", relaxation="sigmoid")), **sure
        ),
        "tear, iph shared": Entry(lambda net, kind: tear(net, kind, iph=IPH(2)), **sure, **IPH_TARGETS),
        "tear, iph matched": Entry(
            lambda net, kind: tear(net, kind, iph=IPH(2, "matched", interval=2)), **sure, **IPH_TARGETS
        ),
        "tear, all": Entry(
            lambda net, kind: tear(
                net,
                kind,
                alignment=QueueAlignment(kind.shape),
                adapl=adapl(kind, "ema", history_decay=0.5),
                iph=IPH(2),
                ramp_steps=3,
            ),
            **sure,
            **IPH_TARGETS,
        ),
    }


def on_findings() -> dict[str, Entry]:
    sure = {"form": FINDINGS, "told": SURE["findings"]}
    by_state = {"absent": 0.52, "present": [0.52, 0.51, 0.51]}
    return {
        "supervised": Entry(lambda net, kind: Supervised(net, decay=0.9, kind=kind), FINDINGS),
        "fixmatch": Entry(fixmatch(threshold=0.52), **sure),
        "fixmatch, by finding and state": Entry(fixmatch(threshold=by_state), **sure),
        "fixmatch, aligned": Entry(
            lambda net, kind: FixMatch(net, threshold=0.52, alignment=alignment(kind), kind=kind), **sure
        ),
        "flexmatch": Entry(
            lambda net, kind: FlexMatch(net, SAMPLES, by_state, decay=0.9, kind=kind), FINDINGS, (0.0, 0.52), all_used
        ),
        "freematch": Entry(
            lambda net, kind: FreeMatch(net, momentum=0.9, decay=0.9, kind=kind), FINDINGS, (0.4, 0.56), above_all
        ),
        "softmatch": Entry(
            lambda net, kind: SoftMatch(net, momentum=0.9, decay=0.9, kind=kind), FINDINGS, (0.0, 1.0), far_above_all
        ),
        "mean_teacher": Entry(lambda net, kind: MeanTeacher(net, decay=0.9, kind=kind), FINDINGS),
        "boostmis": Entry(boostmis(), **sure),
        "boostmis, per batch, soft and aligned": Entry(
            lambda net, kind: BoostMIS(
                net,
                threshold(kind, scope="batch"),
                normalization="selected",
                temperature=0.5,
                alignment=alignment(kind),
                kind=kind,
            ),
            **sure,
        ),
        "s2mts2": Entry(lambda net, kind: S2MTS2(net, ramp_steps=3, decay=0.9, kind=kind), FINDINGS),
        "tear, adapl of a snapshot": Entry(
            lambda net, kind: tear(net, kind, adapl=adapl(kind, "snapshot", discrepancy="kl")), **sure
        ),
        "tear, adapl of a bank": Entry(
            lambda net, kind: tear(net, kind, adapl=adapl(kind, "bank", relaxation="sigmoid")), **sure
        ),
        "tear, all": Entry(
            lambda net, kind: tear(
                net,
                kind,
                threshold={"absent": [0.51, 0.52, 0.52], "present": 0.52},
                alignment=QueueAlignment(kind.shape, labeled_target=True),
                adapl=adapl(kind, "ema", history_decay=0.5),
                iph=IPH(2),
                ramp_steps=3,
            ),
            **sure,
            **IPH_TARGETS,
        ),
    }


def on_masks(form: Form) -> dict[str, Entry]:
    return {
        "supervised": Entry(lambda net, kind: Supervised(net, decay=0.9, kind=kind), form),
        "fixmatch": Entry(fixmatch(), form, SURE["classes"]),
        "freematch": Entry(
            lambda net, kind: FreeMatch(net, momentum=0.9, decay=0.9, kind=kind), form, (0.2, 0.41), above_all
        ),
        "softmatch": Entry(
            lambda net, kind: SoftMatch(net, momentum=0.9, decay=0.9, kind=kind), form, (0.0, 1.0), far_above_all
        ),
        "mean_teacher": Entry(lambda net, kind: MeanTeacher(net, decay=0.9, kind=kind), form),
        "cross pseudo supervision": Entry(lambda net, kind: CrossPseudoSupervision(net, decay=0.9, kind=kind), form),
        "cross pseudo supervision, pre-trained": Entry(
            lambda net, kind: CrossPseudoSupervision(net, reset="last", kind=kind), form
        ),
        "restoration": Entry(lambda net, kind: Restoration(net), replace(form, kind=Classes.of_size(K))),
    }


FROZEN = {"Enc": ("decoder", "output"), "EncSSL": ("decoder", "output"), "U-Net": ("classifier.head",)}
"""Parts of the network that a baseline of MultiMix has nothing to learn from."""


def joint(baseline: str, dims: int, kind: Kind, every: bool, **options: Any) -> Entry:
    """A baseline of MultiMix, which learns classes or findings and masks, by one network."""
    weights, (_, bridge, streams) = weights_of(baseline), CONFIGURATIONS[baseline]
    channels = (2, 4, 6) if dims == 2 else (2, 4)

    def network() -> MultiMixNetwork:
        return MultiMixNetwork(K, K, spatial_dims=dims, channels=channels, dropout=0.0, bridge=bridge)

    return Entry(
        lambda net, kind: MultiMix(net, **weights, **options, kind=kind, mask_kind=Masks.of_size(K)),
        Form(network, kind, (16, 16) if dims == 2 else (6, 5, 4)),
        SURE[kind.word] if "unlabeled" in streams else None,
        frozen=FROZEN.get(baseline, ()),
        rest=of_masks,
        every=every,
    )


def on_both() -> dict[str, Entry]:
    """Every baseline in every form; by default every baseline once, and each form twice."""
    forms: dict[str, tuple[int, Kind, dict[str, Any]]] = {
        "2-D classes and masks": (2, CLASSES.kind, {"threshold": 0.4, "decay": 0.9}),
        "3-D classes and masks": (3, CLASSES.kind, {"threshold": 0.4}),
        "2-D masks and findings": (2, FINDINGS.kind, {"threshold": 0.52, "decay": 0.9}),
        "3-D masks and findings": (3, FINDINGS.kind, {"threshold": [0.52, 0.51, 0.51]}),
    }
    found = {}
    for turn, baseline in enumerate(CONFIGURATIONS):
        own = list(forms)[:2] if baseline == "U-Net" else list(forms)  # it learns neither classes nor findings
        for number, form in enumerate(own):
            dims, kind, options = forms[form]
            found[f"{baseline} on {form}"] = joint(baseline, dims, kind, number != turn % len(own), **options)
    return found


METHODS: dict[str, Entry] = {
    **on_classes(),
    **{f"{name}, findings": entry for name, entry in on_findings().items()},
    **{f"{name}, 2-D masks": entry for name, entry in on_masks(MASKS["2-D masks"]).items()},
    **{
        f"{name}, 3-D masks": replace(entry, every=number > 1)
        for number, (name, entry) in enumerate(on_masks(MASKS["3-D masks"]).items())
    },
    **on_both(),
}
