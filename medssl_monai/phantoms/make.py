"""Write a synthetic data set; the kinds that there are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medssl_monai.data.datalist import SECTIONS, Item, write_datalist
from medssl_monai.files import write_text
from medssl_monai.phantoms.base import VERSION, Phantom
from medssl_monai.phantoms.chest import write_chest
from medssl_monai.phantoms.chest14 import FINDINGS, write_chest14
from medssl_monai.phantoms.chest_joint import DIAGNOSES, LUNGS, write_chest_joint
from medssl_monai.phantoms.lesion import LESIONS, write_lesion_masks, write_lesions
from medssl_monai.phantoms.spine import GRADES, HIGH_GRADE, STRUCTURES, write_spine, write_spine_masks

SPINE_PATIENTS = {"training": 240, "validation": 80, "testing": 400}
CHEST14_PATIENTS = {"training": 360, "validation": 140, "testing": 260}
UNKNOWN_SHARE = 0.3
KINDS: dict[str, Phantom] = {
    "spine2": Phantom(
        write=partial(write_spine, tuple(int(grade >= HIGH_GRADE) for grade in range(len(GRADES)))),
        classes=("low", "high"),
        modality=("MR",),
        patients=SPINE_PATIENTS,
    ),
    "spine6": Phantom(
        write=partial(write_spine, tuple(range(len(GRADES)))),
        classes=GRADES,
        modality=("MR",),
        patients=SPINE_PATIENTS,
    ),
    "chest": Phantom(
        write=write_chest,
        classes=("normal", "opacity"),
        modality=("X-ray",),
        patients={"training": 300, "validation": 80, "testing": 400},
    ),
    "chest14": Phantom(
        write=partial(write_chest14, 0.0),
        classes=tuple(FINDINGS),
        modality=("X-ray",),
        patients=CHEST14_PATIENTS,
    ),
    "chest14_unknown": Phantom(
        write=partial(write_chest14, UNKNOWN_SHARE),
        classes=tuple(FINDINGS),
        modality=("X-ray",),
        patients=CHEST14_PATIENTS,
    ),
    "chest_joint": Phantom(
        write=partial(write_chest_joint, False),
        classes=DIAGNOSES,
        modality=("X-ray",),
        patients={"training": 450, "validation": 120, "testing": 300},
        mask_classes=LUNGS,
    ),
    "chest_joint_far": Phantom(
        write=partial(write_chest_joint, True),
        classes=DIAGNOSES,
        modality=("X-ray",),
        patients={"validation": 60, "testing": 300},
        mask_classes=LUNGS,
    ),
    "lesion7": Phantom(
        write=write_lesions,
        classes=LESIONS,
        modality=("red", "green", "blue"),
        patients={"training": 800, "validation": 300, "testing": 600},
        group="lesion_id",
    ),
    "lesion_mask": Phantom(
        write=write_lesion_masks,
        classes=("background", "lesion"),
        modality=("red", "green", "blue"),
        patients={"training": 300, "validation": 80, "testing": 200},
        group="lesion_id",
    ),
    "spine_cord": Phantom(
        write=write_spine_masks,
        classes=STRUCTURES,
        modality=("MR",),
        patients={"training": 60, "validation": 20, "testing": 60},
    ),
}


def make_phantom(
    folder: str | Path,
    kind: str = "spine2",
    patients: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a synthetic data set, unless it is there already, and return the path of its ``datalist.json``.

    The datalist is written last: a folder without it, or with files missing, is incomplete and is written anew.
    Paths in it are relative to `folder`, also those of masks, under ``meta``. ``labels.csv`` says the same as a user's
    table would. All depends on the arguments alone.

    Args:
        folder: where to write; made if needed.
        kind: ``spine2`` (low and high grade), ``spine6`` (the same images with all six grades), ``chest``, ``chest14``
            (the findings of ChestX-ray14, several per image), ``chest14_unknown`` (the same images; in the training
            section nobody looked for three findings in ten), ``chest_joint`` (some with classes, others with lung
            masks), ``chest_joint_far`` (the same from another scanner, to measure by), ``lesion7``, ``lesion_mask``
            (lesions with their masks) or ``spine_cord`` (the volumes of ``spine2`` with masks of canal and cord).
        patients: number of patients (skin lesions) per section; a section that is not named is left out. Default:
            enough to train and to tell methods apart.
        seed: another seed gives other patients.
        progress: show a progress bar.

    Raises:
        ValueError: if `kind` or a section is unknown, or a number is negative.
        FileExistsError: if the folder holds another datalist.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no phantom {kind!r}; known are {sorted(KINDS)}.")
    phantom = KINDS[kind]
    patients = dict(phantom.patients if patients is None else patients)
    for section, count in patients.items():
        if section not in SECTIONS or count < 0:
            raise ValueError(
                f"`patients` must map sections, of {list(SECTIONS)}, to numbers from 0, got {section!r}: {count}."
            )
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or more, got {seed}.")
    folder = Path(folder)
    path = folder / "datalist.json"
    recipe = {"kind": kind, "version": VERSION, "seed": seed, "patients": patients}
    if _is_complete(path, recipe):
        return path

    from tqdm import tqdm

    sections: dict[str, list[Item]] = {}
    with tqdm(total=sum(patients.values()), desc=f"phantom {kind}", unit="patient", disable=not progress) as bar:
        for section, count in patients.items():
            sections[section] = []
            for items in phantom.write(folder, section, count, seed):
                sections[section] += items
                bar.update()
    items = [item for section in sections.values() for item in section]
    write_text(folder / "labels.csv", _table(items, phantom))
    write_datalist(
        path,
        sections,
        classes=phantom.classes,
        name=f"phantom-{kind}",
        synthetic=True,
        modality=phantom.modality,
        mask_classes=phantom.mask_classes,
        phantom=recipe,
    )
    return path


def _table(items: Sequence[Item], phantom: Phantom) -> str:
    """Return a row per image with its class or the path of its mask, or a column per finding with 1, 0 or -1.

    Masks beside labels have a column of their own.
    """
    findings = any(isinstance(item.get("label"), list) for item in items)
    beside = ["mask"] if phantom.mask_classes else []
    lines = [["image", "slice", phantom.group, *(phantom.classes if findings else ["label"]), *beside]]
    for item in items:
        label = item.get("label", "")
        cells = (
            map(str, label)
            if isinstance(label, list)
            else [label if isinstance(label, str) else phantom.classes[label]]
        )
        masks = (item.get(name, "") for name in beside)
        lines.append([item["image"], str(item.get("slice", "")), item["group"], *cells, *masks])
    return "".join(f"{','.join(cells)}\n" for cells in lines)


def _is_complete(path: Path, recipe: Mapping[str, Any]) -> bool:
    """Return whether all of it is there; a set of an older version of the phantoms counts as not there."""
    if not path.exists():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["phantom"]
    except (ValueError, KeyError, TypeError):
        found = "data that are no phantom"
    if found != recipe:
        if isinstance(found, dict) and {**found, "version": VERSION} == recipe:
            return False
        raise FileExistsError(
            f"{path} describes {found}, not {dict(recipe)}; choose another folder or remove this one."
        )
    items = [item for section in recipe["patients"] for item in content[section]]
    masks = [item["label"] for item in items if isinstance(item.get("label"), str)]
    files = {name for item in items for name in (item["image"], *item["meta"]["masks"].values())}
    return all(_is_there(path.parent / name) for name in files.union(masks))


def _is_there(path: Path) -> bool:
    """Return whether a path is a file, or a folder that holds something: a series."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
