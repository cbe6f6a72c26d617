"""Embedded synthetic data: real files with patient groups, drawn from a seed, to learn and test with.

Spine (`spine2`, `spine6`): axial slices through the spinal canal. An epidural mass grows from the wall of the canal
through epidural fat and cerebrospinal fluid into the cord; how deep it reaches is the grade, the metastatic epidural
spinal cord compression scale of Bilsky et al. (J Neurosurg Spine 2010), with the shares of the data set of BoostMIS
(Zhang et al., CVPR 2022). Chest (`chest`): frontal radiographs, normal or with opacities.

Everything else (anatomy, position, scanner, exposure, bias field, noise) varies between patients and says nothing
about the label. The numbers below were fixed by supervised runs alone, see `benchmarks/phantom/README.md`.

A further kind is one more function that writes patients' files and yields their items, and an entry in `KINDS`.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.data.datalist import SECTIONS, Item, write_datalist
from medssl_monai.files import write_text

Array = npt.NDArray[Any]  # of float32, where nothing else is said
Rng = np.random.Generator

VERSION = 1
"""Goes up when the same seed gives other images."""

GRADES = ("b0", "b1a", "b1b", "b1c", "b2", "b3")
GRADE_COUNTS = (3752, 409, 483, 224, 136, 203)  # training row of the MESCC table of BoostMIS; only the shares matter
HIGH_GRADE = 3  # b1c, b2 and b3 are high grade
DEPTHS = ((0.0, 0.0), (0.6, 1.0), (1.35, 1.75), (2.0, 2.1), (2.2, 2.5), (2.35, 2.65))
"""How deep the mass reaches, per grade: 0 to 1 through the epidural fat, 1 to 2 through the fluid, 2 to 3 to the centre
of the cord. In b3 the mass fills the whole canal around the cord as well."""
SPINE_SIZE = 64

CHEST_SIZE = 112
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
class Phantom:
    """A kind of synthetic data.

    Attributes:
        write: called with folder, section, number of patients and seed; writes one patient after the other below
            ``folder / section`` and yields the items of each, with paths relative to `folder`.
        classes: names of the classes in the order of their index.
        modality: names of the channels.
        patients: default number of patients per section.
    """

    write: Callable[[Path, str, int, int], Iterator[list[Item]]]
    classes: tuple[str, ...]
    modality: tuple[str, ...]
    patients: Mapping[str, int]


def make_phantom(
    folder: str | Path,
    kind: str = "spine2",
    patients: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a synthetic data set, unless it is there already, and return the path of its ``datalist.json``.

    The datalist is written last: a folder without it, or with files missing, is incomplete and is written anew.
    Paths in it are relative to `folder`, also those of masks, under ``meta``. ``labels.csv`` says the same as a user's
    table would. All depends on the arguments alone.

    Args:
        folder: where to write; made if needed.
        kind: ``spine2`` (low and high grade), ``spine6`` (the same images with all six grades) or ``chest``.
        patients: number of patients per section; a section that is not named is left out. Default: enough to train
            and to tell methods apart.
        seed: another seed gives other patients.
        progress: show a progress bar.

    Raises:
        ValueError: if `kind` or a section is unknown, or a number is negative.
        FileExistsError: if the folder holds another datalist.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no phantom {kind!r}; known are {sorted(KINDS)}.")
    phantom = KINDS[kind]
    patients = dict(phantom.patients if patients is None else patients)
    for section, count in patients.items():
        if section not in SECTIONS or count < 0:
            raise ValueError(
                f"`patients` must map sections, of {list(SECTIONS)}, to numbers from 0, got {section!r}: {count}."
            )
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or more, got {seed}.")
    folder = Path(folder)
    path = folder / "datalist.json"
    recipe = {"kind": kind, "version": VERSION, "seed": seed, "patients": patients}
    if _is_complete(path, recipe):
        return path

    from tqdm import tqdm

    sections: dict[str, list[Item]] = {}
    with tqdm(total=sum(patients.values()), desc=f"phantom {kind}", unit="patient", disable=not progress) as bar:
        for section, count in patients.items():
            sections[section] = []
            for items in phantom.write(folder, section, count, seed):
                sections[section] += items
                bar.update()
    items = [item for section in sections.values() for item in section]
    rows = [f"{i['image']},{i.get('slice', '')},{i['group']},{phantom.classes[i['label']]}" for i in items]
    write_text(folder / "labels.csv", "\n".join(["image,slice,patient,label", *rows]) + "\n")
    write_datalist(
        path,
        sections,
        classes=phantom.classes,
        name=f"phantom-{kind}",
        synthetic=True,
        modality=phantom.modality,
        phantom=recipe,
    )
    return path


def _is_complete(path: Path, recipe: Mapping[str, Any]) -> bool:
    """Whether all of it is there; a set of an older version of this file counts as not there."""
    if not path.exists():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["phantom"]
    except (ValueError, KeyError, TypeError):
        found = "data that are no phantom"
    if found != recipe:
        if isinstance(found, dict) and {**found, "version": VERSION} == recipe:
            return False
        raise FileExistsError(
            f"{path} describes {found}, not {dict(recipe)}; choose another folder or remove this one."
        )
    items = [item for section in recipe["patients"] for item in content[section]]
    files = {name for item in items for name in (item["image"], *item["meta"]["masks"].values())}
    return all((path.parent / name).is_file() for name in files)


def _generator(seed: int, family: str, section: str, *number: int) -> Rng:
    """Of one patient (or, without `number`, of a section), independent of how many others there are."""
    return np.random.default_rng([seed, zlib.crc32(family.encode()), SECTIONS.index(section), *number])


def _patient_name(section: str, number: int) -> str:
    return f"P{SECTIONS.index(section) + 1}{number + 1:04d}"


# Drawing


def _cover(inside: Array, pixel: float) -> Array:
    """Share of a pixel that a shape covers; `inside` is the signed distance to its edge, `pixel` the edge's width."""
    return np.clip(inside / pixel + 0.5, 0, 1)


def _ellipse(x: Array, y: Array, width: Any, height: Any) -> Array:
    """Signed distance to an ellipse around 0 with these half axes, exact at the axes; positive inside."""
    return (1 - np.sqrt((x / width) ** 2 + (y / height) ** 2 + 1e-6)) * np.minimum(width, height)


def _paint(image: Array, cover: Array, value: Any) -> None:
    """Lay a material of brightness `value` over `image`, in place."""
    image += cover * (value - image)


def _smooth_noise(rng: Rng, count: int, size: int, waves: int) -> Array:
    """Random fields, ``(count, size, size)``, of mean 0, deviation about 1 and up to `waves` half waves across."""
    basis = np.cos(math.pi * np.outer(np.arange(size) + 0.5, np.arange(waves + 1)) / size).astype(np.float32)
    weights = rng.normal(0, 2.0 / (waves + 1), (count, waves + 1, waves + 1)).astype(np.float32)
    return basis @ weights @ basis.T


# Spine


def _spine_grades(rng: Rng, slices: list[int]) -> list[tuple[Array, Array]]:
    """Grade and severity within the grade, in [0, 1], of every slice of every patient of a section.

    Slices are ranked by a severity that is alike within a patient and peaks at one level of the spine; the shares of
    the table cut the ranks into grades, so that they hold in every section.
    """
    severity = np.array(
        [
            value
            for n in slices
            for value in rng.normal()
            + 1.2 * np.exp(-(((np.arange(n) - rng.uniform(0, n)) / 1.5) ** 2))
            + rng.normal(0, 0.3, n)
        ]
    )
    quantile = (severity.argsort().argsort() + 0.5) / max(len(severity), 1)
    edges = np.concatenate([[0.0], np.cumsum(GRADE_COUNTS) / np.sum(GRADE_COUNTS)])
    grade = np.searchsorted(edges[1:-1], quantile, side="right")
    within = ((quantile - edges[grade]) / np.diff(edges)[grade]).astype(np.float32)
    ends = np.cumsum(slices, dtype=int)
    return [(grade[end - n : end], within[end - n : end]) for n, end in zip(slices, ends, strict=True)]


def _spine_volume(rng: Rng, grade: Array, within: Array, pixel: float) -> tuple[Array, Array, Array]:
    """One patient: image in arbitrary units from 0, free canal and cord, each ``(slices, rows, columns)``.

    Lengths are in mm, `x` to the patient's left, `y` to the back, from the centre of the canal.
    """
    n = len(grade)

    def per_slice(mean: float, between: float, within_patient: float) -> Array:
        return (rng.normal(mean, between) + rng.normal(0, within_patient, (n, 1, 1))).astype(np.float32)

    # Position, rotation and size.
    axis = ((np.arange(SPINE_SIZE) - SPINE_SIZE / 2 + 0.5) * pixel).astype(np.float32)
    scale = rng.normal(1, 0.07)
    angle = np.deg2rad(per_slice(0, 6, 1.5))
    left = axis[None, None, :] - per_slice(0, 2, 0.4)
    back = axis[None, :, None] - per_slice(4, 1.8, 0.4)
    x = (left * np.cos(angle) + back * np.sin(angle)) / scale
    y = (back * np.cos(angle) - left * np.sin(angle)) / scale
    pixel = float(pixel / scale)
    radius, phi = np.hypot(x, y) + 1e-3, np.arctan2(y, x)

    # The canal and what lies in it without disease; the epidural fat is thicker at the back.
    width, height = per_slice(11.5, 0.6, 0.15), per_slice(9.6, 0.6, 0.15)
    cord_width, cord_height = per_slice(6.2, 0.5, 0.1), per_slice(4.0, 0.35, 0.1)
    fat = per_slice(2.0, 0.2, 0.05)
    apex = rng.normal(0.05, 0.03)

    def wall(at: Array) -> Array:
        return (1 + apex * np.sin(3 * at)) / np.hypot(np.cos(at) / width, np.sin(at) / height)

    def fat_at(at: Array) -> Array:
        return fat * (1 + 0.35 * np.sin(at))

    # The mass: from where, how wide, how deep.
    front = rng.random() < 0.75
    theta = (rng.normal(-math.pi / 2 if front else math.pi / 2, 0.7) + rng.normal(0, 0.1, (n, 1, 1))).astype(np.float32)
    spread = per_slice(0.85, 0.1, 0.05)
    lower, upper = np.array(DEPTHS, dtype=np.float32)[grade].T
    layer = (lower + within * (upper - lower))[:, None, None]
    cord_radius = 1 / np.hypot(np.cos(theta) / cord_width, np.sin(theta) / cord_height)
    fluid = np.maximum(wall(theta) - fat_at(theta) - cord_radius, 0.8)
    squeeze = cord_radius * np.clip(layer - 2, 0, 1)
    push = np.minimum(squeeze, 0.5 * fluid)  # the cord gives way, and is dented
    depth = fat_at(theta) * np.clip(layer, 0, 1) + fluid * np.clip(layer - 1, 0, 1) + squeeze + push
    away = (phi - theta + math.pi) % (2 * math.pi) - math.pi
    around = wall(phi)
    canal_edge = around - radius
    mass_edge = canal_edge - depth * np.exp(-((away / spread) ** 4))  # positive on the side of the cord
    cord_edge = _ellipse(x + push * np.cos(theta), y + push * np.sin(theta), cord_width, cord_height)
    cord_edge = np.where(layer > 0, np.minimum(cord_edge, mass_edge), cord_edge)
    free_edge = np.minimum(canal_edge, mass_edge)
    free_edge = np.where((grade == 5)[:, None, None], np.minimum(free_edge, cord_edge - pixel), free_edge)
    sac_edge = np.minimum(canal_edge - fat_at(phi), free_edge)

    # Brightness of the tissues, of the scanner and the sequence; one in seven is T1-weighted.
    if rng.random() < 0.15:
        tissue = {"fluid": 0.2, "cord": 0.5, "fat": 0.9, "muscle": 0.4, "marrow": 0.6, "cortex": 0.1, "mass": 0.38}
    else:
        tissue = {"fluid": 0.95, "cord": 0.45, "fat": 0.7, "muscle": 0.25, "marrow": 0.5, "cortex": 0.1, "mass": 0.36}
    tissue = {name: value * rng.normal(1, 0.12) for name, value in tissue.items()}
    texture = _smooth_noise(rng, n, SPINE_SIZE, 24)

    image = np.full((n, SPINE_SIZE, SPINE_SIZE), tissue["muscle"], dtype=np.float32)
    _paint(image, np.clip(_smooth_noise(rng, 1, SPINE_SIZE, 12) - 0.8, 0, 1), tissue["fat"])
    body = _ellipse(x, y + height + 12, per_slice(17, 1.2, 0.3), 14)
    arch = 1.9 + 1.6 * np.cos(phi) ** 2 - np.abs(canal_edge + 1.9)
    wings = _ellipse(np.abs(x) - width - 5, y + per_slice(0, 1, 0.5), 7, 3.2)
    spinous = 3 - np.abs(x + rng.normal(0, 0.06) * y) + np.minimum(0, y - height)
    bone = np.maximum(np.maximum(body, arch), np.maximum(wings, spinous))
    _paint(image, _cover(bone, pixel), tissue["cortex"])
    _paint(image, _cover(np.minimum(bone, -canal_edge) - 1.1, pixel), tissue["marrow"] * (1 + 0.12 * texture))
    for _ in range(rng.integers(0, 3)):  # disease of the bone alone is b0; it is as frequent in all grades
        at = rng.uniform(-14, 14), rng.uniform(-24, -10)
        extent = np.exp(-(per_slice(0, 0.8, 0.8) ** 2))
        spot = _ellipse(x - at[0], y - at[1], *(rng.uniform(2.5, 6) * extent for _ in range(2)))
        _paint(image, _cover(np.minimum(spot, body - 1), 2 * pixel), tissue["mass"])

    in_canal = _cover(canal_edge, pixel)
    _paint(image, in_canal, tissue["mass"] * (1 + 0.12 * texture))
    _paint(image, np.minimum(in_canal, _cover(free_edge, pixel)), tissue["fat"])
    _paint(image, _cover(sac_edge, pixel), tissue["fluid"])
    voids = np.clip(_smooth_noise(rng, n, SPINE_SIZE, 14) - 1, 0, 1) * rng.uniform(0, 0.8)  # of the flow
    _paint(image, _cover(sac_edge - 0.5, pixel) * voids, tissue["cord"])
    _paint(image, _cover(cord_edge, pixel), tissue["cord"] * (1 + 0.06 * texture))

    # Coil, gain, noise.
    image *= np.exp(0.16 * _smooth_noise(rng, 1, SPINE_SIZE, 2) + rng.normal(0, 0.05, (n, 1, 1)).astype(np.float32))
    noise = rng.uniform(0.03, 0.07)
    real, imaginary = noise * rng.standard_normal((2, *image.shape), dtype=np.float32)
    image = np.hypot(image + real, imaginary) * rng.uniform(250, 1200)
    return image, np.maximum(free_edge, cord_edge) > 0, cord_edge > 0


def _spine(labels: tuple[int, ...], folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write volumes and masks, NIfTI and DICOM series in turn; `labels` maps the grade to the class."""
    generators = [_generator(seed, "spine", section, number) for number in range(count)]
    slices = [int(rng.integers(5, 8)) for rng in generators]
    plan = _spine_grades(_generator(seed, "spine", section), slices)
    for number, (rng, (grade, within)) in enumerate(zip(generators, plan, strict=True)):
        name = _patient_name(section, number)
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        spacing = float(rng.choice([0.55, 0.6, 0.65])), float(rng.choice([4.0, 5.0]))
        image, canal, cord = _spine_volume(rng, grade, within, spacing[0])
        stored = image.round().clip(0, 4095).astype(np.uint16)
        masks = {key: f"{base}/{key}.nii.gz" for key in ("canal", "cord")}
        _write_nifti(folder / masks["canal"], canal.astype(np.uint8), spacing)
        _write_nifti(folder / masks["cord"], cord.astype(np.uint8), spacing)
        places: list[Item]
        if number % 2 == 0:
            _write_nifti(folder / base / "image.nii.gz", stored.astype(np.int16), spacing)
            places = [{"image": f"{base}/image.nii.gz", "slice": k} for k in range(len(grade))]
        else:
            _write_series(folder / base / "series", stored, spacing, name, seed)
            places = [{"image": f"{base}/series/{k + 1:03d}.dcm"} for k in range(len(grade))]
        yield [
            {
                **place,
                "id": f"{name}-{k + 1}",
                "group": name,
                "label": labels[grade[k]],
                "meta": {"grade": GRADES[grade[k]], "slice": k, "masks": masks},
            }
            for k, place in enumerate(places)
        ]


# Chest


def _chest_image(rng: Rng, opaque: bool, view: str) -> tuple[Array, Array]:
    """One radiograph, dense is bright, in [0, 1], and its lungs, each ``(rows, columns)``.

    The unit of length is half the image, `x` to the patient's left, `y` to the feet, from the centre.
    """
    axis = ((np.arange(CHEST_SIZE) + 0.5) * 2 / CHEST_SIZE - 1).astype(np.float32)
    pixel = 2.0 / CHEST_SIZE
    angle, scale = rng.normal(0, 0.035), rng.normal(1, 0.05)
    x = (axis[None, :] - rng.normal(0, 0.04) + angle * axis[:, None]) / scale
    y = (axis[:, None] - rng.normal(0, 0.04) - angle * axis[None, :]) / scale
    side = np.abs(x)

    # Outline of body, lungs, heart and great vessels.
    breath = rng.normal(0, 0.07) - (0.08 if view == "AP" else 0.0)
    size = rng.normal(0.40, 0.04) * (1.15 if view == "AP" else 1.0)
    tilt = rng.normal(0.45, 0.1)
    u, v = x - 0.12, y - 0.32 - breath / 2
    heart = _ellipse(
        u * math.cos(tilt) + v * math.sin(tilt), v * math.cos(tilt) - u * math.sin(tilt), size, 0.72 * size
    )
    middle = np.maximum(0.13 + 0.04 * np.cos(3 * y) - side, _ellipse(x - 0.13, y + 0.27, 0.11, 0.13))
    body = np.minimum(_ellipse(x, y - 0.7, 1.02, 1.75), 1.6 * (y + 1.15 - 0.55 * side))
    u = side - 0.44
    shape = 0.3 * (1 - (np.abs(u + 0.04 * y) / (0.34 + 0.06 * y)) ** 2.6 - (np.abs(y + 0.03) / 0.80) ** 2.6)
    dome = 0.52 + breath + np.where(x > 0, 0.05, 0).astype(np.float32) + 0.55 * (u + 0.02) ** 2 - y
    lung = np.minimum(np.minimum(shape, dome), -np.maximum(heart, middle))

    # Attenuation: the sum of what the beam crosses.
    image = _cover(body, 6 * pixel) * (0.62 + 0.10 * y)
    air = _cover(lung, 2.5 * pixel)
    image -= air * (0.36 + rng.normal(0, 0.03) - 0.06 * y)
    image += 0.07 * _cover(heart, 8 * pixel) + 0.07 * _cover(middle, 5 * pixel)
    image += 0.06 * _cover(0.07 - side, 2 * pixel) * (1 + 0.5 * np.cos(2 * math.pi * y / 0.13))  # spine
    image += _bones(rng, side, y, pixel) + air * _vessels(rng, x, y)

    # What resembles an opacity: breasts, leads, the grain of the lung.
    if rng.random() < 0.4:
        size, low = rng.uniform(0.26, 0.36), rng.uniform(0.25, 0.45)
        image += 0.09 * _cover(_ellipse(side - 0.5, y - low, size, 0.8 * size), 8 * pixel)
    for _ in range(rng.integers(1, 4) * (rng.random() < 0.5)):
        turn, shift = rng.uniform(-1.2, 1.2), rng.uniform(-0.6, 0.6)
        lead = x * math.cos(turn) + 0.6 * (y - 0.1) * math.sin(turn) - shift + 0.04 * np.sin(6 * y)
        image += 0.18 * _cover(0.006 - np.abs(lead), 1.5 * pixel)
    image += air * 0.02 * _smooth_noise(rng, 1, CHEST_SIZE, 12)[0]
    if opaque:
        image += air * _opacities(rng, x, y, lung)

    # Exposure, scatter, quanta, and the marker of the side.
    image = np.clip(image, 0, None) ** rng.uniform(0.8, 1.3) * rng.uniform(0.85, 1.15) + rng.uniform(0, 0.08)
    image += 0.03 * _smooth_noise(rng, 1, CHEST_SIZE, 2)[0]
    image += rng.uniform(0.01, 0.035) * rng.standard_normal(image.shape, dtype=np.float32)
    image[6:12, 6:9] = 1
    return np.clip(image, 0, 1).astype(np.float32), lung > 0


def _bones(rng: Rng, side: Array, y: Array, pixel: float) -> Array:
    """Ribs, from the spine outwards and from the outside forwards, and collar bones."""
    image = np.zeros_like(y + side)
    dense, slope = rng.uniform(0.05, 0.10), rng.normal(0.42, 0.06)
    for top in np.arange(9) * 0.19 + rng.uniform(0, 0.19):
        behind = y + 0.85 - top + 0.9 * slope * (side - 0.5) ** 2 - 0.25 * (side - 0.4)
        before = y + 0.70 - top - 0.75 * slope * (0.85 - side)
        image += dense * _cover(np.minimum(0.032 - np.abs(behind), side - 0.10), 2 * pixel) * (side < 0.88)
        image += 0.45 * dense * _cover(np.minimum(0.028 - np.abs(before), side - 0.30), 3 * pixel) * (side < 0.85)
    collar = y + 0.80 - 0.14 * side + 0.05 * np.cos(5 * side)
    image += 1.3 * dense * _cover(np.minimum(0.035 - np.abs(collar), 0.85 - side), 2 * pixel) * (side > 0.08)
    return image


def _vessels(rng: Rng, x: Array, y: Array) -> Array:
    """Two trees of branches that thin out from the hila."""
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


def _opacities(rng: Rng, x: Array, y: Array, lung: Array) -> Array:
    """One to three hazy patches, centred in the lungs."""
    image = np.zeros_like(lung)
    rows, columns = np.nonzero(lung > 0.03)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(len(rows))
        u, v = x - x[rows[at], columns[at]], y - y[rows[at], columns[at]]
        size, turn, longer = rng.uniform(0.10, 0.21), rng.uniform(0, math.pi), rng.uniform(1, 1.8)
        along, across = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
        ragged = np.hypot(along / longer, across) / size + 0.25 * _smooth_noise(rng, 1, CHEST_SIZE, 16)[0]
        image += rng.uniform(0.13, 0.28) / (1 + np.exp(np.clip(5 * (ragged - 1), None, 50)))
    return image


def _chest(folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write radiographs, one to three per patient, in the formats of `CHEST_FILES`."""
    sick = _generator(seed, "chest", section).permutation(count) < round(OPACITY_SHARE * count)
    for number in range(count):
        rng = _generator(seed, "chest", section, number)
        name = _patient_name(section, number)
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        items: list[Item] = []
        for k in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
            opaque = bool(sick[number] and rng.random() < 0.8)
            view = "AP" if rng.random() < 0.35 else "PA"
            image, lung = _chest_image(rng, opaque, view)
            mask = f"{base}/{k}_lungs.png"
            _write_png(folder / mask, lung.astype(np.uint8) * 255)
            items.append(
                {
                    "image": f"{base}/{_write_radiograph(folder / base, image, view, name, number, k, seed)}",
                    "id": f"{name}-{k}",
                    "group": name,
                    "label": int(opaque),
                    "meta": {"view": view, "masks": {"lungs": mask}},
                }
            )
        yield items


# Files


def _write_nifti(path: Path, volume: Array, spacing: tuple[float, float]) -> None:
    """Write ``(slices, rows, columns)`` with the axes and the place in space of `_write_series`."""
    import nibabel

    affine = np.diag(
        [-spacing[0], -spacing[0], spacing[1], 1.0]
    )  # DICOM counts to left and back, NIfTI to right, front
    affine[:2, 3] = spacing[0] * SPINE_SIZE / 2
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
    image.header["descrip"] = b"SYNTHETIC"
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))  # the time would change the bytes


def _write_png(path: Path, pixels: Array) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _write_series(folder: Path, volume: Array, spacing: tuple[float, float], name: str, seed: int) -> None:
    """Write ``(slices, rows, columns)``, from the feet upwards, as ``001.dcm`` and so on; `spacing` in plane, along."""
    folder.mkdir(exist_ok=True)
    corner = -spacing[0] * SPINE_SIZE / 2
    for k, pixels in enumerate(volume):
        header = {
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "ScanningSequence": "SE",
            "SequenceVariant": "NONE",
            "ScanOptions": "",
            "MRAcquisitionType": "2D",
            "RepetitionTime": None,
            "EchoTime": None,
            "EchoTrainLength": 1,
            "BodyPartExamined": "SPINE",
            "InstanceNumber": k + 1,
            "ImagePositionPatient": [round(corner, 4), round(corner, 4), k * spacing[1]],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [spacing[0], spacing[0]],
            "SliceThickness": spacing[1],
            "SpacingBetweenSlices": spacing[1],
            "SliceLocation": k * spacing[1],
            "SeriesDescription": "SYNTHETIC axial spine",
        }
        _write_dicom(folder / f"{k + 1:03d}.dcm", pixels, "MR", "MONOCHROME2", header, name, f"spine {seed}")


def _write_radiograph(folder: Path, image: Array, view: str, name: str, patient: int, number: int, seed: int) -> str:
    """Write one image in the format whose turn it is with this patient; return the name of the file."""
    modality, photometric, spacing = CHEST_FILES[patient % len(CHEST_FILES)]
    if modality == "PNG":
        _write_png(folder / f"{number}.png", (image * 255).round().astype(np.uint8))
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
    _write_dicom(folder / f"{number}.dcm", stored, modality, photometric, header, name, f"chest {seed}")
    return f"{number}.dcm"


def _write_dicom(
    path: Path,
    pixels: Array,
    modality: str,
    photometric: str,
    header: Mapping[str, Any],
    name: str,
    study: str,
) -> None:
    """Write a 12-bit image, ``(rows, columns)``, of patient `name`; identifiers follow from name, study and number."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    sop_class = {
        "CR": "1.2.840.10008.5.1.4.1.1.1",
        "DX": "1.2.840.10008.5.1.4.1.1.1.1",
        "MR": "1.2.840.10008.5.1.4.1.1.4",
    }[modality]
    key = ["medssl_monai phantom", str(VERSION), study, name]
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # is put right when written
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*key, "image", str(header["InstanceNumber"])])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = generate_uid(entropy_srcs=key[:1])
    # Preamble and encoding given here make versions 2 and 3 of pydicom write the same valid file.
    dataset = FileDataset(
        str(path), {}, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=False, is_little_endian=True
    )
    content: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": sop_class,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(entropy_srcs=[*key, "study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[*key, "series", header["SeriesDescription"]]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[*key, "frame"]),
        "StudyDate": "20000101",
        "StudyTime": "120000",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "StudyID": "1",
        "SeriesNumber": 1,
        "Modality": modality,
        "Manufacturer": "SYNTHETIC",
        "PatientName": f"SYNTHETIC^{name}",
        "PatientID": name,
        "PatientBirthDate": "",
        "PatientSex": "O",
        "ImageComments": "SYNTHETIC, not a patient",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": photometric,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **header,
    }
    for keyword, value in content.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(str(path))


SPINE_PATIENTS = {"training": 240, "validation": 80, "testing": 400}
KINDS: dict[str, Phantom] = {
    "spine2": Phantom(
        write=partial(_spine, tuple(int(grade >= HIGH_GRADE) for grade in range(len(GRADES)))),
        classes=("low", "high"),
        modality=("MR",),
        patients=SPINE_PATIENTS,
    ),
    "spine6": Phantom(
        write=partial(_spine, tuple(range(len(GRADES)))),
        classes=GRADES,
        modality=("MR",),
        patients=SPINE_PATIENTS,
    ),
    "chest": Phantom(
        write=_chest,
        classes=("normal", "opacity"),
        modality=("X-ray",),
        patients={"training": 300, "validation": 80, "testing": 400},
    ),
}
