"""What would make figures from a datalist too good, or wrong: leaks, copies, contradictions, shifts."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import logging
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai import __version__
from medssl_monai.audit.page import SHOWN, SHOWN_OF_SET, write_audit_page
from medssl_monai.audit.shift import intensity_shift, label_shift
from medssl_monai.data.copies import Picture, near_copies, picture
from medssl_monai.data.datalist import FLAGS, SECTIONS, Datalist, Item, load_datalist, patient_of
from medssl_monai.data.patients import listed
from medssl_monai.files import read_json, sha256, write_json
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Sections = dict[str, Datalist]

RESULT, PAGE = "audit.json", "audit.html"
THREADS = 8
SAMPLE = 4096  # bytes, at the start, in the middle and at the end of a file


def audit(
    datalist: str | Path, out_dir: str | Path | None = None, dataset_dir: str | Path | None = None
) -> dict[str, Any]:
    """Look in and between all sections of a datalist for what makes figures too good, or wrong.

    Found are groups (patients, lesions) and volumes in more than one section; exact copies, by decoded pixels; near
    copies (see `medssl_monai.data.copies.near_copies`); copies with labels that contradict each other; and shifts of
    labels and intensities between sections (`medssl_monai.audit.shift`). Images of one grey value are equal without
    being copies, and are listed apart. Files that cannot be read are listed and stop nothing. A volume without
    ``slice`` counts as one image: for near copies, the average along its last axis.

    Every file is read once. In memory are 1 to 7 kB of each image, and the files that are being read.

    Args:
        datalist: file with any of the sections training, validation and testing.
        out_dir: where ``audit.json`` and ``audit.html`` go; None: nowhere. They name ids and groups, and no paths; the
            page shows images, and is as confidential as they are.
        dataset_dir: folder that relative paths start from; default: that of the file.

    Returns:
        What ``audit.json`` holds: ``leaks`` (what stops a training), ``errors`` and ``warnings`` in words, and what
        they rest on under ``sections``, ``merged_groups``, ``shared_groups``, ``shared_volumes``, ``exact_copies``,
        ``near_copies``, ``recurring``, ``label_shift``, ``intensity_shift``, ``unreadable`` and ``blank``.

    Raises:
        FileNotFoundError: if there is no datalist.
        ValueError: if an item of it is not valid.
    """
    start = time.monotonic()
    sections = _load(datalist, dataset_dir)
    data = next(iter(sections.values()))
    entries = _read_all(sections)
    copies = _Copies(entries, data.classes)
    intensities: dict[str, dict[str, list[tuple[float, ...]]]] = {name: defaultdict(list) for name in sections}
    for entry in entries:
        if isinstance(entry.found, Picture):
            intensities[entry.section][entry.item["group"]].append(entry.found.intensities)
    result: dict[str, Any] = {
        "format": 1,
        "package": f"medssl_monai {__version__}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "datalist": {"name": data.name, "sha256": sha256(datalist), "synthetic": data.synthetic},
        "files_sha256": _state(sections),
        "sections": {name: _summary(items) for name, items in sections.items()},
        "merged_groups": _merged(sections),
        "shared_groups": _shared(sections, _patients(sections)),
        "shared_volumes": _shared(sections, _volume, named=False),
        "exact_copies": copies.exact(),
        "near_copies": copies.near(),
        "recurring": copies.recurring(list(sections)),
        "label_shift": label_shift(sections, data.classes),
        "intensity_shift": intensity_shift(intensities),
        "unreadable": [
            {"id": entry.item["id"], "section": entry.section, "reason": entry.found}
            for entry in entries
            if isinstance(entry.found, str)
        ]
        + _set_aside(datalist),
        "blank": [e.item["id"] for e in entries if isinstance(e.found, Picture) and e.found.blank],
    }
    result = {**_judge(result, sections), **result, "seconds": round(time.monotonic() - start, 1)}
    if out_dir is not None:
        write_audit_page(Path(out_dir) / PAGE, result, _previews(result, entries))
        write_json(Path(out_dir) / RESULT, result)
    return result


def check_leaks(datalist: str | Path, dataset_dir: str | Path | None = None, allow_leaks: bool = False) -> None:
    """Stop before a training whose figures would be too good: what `audit` finds, as far as it costs next to nothing.

    Looked for are groups and volumes in several sections, and equal files: sizes of all files are compared, three
    samples of those of equal size, and the whole of those with equal samples. That takes well under a second for 10,000
    files and hardly grows with their size. Copies that were encoded anew, and near copies, take an audit: if an
    ``audit.json`` lies beside the datalist and neither that nor the size of a file has changed since, what it says
    counts too, as leaks or as warnings.

    Args:
        datalist: file with all sections.
        dataset_dir: folder that relative paths start from; default: that of the file.
        allow_leaks: log leaks as warnings.

    Raises:
        FileNotFoundError: if there is no datalist.
        ValueError: if there are leaks; the message says which and how to go on.
    """
    sections = _load(datalist, dataset_dir)
    owners = {"shared_groups": _shared(sections, _patients(sections)), "shared_volumes": _shared(sections, _volume)}
    leaks = [*_owner_leaks(owners, sections), *_equal_files(sections)]
    earlier = Path(datalist).with_name(RESULT)
    told = read_json(earlier) if earlier.is_file() else {}
    if told and not {"datalist", "leaks", "errors", "warnings"} <= told.keys():
        raise ValueError(f"{earlier} is no audit of this package; remove it, or audit anew with `medssl audit`.")
    if told and told["datalist"]["sha256"] == sha256(datalist) and told.get("files_sha256") == _state(sections):
        leaks = told["leaks"] or leaks  # decoded pixels say more than files
        for text in [*told["errors"], *told["warnings"]]:
            logger.warning("audit of the data: %s", text)
    text = " ".join(leaks)
    if leaks and not allow_leaks:
        raise ValueError(
            f"{datalist} leaks: {text} Figures from such a split are too good. `medssl audit` shows the images; split "
            "by group and without copies (`medssl prepare` does), or pass `allow_leaks` to go on regardless."
        )
    if leaks:
        logger.warning("leaks in the data, which are allowed: %s", text)


@dataclass(frozen=True)
class _Entry:
    """An item of a section, and what was found in its file: a picture, or why there is none."""

    item: Item
    section: str
    found: Picture | str


def _load(datalist: str | Path, dataset_dir: str | Path | None) -> Sections:
    sections: Sections = {}
    for section in SECTIONS:
        try:
            sections[section] = load_datalist(datalist, section, dataset_dir, allow_leaks=True)
        except KeyError:
            continue
    return sections


# reading


def _read_all(sections: Sections) -> list[_Entry]:
    """All items in order; each file is read once, by several threads."""
    from tqdm import tqdm

    wanted: dict[str, list[int | None]] = defaultdict(list)
    for item in itertools.chain(*sections.values()):
        wanted[item["image"]].append(item.get("slice"))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        read = threads.map(_pictures, wanted, wanted.values())
        bar = tqdm(read, "read images", len(wanted), leave=False, disable=not sys.stderr.isatty())
        found = {image: iter(pictures) for image, pictures in zip(wanted, bar, strict=True)}
    return [_Entry(item, section, next(found[item["image"]])) for section, items in sections.items() for item in items]


def _pictures(image: str, slices: Sequence[int | None]) -> list[Picture | str]:
    """Of each slice of a file, or of the whole where that is None; the reason where it cannot be read."""
    try:
        array = _read(image)
        return [_picture(array, k) for k in slices]
    except UnreadableImageError as error:
        reason = error.reason
    except FileNotFoundError:
        reason = "is not there; mend its path in the datalist, or set `dataset_dir`."
    except Exception as error:  # a decoder may fail in any way, and one file must not stop the audit
        reason = f"cannot be read ({type(error).__name__}); copy it anew, or take it out of the datalist."
    return [reason] * len(slices)


def _picture(array: Array, k: int | None) -> Picture | str:
    try:
        return picture(_cut(array, k))
    except IndexError:
        return f"has no slice {k}, counted from 0; mend `slice` in the datalist."


def _read(image: str) -> Array:
    """``(C, x, y[, z])``, or a table of features as ``(1, 1, D, rows)``."""
    if image.endswith(".npy"):
        return np.load(image, mmap_mode="r", allow_pickle=False).T[None, None]
    array, _ = ClinicalReader(nan="background").get_data([Path(image)])
    return array


def _cut(array: Array, k: int | None) -> Array:
    volume = array if array.ndim == 4 else array[..., None]
    return array if k is None else volume[..., k]


def _set_aside(datalist: str | Path) -> list[dict[str, Any]]:
    """Files that `medssl_monai.prepare.prepare` could not read and left out."""
    aside = read_json(datalist).get("quarantine", [])
    return [{"id": bad["id"], "section": "none", "reason": bad["reason"]} for bad in aside]


# what is in several sections


def _spellings(sections: Sections) -> dict[str, dict[str, None]]:
    """How each patient is spelled, in the order in which the spellings come, unless groups are to be kept apart."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for items in sections.values():
        for item in items:
            found[patient_of(item, items.groups_as_written)][str(item["group"])] = None
    return found


def _merged(sections: Sections) -> list[str]:
    images = Counter(patient_of(item, items.groups_as_written) for items in sections.values() for item in items)
    return listed(_spellings(sections), images)


def _patients(sections: Sections) -> Callable[[Item], str]:
    """Who an item is of: one name for all spellings of a patient."""
    names = {text: " = ".join(texts) for texts in _spellings(sections).values() for text in texts}
    return lambda item: names[str(item["group"])]


def _volume(item: Item) -> str | None:
    """The file of a slice; rows of a table of features are images of their own."""
    return item["image"] if "slice" in item and not item["image"].endswith(".npy") else None


def _shared(sections: Sections, owner: Callable[[Item], str | None], named: bool = True) -> dict[str, Any]:
    """Owners of items in more than one section, and how many items of each two sections that concerns."""
    counts = {section: Counter(filter(None, map(owner, items))) for section, items in sections.items()}
    pairs = []
    for first, second in itertools.combinations(counts, 2):
        both = counts[first].keys() & counts[second].keys()
        items = {section: sum(counts[section][name] for name in both) for section in (first, second)}
        pairs += [{"sections": [first, second], "count": len(both), "items": items}] * bool(both)
    shared = [name for name, times in Counter(itertools.chain(*counts.values())).items() if times > 1]
    listed = [
        {**({"name": name} if named else {}), "items": {s: c[name] for s, c in counts.items() if name in c}}
        for name in shared
    ]
    return {"count": len(shared), "pairs": pairs, "list": listed}


class _Copies:
    """Sets of equal images, near copies among them, and what their labels say."""

    def __init__(self, entries: Iterable[_Entry], classes: Sequence[str]) -> None:
        self.classes = classes
        self.sets: dict[str, list[_Entry]] = defaultdict(list)
        thumbnails: dict[str, Array] = {}
        for entry in entries:
            if isinstance(entry.found, Picture) and not entry.found.blank:
                self.sets[entry.found.digest].append(entry)
                if entry.found.thumbnail is not None:
                    thumbnails[entry.found.digest] = entry.found.thumbnail
        numbers: dict[str, int] = {}
        files = [numbers.setdefault(self.sets[digest][0].item["image"], len(numbers)) for digest in thumbnails]
        digests = list(thumbnails)
        near = near_copies(list(thumbnails.values()), files)
        self.pairs = [(digests[i], digests[j], score) for i, j, score in near]
        self.neighbours: dict[str, list[str]] = {digest: [] for digest in self.sets}
        for first, second, _ in self.pairs:
            self.neighbours[first].append(second)
            self.neighbours[second].append(first)

    def exact(self) -> dict[str, Any]:
        sets = [same for same in self.sets.values() if len(same) > 1]
        listed, repeats = [], Counter[str]()
        for same in sets:
            by_section = Counter(entry.section for entry in same)
            repeats.update({section: count - 1 for section, count in by_section.items() if count > 1})
            answers = [[_comparable(entry.item.get(key)) for entry in same] for key in FLAGS]
            pairs = itertools.chain(*(itertools.combinations(_distinct(given), 2) for given in answers))
            listed.append(
                {
                    "crossing": len(by_section) > 1,
                    "conflict": any(itertools.starmap(_contradict, pairs)),
                    "items": [self._name(entry) for entry in same],
                }
            )
        return {**_ranked(listed), "images": sum(map(len, sets)), "repeats": dict(repeats)}

    def near(self) -> dict[str, Any]:
        listed = []
        for first, second, score in self.pairs:
            pairs = itertools.product(*(_differing(self.sets[digest]) for digest in (first, second)))
            facts = [
                (a.section != b.section, _contradict(a.item.get("label"), b.item.get("label")), a, b) for a, b in pairs
            ]
            crossing, conflict, a, b = max(facts, key=lambda fact: fact[:2])  # the pair with most to say
            same = a.item["group"] == b.item["group"]
            listed.append(
                {
                    "crossing": crossing,
                    "conflict": conflict,
                    "same_group": same,
                    "score": score,
                    "items": [self._name(a), self._name(b)],
                }
            )
        return _ranked(listed)

    def recurring(self, sections: Sequence[str]) -> list[dict[str, Any]]:
        """For each two sections: which images of the second have copies in the first, and how many those are."""
        result = []
        for first, second in itertools.combinations(sections, 2):
            images: list[dict[str, Any]] = []
            for digest, same in self.sets.items():
                here = [entry.item["id"] for entry in same if entry.section == second]
                there = {
                    kind: [entry.item["id"] for d in digests for entry in self.sets[d] if entry.section == first]
                    for kind, digests in (("exact", [digest]), ("near", self.neighbours[digest]))
                    if here
                }
                images += [{"id": name, **there} for name in here if any(there.values())]
            counts = {
                kind: {
                    "images": sum(bool(image[kind]) for image in images),
                    "copies": len({name for image in images for name in image[kind]}),
                }
                for kind in ("exact", "near")
            }
            result.append({"from": first, "in": second, **counts, "list": images})
        return result

    def _name(self, entry: _Entry) -> dict[str, Any]:
        label = _label_text(entry.item.get("label"), self.classes)
        if entry.item.get("mask") is not None:
            label = f"{label}, mask" if label else "mask"
        return {"id": entry.item["id"], "section": entry.section, "group": entry.item["group"], "label": label}


def _ranked(listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals, and the list with what matters most first; of equal weight, the order stays."""
    listed = sorted(listed, key=lambda entry: (not entry["conflict"], not entry["crossing"]))
    totals = {kind: sum(entry[kind] for entry in listed) for kind in ("crossing", "conflict")}
    return {"count": len(listed), **totals, "list": listed}


def _differing(same: Iterable[_Entry]) -> list[_Entry]:
    """One of each section and label."""
    return list({(entry.section, json.dumps(entry.item.get("label"))): entry for entry in same}.values())


def _distinct(labels: Iterable[Any]) -> list[Any]:
    return list({json.dumps(label): label for label in labels}.values())


def _comparable(label: Any) -> Any:
    """A label of which equal ones mean the same: of masks, the pixels."""
    if not isinstance(label, str):
        return label
    found = _pictures(label, [None])[0]
    return ("mask", found.digest) if isinstance(found, Picture) else None


def _contradict(first: Any, second: Any) -> bool:
    """Whether two labels cannot both be right; unknown findings contradict nothing, nor do masks by their paths."""
    if isinstance(first, list) and isinstance(second, list):
        return any(a != b and min(a, b) >= 0 for a, b in zip(first, second, strict=False))
    return first != second and not any(label is None or isinstance(label, str) for label in (first, second))


def _label_text(label: Any, classes: Sequence[str]) -> str | None:
    names = dict(enumerate(classes))
    if isinstance(label, list):
        return ", ".join(names.get(k, str(k)) for k, value in enumerate(label) if value == 1) or "no finding"
    if label is None or isinstance(label, str):
        return "mask" if label else None
    return names.get(label, str(label))


# in words


def _summary(data: Datalist) -> dict[str, Any]:
    labels = Counter(_label_text(item.get("label"), data.classes) or "none" for item in data)
    masked = sum(item.get("mask") is not None and item.get("masked", True) for item in data)
    return {
        "items": len(data),
        "groups": len({item["group"] for item in data}),
        "labeled": sum(item.get("label") is not None and item.get("labeled", True) for item in data),
        **({"masked": masked} if data.mask_classes else {}),
        "labels": dict(labels.most_common()),
    }


def _owner_leaks(result: Mapping[str, Any], sections: Mapping[str, Sized]) -> Iterator[str]:
    for key, owners in (("shared_groups", "groups (patients, lesions)"), ("shared_volumes", "volumes")):
        for pair in result[key]["pairs"]:
            concerned = " and ".join(f"{n} of {len(sections[name])} {name}" for name, n in pair["items"].items())
            yield f"{owners} in both {' and '.join(pair['sections'])}: {pair['count']}, with {concerned} images."


def _copies_text(kind: str, source: str, section: str, images: int, of: int, copies: int) -> str:
    return f"{kind} copies in {source} of {section} images: {images} of {of} images, {copies} copies."


def _judge(result: Mapping[str, Any], sections: Sections) -> dict[str, list[str]]:
    """``leaks``, ``errors`` and ``warnings``."""
    leaks = list(_owner_leaks(result, sections))
    errors: list[str] = []
    warnings: list[str] = []
    for pair in result["recurring"]:
        for kind, texts in (("exact", leaks), ("near", warnings)):
            images, copies = pair[kind]["images"], pair[kind]["copies"]
            if images:
                texts.append(_copies_text(kind, pair["from"], pair["in"], images, len(sections[pair["in"]]), copies))
    exact, near = result["exact_copies"], result["near_copies"]
    if exact["conflict"]:
        errors.append(f"sets of exact copies with labels that contradict each other: {exact['conflict']}.")
    within = [pair for pair in near["list"] if not pair["crossing"]]
    of_one = sum(pair["same_group"] for pair in within)
    told = {
        "pairs of near copies with labels that contradict each other": near["conflict"],
        **{f"{section} images that repeat another one exactly": count for section, count in exact["repeats"].items()},
        f"pairs of near copies within a section ({of_one} of one group)": len(within),
        "groups that are spelled in several ways, and count as one": len(result["merged_groups"]),
        "images that cannot be read": len(result["unreadable"]),
        "images of a single grey value": len(result["blank"]),
    }
    warnings += [f"{what}: {count}." for what, count in told.items() if count]
    shifts = [*result["label_shift"], *result["intensity_shift"]["comparisons"]]
    warnings += [shift["statement"] for shift in shifts if shift["shifted"]]
    return {"leaks": leaks, "errors": errors, "warnings": warnings}


def _previews(result: Mapping[str, Any], entries: Iterable[_Entry]) -> dict[str, Array]:
    """The images that the page shows, by id: uint8, ``(H, W)`` or ``(H, W, 3)``."""
    shown = [entry for key in ("exact_copies", "near_copies") for entry in result[key]["list"][:SHOWN]]
    names = {item["id"] for entry in shown for item in entry["items"][:SHOWN_OF_SET]}
    cuts = {e.item["id"]: _cut(_read(e.item["image"]), e.item.get("slice")) for e in entries if e.item["id"] in names}
    return {name: _preview(cut) for name, cut in cuts.items() if cut.ndim > 2 and cut.shape[-2] > 1}


def _preview(array: Array) -> Array:
    array = array[..., array.shape[-1] // 2] if array.ndim == 4 else array
    array = array if len(array) == 3 else array[:1]
    if array.dtype != np.uint8:
        low, high = np.percentile(array, [1, 99])
        array = np.nan_to_num((array - low) / max(float(high - low), 1e-12)).clip(0, 1) * 255
    pixels = array.astype(np.uint8).transpose(2, 1, 0)
    return pixels if pixels.shape[2] == 3 else pixels[..., 0]


# before a training


def _equal_files(sections: Sections) -> list[str]:
    """Leaks by files of equal content; each step reads more, and only of those that the one before could not tell."""
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
            leaks.append(_copies_text("exact", first, second, images, len(sections[second]), copies))
    return leaks


def _is_blank(item: Item) -> bool:
    found = _pictures(item["image"], [item.get("slice")])[0]
    return isinstance(found, Picture) and found.blank


def _state(sections: Sections) -> str:
    """Hash of the sizes of all files: an audit of other files does not count."""
    images = dict.fromkeys(item["image"] for items in sections.values() for item in items)
    return hashlib.sha256(json.dumps([_content(image, _size) for image in images]).encode()).hexdigest()


def _content(image: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """What `read` says of the file, or of the files of a folder (a DICOM series); empty if there is none."""
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
