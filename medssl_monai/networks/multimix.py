"""The network of MultiMix: one encoder for classes and masks, and what the class rests on shown to the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from medssl_monai.networks.embedding import EmbeddingClassifier

Bridge = Literal["concat", "none"]
SaliencySource = Literal["max_logit", "pred_prob"]
SaliencyNorm = Literal["none", "minmax"]
Norm = str | Sequence[Any]
"""A name of MONAI's (`monai.networks.layers.Norm`), or a pair of name and arguments."""

NO_TORCHSCRIPT = (
    "TorchScript cannot hold this network, whose saliency bridge is a gradient. Deploy its weights (torch.load with "
    "weights_only=True, into MultiMixNetwork) or the program that medssl_monai.networks.export_joint makes; a network "
    "without a bridge can be traced, and `network.classifier` scripted."
)


class Joint(NamedTuple):
    """What the network says of images ``(B, C, *spatial)``.

    Class logits are ``(B, num_classes)``, mask logits ``(B, K, *spatial)``; the saliency is ``(B, C, *spatial)``, at
    least 0 and as the bridge takes it, None without a bridge.
    """

    class_logits: Tensor
    mask_logits: Tensor
    saliency: Tensor | None


class MultiMixNetwork(nn.Module):
    """A U-Net whose encoder also classifies, and whose decoder sees what the classification rests on.

    Haque et al., ISBI 2021, https://arxiv.org/abs/2010.14731; journal version https://arxiv.org/abs/2110.13185. The
    default is the published network: 1,178,994 parameters of encoder and classification, 786,161 of the decoder (the
    released one has 18 more, in a layer that nothing calls).

    The saliency bridge is the gradient of the predicted class's score with regard to the image, without its sign,
    joined with the image, brought to the size of a decoder stage and concatenated to what that stage takes. (A sentence
    of the paper adds it; its tables, figure and code concatenate.)

    - It takes a pass through the encoder of its own, without dropout and in float32 under autocast; where that is the
      pass anyway, as in evaluation, there is no second one. The released code turns dropout on after it, also in
      evaluation, where two predictions of one image then differ. Here modes are not touched.
    - It needs gradients with regard to the image, not to weights: it works within `torch.no_grad`, has no part in what
      ``backward`` collects, and none in what processes exchange. `torch.inference_mode` has no gradients at all.
    - TorchScript can hold it neither scripted nor traced. What can be deployed: the weights, loaded with
      ``weights_only=True`` into this class; a program by `export_joint`, which needs PyTorch alone; without a bridge
      also what `torch.export.export` and `torch.jit.trace` make; and `classifier` in each of these ways.

    Masks have K logits, as in all of this package, of which that of the background is 0 and not learned: a softmax
    knows differences only, so that K - 1 outputs say everything. For two classes this is the published network with
    its single logit, whose sigmoid is the softmax of 0 and itself.

    Args:
        num_classes: of images, at least 2.
        mask_classes: K, of voxels, background included; at least 2.
        in_channels: C.
        spatial_dims: 2 or 3.
        channels: of each level, the first at full resolution, each next one at half; at least two of them. A side must
            have at least ``2 ** len(channels)`` voxels.
        dropout: probability, behind the two convolutions of every level and stage.
        slope: of the leaky rectifiers.
        norm: behind every convolution; one without running statistics, say ``("group", {"num_groups": 8})``.
        bridge: ``concat``, or ``none``: masks and classes share the encoder only (UMTL).
        bridge_stage: of the decoder, 1 being the coarsest; the figure of the paper has 2, its tables and code 1.
        saliency_source: of what the gradient is: ``max_logit``, the predicted class's, as published; or ``pred_prob``,
            its probability, which knows of the other classes and fades as the network becomes certain.
        saliency_norm: ``none``, as published, where magnitudes differ between images and over the training; or
            ``minmax``: 0 to 1 in each image.
        saliency_detach: False: the mask's loss also shapes the gradient itself, at the price of second derivatives.

    Raises:
        ValueError: if an argument is out of its range.

    Attributes:
        classifier: encoder and classification alone, a classifier ``(B, num_classes)`` like any other, which shares
            its weights (Enc and EncSSL; class logits without a decoder).
    """

    def __init__(
        self,
        num_classes: int = 2,
        mask_classes: int = 2,
        in_channels: int = 1,
        spatial_dims: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float = 0.25,
        slope: float = 0.2,
        norm: Norm = "instance",
        bridge: Bridge = "concat",
        bridge_stage: int = 1,
        saliency_source: SaliencySource = "max_logit",
        saliency_norm: SaliencyNorm = "none",
        saliency_detach: bool = True,
    ) -> None:
        super().__init__()
        if mask_classes < 2:
            raise ValueError(
                f"`mask_classes` counts the background, too, and must be at least 2, got {mask_classes}; two classes "
                "are one learned logit."
            )
        for name, value, known in (
            ("bridge", bridge, Bridge),
            ("saliency_source", saliency_source, SaliencySource),
            ("saliency_norm", saliency_norm, SaliencyNorm),
        ):
            if value not in get_args(known):
                raise ValueError(f"`{name}` must be one of {list(get_args(known))}, got {value!r}.")
        self.classifier = multimix_classifier(num_classes, in_channels, spatial_dims, channels, dropout, slope, norm)
        if not 1 <= bridge_stage < len(channels):
            raise ValueError(
                f"`bridge_stage` must be one of the {len(channels) - 1} stages of the decoder, got {bridge_stage}."
            )
        self.num_classes, self.mask_classes = num_classes, mask_classes
        self.bridge, self.bridge_stage = bridge, bridge_stage
        self.saliency_source, self.saliency_norm, self.saliency_detach = saliency_source, saliency_norm, saliency_detach
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.decoder = nn.ModuleList()
        for stage, (below, beside) in enumerate(pairwise(reversed(channels)), start=1):
            joined = below + beside + (2 * in_channels if bridge == "concat" and stage == bridge_stage else 0)
            self.decoder.append(_Block(spatial_dims, joined, beside, dropout, slope, norm))
        self.output = Convolution(spatial_dims, channels[0], mask_classes - 1, kernel_size=1, conv_only=True)

    def forward(self, images: Tensor) -> Tensor:
        """Mask logits ``(B, K, *spatial)``."""
        return self.joint(images).mask_logits

    def joint(self, images: Tensor) -> Joint:
        """Class logits, mask logits and saliency of images ``(B, C, *spatial)``.

        Raises:
            RuntimeError: if there is a bridge, and no gradient to be had: in `torch.inference_mode`, or under a trace.
            ValueError: if the images are too small.
        """
        features, embedding, saliency = self._encoded(images)
        return Joint(self.classifier.head(embedding), self._decoded(images, features, saliency), saliency)

    def network_of(self, part: str) -> nn.Module:
        """Return what gives the logits of a part of the labels: `classifier` those of ``label``, all of ``mask``."""
        return self.classifier if part == "label" else self

    def by_part(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return the logits of both parts of the labels, ``label`` and ``mask``; see `joint`."""
        classes, masks, _ = self.joint(images)
        return {"label": classes, "mask": masks}

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` that the classification rests on; of the encoder alone."""
        return self.classifier.embed(images)

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, D)`` and mask logits ``(B, K, *spatial)`` of one pass."""
        features, embedding, saliency = self._encoded(images)
        return embedding, self._decoded(images, features, saliency)

    def _decoded(self, images: Tensor, features: Sequence[Tensor], saliency: Tensor | None) -> Tensor:
        """Mask logits ``(B, K, *spatial)``."""
        decoded = features[-1]
        for stage, (block, beside) in enumerate(zip(self.decoder, features[-2::-1], strict=True), start=1):
            parts = [self._resized(decoded, beside), beside]
            if saliency is not None and stage == self.bridge_stage:
                parts.append(self._resized(torch.cat([images, saliency.to(images.dtype)], dim=1), beside))
            decoded = block(torch.cat(parts, dim=1))
        return F.pad(self.output(decoded), [0] * 2 * (images.ndim - 2) + [1, 0])  # the background's logit is 0

    def _resized(self, features: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(features, size=like.shape[2:], mode=self.mode, align_corners=True).to(like.dtype)

    def _encoded(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Features of each level of the encoder, their embedding ``(B, D)``, and the saliency ``(B, C, *spatial)``."""
        encoder = cast(_Encoder, self.classifier.backbone)
        if self.bridge == "none":
            features = encoder.features(images)
            return features, encoder.embedding(features), None
        if torch.is_inference_mode_enabled() or images.is_inference():
            raise RuntimeError(
                "the saliency bridge needs the gradient of a score, which torch.inference_mode rules out; predict "
                "within torch.no_grad, images made there as well, or take `export_joint`."
            )
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError(NO_TORCHSCRIPT)
        learning = images.requires_grad or any(parameter.requires_grad for parameter in self.classifier.parameters())
        graph, dropping = learning and torch.is_grad_enabled(), encoder.is_dropping()
        second = graph and not self.saliency_detach  # derivatives of the gradient itself
        exact = images.to(torch.promote_types(images.dtype, torch.float32))
        exact = exact if exact.requires_grad else exact.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            features = encoder.features(exact, drop=False)
            logits = self.classifier.head(encoder.embedding(features))
            scores = logits if self.saliency_source == "max_logit" else logits.softmax(dim=1)
            (gradient,) = torch.autograd.grad(  # no `backward`: it would leave gradients in the weights
                scores.max(dim=1).values.sum(),  # images do not mix, so that each has its own gradient
                exact,
                retain_graph=second or (graph and not dropping),
                create_graph=second,
            )
        if dropping:
            features = encoder.features(images)
        elif not graph:
            features = [level.detach() for level in features]
        return features, encoder.embedding(features), self._normalized(gradient.abs())

    def _normalized(self, saliency: Tensor) -> Tensor:
        if self.saliency_norm == "none":
            return saliency
        axes = list(range(1, saliency.ndim))
        low, high = saliency.amin(axes, keepdim=True), saliency.amax(axes, keepdim=True)
        return (saliency - low) / (high - low).clamp_min(torch.finfo(saliency.dtype).tiny)

    def __prepare_scriptable__(self) -> MultiMixNetwork:
        """Asked by `torch.jit.script` first, whose compiler would say the same in riddles."""
        raise RuntimeError(NO_TORCHSCRIPT)


def export_joint(network: MultiMixNetwork, images: Tensor) -> torch.export.ExportedProgram:
    """`MultiMixNetwork.joint` in evaluation mode as a program: weights, and the saliency's gradient as operations.

    It runs where PyTorch is and this package is not, knows nothing of autograd and works in `torch.inference_mode`:
    ``torch.export.save(export_joint(network, images), path)``, then ``torch.export.load(path).module()(images)``, for a
    tuple of class logits, mask logits and, with a bridge, saliency.

    Args:
        network: stays as it is.
        images: an example ``(B, C, *spatial)`` on the network's device, of the shape that the program will be for.
    """
    frozen = deepcopy(network).eval().requires_grad_(False)

    def joint(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for part in frozen.joint(images) if part is not None)

    images = images.detach()
    return torch.export.export(make_fx(joint)(images), (images,))


def multimix_classifier(
    num_classes: int = 2,
    in_channels: int = 1,
    spatial_dims: int = 2,
    channels: Sequence[int] = (16, 32, 64, 128, 256),
    dropout: float = 0.25,
    slope: float = 0.2,
    norm: Norm = "instance",
) -> EmbeddingClassifier:
    """Return encoder and classes of `MultiMixNetwork` alone, with the same arguments; D is the last of `channels`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2, got {num_classes}.")
    encoder = _Encoder(spatial_dims, [in_channels, *channels], dropout, slope, norm)
    return EmbeddingClassifier(encoder, channels[-1], num_classes)


class _Encoder(nn.Module):
    """Blocks with a max-pooling behind each, down to one vector."""

    def __init__(self, spatial_dims: int, channels: Sequence[int], dropout: float, slope: float, norm: Norm) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"`spatial_dims` must be 2 or 3, got {spatial_dims}.")
        if len(channels) < 3:
            raise ValueError(f"`channels` must be those of at least two levels, got {list(channels[1:])}.")
        self.blocks = nn.ModuleList(
            _Block(spatial_dims, before, after, dropout, slope, norm) for before, after in pairwise(channels)
        )
        self.pool = (nn.MaxPool2d if spatial_dims == 2 else nn.MaxPool3d)(2)
        if next(self.buffers(), None) is not None:
            raise ValueError(
                f"`norm` {norm!r} has running statistics, which the pass of the saliency would have to leave alone; "
                "take 'instance' or 'group'."
            )

    def is_dropping(self) -> bool:
        """Whether dropout is at work: in training, and where a query turns on the dropout layers alone."""
        return any(layer.training and layer.p > 0.0 for layer in self.modules() if isinstance(layer, nn.Dropout))

    def features(self, images: Tensor, drop: bool = True) -> list[Tensor]:
        """Of each level, full resolution first; `drop`: with dropout, where it is at work."""
        least = 2 ** len(self.blocks)
        if min(images.shape[2:]) < least:
            raise ValueError(
                f"images of {list(images.shape[2:])} do not fit this network, whose sides must be at least {least}; "
                "resize or pad them, or give the network fewer `channels`."
            )
        levels: list[Tensor] = []
        for block in self.blocks:
            images = block(images if len(levels) == 0 else self.pool(images), drop)
            levels.append(images)
        return levels

    def embedding(self, features: list[Tensor]) -> Tensor:
        """Return the vector ``(B, D)``."""
        return self.pool(features[-1]).flatten(2).mean(dim=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding(self.features(images))


class _Block(nn.Module):
    """Two convolutions, each with norm and leaky rectifier, and dropout, which can be asked to rest for one pass."""

    def __init__(self, spatial_dims: int, before: int, after: int, dropout: float, slope: float, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                Convolution(
                    spatial_dims,
                    channels,
                    after,
                    adn_ordering="NA",
                    norm=norm if isinstance(norm, str) else tuple(norm),
                    act=("leakyrelu", {"negative_slope": slope, "inplace": True}),
                )
                for channels in (before, after)
            )
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, drop: bool = True) -> Tensor:
        features = self.layers(features)
        return self.dropout(features) if drop else features
