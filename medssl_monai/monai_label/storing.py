"""Labels that readers hand over: stored if they fit a bundle, refused with a reason if not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from medssl_monai.monai_label.archive import Archive, segments, voxels
from medssl_monai.monai_label.files import Form, TooLargeError, check_size, form_of
from medssl_monai.monai_label.guard import check_info, check_suffix, check_tag
from medssl_monai.monai_label.labels import read_class
from medssl_monai.monai_label.masks import settle_mask
from medssl_monai.monai_label.record import Record
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import TAGS
from medssl_monai.monai_label.writes import SafeWrites
from medssl_monai.names import problem_of


def path_of(store: Any, image: Any) -> str:
    """Return the path of an image of the datastore; 404 for everything else, such as a path or a file sent along."""
    if not isinstance(image, str) or not (path := _uri(store, image)):
        raise HTTPException(
            404, f"there is no image {image!r:.200} in the studies; /datastore/?output=all lists their ids."
        )
    if problem := problem_of(image):
        raise HTTPException(422, f"the id {image!r:.200} {problem}; rename the file.")
    return path


def _uri(store: Any, image_id: str) -> str:
    try:
        return str(store.get_image_uri(image_id))
    except IndexError:  # no series of an archive
        return ""


class LabelStore:
    """Takes the place of the datastore's ``save_label``.

    Args:
        store: MONAI Label's datastore.
        served: bundles by name; a label must fit one of them.
        writes: of the datastore.
        archive: None: the studies are a folder.
        record: who changed which label.
        label_mb: megabytes that a label may take, unpacked.
    """

    def __init__(
        self,
        store: Any,
        served: Mapping[str, ServedBundle],
        writes: SafeWrites,
        archive: Archive | None,
        record: Record,
        label_mb: int,
    ) -> None:
        self.store, self.served, self.writes, self.archive = store, served, writes, archive
        self.record, self.label_mb = record, label_mb
        self._save, store.save_label = store.save_label, self.save

    def save(self, image_id: str, label_filename: str, label_tag: str, label_info: Any, *_: Any) -> str:
        """Store a label if it fits a bundle; beside one of the other kind, if there is one; predictions as they are."""
        check_tag(label_tag)
        image, file, info = path_of(self.store, image_id), Path(label_filename), check_info(label_info)
        check_suffix(file)
        try:
            check_size(file, self.label_mb)
        except TooLargeError as error:
            raise HTTPException(413, f"the label was not saved: {error}") from None
        form, tag, names = form_of(label_filename), str.__str__(label_tag), info.get("label_info") or []
        with tempfile.TemporaryDirectory() as folder:
            if tag in TAGS:
                file, info["label_info"] = self._settle(file, image, names, Path(folder))
                tag = self._free_tag(image_id, form, tag)
            if self.archive and tag in TAGS:
                label_id = self.archive.save(self._save, image_id, file, tag, info)
            else:
                self.writes.put(image_id, file, tag, info)
                label_id = image_id
            self.record.write("stored", image_id, tag, form, file, info)
        return label_id

    def take_over(self) -> None:
        """Store the masks that viewers stored in the archive themselves."""
        if self.archive:
            self.archive.take_over(self._keep)

    def _keep(self, image_id: str, mask: Path, names: list[dict[str, Any]]) -> None:
        """Store a mask that is in the archive already."""
        with tempfile.TemporaryDirectory() as folder:
            check_size(mask, self.label_mb)
            file, names = self._settle(mask, _uri(self.store, image_id), names, Path(folder))
            tag = self._free_tag(image_id, "mask", "final")
            self.writes.put(image_id, file, tag, {"label_info": names})
            self.record.write("stored", image_id, tag, "mask", file, {"user": "a segmentation in the archive"})

    def _free_tag(self, image_id: str, form: Form, tag: str) -> str:
        """Return `tag`, or the form if a label of the other form has that."""
        there = self.store.get_label_uri(image_id, tag)
        return form if there and form_of(there) != form else tag

    def _settle(self, file: Path, image: str, names: Any, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
        """Return the label as training reads it, and the segments in it.

        Raises:
            HTTPException: 400, with what each bundle says, if it fits none.
        """
        reasons = []
        for name, served in self.served.items():
            try:
                if form_of(file) == "class" and served.classes:
                    read_class(file, served.known_kind, served.classes)
                    return file, []
                if form_of(file) == "mask" and served.mask_classes:
                    whole = voxels(file, image, folder) if self.archive and file.suffix == ".bin" else file
                    mask = settle_mask(whole, image, served.mask_classes, names, folder)
                    return mask, segments(mask, served.mask_classes, names) if self.archive else names
            except ValueError as error:
                reasons.append(f"{name}: {error}")
        kinds = {"class": "classes, as JSON", "mask": "masks, as images"}
        none = f"no bundle of this app learns {kinds[form_of(file)]}"
        raise HTTPException(400, f"the label was not saved: {'; '.join(reasons) or none}")
