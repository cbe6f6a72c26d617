"""Labels that are known, and what is drawn from them."""

from medssl_monai.pool.labels import Labels
from medssl_monai.pool.patches import PatchDataset
from medssl_monai.pool.pool import LabelPool
from medssl_monai.pool.streams import MultiStreamLoader, PoolSampler, batch_loader, pool_loader

__all__ = [
    "LabelPool",
    "Labels",
    "MultiStreamLoader",
    "PatchDataset",
    "PoolSampler",
    "batch_loader",
    "pool_loader",
]
