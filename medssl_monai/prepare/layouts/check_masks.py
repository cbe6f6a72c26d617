"""Whether masks fit their images, and the classes that they hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from medssl_monai.data.load_mask import mask_reader
from medssl_monai.options import Nan
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.paths import relative
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.readers.mask_axes import elsewhere, to_image_axes
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError
from medssl_monai.transforms.masks import UNLABELED


def check_masks(dataset: Dataset, request: Request) -> None:
    """Put masks in place if they fit their images; `dataset` has them by absolute path until then.

    The mask's pixels are read: shape (and place, as far as both files tell) must be the image's, and the values whole
    numbers, which are the classes; -1, or the first number that is no class, are voxels that nobody labeled, and a
    slice of nothing else has no label. If there are no values but 0 and 255, 255 is the foreground.

    Raises:
        ValueError: if the values are too large to be classes.
    """
    key, classes = request.mask_key, request.mask_classes or request.classes
    values: set[int] = set()
    problems: dict[str, str | None] = {}
    blank: dict[str, set[int]] = {}
    users = Counter(item[key] for item in dataset.items if "slice" in item and item.get(key) is not None)
    for item in dataset.items:
        path = item.get(key)
        if path is None:
            dataset.add("noted", "no mask", item["id"])
            continue
        if path not in problems:
            slices = dataset.copies.get(item["image"])
            image = slices[0] if slices else request.out_dir / item["image"]
            check = _check(image, Path(path), users[path] == 1, len(classes), not slices, request.nan)
            problems[path], held, blank[path] = check
            values.update(held)
        if problems[path]:
            dataset.add("noted", f"mask {problems[path]}", item["id"])
            del item[key]
        elif item.get("slice") in blank[path]:
            dataset.add("noted", "slice that nobody labeled", item["id"])
            del item[key]
        else:
            item[key] = relative(Path(path), request.out_dir)
    if key == "label":
        dataset.classes = classes or classes_of(values, request.source)


def classes_of(values: set[int], source: Path) -> tuple[str, ...]:
    """Return the names of the classes of masks that hold these values.

    Args:
        values: of all masks.
        source: what they are of.

    Raises:
        ValueError: if they are too large to be classes.
    """
    known = values - {-1}
    if known <= {0, 1} or known <= {0, UNLABELED}:
        return ("background", "foreground")
    if max(known) >= UNLABELED:
        raise ValueError(
            f"{source}: the masks hold the values {sorted(known)[:8]}, and classes are numbers from 0 to "
            f"{UNLABELED - 2}, without gaps; change the values, or leave these masks out."
        )
    return tuple(str(k) for k in range(max(known) + 1))


def _check(
    image: Path, mask: Path, one_slice: bool, classes: int, whole: bool, nan: Nan
) -> tuple[str | None, list[int], set[int]]:
    """Return what is wrong with a mask, its values, and the slices of a volume in which nobody labeled anything.

    Args:
        image: path of the image.
        mask: its mask.
        one_slice: the mask may be that of one slice of the image, as no other slice has it.
        classes: how many there are; 0: not known.
        whole: or `image` is the first slice of a series that is still to be put together, which tells its axes.
        nan: what NaN in the image means.
    """
    if not mask.is_file() and not mask.is_dir():
        return "whose file is missing", [], set()
    try:
        pixels, meta = mask_reader().get_data([mask])
        picture, grid = ClinicalReader(nan=nan).get_data([image])
        pixels, ours, theirs = to_image_axes(pixels, mask, meta, image, grid)
        shape, mask_shape = picture.shape[1:], pixels.shape[1:]
        if whole and mask_shape != shape and not (one_slice and mask_shape == shape[:2]):
            return "of another shape than its image", [], set()
        if whole and mask_shape == shape and elsewhere(ours, theirs, shape):
            return "that lies elsewhere than its image: the affines differ", [], set()
    except UnreadableImageError as error:
        return f"that {error.reason}", [], set()
    if len(pixels) > 1 and (pixels != pixels[:1]).any():
        return "with channels that differ", [], set()
    values = np.unique(pixels)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or values.min() < -1:
        return "with values that are no whole numbers from 0", [], set()
    if len(values) > 256:
        return f"with {len(values)} different values; it seems to be an image", [], set()
    if classes and values.max() > classes and not (classes == 2 and set(values.tolist()) <= {0, UNLABELED}):
        return f"with values that are none of the {classes} classes", [], set()
    unknown = np.isin(pixels, [-1, classes] if classes else [-1]).all(axis=(0, 1, 2))  # of each slice of a volume
    return None, [int(value) for value in values], set(np.flatnonzero(unknown).tolist()) if unknown.ndim else set()
