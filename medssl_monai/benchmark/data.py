"""The datalists of a grid: found where it says, or made by its recipe."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.benchmark.grid import Grid
from medssl_monai.benchmark.hashes import contents, digest
from medssl_monai.data.datalist import load_datalist
from medssl_monai.files import write_json
from medssl_monai.phantoms import make_phantom
from medssl_monai.pool.labels import Labels
from medssl_monai.prepare.draw import hide_labels
from medssl_monai.prepare.prepare import prepare

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GridData:
    """A datalist of a grid: path, what of it decides a result, what all folds share, and how many labels a share is."""

    path: str
    identity: dict[str, Any]
    family: str
    labels: int


def data_of(name: str, seed: int, groups: float | None, grid: Grid, out_dir: Path) -> GridData:
    """Return a datalist, in which a share of the training section's groups shows its labels.

    Args:
        name: of the data.
        seed: decides the fold, where the grid says so.
        groups: the share; None: as the datalist says.
        grid: knows the recipe.
        out_dir: where data are prepared, unless they have been.
    """
    entry = grid.data[name]
    recipe: str | None = None
    leaks = bool({**grid.overrides, **(entry.get("overrides") or {})}.get("allow_leaks"))
    if "datalist" in entry:
        path = (grid.folder / entry["datalist"]).resolve()
        shown = str(path)
    elif "phantom" in entry:
        shown = f"data/phantom-{digest(entry['phantom'])[:8]}/datalist.json"
        path = make_phantom((out_dir / shown).parent, **entry["phantom"])
    else:
        as_written = {**entry["prepare"], **_paths(entry["prepare"], grid.folder)}
        located = {**as_written, **({"fold": seed % as_written["folds"]} if as_written.get("fold") == "seed" else {})}
        recipe = digest(contents(located))
        folder = f"data/{as_written['source'].stem}-{recipe[:8]}"  # of the source: entries of one recipe share it
        path = out_dir / folder / "datalist.json"
        if not path.exists():
            fold = f", fold {located['fold']}" if "fold" in located else ""
            logger.info(f"Preparing {name}{fold}.")
            prepare(out_dir=path.parent, **located)
        if groups is not None:
            path = _show_groups(path, groups, located.get("seed", 0))
        shown = f"{folder}/{path.name}"
    sections = {section: load_datalist(path, section, allow_leaks=leaks) for section in ("training", "validation")}
    training = sections["training"]
    identity = {"recipe": recipe, "classes": training.classes, "modality": training.modality}
    identity |= {"mask_classes": training.mask_classes} if training.mask_classes else {}
    identity |= {section: items.sha256 for section, items in sections.items()}
    family = digest(contents(as_written) if recipe else identity)
    return GridData(shown, identity, family, 0 if groups is None else len(Labels(training).indices("labeled")))


def _show_groups(path: Path, groups: float, seed: int) -> Path:
    """Write a copy of a datalist beside it, as ``prepare(labels=groups, labels_by="group")`` would have written it."""
    copy = path.with_name(f"{path.stem}_{groups:g}.json")
    if not copy.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        hide_labels(content["training"], groups, "group", seed)
        write_json(copy, content)
    return copy


def _paths(recipe: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Return the paths of a recipe, from the folder of the grid file on."""
    paths = ("source", "table", "key_file", "unlabeled", "masked")
    return {key: (folder / recipe[key]).resolve() for key in paths if key in recipe}
