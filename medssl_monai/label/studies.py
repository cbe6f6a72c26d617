"""The study folder of a MONAI Label server as items to learn from."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from medssl_monai.data.datalist import Item
from medssl_monai.data.dicom import find_series
from medssl_monai.data.prepare import is_synthetic
from medssl_monai.data.pseudonym import load_key, pseudonym
from medssl_monai.data.reader import count_slices, image_format
from medssl_monai.label.labels import Kind, kind_of, read_class
from medssl_monai.label.served import ServedBundle

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
    nothing tells the patient), so that no later label moves an image from training to validation. If none of those that
    are held out has a label, the labeled patient nearest to them is.

    Args:
        store: MONAI Label's datastore.
        served: the bundle.
        share: of the patients that is held out for validation; 0: none.
        folder: of the studies; tells whether they are phantoms.
    """
    result, key = Studies(synthetic=_synthetic(folder)), load_key()
    ids = sorted(store.list_images())
    paths = {name: Path(store.get_image_uri(name)) for name in ids}
    place = {name: _place(key, group) for name, group in _groups(store, paths).items()}
    items: dict[str, list[Item]] = {}
    for name in ids:
        try:
            items[name] = _items(name, paths[name], f"{place[name][0]}", label_files(store, name), served, result)
        except (ValueError, OSError) as error:
            result.refused[name] = str(getattr(error, "reason", error)).replace(str(paths[name]), name)
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


def _items(
    name: str, image: Path, group: str, files: Mapping[Kind, Path], served: ServedBundle, result: Studies
) -> list[Item]:
    item: Item = {"image": str(image), "id": f"_{name}" if name[:1] in "$@%" else name, "group": group}
    if image_format(image) is None:
        raise ValueError("is neither PNG, JPEG, NIfTI nor DICOM")
    label = None
    if served.classes and "class" in files:
        try:
            label = read_class(files["class"], served.classes, served.task)
        except ValueError as error:
            result.refused[f"{name} (label)"] = str(error)
    mask = str(files["mask"]) if served.mask_classes and "mask" in files else None
    if served.joint:
        item |= {"labeled": label is not None, "masked": mask is not None}
        item |= {key: value for key, value in (("label", label), ("mask", mask)) if value is not None}
    else:
        known = label if served.classes else mask
        item |= {"labeled": known is not None} | ({} if known is None else {"label": known})
    if served.dimensions == 2 and served.mask_classes and (slices := count_slices(image) or 1) > 1:
        return [{**item, "id": f"{item['id']}#{number}", "slice": number} for number in range(slices)]
    return [item]


def _is_labeled(item: Mapping[str, Any]) -> bool:
    return bool(item["labeled"] or item.get("masked"))


def _groups(store: Any, paths: Mapping[str, Path]) -> dict[str, str]:
    """Whom an image is of: the patient, as DICOM files or a DICOMweb server say, or else itself."""
    groups = {name: str(store.get_image_info(name).get("PatientID") or "") for name in paths}
    parts = {file: name for name, path in paths.items() if not groups[name] for file in _dicom_files(path)}
    for series in find_series(parts)[0] if parts else []:
        for file in series.files:
            groups[parts[file]] = series.patient
    return {name: f"patient {group}" if group else f"image {name}" for name, group in groups.items()}


def _dicom_files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))[:1]
    return [path] if path.is_file() and image_format(path) == "DICOM" else []


def _place(key: bytes, group: str) -> tuple[str, float]:
    """Pseudonym of a group, and where it lies between 0 and 1."""
    name = pseudonym(key, "patient", group)
    return name, int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def _synthetic(folder: str | Path) -> bool:
    return bool(folder) and Path(folder).is_dir() and is_synthetic(Path(folder))


class SafeWrites:
    """Let the server and its subprocesses write to one datastore without losing each other's changes.

    MONAI Label's local datastore keeps everything in one file, and each process writes all that it remembers: a
    subprocess that scored for a minute would put back the labels of a minute ago. Here every change first reads what is
    there, both under one lock. What the store is asked for afterwards is the file's content as well.

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
            setattr(store, name, self._fresh(getattr(store, name)))

    def _fresh(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **named: Any) -> Any:
            with self.thread, self.lock:
                self.store._init_from_datastore_file()
                return change(*arguments, **named)

        return changed

    def read(self) -> None:
        """Take in what other processes wrote."""
        if self.local:
            with self.thread, self.lock:
                self.store._init_from_datastore_file()

    def update(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Update the info of many images, with one write; images that are gone are passed over."""
        if not self.local:
            for name, info in infos.items():
                self.store.update_image_info(name, dict(info))
            return
        with self.thread, self.lock:
            self.store._init_from_datastore_file()
            objects = self.store._datastore.objects
            for name, info in infos.items():
                if name in objects:
                    objects[name].image.info.update(info)
            self.store._update_datastore_file()
