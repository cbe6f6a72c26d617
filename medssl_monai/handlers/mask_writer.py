"""Predicted masks as files, and a table of what they hold."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events

from medssl_monai.data.readable import ReadableImages
from medssl_monai.files import write_text
from medssl_monai.readers.decoders import count_slices
from medssl_monai.readers.grids import Array
from medssl_monai.readers.mask_axes import to_file_axes
from medssl_monai.readers.mask_files import MaskFile, write_mask
from medssl_monai.tables import text_of

NOTE = "trained on SYNTHETIC data"


class MaskWriter:
    """Write the mask of every image by its id, in its geometry (`medssl_monai.readers.mask_files`), and a table of all.

    Slices of one volume become one mask; a slice that was not predicted holds K there, which is no class. The table,
    ``predictions.csv``, has a row per mask: ``id`` (of slices ``case1#0`` and so on, that of the volume, ``case1``),
    ``file``, the share of each class among the voxels and, of volumes with a known spacing, its volume in millilitres,
    and ``error``: why an image has no mask.

    Args:
        folder: for the table; masks go to ``masks`` below.
        dataset: what the evaluator reads.
        classes: names of the classes, in the order of their index.
        synthetic: whether the weights come from phantoms; every file and row says so.
    """

    def __init__(
        self, folder: str | Path, dataset: ReadableImages, classes: Sequence[str], synthetic: bool = False
    ) -> None:
        self.folder, self.dataset, self.classes, self.synthetic = Path(folder), dataset, list(classes), synthetic
        self.parts: dict[str, list[int]] = defaultdict(list)  # positions by name of the mask
        for position, name in enumerate(_names(dataset)):
            self.parts[name].append(position)
        self.name_of = {position: name for name, positions in self.parts.items() for position in positions}
        self.waiting: dict[str, dict[int, Array]] = defaultdict(dict)
        self.written: dict[str, tuple[MaskFile, Array]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget an earlier run."""
        self.waiting.clear()
        self.written.clear()

    def add(self, engine: Engine) -> None:
        """Take in one decollated batch: ``pred`` class indices ``(1, *spatial)``, volumes in the axes of their file."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            position = int(item["index"])
            name, source = self.name_of[position], self.dataset.data[position]
            mask = np.asarray(output["pred"].cpu())[0].astype(np.uint8)
            if "slice" not in source:
                self._write(name, mask if mask.ndim == 3 else to_file_axes(mask, Path(source["image"])))
                continue
            self.waiting[name][position] = mask
            if len(self.waiting[name]) == len(self.parts[name]):
                self._write_volume(name)

    def finish(self, engine: Engine) -> None:
        """Write what is left of volumes of which slices could not be read, and the table."""
        for name in list(self.waiting):
            self._write_volume(name)
        write_text(self.folder / "predictions.csv", self._table())
        engine.logger.info(f"Masks of {len(self.written)} images: {self.folder / 'predictions.csv'}")

    def _write_volume(self, name: str) -> None:
        slices, data = self.waiting.pop(name), self.dataset.data
        path = Path(data[self.parts[name][0]]["image"])
        shape = next(iter(slices.values())).shape
        volume = np.full((*shape, count_slices(path) or 1), len(self.classes), np.uint8)
        for position, mask in slices.items():
            volume[..., data[position]["slice"]] = mask
        self._write(name, to_file_axes(volume, path))

    def _write(self, name: str, mask: Array) -> None:
        path = Path(self.dataset.data[self.parts[name][0]]["image"])
        note = f"model {NOTE}" if self.synthetic else ""
        file = write_mask(self.folder / "masks" / file_name(name), mask, path, len(self.classes), note)
        self.written[name] = file, np.bincount(mask.ravel(), minlength=len(self.classes) + 1)[: len(self.classes)]

    def _table(self) -> str:
        columns = [f"{name} {what}" for what in ("share", "ml") for name in self.classes]
        table = [["id", "file", *columns, "error", *(["model"] if self.synthetic else [])]]
        for name, positions in self.parts.items():
            cells = ["", *[""] * len(columns)]
            if name in self.written:
                (path, voxel), counts = self.written[name]
                shares = [f"{share:.6f}" for share in counts / max(counts.sum(), 1)]
                volumes = ["" if np.isnan(voxel) else f"{count * voxel:.4f}" for count in counts]
                cells = [path.relative_to(self.folder).as_posix(), *shares, *volumes]
            reasons = [self.dataset.unreadable[p] for p in positions if p in self.dataset.unreadable]
            part = f"{len(reasons)} of {len(positions)} slices: " if 0 < len(reasons) < len(positions) else ""
            table.append([name, *cells, part + reasons[0] if reasons else "", *([NOTE] if self.synthetic else [])])
        return text_of(table)


def file_name(name: str) -> str:
    """Return an id as the name of a file, without suffix; all but letters, digits and ``_.~-`` are replaced."""
    safe = re.sub(r"[^\w.~-]", "_", name)
    if safe != name:  # two ids may differ in what a file name cannot hold
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return safe


def _names(dataset: ReadableImages) -> list[str]:
    """Return the name of each item's mask: its id; for all slices of a volume, ``case1`` of ``case1#0`` and so on."""
    slices: dict[str, list[str]] = defaultdict(list)
    for item in dataset.data:
        if "slice" in item:
            slices[str(item["image"])].append(str(item["id"]))
    taken = {str(item["id"]) for item in dataset.data}
    volumes = {}
    for image, ids in slices.items():
        before = {name.rpartition("#")[0] for name in ids}
        volumes[image] = name = before.pop() if len(before) == 1 and not before & {"", *taken} else ids[0]
        taken.add(name)
    return [volumes[str(item["image"])] if "slice" in item else str(item["id"]) for item in dataset.data]
