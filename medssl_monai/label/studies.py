"""The study folder of a MONAI Label server as items to learn from."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from filelock import FileLock

from medssl_monai.data.datalist import Item
from medssl_monai.data.prepare import is_synthetic
from medssl_monai.data.pseudonym import load_key, pseudonym
from medssl_monai.data.reader import count_slices, image_format
from medssl_monai.label.labels import Kind, kind_of, read_class
from medssl_monai.label.served import ServedBundle
from medssl_monai.task import Task

logger = logging.getLogger(__name__)

KEY = "medssl"
"""Of what this package keeps in the info of an image: ``validation``, and ``queries`` by bundle and strategy."""
TAGS = ("final", "class", "mask")
"""Of the labels that count; those of other tags, such as ``original``, are predictions."""


def label_files(store: Any, image_id: str) -> dict[Kind, Path]:
    """The finished labels of an image; the first of each kind in the order of `TAGS`."""
    found: dict[Kind, Path] = {}
    for tag in TAGS:
        if uri := store.get_label_uri(image_id, tag):
            found.setdefault(kind_of(uri), Path(uri))
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
    """Every image of a datastore as the bundle sees it.

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
    learned = _Learned(served.classes, served.mask_classes, served.task, served.joint, served.dimensions == 2)
    paths = _paths(store, result.refused)
    place = {name: _place(key, group) for name, group in _groups(store, paths).items()}
    items: dict[str, list[Item]] = {}
    for name, path in paths.items():
        try:
            items[name] = _items(name, path, place[name][0], label_files(store, name), learned, result.refused)
        except (ValueError, OSError) as error:
            result.refused[name] = str(getattr(error, "reason", error)).replace(str(path), name)
    result.held_out = {name for name in items if place[name][1] < share}
    labeled = [name for name in items if any(map(_is_labeled, items[name]))]
    if share > 0 and labeled and not result.held_out & set(labeled) and len({place[name][0] for name in labeled}) > 1:
        nearest = min(labeled, key=lambda name: place[name][1])
        result.held_out |= {name for name in items if place[name][0] == place[nearest][0]}
    for name, own in items.items():
        result.image_of.update({item["id"]: name for item in own})
        if name not in result.held_out:
            result.train += own
        else:
            result.validation += [item for item in own if _is_labeled(item)]
    if result.refused:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(result.refused.items())[:20])
        logger.warning(f"{served.name} leaves {len(result.refused)} images or labels out: {reasons}")
    return result


def _paths(store: Any, refused: dict[str, str]) -> dict[str, Path]:
    """Images by id, sorted; those of an archive are fetched, and what cannot be is `refused`."""
    paths = {}
    for name in sorted(store.list_images()):
        try:
            paths[name] = Path(store.get_image_uri(name))
        except Exception as error:  # of any kind: network, archive, conversion
            refused[name] = f"cannot be fetched ({type(error).__name__})"
    return paths


class _Learned(NamedTuple):
    """Of a `ServedBundle`, which reads its files each time that it is asked."""

    classes: Sequence[str]
    mask_classes: Sequence[str]
    task: Task | None
    joint: bool
    flat: bool


def _items(
    name: str, image: Path, group: str, files: Mapping[Kind, Path], learned: _Learned, refused: dict[str, str]
) -> list[Item]:
    item: Item = {"image": str(image), "id": name, "group": group}
    if image_format(image) is None:
        raise ValueError("is neither PNG, JPEG, NIfTI nor DICOM")
    label = None
    if learned.classes and "class" in files:
        try:
            label = read_class(files["class"], learned.classes, learned.task)
        except (ValueError, OSError) as error:
            refused[f"{name} (label)"] = getattr(error, "strerror", None) or str(error)  # without the path
    mask = str(files["mask"]) if learned.mask_classes and "mask" in files else None
    if learned.joint:
        item |= {"labeled": label is not None, "masked": mask is not None}
        item |= {key: value for key, value in (("label", label), ("mask", mask)) if value is not None}
    else:
        known = label if learned.classes else mask
        item |= {"labeled": known is not None} | ({} if known is None else {"label": known})
    if learned.flat and learned.mask_classes and (slices := count_slices(image) or 1) > 1:
        return [{**item, "id": f"{name}/{number}", "slice": number} for number in range(slices)]  # no file has a slash
    return [item]


def _is_labeled(item: Mapping[str, Any]) -> bool:
    return bool(item["labeled"] or item.get("masked"))


def _groups(store: Any, paths: Mapping[str, Path]) -> dict[str, str]:
    """Whom an image is of: the patient, as a DICOMweb server or the DICOM file says, or else itself."""
    groups = {}
    for name, path in paths.items():
        patient = store.get_image_info(name).get("PatientID") or _patient(path)
        groups[name] = f"patient {patient}" if patient else f"image {name}"
    return groups


def _patient(path: Path) -> str:
    """PatientID of a DICOM file, or of the first in a folder; empty if there is none."""
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
    """Pseudonym of a group, and where it lies between 0 and 1."""
    name = pseudonym(key, "patient", group)
    return name, int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def _synthetic(folder: str | Path) -> bool:
    return bool(folder) and Path(folder).is_dir() and is_synthetic(Path(folder))


def restore(path: Path) -> None:
    """Put back what a datastore's file held before its last change, if that was broken off while it was written.

    Args:
        path: ``datastore_v2.json`` of a local datastore; nothing happens without one.
    """
    try:
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        if _before(path).exists():
            logger.warning(f"{path.name} was broken off while it was written; it is put back as it was before.")
            shutil.copyfile(_before(path), path)


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


class SafeWrites:
    """Let the server and its subprocesses write to one datastore without losing each other's changes.

    MONAI Label's local datastore keeps everything in one file, and each process writes all that it remembers: a
    subprocess that scored for a minute would put back the labels of a minute ago. Here every change first reads what is
    there, both under one lock. What the store is asked for afterwards is the file's content as well. The file is
    written in place; what it held before is kept beside it, for `restore`.

    Args:
        store: a `monailabel.datastore.local.LocalDatastore`, or one that is derived from it; its methods are replaced.
            Stores of another kind stay as they are.
    """

    CHANGES = ("add_image", "remove_image", "save_label", "remove_label", "update_image_info", "update_label_info")

    def __init__(self, store: Any) -> None:
        self.store, self.local = store, hasattr(store, "_init_from_datastore_file")
        if not self.local:
            return
        self.lock = FileLock(f"{store._datastore_config_path}.lock", thread_local=False)
        self.thread = threading.RLock()
        for name in (*self.CHANGES, "_reconcile_datastore"):
            setattr(store, name, self.locked(getattr(store, name)))
        store._update_datastore_file = self._keeping(store._update_datastore_file)

    def _keeping(self, write: Callable[..., None]) -> Callable[..., None]:
        path = Path(self.store._datastore_config_path)

        def written(*arguments: Any, **named: Any) -> None:
            if path.exists():
                shutil.copyfile(path, _before(path))
            write(*arguments, **named)

        return written

    def locked(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """`change`, while nobody else writes and after reading what they wrote."""

        def changed(*arguments: Any, **named: Any) -> Any:
            with self._alone():
                return change(*arguments, **named)

        return changed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes, and the store knows what they wrote."""
        with self.thread:
            within = self.lock.is_locked  # a change that makes another has not been written yet
            with self.lock:
                if not within:
                    self.store._config_ts = None  # it goes by the file's time, which two writes in one tick share
                    self.store._init_from_datastore_file()
                yield

    def read(self) -> None:
        """Take in what other processes wrote."""
        if self.local:
            with self._alone():
                pass

    def update(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Update the info of many images, with one write; images that are gone are passed over."""
        if not self.local:
            for name in infos.keys() & set(self.store.list_images()):
                self.store.update_image_info(name, dict(infos[name]))
            return
        with self._alone():
            objects = self.store._datastore.objects
            for name in infos.keys() & objects.keys():
                objects[name].image.info.update(infos[name])
            self.store._update_datastore_file()
