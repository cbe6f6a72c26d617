"""A quick search for leaks between sections, before a training."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medssl_monai.audit.copies import copies_text
from medssl_monai.audit.items import Sections, load_sections, pictures_of
from medssl_monai.audit.owners import owner_leaks, patients, shared, volume
from medssl_monai.data.copies import Picture
from medssl_monai.data.datalist import Item
from medssl_monai.files import read_json, sha256

logger = logging.getLogger(__name__)

RESULT = "audit.json"
SAMPLE = 4096  # bytes, at the start, in the middle and at the end of a file


def check_leaks(datalist: str | Path, dataset_dir: str | Path | None = None, allow_leaks: bool = False) -> None:
    """Stop a training whose figures would be too good.

    This finds what `audit` finds, as far as it costs next to nothing: groups and volumes in several sections, and equal
    files. Sizes of all files are compared, three samples of those of equal size, and the whole of those with equal
    samples. That takes well under a second for 10,000 files and hardly grows with their size.

    Copies that were encoded anew, and near copies, take an audit. If an ``audit.json`` lies beside the datalist, and
    neither the datalist nor the size of a file has changed since, its leaks and warnings count too.

    Args:
        datalist: file with all sections.
        dataset_dir: folder that relative paths start from; default: that of the file.
        allow_leaks: log leaks as warnings.

    Raises:
        FileNotFoundError: if there is no datalist.
        ValueError: if there are leaks; the message says which and how to go on.
    """
    sections = load_sections(datalist, dataset_dir)
    owners = {"shared_groups": shared(sections, patients(sections)), "shared_volumes": shared(sections, volume)}
    leaks = [*owner_leaks(owners, sections), *_equal_files(sections)]
    earlier = Path(datalist).with_name(RESULT)
    result = read_json(earlier) if earlier.is_file() else {}
    if result and not {"datalist", "leaks", "errors", "warnings"} <= result.keys():
        raise ValueError(f"{earlier} is no audit of this package; remove it, or audit anew with `medssl audit`.")
    if result and result["datalist"]["sha256"] == sha256(datalist) and result.get("files_sha256") == state(sections):
        leaks = result["leaks"] or leaks  # decoded pixels say more than files
        for text in [*result["errors"], *result["warnings"]]:
            logger.warning("audit of the data: %s", text)
    text = " ".join(leaks)
    if leaks and not allow_leaks:
        raise ValueError(
            f"{datalist} leaks: {text} Figures from such a split are too good. `medssl audit` shows the images; split "
            "by group and without copies (`medssl prepare` does), or pass `allow_leaks` to go on regardless."
        )
    if leaks:
        logger.warning("leaks in the data, which are allowed: %s", text)


def _equal_files(sections: Sections) -> list[str]:
    """Return the leaks by files of equal content.

    Each step reads more of a file, and only of files that the step before could not tell apart.
    """
    places: dict[Any, list[tuple[str, Item]]] = {
        None: [(section, item) for section, items in sections.items() for item in items]
    }
    for read in (_size, _sample, sha256):
        suspects = [suspect for same in places.values() for suspect in same]
        contents = {image: _content(image, read) for image in {item["image"] for _, item in suspects}}
        places = defaultdict(list)
        for section, item in suspects:
            places[contents[item["image"]], item.get("slice")].append((section, item))
        places = {key: same for key, same in places.items() if key[0] and len({section for section, _ in same}) > 1}
    sets = [same for same in places.values() if not _is_blank(same[0][1])]
    leaks = []
    for first, second in itertools.combinations(sections, 2):
        counts = [Counter(section for section, _ in same) for same in sets]
        both = [count for count in counts if count[first] and count[second]]
        if both:
            images, copies = (sum(count[section] for count in both) for section in (second, first))
            leaks.append(copies_text("exact", first, second, images, len(sections[second]), copies))
    return leaks


def _is_blank(item: Item) -> bool:
    picture = pictures_of(item["image"], [item.get("slice")])[0]
    return isinstance(picture, Picture) and picture.blank


def state(sections: Sections) -> str:
    """Return a hash of the sizes of all files: an audit of other files does not count."""
    images = dict.fromkeys(item["image"] for items in sections.values() for item in items)
    return hashlib.sha256(json.dumps([_content(image, _size) for image in images]).encode()).hexdigest()


def _content(image: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return what `read` says of a file, or of each file of a folder (a DICOM series); empty if there is none."""
    try:
        if os.path.isdir(image):
            return tuple(read(path) for path in sorted(file.path for file in os.scandir(image) if file.is_file()))
        return (read(image),)
    except OSError:  # whoever reads the images says so
        return ()


def _size(path: str) -> int:
    return os.stat(path).st_size


def _sample(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        end = max(0, os.fstat(file.fileno()).st_size - SAMPLE)
        for start in sorted({0, end // 2, end}):
            file.seek(start)
            digest.update(file.read(SAMPLE))
    return digest.digest()
