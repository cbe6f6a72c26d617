"""Which file is the mask of which image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from medssl_monai.names import natural
from medssl_monai.prepare.layouts.conventions import CONTRADICTION, EMPTY
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.files import image_files
from medssl_monai.prepare.layouts.paths import Parts, Paths, Place, pairs, parts_of, shared, stem
from medssl_monai.tables import Row, Table


class MaskFinder:
    """Finds the masks of images; one file is the mask of one image.

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
                candidates = self._named(row[masks])
                if self.images.intersection(candidates):
                    raise ValueError(
                        f"row {number}: the mask {row[masks]!r} in the column {masks!r} is the image of a row; a file "
                        "is one or the other."
                    )
                self.files.update(candidates)
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
        """Return the files that no row names, below folders where all that rows name are masks."""
        if not self.column:
            return []
        masks = {folder for name in self.files for folder in Path(name).parents}
        images = {folder for name in self.images for folder in (Path(name), *Path(name).parents)}
        folders = masks - images - {Path()}
        return [name for name in files if name not in self.files and not folders.isdisjoint(Path(name).parents)]

    def _named(self, text: str) -> list[str]:
        """Return the files that the cell of a mask may mean; of several, those that are no row's image."""
        candidates = self.paths.fitting(text) if text.lower() not in EMPTY else []
        return [name for name in candidates if name not in self.images] or candidates

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

    def of(self, images: Sequence[str], rows: Mapping[Place, tuple[int, Row]], dataset: Dataset) -> dict[Place, Path]:
        """Return the mask of each image or volume, or of a slice that has a row.

        Args:
            images: names of all images and volumes, also of those that cannot be used.
            rows: the row of each, with its number.
            dataset: takes down what fits none, or several.
        """
        if self.column:
            return self._named_by_rows(rows, dataset)
        images = [name for name in images if parts_of(name)]  # the source itself, as a series, has no name
        fits = pairs(images, self.names, self.root) if self.affix is None else self._next_to_images(images)
        if images and self.names and not fits:
            raise ValueError(
                f"none of the {len(self.names)} masks fits an image: masks are called like {self.names[0]!r}, images "
                f"like {images[0]!r}. A mask has the path of its image, seen from the folder of masks, but for the "
                "suffix and one ending or beginning that all masks have; else name each mask in a column of a table."
            )
        result: dict[Place, Path] = {}
        several = shared(fits)
        for mask, names in several.items():
            dataset.add(
                "noted", "mask that would fit several images, and is given to none", f"{mask}: {', '.join(names)}"
            )
        for image, masks in fits.items():
            if len(masks) > 1:
                dataset.add("noted", "image that several masks fit, and which has none", f"{image}: {', '.join(masks)}")
            elif masks[0] not in several:
                result[image, None] = self.tree / masks[0]
        known = {mask for masks in fits.values() for mask in masks}
        dataset.add("noted", "mask that fits no image", *(name for name in self.names if name not in known))
        return _one_image_each(result, dataset)

    def _next_to_images(self, images: Sequence[str]) -> dict[str, list[str]]:
        """Find the masks that lie where their image does, named as it is but for an ending or a beginning."""
        by_stem: dict[Parts, list[str]] = defaultdict(list)
        affix = str(self.affix)
        for name in self.names:
            *folders, last = stem(parts_of(name))
            last = last.removesuffix(affix) if last.endswith(affix) else last.removeprefix(affix)
            by_stem[(*folders, last)].append(name)
        return {name: masks for name in images if (masks := by_stem.get(stem(parts_of(name)), []))}

    def _named_by_rows(self, rows: Mapping[Place, tuple[int, Row]], dataset: Dataset) -> dict[Place, Path]:
        result: dict[Place, Path] = {}
        texts: list[str] = []
        for place, (number, row) in rows.items():
            text = row[str(self.column)]
            if text.lower() in EMPTY or text == CONTRADICTION:
                continue
            texts.append(text)
            candidates = self._named(text)
            if len(candidates) > 1:
                dataset.add(
                    "noted", "mask that fits several files, and is not used", f"row {number}: {', '.join(candidates)}"
                )
                continue
            path = self.root / (
                candidates[0] if candidates else Path(*parts_of(text)) if not text.startswith("/") else text
            )
            result[place] = path
        if result and not any(path.exists() for path in result.values()):
            raise ValueError(
                f"none of the {len(texts)} masks in the column {self.column!r} is there, such as {texts[0]!r}; their "
                f"paths are from {self.root} on."
            )
        return _one_image_each(result, dataset)


def _one_image_each(masks: dict[Place, Path], dataset: Dataset) -> dict[Place, Path]:
    """Leave out files that would be the mask of several images, also by links; slices of a volume may share one."""
    users: dict[object, dict[str, str]] = defaultdict(dict)
    for (image, _), path in masks.items():
        users[_file(path)].setdefault(image, path.name)
    several = {file: images for file, images in users.items() if len(images) > 1}
    for images in several.values():
        what = f"{', '.join(dict.fromkeys(images.values()))}: {', '.join(sorted(images, key=natural))}"
        dataset.add("noted", "mask that would fit several images, and is given to none", what)
    return {place: path for place, path in masks.items() if _file(path) not in several}


def _file(path: Path) -> object:
    """Return what is the same for all names and links of a file."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
