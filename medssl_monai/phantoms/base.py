"""What a kind of synthetic data is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.data.datalist import SECTIONS, Item

Array = npt.NDArray[Any]  # of float32, where nothing else is said
Rng = np.random.Generator

VERSION = 1
"""Goes up when the same seed gives other images."""


@dataclass(frozen=True)
class Phantom:
    """A kind of synthetic data.

    Attributes:
        write: called with folder, section, number of patients and seed; writes one patient after the other below
            ``folder / section`` and yields the items of each, with paths relative to `folder`.
        classes: names of the classes in the order of their index.
        modality: names of the channels.
        patients: default number of patients per section.
        group: column of the patient in ``labels.csv``; of skin lesions, which stand for the patients, ``lesion_id``.
        mask_classes: names of the classes of masks beside labels, background first.
    """

    write: Callable[[Path, str, int, int], Iterator[list[Item]]]
    classes: tuple[str, ...]
    modality: tuple[str, ...]
    patients: Mapping[str, int]
    group: str = "patient"
    mask_classes: tuple[str, ...] = ()


def generator(seed: int, family: str, section: str, *number: int) -> Rng:
    """Return the generator of a patient or, without `number`, of a section, whatever others there are."""
    return np.random.default_rng([seed, zlib.crc32(family.encode()), SECTIONS.index(section), *number])


def patient_name(section: str, number: int, letter: str = "P") -> str:
    """Return the pseudonym of a patient, one of a kind among all sections."""
    return f"{letter}{SECTIONS.index(section) + 1}{number + 1:04d}"
