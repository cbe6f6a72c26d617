"""Spine (`spine2`, `spine6`, `spine_cord`): axial slices through the spinal canal.

An epidural mass grows from the wall of the canal through epidural fat and cerebrospinal fluid into the cord; how deep
it reaches is the grade, the metastatic epidural spinal cord compression scale of Bilsky et al. (J Neurosurg Spine
2010), with the shares of the data set of BoostMIS (Zhang et al., CVPR 2022).
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medssl_monai.data.datalist import Item
from medssl_monai.phantoms.base import Array, Rng, generator, patient_name
from medssl_monai.phantoms.drawing import cover, ellipse, paint, smooth_noise
from medssl_monai.phantoms.files import write_dicom

STRUCTURES = ("background", "canal", "cord")
"""Classes of voxels: the canal is what is free of mass and not cord."""
GRADES = ("b0", "b1a", "b1b", "b1c", "b2", "b3")
GRADE_COUNTS = (3752, 409, 483, 224, 136, 203)  # training row of the MESCC table of BoostMIS; only the shares matter
HIGH_GRADE = 3  # b1c, b2 and b3 are high grade
DEPTHS = ((0.0, 0.0), (0.6, 1.0), (1.35, 1.75), (2.0, 2.1), (2.2, 2.5), (2.35, 2.65))
"""How deep the mass reaches, per grade: 0 to 1 through the epidural fat, 1 to 2 through the fluid, 2 to 3 to the centre
of the cord. In b3 the mass fills the whole canal around the cord as well."""
SPINE_SIZE = 64


def _spine_grades(rng: Rng, slices: list[int]) -> list[tuple[Array, Array]]:
    """Draw grade and severity within the grade, in [0, 1], of every slice of every patient of a section.

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
    """Return one patient: image in arbitrary units from 0, free canal and cord, each ``(slices, rows, columns)``."""
    canal = _draw_canal(rng, grade, within, pixel)
    image = _paint_tissues(rng, canal)
    # Coil, gain, noise.
    image *= np.exp(
        0.16 * smooth_noise(rng, 1, SPINE_SIZE, 2) + rng.normal(0, 0.05, (len(grade), 1, 1)).astype(np.float32)
    )
    noise = rng.uniform(0.03, 0.07)
    real, imaginary = noise * rng.standard_normal((2, *image.shape), dtype=np.float32)
    image = np.hypot(image + real, imaginary) * rng.uniform(250, 1200)
    return image, np.maximum(canal.free, canal.cord) > 0, canal.cord > 0


@dataclass(frozen=True)
class _Canal:
    """The spinal canal of one patient with what lies in it, each array ``(slices, rows, columns)``.

    Lengths are in mm, `x` to the patient's left, `y` to the back, from the centre of the canal.

    Attributes:
        x: of each pixel; likewise `y`, and `phi`, the angle.
        pixel: width of a pixel.
        width: half the width of the canal by slice; likewise its `height`.
        edge: signed distance to the edge of the canal, positive inside; likewise `cord`, `free` (of mass) and `sac`
            (of the fluid).
    """

    x: Array
    y: Array
    phi: Array
    pixel: float
    width: Array
    height: Array
    edge: Array
    cord: Array
    free: Array
    sac: Array


def _per_slice(rng: Rng, count: int, mean: float, between: float, within_patient: float) -> Array:
    """Return a measure of each slice, ``(slices, 1, 1)``, that varies between patients and a little within one."""
    return (rng.normal(mean, between) + rng.normal(0, within_patient, (count, 1, 1))).astype(np.float32)


def _draw_canal(rng: Rng, grade: Array, within: Array, pixel: float) -> _Canal:
    n = len(grade)
    per_slice = partial(_per_slice, rng, n)

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
    edge = wall(phi) - radius
    mass_edge = edge - depth * np.exp(-((away / spread) ** 4))  # positive on the side of the cord
    cord = ellipse(x + push * np.cos(theta), y + push * np.sin(theta), cord_width, cord_height)
    cord = np.where(layer > 0, np.minimum(cord, mass_edge), cord)
    free = np.minimum(edge, mass_edge)
    free = np.where((grade == 5)[:, None, None], np.minimum(free, cord - pixel), free)
    sac = np.minimum(edge - fat_at(phi), free)
    return _Canal(x, y, phi, pixel, width, height, edge, cord, free, sac)


def _paint_tissues(rng: Rng, canal: _Canal) -> Array:
    """Return the picture of the tissues, before coil and noise."""
    n, pixel, x, y = len(canal.x), canal.pixel, canal.x, canal.y
    per_slice = partial(_per_slice, rng, n)

    # Brightness of the tissues, of the scanner and the sequence; one in seven is T1-weighted.
    if rng.random() < 0.15:
        tissue = {"fluid": 0.2, "cord": 0.5, "fat": 0.9, "muscle": 0.4, "marrow": 0.6, "cortex": 0.1, "mass": 0.38}
    else:
        tissue = {"fluid": 0.95, "cord": 0.45, "fat": 0.7, "muscle": 0.25, "marrow": 0.5, "cortex": 0.1, "mass": 0.36}
    tissue = {name: value * rng.normal(1, 0.12) for name, value in tissue.items()}
    texture = smooth_noise(rng, n, SPINE_SIZE, 24)

    image = np.full((n, SPINE_SIZE, SPINE_SIZE), tissue["muscle"], dtype=np.float32)
    paint(image, np.clip(smooth_noise(rng, 1, SPINE_SIZE, 12) - 0.8, 0, 1), tissue["fat"])
    body = ellipse(x, y + canal.height + 12, per_slice(17, 1.2, 0.3), 14)
    arch = 1.9 + 1.6 * np.cos(canal.phi) ** 2 - np.abs(canal.edge + 1.9)
    wings = ellipse(np.abs(x) - canal.width - 5, y + per_slice(0, 1, 0.5), 7, 3.2)
    spinous = 3 - np.abs(x + rng.normal(0, 0.06) * y) + np.minimum(0, y - canal.height)
    bone = np.maximum(np.maximum(body, arch), np.maximum(wings, spinous))
    paint(image, cover(bone, pixel), tissue["cortex"])
    paint(image, cover(np.minimum(bone, -canal.edge) - 1.1, pixel), tissue["marrow"] * (1 + 0.12 * texture))
    for _ in range(rng.integers(0, 3)):  # disease of the bone alone is b0; it is as frequent in all grades
        at = rng.uniform(-14, 14), rng.uniform(-24, -10)
        extent = np.exp(-(per_slice(0, 0.8, 0.8) ** 2))
        spot = ellipse(x - at[0], y - at[1], *(rng.uniform(2.5, 6) * extent for _ in range(2)))
        paint(image, cover(np.minimum(spot, body - 1), 2 * pixel), tissue["mass"])

    in_canal = cover(canal.edge, pixel)
    paint(image, in_canal, tissue["mass"] * (1 + 0.12 * texture))
    paint(image, np.minimum(in_canal, cover(canal.free, pixel)), tissue["fat"])
    paint(image, cover(canal.sac, pixel), tissue["fluid"])
    voids = np.clip(smooth_noise(rng, n, SPINE_SIZE, 14) - 1, 0, 1) * rng.uniform(0, 0.8)  # of the flow
    paint(image, cover(canal.sac - 0.5, pixel) * voids, tissue["cord"])
    paint(image, cover(canal.cord, pixel), tissue["cord"] * (1 + 0.06 * texture))
    return image


def write_spine(labels: tuple[int, ...], folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write volumes and masks, NIfTI and DICOM series in turn; `labels` maps the grade to the class of a slice."""
    for patient in _patients(folder, section, count, seed):
        series = patient.image.endswith("series")
        yield [
            {
                **({"image": f"{patient.image}/{k + 1:03d}.dcm"} if series else {"image": patient.image, "slice": k}),
                "id": f"{patient.name}-{k + 1}",
                "group": patient.name,
                "label": labels[grade],
                "meta": {"grade": GRADES[grade], "slice": k, "masks": patient.masks},
            }
            for k, grade in enumerate(patient.grade.tolist())
        ]


def write_spine_masks(folder: Path, section: str, count: int, seed: int) -> Iterator[list[Item]]:
    """Write the same, one item per volume, with one more mask as its label: a class of `STRUCTURES` per voxel."""
    for patient in _patients(folder, section, count, seed):
        label = f"{section}/{patient.name}/structures.nii.gz"
        _write_nifti(
            folder / label, patient.canal.astype(np.uint8) + patient.cord, patient.spacing
        )  # it is in the canal
        grade = GRADES[int(patient.grade.max())]
        yield [
            {
                "image": patient.image,
                "id": patient.name,
                "group": patient.name,
                "label": label,
                "meta": {"grade": grade, "masks": patient.masks},
            }
        ]


@dataclass(frozen=True)
class _Patient:
    """The files of a patient: paths from the folder, masks ``(slices, rows, columns)``, spacing in mm."""

    name: str
    image: str
    masks: dict[str, str]
    grade: Array
    canal: Array
    cord: Array
    spacing: tuple[float, float]


def _patients(folder: Path, section: str, count: int, seed: int) -> Iterator[_Patient]:
    generators = [generator(seed, "spine", section, number) for number in range(count)]
    slices = [int(rng.integers(5, 8)) for rng in generators]
    plan = _spine_grades(generator(seed, "spine", section), slices)
    for number, (rng, (grade, within)) in enumerate(zip(generators, plan, strict=True)):
        name = patient_name(section, number)
        base = f"{section}/{name}"
        (folder / base).mkdir(parents=True, exist_ok=True)
        spacing = float(rng.choice([0.55, 0.6, 0.65])), float(rng.choice([4.0, 5.0]))
        image, canal, cord = _spine_volume(rng, grade, within, spacing[0])
        stored = image.round().clip(0, 4095).astype(np.uint16)
        masks = {key: f"{base}/{key}.nii.gz" for key in ("canal", "cord")}
        _write_nifti(folder / masks["canal"], canal.astype(np.uint8), spacing)
        _write_nifti(folder / masks["cord"], cord.astype(np.uint8), spacing)
        path = f"{base}/series" if number % 2 else f"{base}/image.nii.gz"
        if number % 2:
            _write_series(folder / path, stored, spacing, name, seed)
        else:
            _write_nifti(folder / path, stored.astype(np.int16), spacing)
        yield _Patient(name, path, masks, grade, canal, cord, spacing)


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
        write_dicom(folder / f"{k + 1:03d}.dcm", pixels, "MR", "MONOCHROME2", header, name, f"spine {seed}")
