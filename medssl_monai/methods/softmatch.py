"""SoftMatch (Chen et al., ICLR 2023, https://arxiv.org/abs/2301.10921)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.losses.pseudo_label import DistributionAlignment
from medssl_monai.methods.base import Batch, Output, SSLMethod
from medssl_monai.methods.fixmatch import rows, shape_of_means, weak_to_strong

TINY = 1e-12


class SoftMatch(SSLMethod):
    """FixMatch without a threshold: every pseudo-label counts, and the less, the further it is below the mean.

    The weight of an image is 1 from the mean confidence on, and below it that of a Gaussian of that mean and the
    variance of the confidences, ``exp(-(confidence - mean)^2 / (2 (deviation / sigmas)^2))`` (truncated Gaussian,
    Sec. 3.1 of the paper). Mean and variance are running ones over batches, which begin at ``1 / S`` and 1 and take in
    the weak views of the batch before these are weighed. With uniform alignment (Sec. 3.2) the confidence is that of
    predictions times ``1 / (S * running mean of predictions)``, normalised: what is predicted often counts less. The
    pseudo-label is that of the plain prediction.

    The paper has one class per image. Findings are ours: each has mean and variance of its own. Masks are ours, too:
    voxels are samples and share them; see `medssl_monai.methods.FixMatch` on views of masks. Of both, the aligned
    confidence is that of the state that the pseudo-label has, where the paper takes the greatest: else "absent", of a
    rare finding, would count most where presence is likelier than it is elsewhere.

    In several processes, a step weighs its own part of the batch by that part; mean and variance over all are stored.

    Args:
        network: see `medssl_monai.methods.FixMatch`.
        weight: weight of the unlabeled loss.
        sigmas: what the deviation is divided by, see above (paper: the variance by 4).
        momentum: share of the old mean and variance kept per step (m; paper 0.999); less for runs of few thousand
            steps. The running mean of predictions keeps as much.
        uniform: whether confidences are aligned (UA).
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`; it needs names.

    Raises:
        ValueError: if a value is out of its range, or `kind` has no names.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        network: nn.Module,
        weight: float = 1.0,
        sigmas: float = 2.0,
        momentum: float = 0.999,
        uniform: bool = True,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, decay, criterion, kind)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` is a share and must be at least 0 and less than 1, got {momentum}.")
        if sigmas <= 0.0:
            raise ValueError(f"`sigmas` must be greater than 0, got {sigmas}.")
        self.weight, self.sigmas, self.momentum = weight, sigmas, momentum
        equal = torch.full(shape_of_means(self.kind), 1.0 / self.kind.states)
        self.alignment = DistributionAlignment(equal, momentum) if uniform else None
        self.register_buffer("mean", equal[..., 0].clone())
        self.register_buffer("variance", torch.ones_like(self.mean))

    def forward(self, batch: Batch) -> Output:
        return weak_to_strong(self, batch, self.weights, self.weight)[0]

    def weights(self, outcomes: Tensor) -> Tensor:
        confidence, _ = self._confidence(outcomes)
        mean, variance = self._with(confidence)
        below = (confidence - mean).clamp_max(0.0) * self.sigmas
        return torch.exp(-below.square() / (2.0 * variance.clamp_min(TINY))).view(outcomes.shape[:-1])

    def _confidence(self, outcomes: Tensor) -> tuple[Tensor, Tensor]:
        """Return confidences ``(n, *cases)`` as they are weighed, and the mean outcome for the alignment."""
        plain = rows(self.kind, outcomes)
        if self.alignment is None:
            return self.kind.confidence(plain), plain.mean(dim=0)
        aligned, mean = self.alignment(plain)
        if self.kind.cases == ():
            return aligned.amax(dim=-1), mean
        return aligned.gather(-1, self.kind.decide(plain).unsqueeze(-1)).squeeze(-1), mean

    def _with(self, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, that of the batch taken in; unbiased, and 0 of a single sample."""
        variance = confidence.var(dim=0, correction=min(1, len(confidence) - 1))
        return (
            torch.lerp(confidence.mean(dim=0), self.mean, self.momentum),
            torch.lerp(variance, self.variance, self.momentum),
        )

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        confidence, outcome = self._confidence(output["outcomes"])
        mean, variance = self._with(gather(confidence))
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        if self.alignment is not None:
            self.alignment.update(gather(outcome.unsqueeze(0)).mean(dim=0))
        super().after_step(batch, output)

    def thresholds(self) -> Mapping[str, Threshold]:
        """Return the mean confidence: from there on a pseudo-label counts in full."""
        return {"label": Threshold(self.mean.unsqueeze(-1))}
