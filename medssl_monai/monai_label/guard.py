"""A datastore that goes by ids of its images and by known tags, whatever a request says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from medssl_monai.monai_label.files import form_of
from medssl_monai.monai_label.gate import PREDICTIONS
from medssl_monai.monai_label.record import Record
from medssl_monai.monai_label.studies import KEY, TAGS
from medssl_monai.names import problem_of

KNOWN = (*TAGS, PREDICTIONS)
"""Tags that labels may have; each is the name of a folder."""
KEPT = (KEY, "ts", "name", "path")
"""Of the info of images and labels, what the server itself writes."""
INFO_BYTES = 2**20
"""The most that a request may add to the info of an image or label; it is kept in one file with all others."""
MASKS = (".nii.gz", ".nii", ".nrrd", ".png", ".bin")


class Guard:
    """Put before the methods of a local datastore that MONAI Label's endpoints call with what a request says.

    Args:
        store: a `monailabel.datastore.local.LocalDatastore`, or one that is derived from it; its methods are replaced.
        record: who changed which label.
    """

    def __init__(self, store: Any, record: Record) -> None:
        self.store, self.record = store, record
        for name in ("add_image", "remove_image", "remove_label", "update_image_info", "update_label_info"):
            setattr(store, name, getattr(self, name)(getattr(store, name)))

    def image(self, image_id: Any) -> None:
        """Refuse what is no id of an image: 404."""
        if not isinstance(image_id, str) or not self._is_there(image_id):
            raise HTTPException(404, f"there is no image {image_id!r:.200} in the studies.")

    def _is_there(self, image_id: str) -> bool:
        """Keep a list of an archive, which may be hours old."""
        return image_id in self.store._datastore.objects or image_id in self.store.list_images()

    def label(self, image_id: Any, tag: Any) -> Path:
        """Return the file of a label; 404 if there is none."""
        self.image(image_id)
        check_tag(tag)
        if not (file := self.store.get_label_uri(image_id, tag)):
            raise HTTPException(404, f"{image_id!r} has no label with the tag {tag!r}.")
        return Path(file)

    def add_image(self, add: Callable[..., str]) -> Callable[..., str]:
        def checked(image_id: str, image_filename: str, image_info: Any) -> str:
            name = image_id or self.store._to_id(Path(image_filename).name)[0]
            suffix = self.store._to_id(Path(image_filename).name)[1]
            if problem := _no_id(name):
                raise HTTPException(400, f"the id {name!r:.200} {problem}; name another.")
            if f"*{suffix}" not in self.store._extensions or self.store._to_id(name + suffix) != (name, suffix):
                known = ", ".join(pattern.removeprefix("*") for pattern in self.store._extensions)
                raise HTTPException(400, f"an image is a file of the type {known}, and its id holds none of these.")
            if self._is_there(name):
                raise HTTPException(409, f"there is an image {name!r} already, and this one would get its labels.")
            return add(name, image_filename, check_info(image_info))

        return checked

    def remove_image(self, remove: Callable[[str], None]) -> Callable[[str], None]:
        def checked(image_id: str) -> None:
            self.image(image_id)
            there = {tag: file for tag in KNOWN if (file := self.store.get_label_uri(image_id, tag))}
            remove(image_id)
            for tag, file in there.items():
                self.record.write("removed", image_id, tag, form_of(file), None, {})

        return checked

    def remove_label(self, remove: Callable[[str, str], None]) -> Callable[[str, str], None]:
        def checked(label_id: str, label_tag: str) -> None:
            file = self.label(label_id, label_tag)
            remove(label_id, label_tag)
            self.record.write("removed", label_id, label_tag, form_of(file), None, {})

        return checked

    def update_image_info(self, update: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
        def checked(image_id: str, info: Any) -> None:
            self.image(image_id)
            update(image_id, check_info(info))

        return checked

    def update_label_info(self, update: Callable[[str, str, Any], None]) -> Callable[[str, str, Any], None]:
        def checked(label_id: str, label_tag: str, info: Any) -> None:
            self.label(label_id, label_tag)
            update(label_id, label_tag, check_info(info))

        return checked


def check_tag(tag: Any) -> None:
    """Refuse an unknown tag: 400; a tag is a folder's name."""
    if tag not in KNOWN:
        raise HTTPException(400, f"the tag {tag!r:.100} is none of {list(KNOWN)}.")


def check_suffix(file: Path) -> None:
    """Refuse a label whose file would get an ending that says something else: 400."""
    if form_of(file) == "mask" and not file.name.lower().endswith(MASKS):
        raise HTTPException(400, f"a label is .json, or a mask as {', '.join(MASKS)}; save it anew.")


def check_info(info: Any) -> dict[str, Any]:
    """Return what a request adds to the info of an image or label; 400 if it is none, too large or the server's."""
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise HTTPException(400, "`params` and `info` are JSON objects.")
    if taken := [name for name in KEPT if name in info]:
        raise HTTPException(400, f"{taken[0]!r} is what the server writes of an image or label; leave it out.")
    if len(json.dumps(info, default=str)) > INFO_BYTES:
        raise HTTPException(413, f"`params` and `info` take more than {INFO_BYTES:,} characters; send less.")
    if not all(_is_given_out(one) for one in _values(info.get("strategy", {}))):
        raise HTTPException(400, "`strategy` says when an image was given out, as the server writes it; leave it out.")
    return dict(info)


def _values(strategies: Any) -> list[Any]:
    return list(strategies.values()) if isinstance(strategies, Mapping) else [None]


def _is_given_out(one: Any) -> bool:
    return isinstance(one, Mapping) and type(one.get("ts")) in (int, float)


def _no_id(name: str) -> str | None:
    if any(sign in name for sign in "/\\") or name.startswith("."):
        return "is a path"
    return "is longer than 200 characters" if len(name) > 200 else problem_of(name)
