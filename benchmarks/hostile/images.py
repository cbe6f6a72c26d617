"""Images of every format, one file or folder each, and masks of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import formats
import numpy as np
from doors import SOURCE, Harm, Kind, images_below, pixels_of, prepare, slices_of
from formats import (
    IMPLICIT,
    JPEG_BASELINE,
    RLE,
    Array,
    Element,
    dicom,
    encapsulated,
    jpeg,
    nifti,
    picture,
    png,
    spoil_elements,
    spoil_jpeg,
    spoil_nifti,
    spoil_png,
    voxels,
)
from PIL import Image
from spoil import Chance, append, cut, special, spoil_bytes
from watch import Door, Input, Places

LPS, RAS = np.diag([-0.7, -0.8, 2.0, 1.0]), np.diag([0.7, 0.8, 2.0, 1.0])
TURNED = np.array([[0, -0.8, 0, 5], [0, 0, -0.7, -3], [2.0, 0, 0, 1], [0, 0, 0, 1]])


class Seed(NamedTuple):
    """A valid image, and how `ClinicalReader` must give it, ``(C, x, y[, z])``; None: it must be refused."""

    name: str
    content: bytes
    truth: Array | None


def random(*shape: int, high: int = 255, dtype: Any = np.uint8) -> Array:
    """Pixels."""
    return np.random.default_rng(sum(shape)).integers(0, high, shape).astype(dtype)


@cache
def png_seeds() -> list[Seed]:
    """Of all modes."""
    grey, colour, deep = random(9, 7), random(9, 7, 3), random(9, 7, high=65_000, dtype=np.uint16)
    alpha, twoway = random(9, 7, 4), random(9, 7, 2)
    index, palette = random(9, 7, high=8), random(8, 3)
    drawn = Image.fromarray(index, "P")
    drawn.putpalette(palette.tobytes())
    content = BytesIO()
    drawn.save(content, "PNG")
    bits = random(9, 7, high=2).astype(bool)
    return [
        Seed("grey.png", png(grey), grey.T[None]),
        Seed("colour.png", png(colour, "RGB"), colour.transpose(2, 1, 0)),
        Seed("deep.png", png(deep, "I;16"), deep.T[None]),
        Seed("alpha.png", png(alpha, "RGBA"), alpha.transpose(2, 1, 0)[:3]),
        Seed("luminance.png", png(twoway, "LA"), twoway.transpose(2, 1, 0)[:1]),
        Seed("palette.png", content.getvalue(), palette[index].transpose(2, 1, 0)),
        Seed("bits.png", png(bits, "1"), bits.T[None]),
    ]


@cache
def jpeg_seeds() -> list[Seed]:
    """Grey, colour, CMYK, progressive, in all orientations."""
    turns: list[Callable[[Array], Array]] = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.swapaxes(0, 1),
        lambda a: np.rot90(a, -1),
        lambda a: a[::-1, ::-1].swapaxes(0, 1),
        lambda a: np.rot90(a),
    ]
    found = []
    for number in range(16):
        mode = ("L", "RGB", "CMYK", "L")[number // 4 % 4]
        how = {"progressive": True} if number > 11 else {}
        pixels = random(16, 24, 3) if mode != "L" else random(16, 24)
        with Image.open(BytesIO(jpeg(pixels, mode, **how))) as image:
            plain = np.asarray(image.convert("RGB") if mode == "CMYK" else image)
        turned = turns[number % 8](plain)
        truth = turned.reshape(*turned.shape[:2], -1).transpose(2, 1, 0)
        found.append(Seed(f"photo{number}.jpg", jpeg(pixels, mode, number % 8 + 1, **how), truth))
    return found


def _nifti_seeds(suffix: str, packed: bool) -> list[Seed]:
    whole, small = random(5, 6, 4, high=3000, dtype=np.int16), random(5, 6, 4)
    decimal, flat, sequences = random(4, 5, 6).astype(np.float32) / 7, random(5, 6, 1), random(4, 5, 6, 3)
    return [
        Seed(f"whole{suffix}", nifti(whole, LPS, packed), whole[None]),
        Seed(f"small{suffix}", nifti(small, RAS, packed), small[None, ::-1, ::-1]),
        Seed(f"decimal{suffix}", nifti(decimal, TURNED, packed), decimal.transpose(1, 2, 0)[None]),
        Seed(f"flat{suffix}", nifti(flat, LPS, packed), flat[None, :, :, 0]),
        Seed(f"sequences{suffix}", nifti(sequences, LPS, packed), None),
    ]


@cache
def nifti_seeds() -> list[Seed]:
    """Volumes, a plane, and a fourth axis, which is to be refused."""
    return _nifti_seeds(".nii", False)


@cache
def packed_seeds() -> list[Seed]:
    """`nifti_seeds`, compressed."""
    return _nifti_seeds(".nii.gz", True)


class Slice(NamedTuple):
    """A DICOM file before it is one."""

    name: str
    elements: Sequence[Element]
    syntax: str
    truth: Array | None


@cache
def dicom_seeds() -> list[Slice]:
    """Grey and colour, of 8 and 16 bits, with and without compression; a segmentation, which is to be refused."""
    deep, signed = random(8, 6, high=4000, dtype=np.uint16), random(8, 6, high=4000, dtype=np.int16) - 2000
    grey, colour = random(8, 6), random(8, 6, 3)
    with Image.open(BytesIO(jpeg(random(16, 24)))) as image:
        decoded = np.asarray(image)
    lossy = [*picture(random(16, 24))[:-1], encapsulated([jpeg(random(16, 24))])]
    runs = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in grey)
    rle = [*picture(grey)[:-1], encapsulated([np.array([1, 64] + [0] * 14, "<u4").tobytes() + runs])]
    dark = picture(deep, t00280004=("CS", "MONOCHROME1"))
    segmentation = picture(grey, t00080016=("UI", "1.2.840.10008.5.1.4.1.1.66.4"))
    return [
        Slice("deep.dcm", picture(deep), formats.EXPLICIT, (2.0 * deep - 5).T[None]),
        Slice("implicit.dcm", picture(signed), IMPLICIT, (2.0 * signed - 5).T[None]),
        Slice("colour.dcm", picture(colour), formats.EXPLICIT, colour.transpose(2, 1, 0)),
        Slice("dark.dcm", dark, formats.EXPLICIT, (65535 * 2 - 10 - (2.0 * deep - 5)).T[None]),
        Slice("lossy.dcm", lossy, JPEG_BASELINE, (2.0 * decoded - 5).T[None]),
        Slice("runs", rle, RLE, (2.0 * grey - 5).T[None]),
        Slice("segmentation.dcm", segmentation, formats.EXPLICIT, None),
    ]


@cache
def frames_seeds() -> list[Slice]:
    """Several frames in a file."""
    deep, colour = random(5, 8, 6, high=4000, dtype=np.uint16), random(4, 8, 6, 3)
    truth = (2.0 * deep - 5).transpose(2, 1, 0)[None]
    return [
        Slice("loop.dcm", picture(deep, frames=5), formats.EXPLICIT, truth),
        Slice("ultrasound.dcm", picture(colour, frames=4), formats.EXPLICIT, colour.transpose(3, 2, 1, 0)),
    ]


def image_doors(path: Path, expected: Any, truth: Array | None, chance: Chance) -> list[Door]:
    """Return the reader, the header alone, what inference finds; of some, `prepare` with three sound images beside."""
    depth = truth.shape[3] if truth is not None and truth.ndim == 4 else None
    seen = None if truth is None else voxels(truth)
    slices = [f"{path.name}#{k}" for k in range(depth)] if depth else [f"{path.name}#"]
    named = (path.name,)
    doors = [
        Door("reader", lambda: pixels_of(path), named, expected, seen),
        Door("header", lambda: slices_of(path), named, "truth" if expected == "truth" else "anything", depth),
        Door(
            "list",
            lambda: images_below(path.parent),
            (*named, "source_folder"),
            "truth" if expected == "truth" else "anything",
            slices,
        ),
    ]
    if chance.random() < 0.3:
        doors.append(Door("prepare", lambda: _beside(path), (path.name, *SOURCE), "truth or refusal", BESIDE))
    return doors


BESIDE = {"one.png": "ill", "two.png": "well", "three.png": "ill"}


def _beside(path: Path) -> dict[str, Any]:
    """Return what `medssl prepare` makes of sound images beside this one."""
    rows = ["image,label,patient", f"{path.name},well,p0"]
    for number, (name, label) in enumerate(BESIDE.items()):
        (path.parent / name).write_bytes(png(random(19 + number, 7)))
        rows.append(f"{name},{label},p{number + 1}")
    (path.parent / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    found = prepare(path.parent, path.parents[1] / "out_folder", "--split", 1, 0, 0)
    return {name: label for name, label in found.items() if name in BESIDE}


Spoil = Callable[[bytes, Chance, list[str]], bytes]


def of_files(name: str, seeds: Callable[[], list[Seed]], spoil: Spoil) -> Kind:
    """Single files."""

    def make(chance: Chance, places: Places, harm: Harm) -> Input:
        seed, what = chance.choice(seeds()), list[str]()
        path, content, truth, expected = places.source / seed.name, seed.content, seed.truth, "anything"
        if harm == "none":
            expected = "truth" if truth is not None else "refusal"
        elif truth is not None and chance.random() < (0.9 if harm == "same" else 0.1):
            way = chance.choice([cut, append])
            content, expected = way(content, chance), "truth or refusal"
            what.append(f"bytes: {way.__name__}")
        elif chance.random() < 0.25:
            content = spoil_bytes(content, chance, what)
        else:
            content = spoil(content, chance, what)
        if harm == "spoiled" and expected == "anything" and chance.random() < 0.03:
            path = path.with_name(chance.choice(["no suffix", "image.dcm", "image.png", "image.nii", "image.nii.gz"]))
        path.write_bytes(content)
        return Input(image_doors(path, expected, truth, chance), [seed.name, *what], path)

    return Kind(name, make)


def of_dicom(name: str, seeds: Callable[[], list[Slice]]) -> Kind:
    """Single DICOM files."""

    def make(chance: Chance, places: Places, harm: Harm) -> Input:
        seed, what = chance.choice(seeds()), list[str]()
        elements, truth, expected = seed.elements, seed.truth, "anything"
        if harm == "none":
            expected = "truth" if truth is not None else "refusal"
        elif harm == "spoiled" and chance.random() < 0.8:
            elements = spoil_elements(elements, chance, what)
        content = dicom(elements, seed.syntax, preamble=harm != "spoiled" or chance.random() < 0.97)
        if harm == "spoiled" and (not what or chance.random() < 0.1):
            content = spoil_bytes(content, chance, what)
        elif harm == "same" and truth is not None:
            content, expected = cut(content, chance), "truth or refusal"
            what.append("bytes: cut")
        path = places.source / seed.name
        path.write_bytes(content)
        return Input(image_doors(path, expected, truth, chance), [seed.name, *what], path)

    return Kind(name, make)


def make_series(chance: Chance, places: Places, harm: Harm) -> Input:
    """Return a folder with the slices of a volume, some of them spoiled, lost or foreign."""
    what: list[str] = []
    volume = random(5, 8, 6, high=4000, dtype=np.uint16)
    slices = [picture(pixels, number + 1) for number, pixels in enumerate(volume)]
    names = chance.sample(["b.dcm", "a.dcm", "IM3", "z", "10.dcm"], 5)
    folder, truth, expected = places.source / "series", (2.0 * volume - 5).transpose(2, 1, 0)[None], "anything"
    folder.mkdir()
    files = {name: dicom(one) for name, one in zip(names, slices, strict=True)}
    way, victim = chance.randrange(10), chance.choice(names)
    if harm == "none":
        expected = "truth"
    elif harm == "same" or way == 0:
        expected = "truth or refusal"
        chosen = chance.choice(["copy", "text", "subfolder", "hidden", "cut"])
        what.append(f"same: {chosen}")
        if chosen == "subfolder":
            (folder / "more").mkdir()
        elif chosen == "cut":
            files[victim] = cut(files[victim], chance)
        else:
            name = {"copy": "copy.dcm", "text": "README.txt", "hidden": ".hidden"}[chosen]
            files[name] = files[victim] if chosen == "copy" else b"no image at all"
    elif way == 1:
        inner = names[chance.choice([1, 2, 3])]
        del files[inner]
        expected = "refusal"
        what.append("a slice is missing")
    elif way == 2:
        other = random(8, 6, high=900, dtype=np.uint16)
        files["other.dcm"] = dicom(picture(other, 3))
        expected = "refusal"
        what.append("other pixels under the same UID and place")
    elif way == 3:
        special(folder / "special", chance, what)
    elif way < 8:
        files[victim] = dicom(spoil_elements(slices[names.index(victim)], chance, what))
    else:
        files[victim] = spoil_bytes(files[victim], chance, what)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    named = ("series", *names)
    listed = [f"series#{k}" for k in range(5)]
    strict = "truth" if expected == "truth" else "anything"
    doors = [
        Door("reader", lambda: pixels_of(folder), named, expected, voxels(truth)),
        Door("header", lambda: slices_of(folder), named, strict, 5),
        Door("list", lambda: images_below(places.source), (*named, "source_folder"), strict, listed),
    ]
    if chance.random() < 0.3:
        doors.append(
            Door(
                "prepare",
                lambda: prepare(places.source, places.out, "--split", 1, 0, 0),
                (*named, *SOURCE),
            )
        )
    return Input(doors, what)


KINDS = [
    of_files("PNG", png_seeds, spoil_png),
    of_files("JPEG", jpeg_seeds, spoil_jpeg),
    of_files("NIfTI", nifti_seeds, spoil_nifti),
    of_files("NIfTI packed", packed_seeds, spoil_nifti),
    of_dicom("DICOM", dicom_seeds),
    of_dicom("DICOM frames", frames_seeds),
    Kind("DICOM series", make_series),
]
