"""The datalist: which images there are, what is known of them, and who belongs to whom."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from medssl_monai import limits, names
from medssl_monai.data.patients import as_written, same_patient
from medssl_monai.files import parse_json, write_json
from medssl_monai.kinds import KINDS, Classes, Kind, Masks, kind_named, kind_of

Item = dict[str, Any]
"""One sample: ``image`` (path), ``id`` (unique), ``group`` (patient or lesion), and optionally ``label`` (as its kind
has it, see `medssl_monai.kinds`: class index, list of 1, 0 and -1 for unknown, path of a mask), ``labeled`` (False
hides the label from training), ``mask`` (path, of an image that has or may have a class too) and ``masked`` (likewise),
``slice`` (index along the last axis of a volume, or frame), ``source`` (name of the collection it is from, where there
are several; see `medssl_monai.pool.PoolSampler`) and ``meta`` (the user's own columns)."""

Key = Literal["label", "mask"]
FLAGS: dict[Key, str] = {"label": "labeled", "mask": "masked"}
"""What may be known of an item, and the flag that hides it."""

SYNTHETIC = "SYNTHETIC DATA: phantoms, not patients"
"""What every output of a run on phantoms says."""

SECTIONS = ("training", "validation", "testing")
NAMED = {"labels": "class", "mask_classes": "class of masks", "modality": "channel"}
"""Keys of the head under which names stand, by index, and what they name."""
KEYS = {"image", "label", "labeled", "mask", "masked", "group", "id", "slice", "source", "meta"}


class Datalist(list[Item]):
    """The items of one section, and what the file says of all of them; MONAI takes it as any list of dicts.

    Args:
        items: samples with absolute image paths.
        classes: names of the classes or findings, in the order of their index; empty if unknown.
        synthetic: whether the images are phantoms; every output of a run on them says so.
        name: name of the data set.
        sha256: hash of what the file says of this section, independent of where the images lie.
        modality: names of the image channels, in their order.
        mask_classes: names of the classes of ``mask``, background first; empty where masks, if any, are the labels.
        groups_as_written: whether groups that differ in case, blanks, ``^`` or leading zeros are several.
        label_kind: word of the kind of ``label`` (`medssl_monai.kinds.KINDS`); empty: as its values look.
    """

    def __init__(
        self,
        items: Iterable[Item] = (),
        classes: Sequence[str] = (),
        synthetic: bool = False,
        name: str = "",
        sha256: str = "",
        modality: Sequence[str] = ("image",),
        mask_classes: Sequence[str] = (),
        groups_as_written: bool = False,
        label_kind: str = "",
    ) -> None:
        super().__init__(items)
        self.groups_as_written, self.label_kind = groups_as_written, label_kind
        self.classes, self.modality, self.mask_classes = tuple(classes), tuple(modality), tuple(mask_classes)
        self.synthetic, self.name = synthetic, name
        self.sha256 = sha256 or hash_items(self)

    @property
    def names(self) -> dict[Key, tuple[str, ...]]:
        """Names of classes, findings or structures, by the part of the labels."""
        return {"label": self.classes, "mask": self.mask_classes}

    @property
    def kinds(self) -> dict[Key, str]:
        """Words of the kinds of labels, by the part; empty where only the values tell."""
        return {"label": self.label_kind, "mask": Masks.word}


def hash_items(items: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of the items in their order, of all keys but the user's ``meta``."""
    plain = [{key: item[key] for key in sorted(item.keys() & (KEYS - {"meta"}))} for item in items]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def load_datalist(
    path: str | Path, section: str = "training", dataset_dir: str | Path | None = None, allow_leaks: bool = False
) -> Datalist:
    """Read one section of a datalist file.

    Args:
        path: JSON file in MONAI's layout: lists under ``training``, ``validation`` and ``testing``; ``labels`` maps
            the class index to its name, ``modality`` the channel index to its name, as in the Medical Segmentation
            Decathlon; ``mask_classes`` those of masks beside labels; ``label_kind`` says what a label is where its
            values do not tell.
        section: which list to return.
        dataset_dir: folder that relative paths start from; default: the folder of the file.
        allow_leaks: accept groups that are in more than one section.

    Raises:
        FileNotFoundError: if there is no such file.
        KeyError: if the file has no such section.
        ValueError: if an item is not valid or sections share a group; the message names item and key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no datalist at {path}; `medssl prepare` makes one from images and a table.")
    limits.check("max_json_bytes", path.stat().st_size, str(path))
    content = _parse(path.read_bytes(), str(path), allow_leaks)
    if section not in content:
        there = [name for name in SECTIONS if name in content]
        raise KeyError(f"{path} has no section {section!r}, only {there}; split it anew with `medssl prepare`.")
    root = Path(dataset_dir) if dataset_dir else path.parent
    items = [{**item, "image": os.path.join(root, item["image"])} for item in content[section]]
    classes = list(content["labels"].values())
    kinds = {"label": _label_kind(content["label_kind"], content, classes, str(path)), "mask": Masks()}
    for item in items:
        for key, kind in kinds.items():
            if (file := _file(item, key, kind)) is not None:
                item[key] = os.path.abspath(os.path.join(root, file))  # pools write it down
    return Datalist(
        items,
        classes=classes,
        synthetic=content["synthetic"],
        name=content.get("name", path.stem),
        sha256=hash_items(content[section]),
        modality=content["modality"].values() or ("image",),
        mask_classes=content["mask_classes"].values(),
        groups_as_written=content["groups_as_written"],
        label_kind=content["label_kind"],
    )


@lru_cache(maxsize=2)
def _parse(content: bytes, source: str, allow_leaks: bool) -> dict[str, Any]:
    """Return a whole valid file; it is kept, since a run asks for each section, and for all to look for leaks."""
    return validate_datalist(parse_json(content, source), source=source, allow_leaks=allow_leaks)


def write_datalist(
    path: str | Path,
    sections: Mapping[str, Sequence[Item]],
    classes: Sequence[str] = (),
    name: str = "",
    synthetic: bool = False,
    modality: Sequence[str] = ("image",),
    allow_leaks: bool = False,
    mask_classes: Sequence[str] = (),
    label_kind: str = "",
    **header: Any,
) -> None:
    """Write a datalist file; paths are written as they are given, relative ones stay relative to the file's folder.

    Args:
        path: file to write.
        sections: items by section; see `Item`.
        classes: names of the classes in the order of their index.
        name: name of the data set.
        synthetic: whether the images are phantoms.
        modality: names of the image channels in their order.
        allow_leaks: accept groups that are in more than one section.
        mask_classes: names of the classes of masks beside labels, background first.
        label_kind: see `Datalist`.
        header: further plain values for the head of the file, such as ``licence`` or ``source``.

    Raises:
        ValueError: if an item is not valid or sections share a group.
    """
    content = {
        "name": name,
        "synthetic": synthetic,
        **header,
        "modality": {str(index): value for index, value in enumerate(modality)},
        "labels": {str(index): value for index, value in enumerate(classes)},
        "mask_classes": {str(index): value for index, value in enumerate(mask_classes)},
        "label_kind": label_kind,
        **{section: list(items) for section, items in sections.items()},
    }
    valid = validate_datalist(content, source=str(path), allow_leaks=allow_leaks)
    write_json(path, {key: valid[key] for key in content if key not in ("mask_classes", "label_kind") or valid[key]})


def validate_datalist(content: Any, source: str = "the datalist", allow_leaks: bool = False) -> dict[str, Any]:
    """Check head and items, and fill in what is missing: ``id`` (image path, and slice), ``group`` (the id), the head.

    Names and ids are those that `medssl_monai.names` lets pass, in Unicode's NFC.

    Returns:
        A copy with complete items; names of classes, of classes of masks and of channels by index, as text.

    Raises:
        ValueError: with `source`, section, item and key of the first problem, and how to mend it.
    """
    if not isinstance(content, Mapping) or not any(section in content for section in SECTIONS):
        raise ValueError(f"{source} must be a JSON object with at least one of the lists {list(SECTIONS)}.")
    limits.check("max_rows", sum(len(_list(content, section, source)) for section in SECTIONS), source)
    told = {key: _names(content.get(key), kind, f"{source}: {key!r}") for key, kind in NAMED.items()}
    flags = {key: content.get(key, False) for key in ("synthetic", "groups_as_written")}
    if wrong := [key for key, value in flags.items() if not isinstance(value, bool)]:
        raise ValueError(f"{source}: {wrong[0]!r} must be true or false, got {names.shown(flags[wrong[0]])}.")
    if content.get("name", "") != "":
        names.check_name(content["name"], "name", source)
    mask_classes = len(told["mask_classes"])
    if mask_classes == 1:
        raise ValueError(f"{source}: 'mask_classes' must name the background and at least one other class.")
    result = {**content, **flags}
    result |= {key: dict(zip(map(str, range(len(own))), own, strict=True)) for key, own in told.items()}
    result["label_kind"] = content.get("label_kind", "")
    kind = _label_kind(result["label_kind"], content, told["labels"], source)
    for section in SECTIONS:
        if section not in content:
            continue
        where = [f"{source}, {section}[{position}]" for position in range(len(content[section]))]
        result[section] = [_complete(item, at, kind) for at, item in zip(where, content[section], strict=True)]
        for at, item in zip(where, result[section], strict=True):
            if item.get("mask") is not None and not mask_classes:
                raise ValueError(
                    f"{at} has a 'mask', and the file names no classes of masks; add 'mask_classes', background first."
                )
    (kind or Classes(tuple(told["labels"]))).check(f"{source}: 'labels'")
    Masks(tuple(told["mask_classes"])).check(f"{source}: 'mask_classes'")
    for position, bad in enumerate(_list(content, "quarantine", source)):
        if not isinstance(bad, Mapping) or not all(isinstance(bad.get(key), str) for key in ("id", "image", "reason")):
            raise ValueError(f"{source}, quarantine[{position}] must have 'id', 'image' and 'reason', each a text.")
    _check_ids(result, source)
    if not allow_leaks:
        _check_groups(result, source, flags["groups_as_written"])
    return result


def _label_kind(word: Any, content: Mapping[str, Any], classes: Sequence[str], source: str) -> Kind | None:
    """Return the kind of the labels: as the head says, or as the first value looks; None if there is none."""
    if word and word not in KINDS:
        raise ValueError(f"{source}: 'label_kind' must be one of {sorted(KINDS)}, got {names.shown(word)}.")
    items = [(section, p, item) for section in SECTIONS for p, item in enumerate(_list(content, section, source))]
    values = [
        (s, p, item["label"]) for s, p, item in items if isinstance(item, Mapping) and item.get("label") is not None
    ]
    if not values:
        return kind_named(word, classes) if word else None
    section, position, first = values[0]
    kind = kind_named(word, classes) if word else kind_of([first], classes)
    if kind is None:
        raise ValueError(
            f"{source}, {section}[{position}]: key 'label' must be a class index, a list of 1, 0 and -1 for each "
            f"finding or the path of a mask, got {names.shown(first)}."
        )
    return kind


def _list(content: Mapping[str, Any], key: str, source: str) -> Sequence[Any]:
    found = content.get(key, [])
    if not isinstance(found, list | tuple):
        raise ValueError(f"{source}: {key!r} must be a list of items, got {type(found).__name__}.")
    return found


def _names(told: Any, kind: str, where: str) -> list[str]:
    """Names in the order of their index; none where nothing is told."""
    if told is None:
        return []
    if isinstance(told, Mapping):
        keys = [str(index) for index in range(len(told))]
        by_key = {str(key): name for key, name in told.items()}
        if missing := [key for key in keys if key not in by_key]:
            raise ValueError(f"{where} must name a {kind} for every index from 0 on; {missing[0]!r} is missing.")
        told = [by_key[key] for key in keys]
    if not isinstance(told, list | tuple):
        raise ValueError(f"{where} must map every index to the name of a {kind}, got {names.shown(told)}.")
    for name in told:
        names.check_name(name, kind, where)
    return [_normal(name) for name in told]


def _complete(item: Any, where: str, kind: Kind | None) -> Item:
    if not isinstance(item, Mapping):
        raise ValueError(f"{where} must be an object with at least the key 'image', got {names.shown(item)}.")
    unknown = next((key for key in item if key not in KEYS), None)
    if unknown is not None:
        raise ValueError(
            f"{where} has the unknown key {names.shown(unknown)}; known are {sorted(KEYS)}, and columns of your own "
            "go under 'meta'."
        )
    _check_path(item.get("image"), f"{where}: key 'image'")
    result = dict(item)
    if "slice" in item and (type(item["slice"]) is not int or not 0 <= item["slice"] < 2**31):
        raise ValueError(f"{where}: key 'slice' must be an index from 0, got {names.shown(item['slice'])}.")
    if not isinstance(item.get("meta", {}), Mapping):
        raise ValueError(f"{where}: key 'meta' must be an object, got {names.shown(item['meta'])}.")
    result.setdefault("id", item["image"] + (f"#{item['slice']}" if "slice" in item else ""))
    result.setdefault("group", result["id"])
    for key in ("id", "group", *({"source"} & set(item))):
        if not isinstance(result[key], str) or not result[key]:
            raise ValueError(f"{where}: key {key!r} must be a non-empty text, got {names.shown(result[key])}.")
        names.check_name(result[key], key if key in item else f"image, whose path is its {key},", where)
        result[key] = _normal(result[key])
    for key, flag in FLAGS.items():
        if flag in item and not isinstance(item[flag], bool):
            raise ValueError(f"{where}: key {flag!r} must be true or false, got {names.shown(item[flag])}.")
        if item.get(flag) and item.get(key) is None:
            raise ValueError(f"{where}: {flag!r} is true but there is no {key!r}; add it or drop the flag.")
    for key, own in (("label", kind), ("mask", Masks())):
        if own is not None and item.get(key) is not None:
            try:
                own.restore(item[key])
            except ValueError as error:
                raise ValueError(f"{where}: key {key!r} {error}.") from None
    if item.get("mask") is not None and _file(item, "label", kind) is not None:
        raise ValueError(f"{where}: beside a 'mask', the 'label' must say the class, and it is a path as well.")
    return result


def _file(item: Mapping[str, Any], key: str, kind: Kind | None) -> str | None:
    """Return the file that a valid label is in; None if it is in none, or there is none."""
    return None if kind is None or item.get(key) is None else kind.file(kind.restore(item[key]))


def _check_path(path: Any, where: str) -> None:
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{where} must be the path of a file, got {names.shown(path)}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        path = "\0"
    if "\0" in path:
        raise ValueError(f"{where} must be the path of a file, and holds a sign that no path can hold.")


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def patient_of(item: Mapping[str, Any], groups_as_written: bool = False) -> str:
    """Return the patient of an item, equal for all spellings; a group that is a file's own names none."""
    group = str(item["group"])
    if groups_as_written:
        return as_written(group)
    return group if group in (item["id"], str(item["id"]).partition("#")[0]) else same_patient(group)


def _check_ids(content: Mapping[str, Any], source: str) -> None:
    count = Counter(item["id"] for section in SECTIONS for item in content.get(section, ()))
    twice = [name for name, times in count.items() if times > 1]
    if twice:
        raise ValueError(f"{source}: the id {twice[0]!r} occurs {count[twice[0]]} times; every item needs its own id.")


def _check_groups(content: Mapping[str, Any], source: str, groups_as_written: bool) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for section in SECTIONS:
        patients = {item["group"]: patient_of(item, groups_as_written) for item in content.get(section, ())}
        of_section = Counter(item["group"] for item in content.get(section, ()))
        for group, shared in of_section.items():
            place, other = seen.get(patients[group], (section, group))
            if place != section:
                spelled = "" if other == group else f", there as {other!r},"
                raise ValueError(
                    f"{source}: group {group!r}{spelled} is in both {place!r} and {section!r} ({shared} items there); "
                    "figures from such a split are too good. Split by group, or pass `allow_leaks` to go on regardless."
                )
        seen |= {patients[group]: (section, group) for group in of_section}
