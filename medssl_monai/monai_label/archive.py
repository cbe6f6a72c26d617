"""A DICOMweb archive behind a MONAI Label server: its labels by image, and the masks that others store in it."""

from __future__ import annotations

import functools
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import optional_import
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import binary_to_image, dicom_seg_to_itk_image
from pydicom import Dataset

from medssl_monai.files import write_json
from medssl_monai.monai_label.files import form_of
from medssl_monai.monai_label.masks import NOT_LABELED
from medssl_monai.monai_label.writes import SafeWrites
from medssl_monai.readers.formats import image_format

nib, _ = optional_import("nibabel")  # its functions are untyped
logger = logging.getLogger(__name__)


class Archive:
    """The series of a DICOMweb archive, downloaded as NIfTI when they are asked for, and their masks as DICOM SEG.

    Labels are looked up by the id of their image, as in a folder; MONAI Label's own datastore wants the id that a SEG
    has in the archive, and knows which images are labeled only every two hours.

    Args:
        store: a `monailabel.datastore.dicom.DICOMWebDatastore`; its methods are replaced.
        writes: of the datastore.
    """

    def __init__(self, store: Any, writes: SafeWrites) -> None:
        self.store, self.file = store, Path(store._datastore_config_path).with_name("segmentations.json")
        for name in ("get_label_uri", "get_labeled_images"):
            setattr(store, name, functools.partial(getattr(LocalDatastore, name), store))
        store._download_labeled_data = lambda: None  # it would remove the labels that no SEG can hold
        fetch, locked = store.get_image_uri, writes.locked(store.get_image_uri)
        store.get_image_uri = lambda name: (fetch if name in store._datastore.objects else locked)(_uid(name))
        self.keep = writes.put
        self._remember = writes.locked(self._add)

    def save(self, save: Callable[..., str], image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> str:
        """Store a label here and, if a SEG can hold it, in the archive: a mask that is not empty."""
        if form_of(file) == "class" or not info["label_info"]:
            self.keep(image_id, file, tag, info)
            return image_id
        label_id = save(image_id, str(file), tag, dict(info))
        self._remember(self.store.get_label_info(image_id, tag).get("SeriesInstanceUID"))
        return label_id

    def take_over(self, save: Callable[[str, Path, list[dict[str, Any]]], object]) -> None:
        """Hand every SEG that is new in the archive to `save`, with its image's id and its segments, oldest first.

        What `save` refuses is passed over from now on; a SEG whose image cannot be loaded is tried again next time.
        """
        uids = self._search({"Modality": "SEG"})
        new = [self.store._client.retrieve_series(uids[uid], uid)[-1] for uid in sorted(uids.keys() - self._seen())]
        for ds in sorted(new, key=lambda ds: f"{ds.get('ContentDate')} {ds.get('ContentTime')}"):
            image = _image_of(ds)
            if image and self._search({**self.store._search_filter, "SeriesInstanceUID": image}):
                try:
                    self.store.get_image_uri(image)
                except Exception as error:  # of the network, or in what others wrote
                    logger.warning(f"{image} has a segmentation, and cannot be loaded ({type(error).__name__}).")
                    continue
                try:
                    _hand_over(ds, image, save)
                except Exception as error:  # in what others wrote
                    reason = getattr(error, "detail", error)
                    logger.warning(f"{image}: a segmentation in the archive is no label of this app: {reason}")
            self._remember(ds.SeriesInstanceUID)

    def _search(self, filters: Mapping[str, str]) -> dict[str, str]:
        """Return the study by series; asked anew, where `list_images` answers what was there up to two hours ago."""
        found = self.store._client.search_for_series(search_filters=dict(filters))
        return {series["0020000E"]["Value"][0]: series["0020000D"]["Value"][0] for series in found}

    def _seen(self) -> set[str]:
        return set(json.loads(self.file.read_text(encoding="utf-8"))) if self.file.exists() else set()

    def _add(self, uid: Any) -> None:
        if uid:
            write_json(self.file, sorted(self._seen() | {str(uid)}))


def _uid(name: Any) -> str:
    """Return what may be the id of a series; MONAI Label makes a path of it before it asks the archive.

    Raises:
        IndexError: like MONAI Label for a series that is not there.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[0-9.]{1,64}", name, re.ASCII) or ".." in name:
        raise IndexError(f"{name!r:.100} is no SeriesInstanceUID.")
    return name


def _hand_over(ds: Dataset, image: str, save: Callable[[str, Path, list[dict[str, Any]]], object]) -> None:
    names = [{"name": str(one.SegmentLabel), "idx": int(one.SegmentNumber)} for one in ds.SegmentSequence]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seg.dcm"
        ds.save_as(file)
        mask = Path(dicom_seg_to_itk_image(str(file)))
    try:
        save(image, mask, names)
    finally:
        mask.unlink()


def voxels(file: Path, image: str, folder: Path) -> Path:
    """Return voxels alone (``.bin``, a byte each, x fastest), as OHIF sends them, as NIfTI on the grid of the image.

    Raises:
        ValueError: if their number differs.
    """
    if (count := file.stat().st_size) != (size := int(np.prod(nib.load(image).shape))):
        raise ValueError(f"the mask has {count} voxels, its image {size}.")
    return Path(shutil.move(binary_to_image(image, str(file)), folder / "voxels.nii.gz"))


def segments(file: Path, classes: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return ``label_info`` of the classes in a settled mask: MONAI Label names its n-th value by the n-th entry.

    Raises:
        ValueError: if the file is no NIfTI, which alone becomes a SEG, or has negative numbers, as no segment has.
    """
    if image_format(file) != "NIfTI":
        raise ValueError("a mask for an archive is .nii.gz, .nrrd or .bin; save it anew.")
    named = {str(entry.get("name", "")).lower(): entry for entry in entries}
    names = dict(enumerate([*classes, NOT_LABELED])) | ({255: classes[1]} if len(classes) == 2 else {})
    there = [int(value) for value in np.unique(np.asanyarray(nib.load(file).dataobj)) if value]
    if there and there[0] < 0:
        raise ValueError(f"the mask holds {there[0]}; what nobody labeled is {len(classes)} in an archive.")
    return [{**named.get(names[n].lower(), {}), "name": names[n], "idx": n} for n in there]


def _image_of(ds: Dataset) -> str:
    series = ds.get("ReferencedSeriesSequence")
    return str(series[0].SeriesInstanceUID) if series else ""
