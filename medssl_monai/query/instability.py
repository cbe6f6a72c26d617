"""AUS, the adversarial instability of BoostMIS (Zhang et al., CVPR 2022): how far a small shift moves a prediction."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor

from medssl_monai.pool.outputs import PoolOutputs


def unit_rows(rows: Tensor, tiny: float = 1e-8) -> Tensor:
    """Each row over its L2 norm plus `tiny`, as in the released code: a zero row stays zero."""
    flat = rows.flatten(1)
    return (flat / (flat.norm(dim=1, keepdim=True) + tiny)).view_as(rows)


def adversarial_instability(
    log_outcomes: Callable[[Tensor], Tensor],
    inputs: Tensor,
    direction: Tensor,
    xi: float = 10.0,
    radius: float = 1.0,
    power_iterations: int = 1,
    tiny: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """Virtual adversarial direction, and how far the prediction moves along it (Miyato et al. 2018, Alg. 1).

    Args:
        log_outcomes: `inputs` to logarithms of outcomes ``(B, *cases, S)``. The divergence is the sum of those of the
            cases, as if they were independent.
        inputs: ``(B, ...)``; representations or images.
        direction: start of the power iteration, rows of norm 1, shaped as `inputs`.
        xi: length of the step that the gradient is taken at.
        radius: L2 norm of the final shift, per sample (epsilon; tau in the paper).
        power_iterations: improvements of the direction.
        tiny: added to the norm of each gradient. The released code takes the gradient of the batch mean, which amounts
            to B times as much; ours does not depend on the batch.

    Returns:
        The direction, shaped as `inputs`, rows of norm 1 (0 where the gradient vanishes), and the divergence
        ``KL(p(x) || p(x + radius * direction))`` in nats, ``(B,)``.
    """
    with torch.no_grad():
        log_p = log_outcomes(inputs)
    p = log_p.exp()

    def divergence(shifted: Tensor) -> Tensor:
        return (p * (log_p - log_outcomes(shifted))).flatten(1).sum(dim=1)

    for _ in range(power_iterations):
        direction = direction.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(divergence(inputs + xi * direction).sum(), direction)
        direction = unit_rows(gradient, tiny)
    with torch.no_grad():
        return direction.detach(), divergence(inputs + radius * direction).clamp_min(0.0)


class Instability:
    """AUS: virtual adversarial instability of the representation, or of the image.

    The networks run in evaluation mode, so no BatchNorm statistics move. At the embedding, the head alone is asked,
    in float64: with ``xi = 10`` a saturated head has gradients that float32 cannot hold. Scores are of the image as it
    is, not of one random weak view as in the paper, so that a query depends on the seed through the directions only.

    Args:
        level: shift the ``embedding`` (paper and code) or the ``image``.
        xi: see `adversarial_instability`.
        radius: likewise; the paper's value is not known, the code has 1.
        power_iterations: likewise.
        chunk: rows at once; bounds the memory.
    """

    def __init__(
        self,
        level: Literal["embedding", "image"] = "embedding",
        xi: float = 10.0,
        radius: float = 1.0,
        power_iterations: int = 1,
        chunk: int = 4096,
    ) -> None:
        if level not in ("embedding", "image"):
            raise ValueError(f"`level` must be 'embedding' or 'image', got {level!r}.")
        self.level, self.xi, self.radius = level, xi, radius
        self.power_iterations, self.chunk = power_iterations, chunk

    def __call__(self, outputs: PoolOutputs, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Scores of `rows` ``(n,)``, which must be in the order of their index: random starts are tied to it.

        Raises:
            ValueError: if the network shows no embedding, or the outputs have no images.
        """
        if outputs.network is None or (self.level == "embedding" and outputs.embedding is None):
            raise ValueError("instability of the embedding needs a network with `embed` and `head`.")
        if self.level == "image" and outputs.images is None:
            raise ValueError("instability of the image needs the images of the pool.")
        network = deepcopy(outputs.network).eval()
        if self.level == "embedding":
            network = network.get_submodule("head").double().cpu()

        def log_outcomes(inputs: Tensor) -> Tensor:
            return outputs.kind.log_outcomes(network(inputs))

        scores = []
        for part in torch.split(rows, self.chunk if self.level == "embedding" else 64):
            if self.level == "embedding":
                inputs = outputs.embedding[part].double()  # type: ignore[index]  # checked above
            else:
                inputs = outputs.images(outputs.index[part])  # type: ignore[misc]  # checked above
            start = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype) - 0.5
            start = unit_rows(start).to(inputs.device)
            _, score = adversarial_instability(log_outcomes, inputs, start, self.xi, self.radius, self.power_iterations)
            scores.append(score.double().cpu())
        return torch.cat(scores) if scores else torch.zeros(0, dtype=torch.double)
