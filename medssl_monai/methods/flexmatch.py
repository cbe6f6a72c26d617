"""FlexMatch (Zhang et al., NeurIPS 2021, https://arxiv.org/abs/2110.08263)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from medssl_monai.distributed import gather
from medssl_monai.kinds import Kind, Threshold
from medssl_monai.kinds.threshold import Given
from medssl_monai.losses.pseudo_label import DistributionAlignment
from medssl_monai.methods.base import Batch, Output
from medssl_monai.methods.fixmatch import FixMatch, shape_of_means

UNUSED, LABELED = -1, -2
"""In place of a state: no confident prediction yet; not among the unlabeled samples."""


class FlexMatch(FixMatch):
    """FixMatch with a threshold for each class, low while few images are confidently predicted to be of it.

    Of each sample the last state that was predicted with FixMatch's confidence is kept. The share of a class is the
    number of samples that are kept as it, over that of the most frequent class, or over the samples of which nothing is
    kept yet, if these are more (sigma and beta, Eq. 5 and 11). Its threshold is ``tau * M(share)`` with
    ``M(x) = x / (2 - x)`` (Eq. 12). At the start all thresholds are 0, and every prediction counts; this warm-up is the
    paper's.

    The paper has one class per image. Findings are ours: each finding by itself has its two states as classes. Of a
    rare finding the threshold of "present" stays low for good, so that all predicted presences count: good against
    fading away, and bad where the network sees it too often. Also ours: what is labeled is not among the samples that
    are not used yet, and an index that is drawn twice in a batch keeps the later of its confident states. The strong
    inequality of the paper's Eq. 5 and 8 includes equality here, as in FixMatch and in the released code.

    Args:
        network: see `medssl_monai.methods.FixMatch`.
        num_samples: length of the datalist, N.
        threshold: the highest of the thresholds (tau), see `medssl_monai.methods.FixMatch`.
        weight: weight of the unlabeled loss (lambda).
        alignment: see `medssl_monai.methods.FixMatch`; the paper has none.
        decay: see `SSLMethod`.
        criterion: see `SSLMethod`.
        kind: see `SSLMethod`; it needs names, and a fixed number of cases.

    Raises:
        ValueError: as `medssl_monai.methods.FixMatch`, or if `kind` has no names or no fixed number of cases, as masks.
    """

    needs_fixed_cases: ClassVar[bool] = True
    kept: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_samples: int,
        threshold: Given = 0.95,
        weight: float = 1.0,
        alignment: DistributionAlignment | None = None,
        decay: float | None = 0.999,
        criterion: nn.Module | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(network, threshold, weight, alignment, decay, criterion, kind)
        cases = shape_of_means(self.kind)[:-1]
        self.register_buffer("kept", torch.full((num_samples, *cases), UNUSED))  # row = batch["index"]

    @property
    def shares(self) -> Tensor:
        """How well each state is learnt ``(*cases, S)``, in [0, 1] (beta, Eq. 11)."""
        states = torch.arange(self.kind.states, device=self.kept.device)
        counts = (self.kept.unsqueeze(-1) == states).sum(dim=0)
        most = counts.amax(dim=-1).maximum((self.kept == UNUSED).sum(dim=0))
        return counts / most.clamp_min(1).unsqueeze(-1)

    def thresholds(self) -> Mapping[str, Threshold]:
        shares = self.shares
        return {"label": Threshold(self.threshold * shares / (2.0 - shares))}

    @torch.no_grad()
    def after_step(self, batch: Batch, output: Output) -> None:
        sure = self.kind.confident(output["outcomes"], Threshold(self.threshold))
        states = gather(torch.where(sure, output["decided"], UNUSED))
        index = gather(batch["unlabeled"]["index"]).view(-1, *[1] * (states.ndim - 1)).expand_as(states)
        new = torch.full_like(self.kept, UNUSED).scatter_reduce_(0, index, states, "amax")  # the same for every order
        self.forget(gather(batch["labeled"]["index"]))
        self.kept.copy_(torch.where(new == UNUSED, self.kept, new))
        super().after_step(batch, output)

    def on_query(self, index: Tensor, query_size: tuple[int, int]) -> None:
        self.forget(index)

    def forget(self, index: Tensor) -> None:
        """Leave samples out of the counts, because they are labeled."""
        self.kept[index.to(self.kept.device)] = LABELED
