"""The ways in which data sets come.

To add one, write a function that returns `Dataset` and one that knows such a source, and add a line to `LAYOUTS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medssl_monai.prepare.layouts import archive, arrays, chest, cifar, decathlon, features, folder
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.request import Request


class Layout(NamedTuple):
    """One way in which data sets come: its name, whether a source is of it, and what reads it."""

    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Request], Dataset]


LAYOUTS = (
    Layout(".npz with train_images (MedMNIST)", arrays.has_array("train_images"), arrays.read_medmnist),
    Layout(".npz with images and ids", arrays.has_array("images"), arrays.read_arrays),
    Layout(".zip with manifest.csv", archive.fits, archive.read),
    Layout("Decathlon's dataset.json", decathlon.fits, decathlon.read),
    Layout("feature tables (*-features.npy)", features.fits, features.read),
    Layout("CheXpert", chest.fits_chexpert, chest.read_chexpert),
    Layout("ChestX-ray14", chest.fits_chestxray14, chest.read_chestxray14),
    Layout("CIFAR-10 or CIFAR-100", cifar.fits_cifar, cifar.read_cifar),
    Layout("SVHN", cifar.fits_svhn, cifar.read_svhn),
    Layout("a folder of images", Path.is_dir, folder.read),
)
"""The first that fits is taken."""
