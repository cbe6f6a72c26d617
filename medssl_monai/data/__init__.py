"""Datalists, pools, images, masks and phantoms."""

from medssl_monai.data.datalist import Datalist, load_datalist, write_datalist
from medssl_monai.data.images import ImageDataset
from medssl_monai.data.load_mask import LoadMaskd
from medssl_monai.data.masks import Masks
from medssl_monai.data.patches import PatchDataset
from medssl_monai.data.pool import LabelPool, MultiStreamLoader, PoolSampler, batch_loader, pool_loader
from medssl_monai.data.readable import ReadableImages
from medssl_monai.data.reader import ClinicalReader

__all__ = [
    "ClinicalReader",
    "Datalist",
    "ImageDataset",
    "LabelPool",
    "LoadMaskd",
    "Masks",
    "MultiStreamLoader",
    "PatchDataset",
    "PoolSampler",
    "ReadableImages",
    "batch_loader",
    "load_datalist",
    "pool_loader",
    "write_datalist",
]
