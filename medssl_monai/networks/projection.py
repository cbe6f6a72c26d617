"""Networks around pre-training without labels: a projection on top of a backbone, of which a part is kept."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medssl_monai.networks.embedding import EmbeddingClassifier


class ProjectionNetwork(nn.Module):
    """A backbone and a projection head for contrastive learning (SimCLRv2, Chen et al., NeurIPS 2020).

    The head is linear layers with ReLU in between, all but the last as wide as the embedding. Its first layer is
    `projection`, the others are `contrast`; backbone and first layer have the names that `ProjectedClassifier` gives
    them, so that `medssl_monai.networks.load_weights` starts any classifier of the same backbone from these weights.

    Args:
        network: classifier whose backbone is pre-trained, shared and not copied; its own head is left out.
        dim: of the vectors that are contrasted.
        layers: of the head.

    Raises:
        ValueError: if `layers` is less than 2.
    """

    def __init__(self, network: EmbeddingClassifier, dim: int = 128, layers: int = 3) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"`layers` must be at least 2, one to keep and one to leave, got {layers}.")
        width = network.head.in_features
        self.backbone = network.backbone
        self.projection = nn.Linear(width, width)
        hidden = [layer for _ in range(layers - 2) for layer in (nn.ReLU(), nn.Linear(width, width))]
        self.contrast = nn.Sequential(*hidden, nn.ReLU(), nn.Linear(width, dim))
        self.dim = dim

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` of the backbone; what its users get."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        """Vectors to contrast ``(B, dim)``, of any length."""
        return self.contrast(self.projection(self.backbone(images)))


class ProjectedClassifier(EmbeddingClassifier):
    """A classifier that keeps the first layer of the projection: fine-tuning "from the middle" of SimCLRv2.

    Args:
        network: classifier whose backbone is taken, shared and not copied; it gets a new head.
    """

    def __init__(self, network: EmbeddingClassifier) -> None:
        width = network.head.in_features
        super().__init__(network.backbone, width, network.head.out_features)
        self.projection = nn.Linear(width, width)

    def embed(self, images: Tensor) -> Tensor:
        return F.relu(self.projection(self.backbone(images)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images))
