"""Cross pseudo supervision (Chen et al., CVPR 2021, https://arxiv.org/abs/2106.01226)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medssl_monai.kinds import Kind
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.schedules import Schedule, sigmoid_rampup
from medssl_monai.seeds import seed_of_epoch


class CrossPseudoSupervision(SSLMethod):
    """Two networks that differ in their initial weights learn from each other's hard pseudo-labels.

    Both see the same weak views; nothing but their weights tells them apart. What one predicts, confident or not,
    teaches the other by cross-entropy, on unlabeled and on labeled images, the means over which are added as in the
    paper; of a mask also where nobody labeled it. Labeled images teach both by `criterion`. Each network has one pass,
    and its BatchNorm the statistics of labeled and unlabeled images together. The paper is about masks; one class per
    image is the same with one voxel, and findings, ours, with as many as there are findings.

    The first network is deployed, as in the paper (ours: the average of its weights, as in the other methods, so that
    a comparison measures the unlabeled images and nothing else); the second is for training only, and costs as much
    as the first.

    The second network is a copy of the first whose layers begin anew, by their ``reset_parameters``; what belongs to no
    such layer stays equal. Where the first was pre-trained, that would throw half of the pre-training away, and copying
    all would leave nothing to disagree about: take `reset` ``last`` then. It keeps everything but the output layer, as
    in the paper, where both networks have the same pre-trained encoder and heads of their own. The copy is made when
    training starts, of what the first network is then.

    Args:
        network: images ``(B, C, *spatial)`` to logits ``(B, K)``, or ``(B, K, *spatial)`` for masks.
        weight: schedule of the weight of the pseudo-labels over optimizer steps (lambda); default: rise to 1.5, the
            paper's for PASCAL VOC, in 1000 steps. The ramp is ours: the labels of untrained networks teach nothing.
        reset: layers of the second network that begin anew: ``all``, or the ``last`` convolution or linear layer, in
            the order of ``modules()``.
        seed: of the second network's layers.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`.

    Raises:
        ValueError: if `reset` is neither, or `network` has no layer that can begin anew.
    """

    needs_strong_view = False

    def __init__(
        self,
        network: nn.Module,
        weight: Schedule | None = None,
        reset: Literal["all", "last"] = "all",
        seed: int = 1,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        if reset not in ("all", "last"):
            raise ValueError(f"`reset` must be 'all' or 'last', got {reset!r}.")
        self.weight, self.reset, self.seed = weight or sigmoid_rampup(peak=1.5, length=1000), reset, seed
        self.second = deepcopy(network)
        self._begin_anew()

    def on_start(self) -> None:
        super().on_start()
        self._begin_anew()

    def forward(self, batch: Batch) -> Output:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        images = torch.cat([labeled["image"], unlabeled["weak"]])
        sizes = [len(labeled["image"]), len(unlabeled["weak"])]
        first, second = self.network(images).float().split(sizes), self.second(images).float().split(sizes)
        supervised = self.criterion(first[0], labeled["label"]) + self.criterion(second[0], labeled["label"])
        unsupervised = self._cross(first[0], second[0]) + self._cross(first[1], second[1])
        return {
            "loss": supervised + self.weight(self.steps_done) * unsupervised,
            "supervised": supervised,
            "unsupervised": unsupervised,
            "agreement": (self._decided(first[1]) == self._decided(second[1])).float().mean(),
        }

    def _cross(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the mean losses of each network's logits against the states that the other predicts, added."""
        pairs = ((first, second), (second, first))
        return torch.stack([self.kind.losses(own, self._decided(other)).mean() for own, other in pairs]).sum()

    def _decided(self, logits: Tensor) -> Tensor:
        return self.kind.decide(self.kind.outcomes(logits.detach()))

    def _begin_anew(self) -> None:
        fresh = deepcopy(self.network).cpu()  # the same draw on every device
        layers: list[Any] = [layer for layer in fresh.modules() if callable(getattr(layer, "reset_parameters", None))]
        drawn = [layer for layer in layers if any(p.ndim > 1 for p in layer.parameters(recurse=False))]
        if not drawn:
            raise ValueError(
                f"no layer of {type(self.network).__name__} draws its weights in `reset_parameters`, so that a second "
                "network would be equal to the first and teach it nothing."
            )
        with torch.random.fork_rng(devices=[]):
            # not the plain seed: a network that was made after `torch.manual_seed(seed)` would be made once more
            torch.default_generator.manual_seed(seed_of_epoch(self.seed, 17))
            for layer in layers if self.reset == "all" else drawn[-1:]:
                layer.reset_parameters()
        self.second.load_state_dict(fresh.state_dict())
