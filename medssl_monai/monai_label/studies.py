"""The study folder of a MONAI Label server as items to learn from."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pydicom

from medssl_monai.data.datalist import Item
from medssl_monai.data.patients import same_patient
from medssl_monai.kinds import Kind
from medssl_monai.monai_label.files import Form, form_of
from medssl_monai.monai_label.labels import read_class
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.names import problem_of
from medssl_monai.prepare.pseudonym import load_key, pseudonym
from medssl_monai.prepare.sources import is_synthetic
from medssl_monai.readers.decoders import count_slices
from medssl_monai.readers.dicom.series import find_series
from medssl_monai.readers.formats import image_format

logger = logging.getLogger(__name__)

KEY = "medssl"
"""Of what this package keeps in the info of an image: ``validation``, and ``queries`` by bundle and strategy."""
TAGS = ("final", "class", "mask")
"""Of the labels that count; those of other tags, such as ``original``, are predictions."""


def label_files(store: Any, image_id: str) -> dict[Form, Path]:
    """Return the finished labels of an image; the first of each form in the order of `TAGS`."""
    found: dict[Form, Path] = {}
    for tag in TAGS:
        if uri := store.get_label_uri(image_id, tag):
            found.setdefault(form_of(uri), Path(uri))
    return found


@dataclass
class Studies:
    """What a server's images and labels are to one bundle.

    Attributes:
        train: items to learn from and to ask for; ``labeled`` and ``masked`` say which labels are known.
        validation: items with a label that nothing is learned from.
        held_out: ids of all images that are for validation, with a label or not.
        image_of: id of the image, by id of the item: slices are items of their own where a network takes images.
        refused: reasons by id of labels, or images, that cannot be used; nothing of them is lost.
        synthetic: whether the images are phantoms.
    """

    train: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)
    image_of: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    synthetic: bool = False


def read_studies(store: Any, served: ServedBundle, share: float, folder: str | Path = "") -> Studies:
    """Return every image of a datastore as the bundle sees it.

    A patient's images are all for training or all for validation, by a keyed hash of the patient (of the image, where
    nothing tells the patient), whatever is labeled. Only while none of those that are held out has a label, the labeled
    patient nearest to them is, too. So nothing is measured on whose label was learned from before; an image that was
    learned from without one may be, if the first label of its patient comes in that time.

    Args:
        store: MONAI Label's datastore.
        served: the bundle.
        share: of the patients that is held out for validation; 0: none.
        folder: of the studies; tells whether they are phantoms.
    """
    result, key = Studies(synthetic=_synthetic(folder)), load_key()
    learned = _Learned(served.classes, served.mask_classes, served.known_kind, served.joint, served.dimensions == 2)
    paths = _paths(store, result.refused)
    place = {name: _place(key, group) for name, group in _groups(store, paths).items()}
    parts = incomplete(paths, not learned.flat)
    items: dict[str, list[Item]] = {}
    for name, path in paths.items():
        try:
            if reason := problem_of(name):
                raise ValueError(f"its id {reason}; rename the file")
            if name in parts:
                raise ValueError(parts[name])
            items[name] = _items(name, path, place[name][0], label_files(store, name), learned, result.refused)
        except (ValueError, OSError) as error:
            result.refused[name] = str(getattr(error, "reason", error)).replace(str(path), name)
    result.held_out = {name for name in items if place[name][1] < share}
    labeled = [name for name in items if any(map(_is_labeled, items[name]))]
    if share > 0 and labeled and not result.held_out & set(labeled) and len({place[name][0] for name in labeled}) > 1:
        nearest = min(labeled, key=lambda name: place[name][1])
        result.held_out |= {name for name in items if place[name][0] == place[nearest][0]}
    for name, of_image in items.items():
        result.image_of.update({item["id"]: name for item in of_image})
        if name not in result.held_out:
            result.train += of_image
        else:
            result.validation += [item for item in of_image if _is_labeled(item)]
    if result.refused:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(result.refused.items())[:20])
        logger.warning(f"{served.name} leaves {len(result.refused)} images or labels out: {reasons}")
    return result


def incomplete(paths: Mapping[str, Path], volumes: bool) -> dict[str, str]:
    """Return which studies of a folder are a part of a DICOM series, and so no volume, by id with the reason.

    A study is a file, or a folder of one series. To a network of two dimensions single files may be slices.

    Args:
        paths: studies by id.
        volumes: whether the network takes volumes.
    """
    stamped = [(name, path, path.stat().st_mtime_ns) for name, path in sorted(paths.items()) if path.exists()]
    return _incomplete(tuple(stamped), volumes)


@lru_cache(maxsize=8)
def _incomplete(stamped: Sequence[tuple[str, Path, int]], volumes: bool) -> dict[str, str]:
    owner: dict[Path, str] = {}
    for name, path, _ in stamped:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        owner |= {file: name for file in files if not file.name.startswith(".") and image_format(file) == "DICOM"}
    files_of = Counter(owner.values())
    reasons: dict[str, str] = {}
    for one in find_series(owner)[0]:
        parts = sorted({owner[file] for file in one.files})
        if one.volume and len(parts) > 1 and (volumes or max(files_of[name] for name in parts) > 1):
            reasons |= dict.fromkeys(
                parts,
                f"it is a part of a series of {len(one.files)} slices that lies in {len(parts)} studies; put the files "
                "of the series into one folder whose name ends in .dcm",
            )
    return reasons


def _paths(store: Any, refused: dict[str, str]) -> dict[str, Path]:
    """Return images by id, sorted; those of an archive are fetched, and what cannot be is `refused`."""
    paths = {}
    for name in sorted(store.list_images()):
        try:
            paths[name] = Path(store.get_image_uri(name))
        except Exception as error:  # of any kind: network, archive, conversion
            refused[name] = f"cannot be fetched ({type(error).__name__})"
    return paths


class _Learned(NamedTuple):
    """What a `ServedBundle` learns, which reads its files each time that it is asked."""

    classes: Sequence[str]
    mask_classes: Sequence[str]
    kind: Kind | None
    joint: bool
    flat: bool


def _items(
    name: str, image: Path, group: str, files: Mapping[Form, Path], learned: _Learned, refused: dict[str, str]
) -> list[Item]:
    item: Item = {"image": str(image), "id": name, "group": group}
    slices = count_slices(image) or 1  # also refuses what is no image, such as a DICOM segmentation or report
    label = None
    if learned.classes and "class" in files:
        try:
            label = read_class(files["class"], learned.kind, learned.classes)
        except (ValueError, OSError) as error:
            refused[f"{name} (label)"] = getattr(error, "strerror", None) or str(error)  # without the path
    mask = str(files["mask"]) if learned.mask_classes and "mask" in files else None
    if learned.joint:
        item |= {"labeled": label is not None, "masked": mask is not None}
        item |= {key: value for key, value in (("label", label), ("mask", mask)) if value is not None}
    else:
        known = label if learned.classes else mask
        item |= {"labeled": known is not None} | ({} if known is None else {"label": known})
    if learned.flat and learned.mask_classes and slices > 1:
        return [{**item, "id": f"{name}/{number}", "slice": number} for number in range(slices)]  # no file has a slash
    return [item]


def _is_labeled(item: Mapping[str, Any]) -> bool:
    return bool(item["labeled"] or item.get("masked"))


def _groups(store: Any, paths: Mapping[str, Path]) -> dict[str, str]:
    """Return whom an image is of: the patient, as a DICOMweb server or the DICOM file says, or else itself."""
    groups = {}
    for name, path in paths.items():
        patient = same_patient(str(store.get_image_info(name).get("PatientID") or _patient(path)))
        groups[name] = f"patient {patient}" if patient else f"image {name}"
    return groups


def _patient(path: Path) -> str:
    """Return the PatientID of a DICOM file, or of the first in a folder; empty if there is none."""
    with warnings.catch_warnings():  # pydicom's quote what it finds
        warnings.simplefilter("ignore")
        try:
            if path.is_dir():
                path = min(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            if image_format(path) != "DICOM":
                return ""
            ds = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=["PatientID"])
            return str(ds.get("PatientID") or "")
        except Exception:  # of any kind; who reads the pixels says what is wrong
            return ""


def _place(key: bytes, group: str) -> tuple[str, float]:
    """Return the pseudonym of a group, and where it lies between 0 and 1."""
    name = pseudonym(key, "patient", group)
    return name, int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def _synthetic(folder: str | Path) -> bool:
    return bool(folder) and Path(folder).is_dir() and is_synthetic(Path(folder))
