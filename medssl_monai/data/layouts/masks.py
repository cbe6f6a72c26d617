"""Masks of images: where they are, whether they fit, what they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from medssl_monai.data.layouts.base import SUFFIX, Found, Request, relative
from medssl_monai.data.load_mask import elsewhere
from medssl_monai.data.mask_files import mask_reader, to_image_axes
from medssl_monai.data.reader import ClinicalReader, UnreadableImageError
from medssl_monai.tables import Table
from medssl_monai.transforms.masks import UNLABELED


class MaskFinder:
    """The mask of each image.

    Args:
        root: folder of the files.
        masks: a column of the table with paths, a folder below `root` with files named as the images are, or what
            ends the names of masks (``_seg`` for ``case1_seg.nii.gz`` beside ``case1.nii.gz``); None: no masks.
        table: the table.
        files: relative paths of images and masks.

    Attributes:
        files: which of the files are masks.

    Raises:
        ValueError: if `masks` is none of the three.
    """

    def __init__(self, root: Path, masks: str | None, table: Table, files: Sequence[str]) -> None:
        self.root, self.column = root, masks if masks is not None and masks in table.header else None
        self.files: set[str] = set()
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        if masks is None:
            return
        there = set(files)
        if self.column:
            self.files = {path for _, row in table.rows if (path := _tidy(row[masks])) in there}
            return
        if (root / masks).is_dir():
            folder = masks.strip("/") + "/"
            self.files = {name for name in files if name.startswith(folder)}
            for name in self.files:
                self.by_stem[PurePosixPath(_stem(name)).name].append(name)
        else:
            self.files = {name for name in files if _stem(name).endswith(masks)}
            for name in self.files:
                self.by_stem[_stem(name).removesuffix(masks)].append(name)
        if not self.files:
            raise ValueError(
                f"`masks` {masks!r} is no column of the table, no folder of images below the source, and ends the name "
                "of no file."
            )

    def of(self, name: str, row: Mapping[str, str]) -> Path | None:
        """Path of the mask of the image with this relative path and row."""
        if self.column:
            path = _tidy(row.get(self.column, ""))
            return self.root / path if path else None
        stem = _stem(name)
        fits = self.by_stem.get(stem) or self.by_stem.get(PurePosixPath(stem).name) or []
        return self.root / fits[0] if len(fits) == 1 else None


def read_masks(found: Found, request: Request) -> None:
    """Put masks in place if they fit their images; `found` has them by absolute path until then.

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
    for item in found.items:
        path = item.get(key)
        if path is None:
            found.add("noted", "no mask", item["id"])
            continue
        if path not in problems:
            slices = found.copies.get(item["image"])
            image = slices[0] if slices else request.out_dir / item["image"]
            check = _check(image, Path(path), "slice" in item, len(classes), whole=not slices)
            problems[path], held, blank[path] = check
            values.update(held)
        if problems[path]:
            found.add("noted", f"mask {problems[path]}", item["id"])
            del item[key]
        elif item.get("slice") in blank[path]:
            found.add("noted", "slice that nobody labeled", item["id"])
            del item[key]
        else:
            item[key] = relative(Path(path), request.out_dir)
    if key == "label":
        found.classes = classes or classes_of(values)


def classes_of(values: set[int]) -> tuple[str, ...]:
    """Names of the classes of masks that hold these values.

    Raises:
        ValueError: if they are too large to be classes.
    """
    known = values - {-1}
    if known <= {0, 1} or known <= {0, UNLABELED}:
        return ("background", "foreground")
    if max(known) >= UNLABELED:
        raise ValueError(
            f"the masks hold the values {sorted(known)[:8]}, and classes are numbers from 0 to {UNLABELED - 2}, "
            "without gaps; change the values, or leave these masks out."
        )
    return tuple(str(k) for k in range(max(known) + 1))


def _check(
    image: Path, mask: Path, one_slice: bool, classes: int, whole: bool
) -> tuple[str | None, list[int], set[int]]:
    """What is wrong with a mask, its values, and the slices of a volume of which nobody labeled anything.

    Args:
        image: path of the image.
        mask: its mask.
        one_slice: the mask may be that of one slice of the image.
        classes: how many there are; 0: not known.
        whole: or `image` is the first slice of a series that is still to be put together, which tells its axes.
    """
    if not mask.is_file() and not mask.is_dir():
        return "whose file is missing", [], set()
    try:
        pixels, meta = mask_reader().get_data([mask])
        picture, grid = ClinicalReader().get_data([image])
        pixels, ours, theirs = to_image_axes(pixels, mask, meta, image, grid)
        shape, own = picture.shape[1:], pixels.shape[1:]
        if whole and own != shape and not (one_slice and own == shape[:2]):
            return "of another shape than its image", [], set()
        if whole and own == shape and elsewhere(ours, theirs, shape):
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


def _stem(name: str) -> str:
    return SUFFIX.sub("", name)


def _tidy(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")
