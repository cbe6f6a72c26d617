"""Masks of images, as training and `medssl prepare` read them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from doors import SOURCE, Harm, Kind, prepare
from formats import Array, dicom, nifti, picture, png, spoil_elements, spoil_nifti, spoil_png, voxels
from images import LPS, RAS, random
from spoil import Chance, append, cut, spoil_bytes
from watch import Door, Input, Places

from medssl_monai.data import LoadMaskd
from medssl_monai.readers import ClinicalReader

CLASSES = ["background", "liver", "lesion"]


class Pair(NamedTuple):
    """Files of an image and its mask, and the mask as training must see it, ``(1, x, y[, z])``."""

    image: str
    pixels: bytes
    mask: str
    classes: bytes
    truth: Array


@cache
def pairs() -> list[Pair]:
    """In each format, and a NIfTI mask that is stored in other axes than its image."""
    flat, plane = random(9, 7), random(9, 7, high=3)
    whole, volume = random(5, 6, 4, high=900, dtype=np.int16), random(5, 6, 4, high=3)
    binary = 255 * random(9, 7, high=2)
    indexed = random(9, 7, high=3)
    mirrored = volume[::-1, ::-1]
    moved = RAS.copy()
    moved[:3, 3] = LPS[:3, :3] @ [4, 5, 0]  # the same voxels, counted from the other corner
    slices = picture(random(8, 6, high=900, dtype=np.uint16))
    drawn = random(8, 6, high=3)
    return [
        Pair("scan_1.png", png(flat), "scan_1.png", png(plane), plane.T[None]),
        Pair("scan_2.png", png(flat), "scan_2.png", png(binary), binary.T[None]),
        Pair("scan_3.nii.gz", nifti(whole, LPS, True), "scan_3.nii.gz", nifti(volume, LPS, True), volume[None]),
        Pair("scan_4.nii", nifti(whole, LPS, False), "scan_4.nii", nifti(mirrored, moved, False), volume[None]),
        Pair("scan_5.dcm", dicom(slices), "scan_5.png", png(drawn), drawn.T[None]),
        Pair("scan_6.png", png(flat), "scan_6.png", _palette(indexed), indexed.T[None]),
    ]


def _palette(index: Array) -> bytes:
    """Return a mask with a palette, as programs for annotation write it; its indices are the classes."""
    from io import BytesIO

    from PIL import Image

    image = Image.fromarray(index, "P")
    image.putpalette(bytes([0, 0, 0, 128, 0, 0, 0, 128, 0]))
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def spoiled(name: str, content: bytes, chance: Chance, what: list[str]) -> bytes:
    """One file, in the way of its format."""
    if chance.random() < 0.25:
        return spoil_bytes(content, chance, what)
    if name.endswith(".png"):
        if chance.random() < 0.3:
            what.append("mask: other values or shape")
            shape = chance.choice([(9, 7), (9, 7), (7, 9), (1, 1), (9, 7, 3)])
            return png(random(*shape, high=chance.choice([1, 2, 4, 255])), "RGB" if len(shape) == 3 else "L")
        return spoil_png(content, chance, what)
    if name.endswith(".dcm"):
        elements = picture(random(8, 6, high=900, dtype=np.uint16))
        return dicom(spoil_elements(elements, chance, what))
    if chance.random() < 0.4:
        what.append("mask: other values, type or shape")
        shape = chance.choice([(5, 6, 4), (5, 6, 4), (6, 5, 4), (5, 6, 4, 2), (1, 1, 1)])
        values: Any = random(*shape).astype(chance.choice([np.float32, np.int16, np.uint8, np.float64]))
        if values.dtype.kind == "f":
            values[0] = chance.choice([0.5, np.nan, np.inf, -1, 1e30])
        return nifti(values, chance.choice([LPS, RAS, LPS * 1.5]), name.endswith(".gz"))
    return spoil_nifti(content, chance, what)


def make(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return an image below ``images`` and its mask below ``masks``; one of them is spoiled."""
    pair, what = chance.choice(pairs()), list[str]()
    files = {"images": pair.pixels, "masks": pair.classes}
    victim = chance.choice(["images", "masks", "masks", "masks"])
    name = pair.image if victim == "images" else pair.mask
    expected: Any = "truth" if harm == "none" else "anything"
    if harm == "same":
        way = chance.choice([cut, append])
        files[victim], expected = way(files[victim], chance), "truth or refusal" if victim == "masks" else "anything"
        what.append(f"bytes: {way.__name__} {victim}")
    elif harm == "spoiled":
        files[victim] = spoiled(name, files[victim], chance, what)
    for folder, content in files.items():
        path = places.source / folder / (pair.image if folder == "images" else pair.mask)
        path.parent.mkdir()
        path.write_bytes(content)
    image, mask = places.source / "images" / pair.image, places.source / "masks" / pair.mask
    binary = set(np.unique(pair.truth).tolist()) <= {0, 255}
    truth = pair.truth // 255 if binary else pair.truth
    item = {"image": str(image), "label": str(mask), "id": "case_7"}

    def loaded() -> Any:
        read = LoadMaskd("label", ClinicalReader(), num_classes=2 if binary else 3)(item)
        return voxels(np.asarray(read["label"]))

    flags = ["--masks", "masks", "--volumes", "--split", 1, 0, 0, "--classes", *CLASSES[: 2 if binary else 3]]
    names = (pair.image, pair.mask, *SOURCE)
    doors = [
        Door("LoadMaskd", loaded, ("case_7",), expected, voxels(truth)),
        Door(
            "prepare",
            lambda: prepare(places.source, places.out, *flags),
            names,
            "truth" if harm == "none" else "anything",
            {pair.image: [pair.mask]},
        ),
    ]
    return Input(doors, [pair.image, *what], mask)


KINDS = [Kind("masks", make)]
