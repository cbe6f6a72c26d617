"""Masks of images: where they are, whether they fit, what they hold."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medssl_monai.names import natural
from medssl_monai.options import Nan
from medssl_monai.prepare.layouts.base import CONTRADICTION, EMPTY, Found, Request, relative
from medssl_monai.prepare.layouts.files import image_files
from medssl_monai.prepare.layouts.paths import Parts, Paths, pairs, parts_of, shared, stem
from medssl_monai.readers.load_mask import mask_reader
from medssl_monai.readers.mask_axes import elsewhere, to_image_axes
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError
from medssl_monai.tables import Row, Table
from medssl_monai.transforms.masks import UNLABELED

Place = tuple[str, int | None]
"""Name of an image or volume, and the slice, where a row is of one."""


class MaskFinder:
    """The masks of images; one file is the mask of one image.

    Args:
        root: folder of the files.
        masks: a column of the table with paths, a folder of files named as the images are, below `root` or beside it,
            or what ends or begins the names of masks (``_seg`` for ``case1_seg.nii.gz`` beside ``case1.nii.gz``); None:
            no masks.
        table: the table.
        files: relative paths of images and masks.
        image_column: of the table.

    Attributes:
        files: which of the files are masks.

    Raises:
        ValueError: if `masks` is none of these, or a row's mask is the image of a row.
    """

    def __init__(
        self, root: Path, masks: str | None, table: Table, files: Sequence[str], image_column: str = "image"
    ) -> None:
        self.root, self.column = root, masks if masks is not None and masks in table.header else None
        self.files: set[str] = set()
        self.tree, self.names = root, list[str]()
        self.affix: str | None = None
        if masks is None:
            return
        if self.column:
            self.paths = Paths(files, root)
            named = (self.paths.fitting(row[image_column]) for _, row in table.rows)
            self.images = {fits[0] for fits in named if len(fits) == 1}
            for number, row in table.rows:
                there = self._named(row[masks])
                if self.images.intersection(there):
                    raise ValueError(
                        f"row {number}: the mask {row[masks]!r} in the column {masks!r} is the image of a row; a file "
                        "is one or the other."
                    )
                self.files.update(there)
            others = [name for name in files if name not in self.files]
            paths = Paths(others, root)  # names are unique among images
            folders = Paths({str(Path(name).parent) for name in others}, root)  # of series
            named = (paths.fitting(row[image_column]) or folders.fitting(row[image_column]) for _, row in table.rows)
            self.images = {fits[0] for fits in named if len(fits) == 1}
            return
        if folder := next((path for path in (root / masks, Path(masks)) if path.is_dir()), None):
            self._look_into(folder, files)
        else:
            ends = {name for name in files if stem(parts_of(name))[-1].endswith(masks)}
            self.files = ends or {name for name in files if stem(parts_of(name))[-1].startswith(masks)}
            self.affix, self.names = masks, sorted(self.files, key=natural)
        if not self.names:
            raise ValueError(
                f"`masks` {masks!r} is no column of the table, no folder of images below the source or beside it, and "
                "ends or begins the name of no file. Masks that lie otherwise, as in a folder for each patient, are "
                "named one by one, in a column of a table."
            )

    def stray(self, files: Sequence[str]) -> list[str]:
        """With a column of masks: files that no row names, below folders where all that rows name are masks."""
        if not self.column:
            return []
        masks = {folder for name in self.files for folder in Path(name).parents}
        images = {folder for name in self.images for folder in (Path(name), *Path(name).parents)}
        folders = masks - images - {Path()}
        return [name for name in files if name not in self.files and not folders.isdisjoint(Path(name).parents)]

    def _named(self, text: str) -> list[str]:
        """The files that the cell of a mask may mean; where it fits several, those that are no row's image."""
        there = self.paths.fitting(text) if text.lower() not in EMPTY else []
        return [name for name in there if name not in self.images] or there

    def _look_into(self, folder: Path, files: Sequence[str]) -> None:
        """Take the masks of a tree below the source, or of one beside it."""
        own, source = folder.resolve(), self.root.resolve()
        if source.is_relative_to(own):
            raise ValueError(
                f"the folder of masks {folder} holds the images as well; name the one that has masks alone."
            )
        self.tree = folder
        for inner, outer in ((folder.absolute(), self.root.absolute()), (own, source)):  # links are followed once
            if inner.is_relative_to(outer) and not self.files:
                below = f"{inner.relative_to(outer).as_posix()}/"
                self.files = {name for name in files if name.startswith(below)}
                self.names = [name.removeprefix(below) for name in sorted(self.files, key=natural)]
        if not self.files:
            self.names = image_files(folder).images

    def of(self, images: Sequence[str], rows: Mapping[Place, tuple[int, Row]], found: Found) -> dict[Place, Path]:
        """The mask of each image or volume, or of a slice that has a row.

        Args:
            images: names of all images and volumes, also of those that cannot be used.
            rows: the row of each, with its number.
            found: takes down what fits none, or several.
        """
        if self.column:
            return self._of_rows(rows, found)
        images = [name for name in images if parts_of(name)]  # the source itself, as a series, has no name
        fits = pairs(images, self.names, self.root) if self.affix is None else self._beside(images)
        if images and self.names and not fits:
            raise ValueError(
                f"none of the {len(self.names)} masks fits an image: masks are called like {self.names[0]!r}, images "
                f"like {images[0]!r}. A mask has the path of its image, seen from the folder of masks, but for the "
                "suffix and one ending or beginning that all masks have; else name each mask in a column of a table."
            )
        result: dict[Place, Path] = {}
        several = shared(fits)
        for mask, names in several.items():
            found.add(
                "noted", "mask that would fit several images, and is given to none", f"{mask}: {', '.join(names)}"
            )
        for image, masks in fits.items():
            if len(masks) > 1:
                found.add("noted", "image that several masks fit, and which has none", f"{image}: {', '.join(masks)}")
            elif masks[0] not in several:
                result[image, None] = self.tree / masks[0]
        known = {mask for masks in fits.values() for mask in masks}
        found.add("noted", "mask that fits no image", *(name for name in self.names if name not in known))
        return _one_image_each(result, found)

    def _beside(self, images: Sequence[str]) -> dict[str, list[str]]:
        """Masks that lie where their image does, and are called as it is, with an ending or a beginning."""
        by_stem: dict[Parts, list[str]] = defaultdict(list)
        affix = str(self.affix)
        for name in self.names:
            *folders, last = stem(parts_of(name))
            last = last.removesuffix(affix) if last.endswith(affix) else last.removeprefix(affix)
            by_stem[(*folders, last)].append(name)
        return {name: masks for name in images if (masks := by_stem.get(stem(parts_of(name)), []))}

    def _of_rows(self, rows: Mapping[Place, tuple[int, Row]], found: Found) -> dict[Place, Path]:
        result: dict[Place, Path] = {}
        texts: list[str] = []
        for place, (number, row) in rows.items():
            text = row[str(self.column)]
            if text.lower() in EMPTY or text == CONTRADICTION:
                continue
            texts.append(text)
            there = self._named(text)
            if len(there) > 1:
                found.add("noted", "mask that fits several files, and is not used", f"row {number}: {', '.join(there)}")
                continue
            path = self.root / (there[0] if there else Path(*parts_of(text)) if not text.startswith("/") else text)
            result[place] = path
        if result and not any(path.exists() for path in result.values()):
            raise ValueError(
                f"none of the {len(texts)} masks in the column {self.column!r} is there, such as {texts[0]!r}; their "
                f"paths are from {self.root} on."
            )
        return _one_image_each(result, found)


def _one_image_each(masks: dict[Place, Path], found: Found) -> dict[Place, Path]:
    """Without files that would be the mask of several images, be it by links; slices of a volume may share one."""
    users: dict[object, dict[str, str]] = defaultdict(dict)
    for (image, _), path in masks.items():
        users[_file(path)].setdefault(image, path.name)
    several = {file: images for file, images in users.items() if len(images) > 1}
    for images in several.values():
        what = f"{', '.join(dict.fromkeys(images.values()))}: {', '.join(sorted(images, key=natural))}"
        found.add("noted", "mask that would fit several images, and is given to none", what)
    return {place: path for place, path in masks.items() if _file(path) not in several}


def _file(path: Path) -> object:
    """What is the same for all names and links of a file."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


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
    users = Counter(item[key] for item in found.items if "slice" in item and item.get(key) is not None)
    for item in found.items:
        path = item.get(key)
        if path is None:
            found.add("noted", "no mask", item["id"])
            continue
        if path not in problems:
            slices = found.copies.get(item["image"])
            image = slices[0] if slices else request.out_dir / item["image"]
            check = _check(image, Path(path), users[path] == 1, len(classes), not slices, request.nan)
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
        found.classes = classes or classes_of(values, request.source)


def classes_of(values: set[int], source: Path) -> tuple[str, ...]:
    """Names of the classes of masks that hold these values.

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
    """What is wrong with a mask, its values, and the slices of a volume of which nobody labeled anything.

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
