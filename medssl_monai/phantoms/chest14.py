"""Chest (`chest14`): frontal radiographs with any of the 14 findings of ChestX-ray14, several at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.phantoms.base import Array, Rng, generator, patient_name
from medssl_monai.phantoms.chest import (
    CHEST_SIZE,
    LUNG_AXIS,
    PIXEL,
    Thorax,
    draw_anatomy,
    draw_thorax,
    expose,
    opacities,
    rib_cage,
    write_radiograph,
)
from medssl_monai.phantoms.drawing import cover, ellipse, smooth_noise
from medssl_monai.png import save_png

IMAGES = 112_120  # of ChestX-ray14
LEAST_SHARE = 0.05  # of the patients; the rarest findings of ChestX-ray14 would not occur in a small section
STAYS = 0.8  # chance that a further image of a patient shows what the first one does
FACTORS = ("failure of the heart", "infection", "tumour", "chronic disease of the lung")


class Finding(NamedTuple):
    """The number of images of ChestX-ray14 that show it, and its weight for each of `FACTORS`."""

    images: int
    weights: tuple[float, float, float, float]


FINDINGS = {
    "Atelectasis": Finding(11_559, (0.45, 0.3, 0.3, 0.0)),
    "Cardiomegaly": Finding(2_776, (0.75, 0.0, 0.0, 0.0)),
    "Effusion": Finding(13_317, (0.65, 0.2, 0.35, 0.0)),
    "Infiltration": Finding(19_894, (0.2, 0.6, 0.0, 0.0)),
    "Mass": Finding(5_782, (0.0, 0.0, 0.7, 0.0)),
    "Nodule": Finding(6_331, (0.0, 0.0, 0.6, 0.0)),
    "Pneumonia": Finding(1_431, (0.0, 0.75, 0.0, 0.0)),
    "Pneumothorax": Finding(5_302, (0.0, 0.0, 0.0, 0.5)),
    "Consolidation": Finding(4_667, (0.2, 0.65, 0.0, 0.0)),
    "Edema": Finding(2_303, (0.8, 0.0, 0.0, 0.0)),
    "Emphysema": Finding(2_516, (0.0, 0.0, 0.0, 0.75)),
    "Fibrosis": Finding(1_686, (0.0, 0.0, 0.0, 0.55)),
    "Pleural_Thickening": Finding(3_385, (0.0, 0.0, 0.3, 0.5)),
    "Hernia": Finding(227, (0.0, 0.0, 0.0, 0.0)),
}
"""Weights are made up, so that the pairs that are frequent in the field are so here."""


# What each finding adds, within the lungs


def _atelectasis(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw one or two plates above the diaphragm."""
    image = np.zeros_like(thorax.lung)
    for _ in range(rng.integers(1, 3)):
        turn, u, v = rng.normal(0, 0.3), left * thorax.x - rng.uniform(0.35, 0.55), thorax.y - rng.uniform(0.1, 0.42)
        along, across = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
        plate = np.minimum(rng.uniform(0.016, 0.03) - np.abs(across), rng.uniform(0.15, 0.26) - np.abs(along))
        image += rng.uniform(0.16, 0.26) * cover(plate, 2 * PIXEL)
    return image


def _effusion(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw fluid from the base up, higher at the wall; on both sides in a third of the cases."""
    level = rng.uniform(0.15, 0.42)
    fluid = thorax.y - level + 1.6 * np.clip(thorax.side - 0.4, 0, None) ** 2
    both = rng.random() < 0.33
    return rng.uniform(0.22, 0.34) * cover(fluid, 6 * PIXEL) * ((left * thorax.x > 0) | both)


def _infiltration(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw faint patches on both sides."""
    return opacities(rng, thorax, int(rng.integers(2, 5)), size=(0.08, 0.17), dense=(0.08, 0.16))


def _mass(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw one round shadow of more than 3 cm."""
    return _discs(rng, thorax, 1, (0.10, 0.17))


def _nodule(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw one to three round shadows of less than 3 cm."""
    return _discs(rng, thorax, int(rng.integers(1, 4)), (0.035, 0.065))


def _discs(rng: Rng, thorax: Thorax, count: int, size: tuple[float, float]) -> Array:
    image = np.zeros_like(thorax.lung)
    rows, columns = np.nonzero(thorax.lung > 0.05)
    for _ in range(count):
        at, radius = rng.integers(len(rows)), rng.uniform(*size)
        u, v = thorax.x - thorax.x[rows[at], columns[at]], thorax.y - thorax.y[rows[at], columns[at]]
        image += rng.uniform(0.2, 0.32) * cover(ellipse(u, v, radius, radius * rng.uniform(0.85, 1.15)), 2.5 * PIXEL)
    return image


def _pneumonia(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw one large patch without a sharp border."""
    return opacities(rng, thorax, 1, size=(0.18, 0.27), dense=(0.14, 0.24), edge=4.0)


def _consolidation(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw one or two dense patches with a border."""
    return opacities(rng, thorax, int(rng.integers(1, 3)), size=(0.11, 0.19), dense=(0.26, 0.36), edge=14.0)


def _edema(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw the wings of a bat around the hila, on both sides."""
    wings = np.exp(-(((thorax.side - 0.3) / 0.2) ** 2) - ((thorax.y - 0.02) / 0.36) ** 2)
    return rng.uniform(0.13, 0.24) * wings * (1 + 0.3 * smooth_noise(rng, 1, CHEST_SIZE, 14)[0])


def _fibrosis(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw a net of fine lines, mostly at the base and the wall."""
    net = np.exp(-((smooth_noise(rng, 1, CHEST_SIZE, 34)[0] / 0.3) ** 2))
    return rng.uniform(0.10, 0.18) * net * np.clip(0.4 + thorax.y + 0.8 * (thorax.side - 0.4), 0, 1)


def _thickening(rng: Rng, thorax: Thorax, left: int) -> Array:
    """Draw a band along the wall of one side."""
    thick = rng.uniform(0.09, 0.16) * (1 + 0.3 * np.sin(rng.uniform(4, 9) * thorax.y + rng.uniform(0, 6)))
    end = cover(rng.uniform(0.1, 0.5) - thorax.y, 10 * PIXEL) * (left * thorax.x > 0)
    return rng.uniform(0.2, 0.3) * cover(thick - _wall(thorax), 5 * PIXEL) * end


def _wall(thorax: Thorax) -> Array:
    """Return the distance to the ribs and the top alone, not to heart and diaphragm."""
    return rib_cage(np.maximum(thorax.side - LUNG_AXIS, 0), thorax.y, np.minimum(thorax.y, -0.03))


SHADOWS: dict[str, Callable[[Rng, Thorax, int], Array]] = {
    "Atelectasis": _atelectasis,
    "Effusion": _effusion,
    "Infiltration": _infiltration,
    "Mass": _mass,
    "Nodule": _nodule,
    "Pneumonia": _pneumonia,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _thickening,
}
"""By finding: called with the thorax and the side, 1 for the patient's left and -1 for the right."""


def _pneumothorax(rng: Rng, thorax: Thorax, left: int) -> tuple[Array, Array]:
    """Return the share of a pixel that is air between lung and wall, and the line of the pleura."""
    depth = rng.uniform(0.16, 0.26) * np.clip(0.75 - 0.9 * thorax.y, 0, 1.4) - _wall(thorax)
    here = left * thorax.x > 0
    return cover(depth, 3 * PIXEL) * here, cover(0.02 - np.abs(depth), 2 * PIXEL) * here


def _hernia(rng: Rng, thorax: Thorax) -> Array:
    """Draw the stomach behind the heart, round, with gas above a level."""
    radius = rng.uniform(0.15, 0.22)
    u, v = thorax.x - rng.normal(0.06, 0.05), thorax.y - rng.uniform(0.22, 0.38)
    bag = cover(ellipse(u, v, radius, 0.9 * radius), 2.5 * PIXEL)
    gas = cover(np.minimum(ellipse(u, v, 0.85 * radius, 0.75 * radius), -v), 2 * PIXEL)
    return rng.uniform(0.12, 0.18) * bag - rng.uniform(0.18, 0.28) * gas


def _image(rng: Rng, findings: set[str], view: str) -> tuple[Array, Array]:
    """Draw one radiograph, dense is bright, in [0, 1], and its lungs, each ``(rows, columns)``."""
    sides = {name: 1 if rng.random() < 0.5 else -1 for name in FINDINGS}
    heart = rng.uniform(1.22, 1.45) if "Cardiomegaly" in findings else 1.0
    raised = rng.uniform(0.06, 0.14) if "Atelectasis" in findings else 0.0  # where lung is lost
    empty = rng.uniform(0.7, 1.2) if "Emphysema" in findings else 0.0
    thorax = draw_thorax(
        rng,
        view,
        heart=heart * (1 - 0.12 * empty),
        inflation=0.10 * empty,
        arch=1 - 0.6 * empty,
        raised=(raised * (sides["Atelectasis"] < 0), raised * (sides["Atelectasis"] > 0)),
    )
    vessels = (1 - 0.4 * empty) * (rng.uniform(1.3, 1.7) if "Edema" in findings else 1.0)
    space = line = np.zeros_like(thorax.lung)
    if "Pneumothorax" in findings:
        space, line = _pneumothorax(rng, thorax, sides["Pneumothorax"])
    image = draw_anatomy(rng, thorax, dark=0.06 * empty, vessels=vessels * (1 - space))
    image += thorax.air * (0.13 * line - 0.10 * space)
    for name, shadow in SHADOWS.items():
        if name in findings:
            image += thorax.air * (1 - space) * shadow(rng, thorax, sides[name])
    if "Hernia" in findings:
        image += _hernia(rng, thorax)
    return expose(rng, image), thorax.lung > 0


def _diseases(rng: Rng, count: int) -> Array:
    """Draw which patients have which finding, ``(count, 14)`` bool: scores with common factors, cut at its share."""
    weights = np.array([finding.weights for finding in FINDINGS.values()])
    specific = np.sqrt(1 - (weights**2).sum(axis=1))
    scores = rng.standard_normal((count, len(FACTORS))) @ weights.T + specific * rng.standard_normal(
        (count, len(FINDINGS))
    )
    shares = np.array([max(finding.images / IMAGES, LEAST_SHARE) for finding in FINDINGS.values()])
    ill = np.maximum(1, np.round(shares * count))
    return (-scores).argsort(axis=0).argsort(axis=0) < ill


def write_chest14(unknown: float, folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write radiographs, one to three per patient, in the formats of `medssl_monai.phantoms.chest.CHEST_FILES`.

    A patient's first image shows all of their findings, later ones each with a chance of `STAYS`.

    Args:
        unknown: share of the findings of the training section that count as not looked for (-1), whatever they are;
            the images do not depend on it.
        folder: where to write.
        section: of the datalist.
        count: of patients.
        seed: of all that is random.
    """
    names = tuple(FINDINGS)
    ill = _diseases(generator(seed, "chest14", section), count)
    for number in range(count):
        rng = generator(seed, "chest14", section, number)
        hidden = generator(seed, "chest14 unknown", section, number)
        name = patient_name(section, number)
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        items: list[Item] = []
        for k in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))):
            stays = rng.random(len(names)) < (1.0 if k == 1 else STAYS)
            present = ill[number] & stays
            view = "AP" if rng.random() < 0.35 else "PA"
            image, lung = _image(rng, {names[position] for position in np.flatnonzero(present)}, view)
            mask = f"{base}/{k}_lungs.png"
            save_png(folder / mask, lung.astype(np.uint8) * 255)
            file = write_radiograph(folder / base, image, view, name, number, k, f"chest14 {seed}")
            known = (hidden.random(len(names)) >= unknown) | (section != "training")
            items.append(
                {
                    "image": f"{base}/{file}",
                    "id": f"{name}-{k}",
                    "group": name,
                    "label": np.where(known, present, -1).tolist(),
                    "meta": {"view": view, "masks": {"lungs": mask}},
                }
            )
        yield items
