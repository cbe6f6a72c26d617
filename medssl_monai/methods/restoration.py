"""Restoration: stage 1 of SSAL, pre-training without labels (Zhao et al., EMBC 2022, arXiv 2205.07021)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn
from torch.nn import functional as F

from medssl_monai.methods.base import UNLABELED, Batch, Output, SSLMethod, Stream


class Restoration(SSLMethod):
    """Find back to the image from a distorted copy of it (Models Genesis, Zhou et al., MICCAI 2019, arXiv 1908.06912).

    Mean squared error between the image, in [0, 1], and the sigmoid of the logits. There is exactly one sigmoid: with
    the file that the released script imports it may be two, after which nothing below 0.5 can be restored. The views
    are made by `medssl_monai.transforms.RestorationViews`; nothing but the network has a state.

    Args:
        network: what to pre-train; images ``(B, C, *spatial)`` to logits of the same shape, say a
            `medssl_monai.networks.SegmentationNetwork` with C outputs, which one with K outputs starts from by
            ``part: load`` (`medssl_monai.networks.load_weights`).
    """

    streams: Mapping[str, Stream] = MappingProxyType({"unlabeled": UNLABELED})

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)

    def forward(self, batch: Batch) -> Output:
        """Compute the loss of one mini-batch.

        Raises:
            ValueError: if the network has another number of outputs than the images have channels.
        """
        image = batch["unlabeled"]["image"]
        logits = self.network(batch["unlabeled"]["distorted"]).float()
        if logits.shape != image.shape:
            raise ValueError(
                f"restoration needs outputs of the shape of the images, {tuple(image.shape)}, got "
                f"{tuple(logits.shape)}; build the network with as many outputs as images have channels."
            )
        return {"loss": F.mse_loss(logits.sigmoid(), image)}
