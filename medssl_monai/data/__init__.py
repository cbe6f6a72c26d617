"""Datalists, and images decoded once."""

from medssl_monai.data.datalist import Datalist, load_datalist, write_datalist
from medssl_monai.data.images import ImageDataset
from medssl_monai.data.load_mask import LoadMaskd
from medssl_monai.data.mask_store import Masks
from medssl_monai.data.readable import ReadableImages

__all__ = ["Datalist", "ImageDataset", "LoadMaskd", "Masks", "ReadableImages", "load_datalist", "write_datalist"]
