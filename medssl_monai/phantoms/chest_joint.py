"""Chest (`chest_joint`, `chest_joint_far`): frontal radiographs of two sources, one with classes, one with lung masks.

Patients of the one source are normal or have pneumonia, and nobody drew their lungs; of the others somebody drew the
lungs, and nobody said what they have. Pneumonia lies at the wall, the heart or the diaphragm and makes the border of
the lung disappear: who knows where the lung ends knows that something fills it. The mask is the lung all the same. The
grey scales of the two sources differ a little; those of the far scanner, its field of view and its noise, a lot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.phantoms.base import Array, Rng, generator, patient_name
from medssl_monai.phantoms.chest import draw_anatomy, draw_thorax, expose, opacities, write_radiograph
from medssl_monai.png import save_png

DIAGNOSES = ("normal", "pneumonia")
LUNGS = ("background", "lung")
SICK_SHARE = 0.5  # of the patients of either source
BORDER = (0.01, 0.08)  # where a pneumonia is centred, by the distance to the border of the lung
MASKED_EVERY = 3  # patients: one of three is of the source with masks


class Scanner(NamedTuple):
    """A device, by what it makes of the same body.

    Attributes:
        field: width of the picture, as a factor.
        contrast: exponent of the grey values.
        range: darkest and brightest grey value.
        noise: deviation that is added.
    """

    field: float = 1.0
    contrast: float = 1.0
    range: tuple[float, float] = (0.0, 1.0)
    noise: float = 0.0


NEAR = (Scanner(), Scanner(contrast=1.2, range=(0.05, 0.9)))
FAR = (
    Scanner(field=1.2, contrast=1.7, range=(0.1, 0.75), noise=0.03),
    Scanner(field=1.15, contrast=0.6, range=(0.15, 0.85), noise=0.03),
)
"""Of the sources with classes and with masks."""


def _image(rng: Rng, sick: bool, view: str, scanner: Scanner) -> tuple[Array, Array]:
    """Draw one radiograph, dense is bright, in [0, 1], and its lungs, each ``(rows, columns)``."""
    thorax = draw_thorax(rng, view, field=scanner.field)
    image = draw_anatomy(rng, thorax)
    if sick:
        count = int(rng.integers(1, 4))
        image += thorax.air * opacities(rng, thorax, count, size=(0.16, 0.27), dense=(0.20, 0.34), within=BORDER)
    image = expose(rng, image) ** scanner.contrast
    low, high = scanner.range
    image = low + (high - low) * image + scanner.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 1).astype(np.float32), thorax.lung > 0


def write_chest_joint(far: bool, folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write radiographs, one or two per patient, in the formats of `medssl_monai.phantoms.chest.CHEST_FILES`.

    Args:
        far: from another scanner, of other patients.
        folder: where to write.
        section: of the datalist.
        count: of patients of both sources.
        seed: of all that is random.
    """
    family = "chest_joint_far" if far else "chest_joint"
    order = generator(seed, family, section).permutation(count)
    sick = (order < round(SICK_SHARE * count)).astype(int).tolist()
    for number in range(count):
        rng = generator(seed, family, section, number)
        masked = number % MASKED_EVERY == MASKED_EVERY - 1
        name = patient_name(section, number, ("F" if far else "") + ("M" if masked else "C"))
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        items: list[Item] = []
        for k in range(1, 1 + int(rng.choice([1, 2], p=[0.8, 0.2]))):
            view = "AP" if rng.random() < 0.35 else "PA"
            image, lung = _image(rng, bool(sick[number]), view, (FAR if far else NEAR)[masked])
            file = write_radiograph(folder / base, image, view, name, number, k, f"{family} {seed}")
            mask = f"{base}/{k}_lungs.png"
            save_png(folder / mask, lung.astype(np.uint8) * 255)
            items.append(
                {
                    "image": f"{base}/{file}",
                    "id": f"{name}-{k}",
                    "group": name,
                    **({"mask": mask, "source": "lungs"} if masked else {"label": sick[number]}),
                    "meta": {"view": view, "diagnosis": DIAGNOSES[sick[number]], "masks": {"lungs": mask}},
                }
            )
        yield items
