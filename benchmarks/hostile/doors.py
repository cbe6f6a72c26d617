"""The ways into the package, as a person or a program takes them, and what they understood as plain values."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from formats import voxels
from spoil import Chance
from watch import Input, Places, RefusedError

from medssl_monai.bundle.data import load_images
from medssl_monai.cli import main
from medssl_monai.readers import ClinicalReader
from medssl_monai.readers.decoders import count_slices

Harm = Literal["none", "same", "spoiled"]
"""A seed as it is, in another form that means the same, or spoiled."""


SOURCE = ("source_folder", "datalist.json", "`split`", "`masks`")
"""What a refusal of `medssl prepare` may name as well: the source, what it was to write, the option to change."""


@dataclass(frozen=True)
class Kind:
    """Input of one kind: `make` writes one below `Places.source`."""

    name: str
    make: Callable[[Chance, Places, Harm], Input]


def command(*arguments: object) -> None:
    """Run ``medssl``.

    Raises:
        RefusedError: with the last line that it wrote, if its status is not 0.
    """
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    if status:
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        raise RefusedError(lines[-1] if lines else "(nothing said)")


def prepare(source: Path, out: Path, *flags: object) -> dict[str, Any]:
    """Name of each file to what the datalist says of it."""
    command("prepare", source, out, *flags)
    return listed(out / "datalist.json")


def listed(path: Path) -> dict[str, Any]:
    """Name and slice of each image to the name of its class, its mask, and its group, as a datalist has them."""
    content = json.loads(path.read_text(encoding="utf-8"))
    names = content.get("labels", {})
    found = {}
    for item in (item for section in ("training", "validation", "testing") for item in content.get(section, [])):
        label = item.get("label")
        if isinstance(label, int):
            label = names.get(str(label), label)
        elif isinstance(label, list):
            label = [names[str(k)] for k, value in enumerate(label) if value == 1]
        masks = [os.path.basename(item[key]) for key in ("label", "mask") if isinstance(item.get(key), str)]
        key = os.path.basename(item["image"]) + (f"#{item['slice']}" if "slice" in item else "")
        found[key] = masks or label
    return found


def groups(path: Path) -> list[list[str]]:
    """Names of the images that a datalist takes for those of one patient."""
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for item in (item for section in ("training", "validation", "testing") for item in content.get(section, [])):
        found.setdefault(item["group"], []).append(os.path.basename(item["image"]))
    return sorted(map(sorted, found.values()))


def pixels_of(path: Path) -> dict[str, Any]:
    """Voxels and spacing as `ClinicalReader` gives them."""
    reader = ClinicalReader()
    array, _ = reader.get_data(reader.read(str(path)))
    return voxels(np.asarray(array))


def slices_of(path: Path) -> int | None:
    """Slices, from the header alone."""
    return count_slices(path)


def images_below(folder: Path) -> list[str]:
    """Return what inference finds below a folder: name and slice of each image."""
    items = load_images(None, dataset_dir=folder)
    return sorted(f"{os.path.basename(item['image'])}#{item.get('slice', '')}" for item in items)
