"""``.npz`` files: MedMNIST's, and plain ones with ids."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medssl_monai.data.layouts.base import EACH_ITS_OWN, KERMANY, SECTION_NAMES, Array, Found, Request, numbered
from medssl_monai.data.layouts.masks import classes_of

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
    """``images``, ``ids``, and optionally ``labels``, ``label_names``, ``split`` and an array of groups.

    If an array of masks is asked for, these are the labels, and the classes of images go to ``meta``, unless masks are
    to be beside labels.
    """
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
    if not request.masks or request.mask_classes:
        found.classes = request.classes or names or numbered(found.items)
    if request.masks:
        _add_masks(found, arrays, names, request)
    return found


def _add_masks(found: Found, arrays: dict[str, Array], names: tuple[str, ...], request: Request) -> None:
    """Write a mask for each image as a PNG file; of two classes the second is 255 there, to be seen."""
    from PIL import Image

    masks = arrays.get(str(request.masks))
    if masks is None or masks.shape[:3] != arrays["images"].shape[:3]:
        raise ValueError(
            f"{request.source.name} has no array {request.masks!r} of masks, of the shape of its images; it has "
            f"{ {name: array.shape for name, array in arrays.items()} }."
        )
    values = {int(value) for value in np.unique(masks)}
    classes, key = request.mask_classes or request.classes or classes_of(values), request.mask_key
    if key == "label":
        found.classes = classes
    visible = 255 if len(classes) == 2 and values <= {0, 1} else 1
    (request.out_dir / "masks").mkdir(parents=True, exist_ok=True)
    for item, mask in zip(found.items, masks, strict=True):
        label = item.get("label")
        if isinstance(label, int) and key == "label":
            item["meta"] = {"label": names[label] if names else str(label)}
        item[key] = item["image"].replace("images/", "masks/", 1)
        pixels = mask.reshape(mask.shape[:2]).astype(np.uint8) * visible
        Image.fromarray(pixels).save(request.out_dir / item[key], compress_level=1)


def _arrays(request: Request) -> dict[str, Array]:
    if request.table or request.split_column or request.id_column:
        raise ValueError("a .npz brings ids and split itself; leave `table`, `id_column` and `split_column` out.")
    with np.load(request.source) as file:
        return {name: file[name] for name in file.files}
