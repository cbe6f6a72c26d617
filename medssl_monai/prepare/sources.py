"""The source of images and labels, and others whose images or masks join it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from medssl_monai.files import read_json, sha256
from medssl_monai.kinds import Label, kind_of
from medssl_monai.options import Options
from medssl_monai.prepare.layouts import LAYOUTS, Layout
from medssl_monai.prepare.layouts.dataset import Dataset
from medssl_monai.prepare.layouts.paths import relative
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.pseudonym import Names

UNLABELED, MASKED = "unlabeled", "masked"
"""Folders of the files of the sources that join, and what stands before the slash in their ids."""


@dataclass(frozen=True)
class Sources:
    """What each source is asked for.

    Attributes:
        first: the source itself.
        layout: of the first.
        unlabeled: a source of images for training without labels, or None.
        masked: a source of other images with masks, or None.
    """

    first: Request
    layout: Layout
    unlabeled: Request | None = None
    masked: Request | None = None

    @classmethod
    def of(cls, source: Path, out_dir: Path, options: Options) -> Sources:
        """Return the sources that the options name.

        Raises:
            FileNotFoundError: if one is not there.
            ValueError: if one has no known layout.
        """
        classes = () if options.positive is not None else options.classes  # they name the two classes that result
        names = Names(options.clear_names, options.key_file, options.groups_as_written)
        first = Request(source, out_dir, names, **{**vars(options), "classes": classes})
        unlabeled = _joining(first, options.unlabeled, UNLABELED) if options.unlabeled is not None else None
        masked = None
        if options.masked is not None:  # its masks are its labels, until it joins
            masked = _joining(first, options.masked, MASKED)
            masked = replace(masked, label_column="label", masks=options.masks, classes=options.mask_classes)
            first = replace(first, masks=None, mask_classes=(), masked=None, mask_labels=None)
        layout = _layout_of(first)
        for other in filter(None, (unlabeled, masked)):
            _layout_of(other)
        return cls(first, layout, unlabeled, masked)

    @property
    def requests(self) -> list[Request]:
        """What the sources that there are, are asked for."""
        return [request for request in (self.first, self.unlabeled, self.masked) if request]

    def join(self, dataset: Dataset) -> None:
        """Add the images of the other sources to those of the first.

        Raises:
            ValueError: if one source holds images and the other features.
        """
        if self.masked:
            self.masked.out_dir.mkdir(parents=True, exist_ok=True)  # images are found from here, to compare masks
            _join(dataset, self.masked, self.first, MASKED)
        if self.unlabeled:
            _join(dataset, self.unlabeled, self.first, UNLABELED)


def _layout_of(request: Request) -> Layout:
    for path in filter(None, (request.source, request.table)):
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}; give the path of a folder of images, a .npz or a .zip.")
    layout = next((layout for layout in LAYOUTS if layout.fits(request.source)), None)
    if layout is None:
        known = "; ".join(layout.name for layout in LAYOUTS)
        raise ValueError(f"{request.source} has no known layout; known are: {known}.")
    return layout


def _joining(first: Request, source: Path, name: str) -> Request:
    """Return what a source that joins is asked for: nothing that was said about the labels and tables of the first."""
    return Request(
        source,
        first.out_dir / name,  # files of the two may have the same names
        first.names,
        label_column="",
        ignore=first.ignore,
        volumes=first.volumes,
        keep_duplicates=first.keep_duplicates,
        groups_as_written=first.groups_as_written,
        nan=first.nan,
    )


def _join(dataset: Dataset, joining: Request, first: Request, name: str) -> None:
    """Add the images of another source, with ids that the first cannot have; patients keep their names."""
    other = _layout_of(joining).read(joining)
    if other.features != dataset.features:
        raise ValueError(f"one of {first.source.name} and {joining.source.name} holds images, the other features.")
    for item in other.items:
        label = item.pop("label", None)
        item.pop("labeled", None)
        old_id, old_image = item["id"], item["image"]
        image = relative(joining.out_dir / old_image, first.out_dir)
        if item["group"] == old_id.partition("#")[0]:
            item["group"] = f"{name}/{item['group']}"
        item |= {"id": f"{name}/{old_id}", "image": image}
        if name == MASKED:
            item["source"] = name
        kind = kind_of([label])
        if name == MASKED and kind is not None and (mask := kind.file(Label(label))) is not None:
            item["mask"] = relative(joining.out_dir / mask, first.out_dir)
        if name == MASKED and old_id in other.sections:
            dataset.sections[item["id"]] = other.sections[old_id]
        if old_id in other.pixels:
            dataset.pixels[item["id"]] = other.pixels[old_id]
        if old_image in other.copies:
            dataset.copies[image] = other.copies[old_image]
        getattr(dataset, name).add(item["id"])
        dataset.items.append(item)
    dataset.quarantine += [{**bad, "id": f"{name}/{bad['id']}"} for bad in other.quarantine]
    for reason, what in other.dropped.items():
        dataset.add("dropped", f"{name}: {reason}", *what)
    for reason, what in other.noted.items():
        dataset.add("noted", f"{name}: {reason}", *what)
    for reason, what in other.passed_over.items():
        dataset.passed_over[f"{name}: {reason}"] = what
    dataset.grouping += f"; of the {name} source: {other.grouping}"


def is_synthetic(source: Path) -> bool:
    """Return whether a folder is one of phantoms; what is made of them must say so as well."""
    path = source / "datalist.json"
    return path.is_file() and bool(read_json(path).get("synthetic", False))


def source_sha256(request: Request) -> str | None:
    """Return a hash of the archive, or of a folder's tables; None if it has none."""
    files = [request.source] if request.source.is_file() else [request.table] if request.table else []
    hashes = [sha256(file) for file in files or sorted(request.source.glob("*.csv"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None
