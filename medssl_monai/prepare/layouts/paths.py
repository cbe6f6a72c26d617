"""Which file a table, or the name of a mask, means."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medssl_monai.prepare.layouts.conventions import SUFFIX

Parts = tuple[str, ...]
Place = tuple[str, int | None]
"""Name of an image or volume, and the slice, where a row is of one."""
DRIVE = re.compile(r"[a-z]:(?=/)", re.IGNORECASE)


def parts_of(text: str) -> Parts:
    """Return folders and name of a path with either separator, in Unicode's NFC; ``..`` is followed."""
    plain = DRIVE.sub("", unicodedata.normalize("NFC", text).strip().replace("\\", "/"))
    found: list[str] = []
    for part in plain.split("/"):
        if part == ".." and found and found[-1] != "..":
            found.pop()
        elif part not in ("", "."):
            found.append(part)
    return tuple(found)


def stem(parts: Parts) -> Parts:
    """Return a path without the suffix of an image, in whatever case that is."""
    return (*parts[:-1], SUFFIX.sub("", parts[-1])) if parts else ()


def suffix(parts: Parts) -> str:
    """Return the suffix of an image, in lower case; empty without one."""
    found = SUFFIX.search(parts[-1]) if parts else None
    return found[0].lower().replace("jpeg", "jpg") if found else ""


def folders_of(root: Path) -> set[Parts]:
    """Return a folder and the folders that it lies in, as it was named and where links lead."""
    return {parts_of(str(path)) for path in (os.path.abspath(root), os.path.realpath(root))}


class Paths:
    """Files below a folder, to be found by what a table calls them.

    That is their whole path below the folder, perhaps after the folders that the folder itself lies in, or their name
    alone. A part of their folders is not enough: ``P2/3.png`` is not ``3.png``, and not ``old/P2/3.png`` either.

    Args:
        names: relative paths.
        root: the folder.
    """

    def __init__(self, names: Iterable[str], root: Path) -> None:
        self.above = folders_of(root)
        self.whole: dict[Parts, list[str]] = defaultdict(list)
        self.bare: dict[str, list[str]] = defaultdict(list)
        self.parts = {name: parts_of(name) for name in names}
        for name, parts in sorted(self.parts.items()):
            self.whole[stem(parts)].append(name)
            self.bare["".join(stem(parts)[-1:])].append(name)

    def fitting(self, text: str) -> list[str]:
        """Return the files that `text` may mean: those of its suffix, if there are any, else those of another."""
        wanted = parts_of(text)
        found = self.whole.get((), []) if text.strip() and not wanted else []  # ".": the folder itself is a series
        for cut in range(len(wanted)):
            if not cut or any(above[-cut:] == wanted[:cut] for above in self.above):
                found += self.whole.get(stem(wanted[cut:]), [])
        if not found and len(wanted) == 1:
            found = self.bare.get(stem(wanted)[0], [])
        same = [name for name in found if suffix(self.parts[name]) == suffix(wanted)] if suffix(wanted) else []
        return list(dict.fromkeys(same or found))

    def is_bare(self, text: str, name: str) -> bool:
        """Return whether `text` is but the name of a file that lies in a folder."""
        return len(parts_of(text)) == 1 < len(self.parts[name])


def pairs(images: Sequence[str], masks: Sequence[str], root: Path) -> dict[str, list[str]]:
    """Find the masks that each image may have, by their paths below the folders of images and of masks.

    A mask fits if its whole path is the end of the image's; a name alone must be the only such among the images, and
    among the masks. Folders of a mask that the image has not are those that the source lies in, or it is another's.
    Suffixes do not count. Names may differ in one ending or beginning, which is then that of all masks:
    ``case1_mask.png`` or ``seg_case1.png`` of ``case1.jpg``. What may be read in two ways fits both images.

    Args:
        images: relative paths below the source.
        masks: relative paths below the folder of masks.
        root: the source.
    """
    ours = {name: stem(parts_of(name)) for name in images}
    theirs = {name: stem(parts_of(name)) for name in masks}
    above = folders_of(root)
    found: dict[str, list[str]] = defaultdict(list)
    for before, after in _affixes({parts[-1] for parts in ours.values()}, [parts[-1] for parts in theirs.values()]):
        plain = {
            name: (*parts[:-1], parts[-1][len(before) : len(parts[-1]) - len(after)])
            for name, parts in theirs.items()
            if parts[-1].startswith(before) and parts[-1].endswith(after)
        }
        count = [Counter(parts[-1] for parts in side.values()) for side in (ours, plain)]
        by_name: dict[str, list[str]] = defaultdict(list)
        for name, parts in plain.items():
            by_name[parts[-1]].append(name)
        for image, wanted in ours.items():
            for mask in by_name.get(wanted[-1], ()):
                parts = plain[mask]
                more = len(parts) - len(wanted)
                if more > 0:
                    fits = parts[more:] == wanted and any(folders[-more:] == parts[:more] for folders in above)
                else:
                    alone = len(wanted) == 1 or all(names[wanted[-1]] == 1 for names in count)
                    fits = wanted[-len(parts) :] == parts and (len(parts) > 1 or alone)
                if fits:
                    found[image].append(mask)
    return {image: list(dict.fromkeys(found[image])) for image in ours if image in found}


def _affixes(images: set[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """Return what may stand before or after an image's name in that of each mask; digits, of patients, may not.

    Of ``_seg`` and ``_b_seg``, the shorter one: ``case_b_seg`` is of ``case_b``, if there is such an image.
    """
    if images.intersection(masks):
        return [("", "")]
    found: set[tuple[str, str]] = set()
    for mask in masks:
        for cut in (match.start() for match in re.finditer(r"[\W_]", mask)):
            found |= {("", mask[cut:])} if mask[:cut] in images else set()
            found |= {(mask[: cut + 1], "")} if mask[cut + 1 :] in images else set()
    common = [
        (before, after)
        for before, after in sorted(found)
        if not re.search(r"\d", before + after) and all(m.startswith(before) and m.endswith(after) for m in masks)
    ]
    endings = sorted((after for before, after in common if after), key=len)[:1]  # all masks end so: one ends another
    beginnings = sorted((before for before, after in common if before), key=len)[:1]
    return [*(("", after) for after in endings), *((before, "") for before in beginnings)]


def shared(found: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return, for each mask that would fit several images, these images."""
    images: dict[str, list[str]] = defaultdict(list)
    for image, masks in found.items():
        for mask in masks:
            images[mask].append(image)
    return {mask: names for mask, names in images.items() if len(names) > 1}


def relative(path: Path, folder: Path) -> str:
    """Return a path as seen from `folder`; absolute where there is no way, as between drives."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return str(path.resolve())
