"""Chest (`chest`): frontal radiographs, normal or with opacities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.phantoms.base import Array, Rng, generator, patient_name
from medssl_monai.phantoms.drawing import cover, ellipse, smooth_noise
from medssl_monai.phantoms.files import write_dicom
from medssl_monai.png import save_png

CHEST_SIZE = 112
PIXEL = 2.0 / CHEST_SIZE
LUNG_AXIS = 0.44  # from the midline
OPACITY_SHARE = 0.45  # of the patients; four in five of their images show one
CHEST_FILES: tuple[tuple[str, str, tuple[float, float] | None], ...] = (
    ("PNG", "", None),
    ("CR", "MONOCHROME2", (3.0, 3.0)),
    ("DX", "MONOCHROME2", None),
    ("PNG", "", None),
    ("CR", "MONOCHROME1", (3.5, 3.5)),
    ("DX", "MONOCHROME2", (0.0, 0.0)),
    ("DX", "MONOCHROME1", (3.2, 3.2)),
)
"""Format, photometric interpretation and spacing in mm (absent, or zero as some devices write it), by patient."""


@dataclass(frozen=True)
class Thorax:
    """The organs of one picture, each array ``(rows, columns)``.

    Attributes:
        x: to the patient's left of the centre, in units of half the image; likewise `y` to the feet.
        body: signed distance to the outline, positive inside; likewise `heart`, `middle` (mediastinum) and `lung`, of
            which the distance is a measure only.
    """

    x: Array
    y: Array
    body: Array
    heart: Array
    middle: Array
    lung: Array

    @property
    def side(self) -> Array:
        """Distance from the midline."""
        return np.abs(self.x)

    @property
    def air(self) -> Array:
        """Share of a pixel that is lung."""
        return cover(self.lung, 2.5 * PIXEL)


def draw_thorax(
    rng: Rng,
    view: str,
    heart: float = 1.0,
    inflation: float = 0.0,
    arch: float = 1.0,
    raised: tuple[float, float] = (0.0, 0.0),
    field: float = 1.0,
) -> Thorax:
    """Draw a body and its organs.

    Args:
        rng: decides the body.
        view: ``PA`` or ``AP``.
        heart: size of the heart, as a factor.
        inflation: by how much the diaphragm stands lower.
        arch: of the diaphragm, as a factor.
        raised: by how much the right and the left side of it stand higher.
        field: width of the picture, as a factor: in a wide one the body is small.
    """
    axis = (field * ((np.arange(CHEST_SIZE) + 0.5) * 2 / CHEST_SIZE - 1)).astype(np.float32)
    angle, scale = rng.normal(0, 0.035), rng.normal(1, 0.05)
    x = (axis[None, :] - rng.normal(0, 0.04) + angle * axis[:, None]) / scale
    y = (axis[:, None] - rng.normal(0, 0.04) - angle * axis[None, :]) / scale
    side = np.abs(x)
    breath = rng.normal(0, 0.07) - (0.08 if view == "AP" else 0.0) + inflation
    size = rng.normal(0.40, 0.04) * (1.15 if view == "AP" else 1.0) * heart
    tilt = rng.normal(0.45, 0.1)
    u, v = x - 0.12, y - 0.32 - breath / 2
    ventricles = ellipse(
        u * math.cos(tilt) + v * math.sin(tilt), v * math.cos(tilt) - u * math.sin(tilt), size, 0.72 * size
    )
    middle = np.maximum(0.13 + 0.04 * np.cos(3 * y) - side, ellipse(x - 0.13, y + 0.27, 0.11, 0.13))
    body = np.minimum(ellipse(x, y - 0.7, 1.02, 1.75), 1.6 * (y + 1.15 - 0.55 * side))
    u = side - LUNG_AXIS
    shape = rib_cage(u, y, y)
    floor = np.where(x > 0, 0.05 - raised[1], -raised[0]).astype(np.float32)
    dome = 0.52 + breath + floor + 0.55 * arch * (u + 0.02) ** 2 - y
    lung = np.minimum(np.minimum(shape, dome), -np.maximum(ventricles, middle))
    return Thorax(x, y, body, ventricles, middle, lung)


def rib_cage(u: Array, y: Array, height: Array) -> Array:
    """Return a measure of the distance to the wall of a lung, from its axis at `u` 0; `height` is `y` for its ends."""
    return 0.3 * (1 - (np.abs(u + 0.04 * y) / (0.34 + 0.06 * y)) ** 2.6 - (np.abs(height + 0.03) / 0.80) ** 2.6)


def draw_anatomy(rng: Rng, thorax: Thorax, dark: float = 0.0, vessels: Any = 1.0) -> Array:
    """Draw what the beam loses on its way, dense is bright, and what merely resembles a finding.

    Args:
        rng: decides the rest.
        thorax: from `draw_thorax`.
        dark: how much less the lungs take from the beam.
        vessels: of the lungs, as a factor.
    """
    x, y, side, air = thorax.x, thorax.y, thorax.side, thorax.air
    image = cover(thorax.body, 6 * PIXEL) * (0.62 + 0.10 * y)
    image -= air * (0.36 + rng.normal(0, 0.03) + dark - 0.06 * y)
    image += 0.07 * cover(thorax.heart, 8 * PIXEL) + 0.07 * cover(thorax.middle, 5 * PIXEL)
    image += 0.06 * cover(0.07 - side, 2 * PIXEL) * (1 + 0.5 * np.cos(2 * math.pi * y / 0.13))  # spine
    image += _bones(rng, side, y) + air * (vessels * _vessels(rng, x, y))
    if rng.random() < 0.4:  # breasts
        size, low = rng.uniform(0.26, 0.36), rng.uniform(0.25, 0.45)
        image += 0.09 * cover(ellipse(side - 0.5, y - low, size, 0.8 * size), 8 * PIXEL)
    for _ in range(rng.integers(1, 4) * (rng.random() < 0.5)):  # leads
        turn, shift = rng.uniform(-1.2, 1.2), rng.uniform(-0.6, 0.6)
        lead = x * math.cos(turn) + 0.6 * (y - 0.1) * math.sin(turn) - shift + 0.04 * np.sin(6 * y)
        image += 0.18 * cover(0.006 - np.abs(lead), 1.5 * PIXEL)
    image += air * 0.02 * smooth_noise(rng, 1, CHEST_SIZE, 12)[0]  # the grain of the lung
    return image


def expose(rng: Rng, image: Array) -> Array:
    """Add exposure, scatter, quanta, and the marker of the side; the result is in [0, 1]."""
    image = np.clip(image, 0, None) ** rng.uniform(0.8, 1.3) * rng.uniform(0.85, 1.15) + rng.uniform(0, 0.08)
    image += 0.03 * smooth_noise(rng, 1, CHEST_SIZE, 2)[0]
    image += rng.uniform(0.01, 0.035) * rng.standard_normal(image.shape, dtype=np.float32)
    image[6:12, 6:9] = 1
    return np.clip(image, 0, 1).astype(np.float32)


def _bones(rng: Rng, side: Array, y: Array) -> Array:
    """Draw ribs, from the spine outwards and from the outside forwards, and collar bones."""
    image = np.zeros_like(y + side)
    dense, slope = rng.uniform(0.05, 0.10), rng.normal(0.42, 0.06)
    for top in np.arange(9) * 0.19 + rng.uniform(0, 0.19):
        behind = y + 0.85 - top + 0.9 * slope * (side - 0.5) ** 2 - 0.25 * (side - 0.4)
        before = y + 0.70 - top - 0.75 * slope * (0.85 - side)
        image += dense * cover(np.minimum(0.032 - np.abs(behind), side - 0.10), 2 * PIXEL) * (side < 0.88)
        image += 0.45 * dense * cover(np.minimum(0.028 - np.abs(before), side - 0.30), 3 * PIXEL) * (side < 0.85)
    collar = y + 0.80 - 0.14 * side + 0.05 * np.cos(5 * side)
    image += 1.3 * dense * cover(np.minimum(0.035 - np.abs(collar), 0.85 - side), 2 * PIXEL) * (side > 0.08)
    return image


def _vessels(rng: Rng, x: Array, y: Array) -> Array:
    """Draw two trees of branches that thin out from the hila."""
    image = np.zeros_like(x + y)
    for side in (-1, 1):
        for turn in np.linspace(-1.4, 1.4, 8) + rng.normal(0, 0.15, 8):
            u, v = side * x - 0.17, y - 0.02
            along = u * math.cos(turn) + v * math.sin(turn)
            across = v * math.cos(turn) - u * math.sin(turn)
            across += rng.normal(0, 0.25) * along**2
            thick = 0.024 * np.exp(-2.2 * np.clip(along, 0, None))
            image += 0.10 * np.exp(-((across / thick) ** 2) - 1.2 * np.clip(along, 0, None)) * (along > 0)
    return np.minimum(image, 0.25)


def opacities(
    rng: Rng,
    thorax: Thorax,
    count: int,
    size: tuple[float, float] = (0.10, 0.21),
    dense: tuple[float, float] = (0.13, 0.28),
    edge: float = 5.0,
    within: tuple[float, float] = (0.03, math.inf),
) -> Array:
    """Draw ragged patches, centred in the lungs.

    Args:
        rng: decides where and what shape.
        thorax: from `draw_thorax`.
        count: how many.
        size: their least and largest radius.
        dense: what they take from the beam, likewise.
        edge: the higher, the sharper.
        within: least and largest measure of the distance to the border of the lung, of their centres.
    """
    x, y = thorax.x, thorax.y
    image = np.zeros_like(thorax.lung)
    rows, columns = np.nonzero((thorax.lung > within[0]) & (thorax.lung < within[1]))
    for _ in range(count):
        at = rng.integers(len(rows))
        u, v = x - x[rows[at], columns[at]], y - y[rows[at], columns[at]]
        radius, turn, longer = rng.uniform(*size), rng.uniform(0, math.pi), rng.uniform(1, 1.8)
        along, across = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
        ragged = np.hypot(along / longer, across) / radius + 0.25 * smooth_noise(rng, 1, CHEST_SIZE, 16)[0]
        image += rng.uniform(*dense) / (1 + np.exp(np.clip(edge * (ragged - 1), None, 50)))
    return image


def _chest_image(rng: Rng, opaque: bool, view: str) -> tuple[Array, Array]:
    """Draw one radiograph, dense is bright, in [0, 1], and its lungs, each ``(rows, columns)``."""
    thorax = draw_thorax(rng, view)
    image = draw_anatomy(rng, thorax)
    if opaque:
        image += thorax.air * opacities(rng, thorax, int(rng.integers(1, 4)))
    return expose(rng, image), thorax.lung > 0


def write_chest(folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write radiographs, one to three per patient, in the formats of `CHEST_FILES`."""
    sick = generator(seed, "chest", section).permutation(count) < round(OPACITY_SHARE * count)
    for number in range(count):
        rng = generator(seed, "chest", section, number)
        name = patient_name(section, number)
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        items: list[Item] = []
        for k in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
            opaque = bool(sick[number] and rng.random() < 0.8)
            view = "AP" if rng.random() < 0.35 else "PA"
            image, lung = _chest_image(rng, opaque, view)
            mask = f"{base}/{k}_lungs.png"
            save_png(folder / mask, lung.astype(np.uint8) * 255)
            items.append(
                {
                    "image": f"{base}/{write_radiograph(folder / base, image, view, name, number, k, f'chest {seed}')}",
                    "id": f"{name}-{k}",
                    "group": name,
                    "label": int(opaque),
                    "meta": {"view": view, "masks": {"lungs": mask}},
                }
            )
        yield items


def write_radiograph(folder: Path, image: Array, view: str, name: str, patient: int, number: int, study: str) -> str:
    """Write one image in the format whose turn it is with this patient; return the name of the file."""
    modality, photometric, spacing = CHEST_FILES[patient % len(CHEST_FILES)]
    if modality == "PNG":
        save_png(folder / f"{number}.png", (image * 255).round().astype(np.uint8))
        return f"{number}.png"
    stored = (image * 4095).round().astype(np.uint16)
    header: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "BodyPartExamined": "CHEST",
        "ViewPosition": view,
        "InstanceNumber": number,
        "PatientOrientation": ["L", "F"],
        "SeriesDescription": f"SYNTHETIC chest {view}",
    }
    if spacing is not None:
        header["PixelSpacing"] = header["ImagerPixelSpacing"] = list(spacing)
    if modality == "DX":
        inverse = photometric == "MONOCHROME1"
        header |= {"PresentationIntentType": "FOR PRESENTATION", "ImageLaterality": "U"}
        header |= {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1 if inverse else -1}
        header |= {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}
        header |= {"PresentationLUTShape": "INVERSE" if inverse else "IDENTITY"}
    stored = 4095 - stored if photometric == "MONOCHROME1" else stored
    write_dicom(folder / f"{number}.dcm", stored, modality, photometric, header, name, study)
    return f"{number}.dcm"
