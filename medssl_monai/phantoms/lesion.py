"""Skin (`lesion7`, `lesion_mask`): dermoscopic images in colour.

They have the seven classes of ISIC 2018 task 3, and masks of the lesions.

A lesion has strengths of sixteen signs (`SIGNS`): pigment, network, veil, vessels, and so on. A class is a profile of
them; a lesion is a mixture of the profile of its class and, to less than a half, of a class that it resembles, with
noise. All signs but two are patterns, so the mean colour tells little. Colours follow from absorption: melanin and
blood darken the skin, each in its own way.

Images of one lesion share its outline and patterns, seen from another angle and distance, in another light, behind
other hairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.phantoms.base import Array, Rng, generator, patient_name
from medssl_monai.phantoms.drawing import cover, ellipse, paint
from medssl_monai.phantoms.files import write_photograph
from medssl_monai.png import save_png

LESIONS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
LESION_COUNTS = (1113, 6705, 514, 327, 1099, 115, 142)  # training images of ISIC 2018 task 3; only the shares matter
RAREST = 0.03  # share that rare classes are raised to, so that there are enough of them to measure
RESEMBLES = ((1, 4), (0, 5), (3, 6), (2, 4), (0, 3), (1, 2), (2, 0))
"""Two classes that each is taken for."""
LESION_SIZE = 112

SIGNS: dict[str, tuple[float, ...]] = {  # by class, in the order of `LESIONS`
    "pigment": (0.62, 0.60, 0.40, 0.36, 0.55, 0.48, 0.44),  # melanin of the whole lesion
    "redness": (0.28, 0.22, 0.42, 0.46, 0.28, 0.34, 0.42),  # blood of the whole lesion
    "uneven": (0.70, 0.20, 0.45, 0.40, 0.40, 0.20, 0.30),  # melanin that differs from place to place
    "ragged": (0.65, 0.20, 0.35, 0.45, 0.35, 0.15, 0.20),  # outline
    "blurred": (0.40, 0.50, 0.60, 0.80, 0.15, 0.65, 0.20),  # border
    "network": (0.55, 0.70, 0.05, 0.05, 0.15, 0.60, 0.00),  # brown honeycomb
    "disorder": (0.80, 0.15, 0.50, 0.50, 0.40, 0.20, 0.50),  # of the network: warped, and missing here and there
    "globules": (0.40, 0.45, 0.05, 0.05, 0.15, 0.05, 0.00),  # brown dots
    "veil": (0.60, 0.05, 0.15, 0.05, 0.10, 0.00, 0.10),  # blue-white areas
    "nests": (0.10, 0.05, 0.65, 0.05, 0.05, 0.00, 0.10),  # blue-grey ovals
    "vessels": (0.15, 0.05, 0.75, 0.30, 0.05, 0.10, 0.10),  # winding red lines
    "follicles": (0.05, 0.00, 0.10, 0.75, 0.20, 0.00, 0.00),  # white dots in a red net
    "cysts": (0.05, 0.05, 0.05, 0.15, 0.75, 0.00, 0.00),  # small white dots
    "pores": (0.10, 0.05, 0.00, 0.10, 0.70, 0.00, 0.00),  # small dark dots
    "scar": (0.10, 0.05, 0.15, 0.10, 0.05, 0.80, 0.05),  # white centre
    "lacunae": (0.05, 0.02, 0.10, 0.05, 0.05, 0.05, 0.80),  # red and purple lakes
}
MIXTURE = 0.45  # share of another class in a lesion, at most
SPREAD = 0.12  # deviation of a sign among lesions of one profile

MELANIN = np.array([0.75, 1.20, 1.55], dtype=np.float32)  # absorption of red, green and blue light
BLOOD = np.array([0.12, 0.95, 0.80], dtype=np.float32)
SKIN = np.array([0.90, 0.74, 0.66], dtype=np.float32)
WHITE = np.array([0.93, 0.87, 0.84], dtype=np.float32)
BLUE_WHITE = np.array([0.55, 0.59, 0.68], dtype=np.float32)
BLUE_GREY = np.array([0.36, 0.38, 0.46], dtype=np.float32)

PIXEL = 2 / LESION_SIZE
AXIS = ((np.arange(LESION_SIZE) + 0.5) * PIXEL - 1).astype(np.float32)
WAVES = 24  # per field


@dataclass(frozen=True)
class View:
    """A square picture of a lesion: from where, how near, how turned.

    Attributes:
        matrix: turns and scales coordinates of the picture to those of the skin, 2 x 2.
        shift: added to them.

    A picture reaches from -1 to 1, `x` to the right along a row and `y` down; the lesion is around 0 on the skin.
    """

    matrix: Array
    shift: Array

    @classmethod
    def draw(cls, rng: Rng) -> View:
        angle, zoom = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.25)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return cls((turn * zoom).astype(np.float32), rng.normal(0, 0.12, 2).astype(np.float32))

    def coordinates(self) -> tuple[Array, Array]:
        """Return where each pixel lies on the skin, ``(rows, columns)`` each."""
        (a, b), (c, d) = self.matrix
        across, down = AXIS[None, :], AXIS[:, None]
        return a * across + (b * down + self.shift[0]), c * across + (d * down + self.shift[1])


class Field:
    """A smooth random function of the skin, of mean 0 and deviation 1: a sum of plane waves.

    Args:
        rng: draws them.
        lowest: cycles across the width of a picture, of the slowest wave.
        highest: likewise, of the fastest.
    """

    def __init__(self, rng: Rng, lowest: float, highest: float) -> None:
        cycles, angle = rng.uniform(lowest, highest, WAVES), rng.uniform(0, 2 * math.pi, WAVES)
        waves = math.pi * cycles * np.stack([np.cos(angle), np.sin(angle)])
        self.waves = waves.T.astype(np.float32)
        self.phase = rng.uniform(0, 2 * math.pi, WAVES).astype(np.float32)

    def __call__(self, view: View) -> Array:
        """Return the values at the pixels, ``(rows, columns)``."""
        waves = self.waves @ view.matrix
        across = np.outer(waves[:, 0], AXIS) + (self.phase + self.waves @ view.shift)[:, None]
        down = np.outer(waves[:, 1], AXIS)
        # cos(across + down): of rows and of columns apart, a tenth of the cosines and one product of matrices
        rows = np.concatenate([np.cos(down), -np.sin(down)])
        columns = np.concatenate([np.cos(across), np.sin(across)])
        return math.sqrt(2 / WAVES) * (rows.T @ columns)


class Lesion:
    """All that the images of one lesion share: strengths of its signs, outline, patterns, the skin around it.

    Args:
        rng: draws it.
        label: class, in the order of `LESIONS`.
    """

    def __init__(self, rng: Rng, label: int) -> None:
        other, share = RESEMBLES[label][int(rng.random() < 0.4)], MIXTURE * rng.beta(1.0, 1.3)
        self.signs = {
            name: max(0.0, (1 - share) * profile[label] + share * profile[other] + rng.normal(0, SPREAD))
            for name, profile in SIGNS.items()
        }
        self.size = rng.uniform(0.42, 0.68), rng.uniform(0.75, 1.0)  # half the width, and height over width
        self.skin = SKIN * np.exp(-rng.uniform(0, 0.35) * MELANIN - rng.uniform(0, 0.3) * BLOOD)
        self.mesh, self.mesh_phase = rng.uniform(9, 12), rng.uniform(0, 2 * math.pi)  # holes across the width
        self.outline, self.uneven = Field(rng, 0.8, 2.5), Field(rng, 0.8, 3.0)
        self.blobs, self.dots = Field(rng, 4.0, 6.5), Field(rng, 10.0, 16.0)
        self.lines, self.grain = Field(rng, 2.0, 5.0), Field(rng, 8.0, 40.0)

    def draw(self, rng: Rng) -> tuple[Array, Array]:
        """Draw one picture, in [0, 1], ``(3, rows, columns)``, and the lesion in it, ``(rows, columns)``."""
        view = View.draw(rng)
        x, y = view.coordinates()
        sign = self.signs
        width, height = np.float32(self.size[0]), np.float32(self.size[0] * self.size[1])  # plain floats would widen
        outline, uneven, blobs, dots = (field(view) for field in (self.outline, self.uneven, self.blobs, self.dots))
        edge = ellipse(x, y, width, height) + 0.16 * sign["ragged"] * outline
        inside = cover(edge, 2 * PIXEL + 0.25 * sign["blurred"])

        # Melanin: the body, the honeycomb, dots.
        melanin = sign["pigment"] * (1 + 0.7 * sign["uneven"] * uneven)
        mesh = _honeycomb(x, y, self.mesh, self.mesh_phase, 1.2 * sign["disorder"] * blobs)
        melanin += sign["network"] * (mesh - 0.4) * np.clip(1 - sign["disorder"] * (0.3 + uneven), 0, 1)
        melanin += 1.3 * sign["globules"] * np.clip(2 * blobs - 1.8, 0, 1)
        melanin += 2.2 * sign["pores"] * np.clip(2 * dots - 3.0, 0, 1)

        # Blood: the body, winding vessels, the net around follicles, lakes.
        follicles = np.clip(1.5 * blobs, -1, 1)
        vessels = np.exp(-((self.lines(view) / 0.10) ** 2)) * np.clip(0.6 - uneven, 0, 1)
        lakes = np.clip(3 * blobs - 0.6, 0, 1)
        blood = sign["redness"] + 1.1 * sign["vessels"] * vessels - 0.5 * sign["follicles"] * follicles
        blood += 1.5 * sign["lacunae"] * (lakes - 0.3)

        melanin = inside * np.clip(melanin, 0, None) + 0.03 * self.grain(view)
        blood = inside * np.clip(blood, 0, None)
        image = np.stack(
            [skin * np.exp(-(m * melanin + b * blood)) for skin, m, b in zip(self.skin, MELANIN, BLOOD, strict=True)]
        )

        # What lies above, or shines through.
        for strength, area, colour in (
            ("nests", np.clip(-2 * blobs - 2.2, 0, 1), BLUE_GREY),
            ("lacunae", 0.5 * lakes * np.clip(uneven, 0, 1), BLUE_GREY),
            ("veil", np.clip(0.8 * outline - 0.2, 0, 1), BLUE_WHITE),
            ("follicles", 0.7 * np.clip(follicles, 0, 1) ** 2, WHITE),
            ("cysts", np.clip(-2 * dots - 3.0, 0, 1), WHITE),
            ("scar", np.clip(1.3 - (np.hypot(x, y) / (0.55 * height)) ** 2 + 0.3 * uneven, 0, 1), WHITE),
        ):
            paint(image, min(sign[strength], 1.0) * inside * area, colour[:, None, None])
        return _photograph(rng, image), edge > 0


def _honeycomb(x: Array, y: Array, count: float, phase: float, warp: Array) -> Array:
    """Draw lines, 1 in their middle, around holes of 0 on a hexagonal grid; `warp` shifts it, in radians."""
    wave = math.pi * count
    total = np.zeros_like(warp)
    for turn, at in ((0, phase), (2, 0.0), (4, -phase)):
        angle = turn * math.pi / 3
        total += np.cos(wave * math.cos(angle) * x + wave * math.sin(angle) * y + (warp + at))
    return np.clip(0.6 - 0.6 * total, 0, 1)


def _photograph(rng: Rng, image: Array) -> Array:
    """Add what the device makes of the skin: hairs, light, white balance, a dark rim, noise."""
    across, down = AXIS[None, :], AXIS[:, None]
    for _ in range(int(rng.integers(1, 6)) * int(rng.random() < 0.35)):
        turn, shift, bend = rng.uniform(0, math.pi), rng.uniform(-0.9, 0.9), rng.normal(0, 0.3)
        along = across * math.cos(turn) + down * math.sin(turn)
        beside = down * math.cos(turn) - across * math.sin(turn) - shift + bend * along**2
        paint(image, cover(0.008 - np.abs(beside), PIXEL), rng.uniform(0.1, 0.35))
    far = across**2 + down**2
    light = rng.uniform(0.85, 1.1) * (1 - rng.uniform(0, 0.18) * far)
    light *= 1 + rng.normal(0, 0.05) * across + rng.normal(0, 0.05) * down
    if rng.random() < 0.12:  # the rim of the lens
        light *= cover(rng.uniform(1.0, 1.25) - np.sqrt(far), 0.06)
    balance = np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    image = image * light.astype(np.float32) * balance[:, None, None]
    image += rng.uniform(0.008, 0.025) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 1)


def _labels(rng: Rng, count: int) -> Array:
    """Draw the class of every lesion of a section, in random order; the shares hold in every section."""
    shares = np.maximum(np.array(LESION_COUNTS) / sum(LESION_COUNTS), RAREST)
    edges = np.cumsum(shares / shares.sum())
    return np.searchsorted(edges[:-1], (rng.permutation(count) + 0.5) / max(count, 1), side="right")


def write_lesions(folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write images of lesions, one to three of each, PNG and JPEG in turn, and the masks beside them."""
    labels = _labels(generator(seed, "lesion", section), count)
    for number, label in enumerate(labels.tolist()):
        rng = generator(seed, "lesion", section, number)
        name = patient_name(section, number, "L")
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        suffix = "png" if number % 2 == 0 else "jpg"
        lesion = Lesion(rng, label)
        items: list[Item] = []
        for k in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.65, 0.22, 0.13]))):
            image, mask = lesion.draw(rng)
            write_photograph(
                folder / base / f"{k}.{suffix}",
                np.ascontiguousarray((image * 255).round().astype(np.uint8).transpose(1, 2, 0)),
            )
            save_png(folder / base / f"{k}_lesion.png", mask.astype(np.uint8) * 255)
            items.append(
                {
                    "image": f"{base}/{k}.{suffix}",
                    "id": f"{name}-{k}",
                    "group": name,
                    "label": label,
                    "meta": {"masks": {"lesion": f"{base}/{k}_lesion.png"}},
                }
            )
        yield items


def write_lesion_masks(folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write the same; the label of an image is its mask, of 0 and 255."""
    for items in write_lesions(folder, section, count, seed):
        for item in items:
            item["meta"]["diagnosis"] = LESIONS[item["label"]]
            item["label"] = item["meta"]["masks"]["lesion"]
        yield items
