"""``.npz`` files: MedMNIST's, and plain ones with ids."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medssl_monai.data.layouts.base import EACH_ITS_OWN, KERMANY, SECTION_NAMES, Array, Found, Request, numbered

PNEUMONIA_MNIST = ("normal", "pneumonia")


def has_array(name: str) -> Callable[[Path], bool]:
    """Whether a file is a ``.npz`` with an array of that name."""

    def fits(source: Path) -> bool:
        if source.suffix.lower() != ".npz" or not zipfile.is_zipfile(source):
            return False
        with zipfile.ZipFile(source) as file:
            return f"{name}.npy" in file.namelist()

    return fits


def read_medmnist(request: Request) -> Found:
    """MedMNIST: ``train_images``, ``train_labels`` and so on, optionally ``train_ids``, empty where not known."""
    arrays, found = _arrays(request), Found()
    for prefix in ("train", "val", "test"):
        if f"{prefix}_images" not in arrays:
            continue
        images = arrays[f"{prefix}_images"]
        ids = arrays.get(f"{prefix}_ids", [f"{prefix}_{position:06d}" for position in range(len(images))])
        for position, (pixels, label, name) in enumerate(zip(images, arrays[f"{prefix}_labels"], ids, strict=True)):
            if not name:
                found.add("dropped", "no id, hence no group", f"{prefix}_images[{position}]")
                continue
            patient = KERMANY.match(name)
            group = patient["patient"] if patient else str(name)
            found.add_pixels(pixels, str(name), group, label, SECTION_NAMES[prefix])
    kermany = all(KERMANY.match(item["id"]) for item in found.items)
    found.grouping = "patient, read from the file name in ids" if kermany else EACH_ITS_OWN
    found.classes = request.classes or (PNEUMONIA_MNIST if kermany else numbered(found.items))
    return found


def read_arrays(request: Request) -> Found:
    """``images``, ``ids``, and optionally ``labels``, ``label_names``, ``split`` and an array of groups."""
    arrays, found = _arrays(request), Found()
    ids = arrays["ids"]
    nothing = [None] * len(ids)
    group = request.group_column or next((name for name in ("patients", "lesion_ids") if name in arrays), "ids")
    if group not in arrays:
        raise ValueError(f"{request.source.name} has no array {group!r}, only {sorted(arrays)}.")
    columns = (arrays["images"], ids, arrays[group], arrays.get("labels", nothing), arrays.get("split", nothing))
    for pixels, name, owner, label, section in zip(*columns, strict=True):
        place = SECTION_NAMES[str(section).lower()] if section is not None else None
        found.add_pixels(pixels, str(name), str(owner), label, place)
    found.grouping = EACH_ITS_OWN if group == "ids" else f"array {group!r}"
    names = tuple(str(name) for name in arrays.get("label_names", ()))
    found.classes = request.classes or names or numbered(found.items)
    return found


def _arrays(request: Request) -> dict[str, Array]:
    if request.table or request.split_column or request.id_column:
        raise ValueError("a .npz brings ids and split itself; leave `table`, `id_column` and `split_column` out.")
    with np.load(request.source) as file:
        return {name: file[name] for name in file.files}
