"""From images and labels as they come to a datalist: split by group, without copies, with a report on the rest.

A *layout* is one way in which data sets come; `LAYOUTS` lists them, each with the function that reads it. To add one,
write a function that returns `Found` and add a line there; copies, splits, hidden labels and the report are common.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import logging
import math
import os
import re
import shutil
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl_monai.data.datalist import SECTIONS, Item, write_datalist
from medssl_monai.data.pool import balanced_draw
from medssl_monai.data.reader import ClinicalReader, count_slices, image_format
from medssl_monai.files import sha256, write_json

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Findings = dict[str, list[str]]
"""Reason to what it applies to: ids, paths, or rows of the table."""

DEFAULT_SPLIT = (0.8, 0.2, 0.0)
SECTION_NAMES = {
    **{"train": "training", "training": "training", "test": "testing", "testing": "testing"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
}
EMPTY = {"", "na", "n/a", "nan", "none", "null", "?"}
"""Cells that say nothing, in lower case."""
SUFFIX = re.compile(r"\.(png|jpe?g|dcm|dicom|ima|nii|nii\.gz)$", re.IGNORECASE)
KERMANY = re.compile(r"(?P<patient>person\d+|(?:NORMAL2-)?IM-\d+)[_-]")
PNEUMONIA_MNIST = ("normal", "pneumonia")
CONTRADICTION = "\0"
EACH_ITS_OWN = "every file its own: nothing keeps images of one patient in one section"


@dataclass(frozen=True)
class Request:
    """What the caller said about the source: where it is and which column (or array) means what; None: by layout."""

    source: Path
    out_dir: Path
    table: Path | None
    image: str
    label: str
    id: str | None
    group: str | None
    split: str | None
    classes: tuple[str, ...]


@dataclass
class Found:
    """What a layout holds.

    Attributes:
        items: ``image`` relative to the output folder, ``id``, ``group`` and, where known, ``label`` and ``slice``.
        classes: names in the order of their index.
        sections: the publisher's section by id.
        pixels: images to write, by id; the others lie where their item says.
        files: names of the files for `pixels` without suffix, in lower case.
        dropped: what is not in `items`, by reason.
        noted: what is, but not as the source says, by reason.
        grouping: what the groups are.
    """

    items: list[Item] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    sections: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, Array] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    dropped: Findings = field(default_factory=dict)
    noted: Findings = field(default_factory=dict)
    grouping: str = EACH_ITS_OWN

    def add(self, kind: Literal["dropped", "noted"], reason: str, *what: str) -> None:
        """Add to a list of the report."""
        if what:
            getattr(self, kind).setdefault(reason, []).extend(what)


def prepare(
    source: str | Path,
    out_dir: str | Path,
    *,
    table: str | Path | None = None,
    label_column: str = "label",
    id_column: str | None = None,
    group_column: str | None = None,
    image_column: str = "image",
    split: Sequence[float] | None = None,
    split_column: str | None = None,
    seed: int = 0,
    labels: int | float | None = None,
    classes: Sequence[str] | None = None,
    keep_duplicates: bool = False,
) -> Path:
    """Write ``datalist.json`` and ``prepare_report.json``.

    Args:
        source: ``.npz`` with the arrays of MedMNIST (``train_images``, ...) or ``images``, ``labels``, ``ids``, ...;
            ``.zip`` with a ``manifest.csv``; or a folder of PNG, JPEG, NIfTI and DICOM files with a `table`. Files of
            a folder are used where they are, all others are written to ``out_dir/images``.
        out_dir: where to write.
        table: CSV file with a row per image of the folder; default: the only one that lies in it. Images without a
            row have no label.
        label_column: column of class names or indices; an empty cell means unlabeled.
        id_column: column of unique names; default: the path of the image.
        group_column: column of the patient, lesion or whatever must not be in two sections; in a ``.npz`` the name of
            an array. Default: ``patient(s)`` or ``lesion_id(s)`` of archives, else every file is a group of its own.
        image_column: column of paths relative to `source`, or as much of their end as is unique.
        split: shares of training, validation and testing; groups stay together, classes are spread evenly. None: the
            publisher's split if it keeps groups together, else (0.8, 0.2, 0).
        split_column: column that names the section of each image.
        seed: decides split and hidden labels.
        labels: how many items of the training section, or which fraction of them up to 1.0, count as labeled, balanced
            by class; the others get ``"labeled": false``. None: all that have a label.
        classes: names of the classes in the order of their index; default: as the source says, else the sorted values
            of the label column. Other labels are reported and ignored.
        keep_duplicates: keep exact copies of images, which by default are dropped but for the first.

    Returns:
        Path of the datalist.

    Raises:
        FileNotFoundError: if there is no `source` or `table`.
        ValueError: if the layout is not known, columns are missing, or the split is not possible.
    """
    if split is not None and split_column is not None:
        raise ValueError("give either `split` (shares for a new split) or `split_column` (a split that exists).")
    request = Request(
        Path(source),
        Path(out_dir),
        Path(table) if table else None,
        *(image_column, label_column, id_column, group_column, split_column, tuple(classes or ())),
    )
    for path in filter(None, (request.source, request.table)):
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}; give the path of a .npz, a .zip, or a folder of images.")
    layout, read = next(((name, read) for name, fits, read in LAYOUTS if fits(request.source)), (None, None))
    if read is None:
        raise ValueError(f"{source} has no known layout; known are {'; '.join(name for name, *_ in LAYOUTS)}.")
    found = read(request)
    if not keep_duplicates:
        _drop_copies(found, request.out_dir)
    if not found.items:
        raise ValueError(f"{source} holds no usable image; dropped: {_counts(found.dropped)}.")
    sections, how = _split(found, split, split_column, seed)
    if labels is not None:
        _hide_labels(sections["training"], labels, seed)
    for item in found.items:
        if item["id"] in found.pixels:
            _write_png(request.out_dir / item["image"], found.pixels[item["id"]])
    path = request.out_dir / "datalist.json"
    modality = _modality(request.out_dir / item["image"] for item in sections["training"])
    write_datalist(path, sections, classes=found.classes, name=_stem(request.source), modality=modality)
    report = {
        "source": request.source.name,
        "layout": layout,
        "source_sha256": _source_sha256(request),
        "seed": seed,
        "groups": found.grouping,
        "split": how,
        "classes": list(found.classes),
        "sections": {name: _summary(items, found.classes) for name, items in sections.items()},
        "dropped": {why: {"count": len(what), "items": what} for why, what in found.dropped.items()},
        "noted": {why: {"count": len(what), "items": what} for why, what in found.noted.items()},
    }
    write_json(request.out_dir / "prepare_report.json", report)
    for kind, findings in (("dropped", found.dropped), ("noted", found.noted)):
        if findings:
            logger.warning("%s: %s (see prepare_report.json)", kind, _counts(findings))
    return path


def list_images(folder: str | Path) -> tuple[list[Item], dict[str, str]]:
    """Items for all images below a folder, in natural order, one for each slice or frame of a volume.

    Headers are read and no pixels. Hidden files and files of other formats are passed over; DICOM files are known by
    their content and need no suffix.

    Returns:
        Items (``id``: path relative to `folder`, with ``#k`` for a slice; ``group``: the folder of the file, or the
        file if it lies in `folder` itself), and the reason for each file that looks like an image but
        cannot be used, by relative path.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}.")
    items, unusable = _slices(folder, _image_files(folder))
    for item in items:
        parent = str(PurePosixPath(item["image"]).parent)
        item["group"] = item["image"] if parent == "." else parent
        item["image"] = str(folder / item["image"])
    return items, unusable


# what all layouts share


def _drop_copies(found: Found, root: Path) -> None:
    """Keep the first of equal images, or the first that has a label; of copies with different labels keep none."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item, digest in zip(found.items, _digests(found, root), strict=True):
        groups[digest].append(item)
    gone = set()
    for copies in groups.values():
        labels = {str(item["label"]) for item in copies if item.get("label") is not None}
        keep = next((item for item in copies if item.get("label") is not None), copies[0])
        reason = "exact copy of another image"
        if len(labels) > 1:
            keep, reason = {}, "exact copies with different labels"
        for item in copies:
            if item is not keep:
                found.add("dropped", reason, item["id"])
                gone.add(item["id"])
    found.items = [item for item in found.items if item["id"] not in gone]


def _digests(found: Found, root: Path) -> Iterator[str]:
    """Hash of each image's content and slice; files of a size that no other has are not read."""
    files = {item["image"] for item in found.items if item["id"] not in found.pixels}
    paths = {name: Path(os.path.normpath(root / name)) for name in files}  # ".." after a folder yet to be made
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    count = Counter(sizes.values())
    hashes = {name: sha256(paths[name]) if count[size] > 1 else f"size {size}" for name, size in sizes.items()}
    for item in found.items:
        pixels = found.pixels.get(item["id"])
        if pixels is None:
            yield f"{hashes[item['image']]}#{item.get('slice')}"
        else:
            yield f"{pixels.shape}{hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()}"


def _split(
    found: Found, split: Sequence[float] | None, split_column: str | None, seed: int
) -> tuple[dict[str, list[Item]], str]:
    labeled = [item for item in found.items if item.get("label") is not None]
    torn = _torn_group(found)
    if split_column and torn:
        raise ValueError(
            f"the column {split_column!r} puts group {torn!r} into several sections; correct it, or leave it out for a "
            "new split by group."
        )
    if split_column or (split is None and found.sections and not torn):
        place = {item["group"]: found.sections[item["id"]] for item in found.items}
        names, how = [name for name in SECTIONS if name in place.values()], "as given by the source"
    else:
        shares = _shares(DEFAULT_SPLIT if split is None else split)
        names = [name for name, share in zip(SECTIONS, shares, strict=True) if share > 0] if labeled else ["training"]
        place = _stratify(labeled, dict(zip(SECTIONS, shares, strict=True)), names, seed)
        how = f"new, by group, shares {shares}" + (", since the source's tears groups apart" if torn else "")
    sections: dict[str, list[Item]] = {name: [] for name in names}
    for item in found.items:
        section = place.get(item["group"], "training")
        if section != "training" and item.get("label") is None:
            found.add("dropped", "no label, and its group is not in the training section", item["id"])
        else:
            sections.setdefault(section, []).append(item)
    for name in SECTIONS[1:]:
        absent = set(range(len(found.classes))) - {k for item in sections.get(name, ()) for k in _present(item)}
        if name in sections and absent:
            found.add("noted", f"classes that the {name} section lacks", *(found.classes[k] for k in sorted(absent)))
    return sections, how


def _torn_group(found: Found) -> str | None:
    seen: dict[str, str] = {}
    for item in found.items:
        section = found.sections.get(item["id"], "")
        if seen.setdefault(item["group"], section) != section:
            return str(item["group"])
    return None


def _shares(split: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(share) for share in split)
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"`split` must be three shares (training, validation, testing) that add up to 1, got {split}.")
    return shares


def _stratify(items: Sequence[Item], shares: dict[str, float], names: Sequence[str], seed: int) -> dict[str, str]:
    """Section of each group: groups in random order, each to the section that still lacks most of its classes.

    This is the iterative stratification of Sechidis et al. (2011) with groups for samples; rare classes weigh more.
    """
    keys = sorted({k for item in items for k in _present(item)})
    counts: dict[str, Array] = {}
    for item in items:
        row = counts.setdefault(item["group"], np.zeros(len(keys)))
        for k in _present(item):
            row[keys.index(k)] += 1
    if items and len(counts) < len(names):
        raise ValueError(f"{len(counts)} groups cannot fill {len(names)} sections; set a share of `split` to 0.")
    groups = sorted(counts)
    total = sum(counts.values(), np.zeros(len(keys)))
    need = {name: shares[name] * total for name in names}
    place: dict[str, str] = {}
    for position in np.random.default_rng(seed).permutation(len(groups)):
        row = counts[groups[position]]
        best = max(names, key=lambda name: (round(float(row / total @ need[name]), 9), float(need[name].sum())))
        place[groups[position]] = best
        need[best] = need[best] - row
    empty = [name for name in names if name not in place.values()]
    if items and empty:
        raise ValueError(f"no group was left for {empty[0]!r}: give it a larger share of `split`, or 0.")
    return place


def _present(item: Item) -> list[int]:
    """Class, or findings, of an item; -1 for a multi-hot label without any."""
    label = item.get("label")
    if isinstance(label, list):
        return [k for k, value in enumerate(label) if value == 1] or [-1]
    return [] if label is None else [label]


def _hide_labels(items: list[Item], labels: int | float, seed: int) -> None:
    known = [item for item in items if item.get("label") is not None]
    if isinstance(labels, float) and not (0 < labels <= 1):
        raise ValueError(f"`labels` must be a whole number of items or a fraction up to 1.0, got {labels}.")
    count = round(labels * len(known)) if isinstance(labels, float) else labels
    chosen = set(balanced_draw([item["label"] for item in known], count, seed))
    for position, item in enumerate(known):
        if position not in chosen:
            item["labeled"] = False


def _modality(paths: Iterable[Path], sample: int = 8) -> tuple[str, ...]:
    """Names of the channels: colours if any of the first `sample` images has differing ones, else one."""
    for path in itertools.islice(paths, sample):
        try:
            array, _ = ClinicalReader().get_data([path])
        except (OSError, ValueError):  # reported when the images are read for training
            continue
        if len(array) == 3 and not (array == array[:1]).all():
            return ("red", "green", "blue")
    return ("image",)


def _write_png(path: Path, pixels: Array) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)


def _summary(items: Sequence[Item], classes: Sequence[str]) -> dict[str, Any]:
    count = Counter(k for item in items for k in _present(item))
    per_class = {name: count[k] for k, name in enumerate(classes)}
    return {
        "items": len(items),
        "groups": len({item["group"] for item in items}),
        "labeled": sum(item.get("label") is not None and item.get("labeled", True) for item in items),
        "classes": {**per_class, "no finding": count[-1]} if -1 in count else per_class,
    }


def _source_sha256(request: Request) -> str | None:
    """Of the archive, or of a folder's table."""
    file = request.source if request.source.is_file() else _table_of(request)
    return sha256(file) if file else None


def _counts(findings: Findings) -> str:
    return ", ".join(f"{len(what)} x {why}" for why, what in findings.items()) or "nothing"


def _stem(source: Path) -> str:
    return source.stem if source.is_file() else source.resolve().name


# .npz


def _arrays(request: Request) -> dict[str, Array]:
    if request.table or request.split or request.id:
        raise ValueError("a .npz brings ids and split itself; leave `table`, `id_column` and `split_column` out.")
    with np.load(request.source) as file:
        return {name: file[name] for name in file.files}


def _has_array(name: str) -> Callable[[Path], bool]:
    def fits(source: Path) -> bool:
        if source.suffix.lower() != ".npz" or not zipfile.is_zipfile(source):
            return False
        with zipfile.ZipFile(source) as file:
            return f"{name}.npy" in file.namelist()

    return fits


def _read_medmnist(request: Request) -> Found:
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
            _add_pixels(found, pixels, str(name), group, label, SECTION_NAMES[prefix])
    kermany = all(KERMANY.match(item["id"]) for item in found.items)
    found.grouping = "patient, read from the file name in ids" if kermany else EACH_ITS_OWN
    found.classes = request.classes or (PNEUMONIA_MNIST if kermany else _numbered(found.items))
    return found


def _read_arrays(request: Request) -> Found:
    """``images``, ``ids``, and optionally ``labels``, ``label_names``, ``split`` and an array of groups."""
    arrays, found = _arrays(request), Found()
    ids = arrays["ids"]
    nothing = [None] * len(ids)
    group = request.group or next((name for name in ("patients", "lesion_ids") if name in arrays), "ids")
    if group not in arrays:
        raise ValueError(f"{request.source.name} has no array {group!r}, only {sorted(arrays)}.")
    columns = (arrays["images"], ids, arrays[group], arrays.get("labels", nothing), arrays.get("split", nothing))
    for pixels, name, owner, label, section in zip(*columns, strict=True):
        place = SECTION_NAMES[str(section).lower()] if section is not None else None
        _add_pixels(found, pixels, str(name), str(owner), label, place)
    found.grouping = EACH_ITS_OWN if group == "ids" else f"array {group!r}"
    names = tuple(str(name) for name in arrays.get("label_names", ()))
    found.classes = request.classes or names or _numbered(found.items)
    return found


def _add_pixels(found: Found, pixels: Array, name: str, group: str, label: Any, section: str | None) -> None:
    unique, again = name, 1
    while unique in found.pixels:
        again += 1
        unique = f"{name}~{again}"
    safe = re.sub(r"[^\w.~-]", "_", SUFFIX.sub("", unique))
    if safe.lower() in found.files:  # ids may differ in what a file name cannot hold
        safe += "-" + hashlib.sha256(unique.encode()).hexdigest()[:8]
    found.files.add(safe.lower())
    item: Item = {"image": f"images/{safe}.png", "id": unique, "group": group}
    values = [] if label is None else np.atleast_1d(label).tolist()
    if len(values) > 1:
        item["label"] = [int(value) for value in values]
    elif values and values[0] >= 0:
        item["label"] = int(values[0])
    if section:
        found.sections[unique] = section
    found.items.append(item)
    found.pixels[unique] = pixels


def _numbered(items: Iterable[Item]) -> tuple[str, ...]:
    labels = [item["label"] for item in items if "label" in item]
    count = max((len(label) if isinstance(label, list) else label + 1 for label in labels), default=0)
    return tuple(str(k) for k in range(count))


# .zip with a manifest


def _is_manifest_zip(source: Path) -> bool:
    if source.suffix.lower() != ".zip" or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as file:
        return "manifest.csv" in file.namelist()


def _read_zip(request: Request) -> Found:
    """Files and ``manifest.csv``, with ``label_name`` beside ``label``; the files are unpacked to the output folder."""
    if request.table:
        raise ValueError("the archive brings its own manifest.csv; unpack it to use another `table`.")
    with zipfile.ZipFile(request.source) as archive:
        table = Table.parse(archive.read("manifest.csv"), f"{request.source.name}/manifest.csv")
        image = request.image if request.image in table.header else "file"
        names = set(archive.namelist())
        files = sorted({row[image] for _, row in table.rows if row.get(image) in names}, key=_natural)
        root = request.out_dir.resolve()
        for name in files:
            target = (root / name).resolve()
            if not target.is_relative_to(root):
                raise ValueError(f"{request.source.name} holds {name!r}, which would be written outside {root}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file)
    columns = {
        "image": image,
        "label": request.label if request.label in table.header or request.label != "label" else None,
        "id": request.id or _first(table.header, "id"),
        "group": request.group or _first(table.header, "patient", "lesion_id"),
        "split": request.split or _first(table.header, "split"),
        "class": _first(table.header, "label_name") if request.label == "label" else None,
    }
    return _join(table, root, files, columns, request)


def _first(header: Sequence[str], *names: str) -> str | None:
    return next((name for name in names if name in header), None)


# folder with a table


def _read_folder(request: Request) -> Found:
    path = _table_of(request)
    columns = {
        **{"image": request.image, "label": request.label, "id": request.id, "group": request.group},
        **{"split": request.split, "class": None},
    }
    table = Table.parse(path.read_bytes(), path.name) if path else Table([], [], [])
    return _join(table, request.source, _image_files(request.source), columns, request)


def _table_of(request: Request) -> Path | None:
    if request.table:
        return request.table
    there = sorted(request.source.glob("*.csv"))
    if len(there) > 1:
        raise ValueError(f"{request.source} holds {len(there)} CSV files; name one as `table`.")
    return there[0] if there else None


@dataclass
class Table:
    """A CSV file: its header, rows by line number, and line numbers of rows that cannot be read."""

    header: list[str]
    rows: list[tuple[int, dict[str, str]]]
    bad: list[int]

    @classmethod
    def parse(cls, content: bytes, name: str) -> Table:
        """Read comma, semicolon or tab separated text, in UTF-8 or Windows' encoding, row by row.

        A quote that is never closed would swallow all further rows into one cell; here it costs its own row.
        """
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
        lines = text.splitlines()
        if not lines:
            raise ValueError(f"{name} is empty; its first line must name the columns.")
        delimiter = max(",;\t", key=lines[0].count)
        header = [cell.strip() for cell in _cells(lines[0], delimiter)]
        table = cls(header, [], [])
        position = 1
        while position < len(lines):
            number, end = position + 1, position + 1
            if lines[position].count('"') % 2:
                end = _end_of_quote(lines, position, delimiter, len(header))
            joined = "\n".join(lines[position:end])
            cells = _cells(joined, delimiter)
            if len(cells) == len(header) and joined.count('"') % 2 == 0:
                table.rows.append((number, {key: cell.strip() for key, cell in zip(header, cells, strict=True)}))
            elif joined.strip():
                table.bad.append(number)
            position = end
        return table


def _cells(text: str, delimiter: str) -> list[str]:
    return next(csv.reader([text], delimiter=delimiter), [])


def _end_of_quote(lines: Sequence[str], start: int, delimiter: str, width: int) -> int:
    """Line after the row whose quoted cell goes on over several lines; the next one if its quote is a mistake."""
    for position in range(start + 1, len(lines)):
        if lines[position].count('"') % 2:
            return position + 1
        if len(_cells(lines[position], delimiter)) == width:
            break  # a whole row by itself
    return start + 1


def _join(table: Table, root: Path, files: Sequence[str], columns: dict[str, str | None], request: Request) -> Found:
    """Bring rows and files together; nothing is lost without a line in the report."""
    missing = [name for name in columns.values() if name and name not in table.header]
    if missing and table.header:
        raise ValueError(f"the table has no column {missing[0]!r}, only {table.header}; say which one is meant.")
    if not table.header and any(columns[kind] for kind in ("id", "group", "split")):
        raise ValueError(f"there is no CSV file in {root} for the columns that were named; pass one as `table`.")
    found = Found(grouping=f"column {columns['group']!r}" if columns["group"] else EACH_ITS_OWN)
    found.add(
        "dropped",
        "row with another number of cells than the header, or an open quote",
        *(f"row {n}" for n in table.bad),
    )
    rows = _match(table, files, columns, found)
    found.classes, index = _classes([row for _, row in rows.values()], columns, request.classes)
    items, unusable = _slices(root, files)
    for name, reason in unusable.items():
        found.add("dropped", "file that cannot be used", f"{name}: {reason}")
    for item in items:
        number, row = rows.get(item["image"], (0, {}))
        if _complete(item, number, row, columns, index, found):
            item["image"] = _relative(root / item["image"], request.out_dir)
            found.items.append(item)
    twice = [name for name, count in Counter(item["id"] for item in found.items).items() if count > 1]
    if twice:
        raise ValueError(f"column {columns['id']!r} has {twice[0]!r} for several images; ids must be unique.")
    return found


def _match(
    table: Table, files: Sequence[str], columns: dict[str, str | None], found: Found
) -> dict[str, tuple[int, dict[str, str]]]:
    """The row of each file, with its line number; rows without a file and rows that contradict are reported."""
    by_name: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    original: dict[tuple[str, ...], list[str]] = {}
    for name in files:
        parts = PurePosixPath(SUFFIX.sub("", name)).parts
        by_name[parts[-1]].append(parts)
        original.setdefault(parts, []).append(name)
    exact = set(files)
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    for number, row in table.rows:
        value = row[str(columns["image"])].replace("\\", "/")
        if value in exact:
            fits = [value]
        else:
            wanted = PurePosixPath(SUFFIX.sub("", value)).parts or ("",)
            ends = [
                parts
                for parts in by_name[wanted[-1]]
                if all(a == b for a, b in zip(parts[::-1], wanted[::-1], strict=False))
            ]
            fits = [name for parts in ends for name in original[parts]]
        if len(fits) != 1:
            found.add(
                "dropped", "row whose file is missing" if not fits else "row that fits several files", f"row {number}"
            )
            continue
        first, known = rows.setdefault(fits[0], (number, dict(row)))
        if first != number:
            _merge(known, row, columns, f"rows {first} and {number}", found)
    return rows


def _merge(
    known: dict[str, str], row: dict[str, str], columns: dict[str, str | None], where: str, found: Found
) -> None:
    """Take over a second row of the same file."""
    for kind in ("label", "id", "group", "split"):
        column = columns[kind]
        if not column or row[column] == known[column]:
            continue
        if kind == "label" and EMPTY.issuperset({known[column].lower()}) and known[column] != CONTRADICTION:
            known[column] = row[column]
        elif row[column].lower() not in EMPTY:
            found.add("noted", f"rows of one file that contradict in {kind}", where)
            known[column] = CONTRADICTION


def _complete(
    item: Item, number: int, row: dict[str, str], columns: dict[str, str | None], index: dict[str, int], found: Found
) -> bool:
    """Fill in what the row says; False if the item cannot be used."""
    name, where = item["image"], f"row {number}"
    if not row:
        item["group"] = name
        if columns["split"]:
            found.sections[item["id"]] = "training"
        found.add("noted", "file without a row", name)
        return True
    for kind in ("id", "group", "split"):
        column = columns[kind]
        if column and (row[column].lower() in EMPTY or row[column] == CONTRADICTION):
            found.add("dropped", f"no {kind}", where)
            return False
    if columns["split"] and row[columns["split"]].lower() not in SECTION_NAMES:
        found.add("dropped", "split that is neither train, val nor test", where)
        return False
    text = _tidy(row[columns["label"]]) if columns["label"] else ""
    if text in index:
        item["label"] = index[text]
    elif columns["label"] and text != CONTRADICTION:
        found.add("noted", "no label" if text.lower() in EMPTY else "label that is no class", where)
    if columns["id"]:
        item["id"] = row[columns["id"]] + item["id"][len(name) :]
    item["group"] = row[columns["group"]] if columns["group"] else name
    if columns["split"]:
        found.sections[item["id"]] = SECTION_NAMES[row[columns["split"]].lower()]
    return True


def _classes(
    rows: Sequence[dict[str, str]], columns: dict[str, str | None], given: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, and the index of each text that may stand in the label column."""
    if not columns["label"]:
        return given, {}
    texts = [_tidy(row[columns["label"]]) for row in rows]
    texts = [text for text in texts if text.lower() not in EMPTY and text != CONTRADICTION]
    if any(SUFFIX.search(text) for text in texts):
        raise ValueError(f"column {columns['label']!r} holds paths; only classes can be prepared, no masks.")
    whole = [text for text in texts if text.isdecimal()]
    if columns["class"] and not given:
        names = {_tidy(row[columns["label"]]): row[columns["class"]] for row in rows}
        given = tuple(names.get(str(k), str(k)) for k in range(1 + max(map(int, whole), default=-1)))
    if given:
        by_index = {} if any(name.isdecimal() for name in given) else {str(k): k for k in range(len(given))}
        return given, by_index | {name: k for k, name in enumerate(given)}
    # where most labels are numbers, a text among them is a slip and no class
    classes = tuple(sorted(set(whole if 2 * len(whole) > len(texts) else texts), key=_natural))
    return classes, {name: k for k, name in enumerate(classes)}


def _tidy(text: str) -> str:
    """``1`` for the ``1.0`` that a table with empty cells is often saved with."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


# files


def _image_files(folder: Path) -> list[str]:
    """Relative paths of what looks like an image, in natural order."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent) / name for name in files if not name.startswith(".") and name != "DICOMDIR"]
        names += [path.relative_to(folder).as_posix() for path in paths if path.is_file() and image_format(path)]
    return sorted(names, key=_natural)


def _slices(root: Path, files: Iterable[str]) -> tuple[list[Item], dict[str, str]]:
    items: list[Item] = []
    unusable: dict[str, str] = {}
    for name in files:
        try:
            count = count_slices(root / name)
            if _cut_short(root / name):
                raise ValueError("it is cut short; copy it anew from its source")
        except ValueError as error:
            unusable[name] = str(error).removeprefix(f"{root / name} ")
            continue
        if count is None:
            items.append({"image": name, "id": name})
        else:
            items += [{"image": name, "id": f"{name}#{k}", "slice": k} for k in range(count)]
    return items, unusable


def _cut_short(path: Path) -> bool:
    """Whether the end of the file is missing, as far as its header tells."""
    kind, size = image_format(path), path.stat().st_size
    if kind in ("PNG", "JPEG"):
        with path.open("rb") as file:
            file.seek(max(0, size - 4096))
            return (b"IEND" if kind == "PNG" else b"\xff\xd9") not in file.read()
    if kind == "DICOM":
        return _dicom_cut_short(path, size)
    import nibabel as nib

    image: Any = nib.load(path)
    wanted = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if path.suffix.lower() != ".gz":
        return bool(size < wanted)
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if int.from_bytes(file.read(), "little") == wanted % 2**32:  # gzip ends with the size of its content
            return False
    try:
        with gzip.open(path) as stream:
            return bool(sum(len(block) for block in iter(lambda: stream.read(2**20), b"")) < wanted)
    except (EOFError, OSError, zlib.error):
        return True


def _dicom_cut_short(path: Path, size: int) -> bool:
    import pydicom

    with path.open("rb") as file:
        ds = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        syntax = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
        if syntax is not None and (syntax.is_compressed or syntax.is_deflated):
            return False
        left = size - file.tell()
    voxels = int(ds.Rows) * int(ds.Columns) * int(ds.get("NumberOfFrames") or 1) * int(ds.get("SamplesPerPixel") or 1)
    subsampled = "422" in str(ds.get("PhotometricInterpretation"))
    return bool(left < voxels * int(ds.get("BitsAllocated") or 8) // 8 * (2 / 3 if subsampled else 1))


def _relative(path: Path, folder: Path) -> str:
    """Path as seen from `folder`; absolute where there is no way, as between drives."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return str(path.resolve())


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``slice2`` before ``slice10``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text)]


LAYOUTS: tuple[tuple[str, Callable[[Path], bool], Callable[[Request], Found]], ...] = (
    (".npz with train_images (MedMNIST)", _has_array("train_images"), _read_medmnist),
    (".npz with images and ids", _has_array("images"), _read_arrays),
    (".zip with manifest.csv", _is_manifest_zip, _read_zip),
    ("a folder of images with a CSV file", Path.is_dir, _read_folder),
)
"""Name, whether a source is of this layout, and the function that reads it."""
