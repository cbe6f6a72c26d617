"""Features of images as tables, for learning with a head alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.bundle.run import path_value, workflow
from medssl_monai.data.datalist import SECTIONS, validate_datalist
from medssl_monai.engines import predict
from medssl_monai.files import read_json, write_atomically, write_json, write_text
from medssl_monai.kinds import Label, chosen_kind
from medssl_monai.prepare.layouts.features import DESCRIPTION, FEATURES, ITEMS, TARGETS
from medssl_monai.tables import text_of


def write_features(
    bundle: str | Path, datalist: str | Path, out_dir: str | Path, overrides: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write the embeddings of all images that a datalist names, section by section.

    ``training-features.npy`` ``(N, D)`` float32, ``training-targets.npy`` ``(N,)`` (-1: unlabeled),
    ``training-items.csv`` (``id`` and ``group``) and so on, and ``features.json`` (the classes);
    `medssl_monai.prepare.prepare.prepare` reads them.

    Args:
        bundle: folder of a bundle with ``inference.json``; the embedding is that of its network and weights.
        datalist: datalist file.
        out_dir: folder to write to.
        overrides: for the bundle's configuration, such as ``weights``.

    Returns:
        Paths of the feature tables.

    Raises:
        ValueError: if the network shows no embedding, or images cannot be read.
    """
    there = validate_datalist(read_json(datalist), str(datalist), allow_leaks=True)
    given = {"bundle_root": path_value(bundle), "datalist": path_value(datalist)}
    written = []
    for section in (name for name in SECTIONS if there.get(name)):
        settings = {**given, "section": section, **(overrides or {})}
        flow = workflow([Path(bundle) / "configs" / "inference.json"], "infer", logging_file=False, **settings)
        flow.parser.parse()
        dataset, network, device = (flow.parser.get_parsed_content(name) for name in ("dataset", "network", "device"))
        embedding = predict(network, dataset, device).embedding
        if embedding is None:
            raise ValueError(f"the network {type(network).__name__} shows no embedding; use an EmbeddingClassifier.")
        kept = [k for k in range(len(dataset)) if k not in dataset.unreadable]
        items = [dataset.data[k] for k in kept]
        told = {k: item["label"] for k, item in enumerate(items) if item.get("labeled", True) and "label" in item}
        kind = chosen_kind(there["label_kind"], told.values(), tuple(there["labels"].values()))
        if kind.cases != ():
            raise ValueError(f"{datalist}: features are written for one class per image, not for {kind.word}.")
        folder = Path(out_dir)
        table = [["id", "group"], *([item["id"], item["group"]] for item in items)]
        write_text(folder / f"{section}{ITEMS}", text_of(table))
        targets = kind.targets({k: Label(label) for k, label in told.items()}, range(len(items)))
        _save(folder / f"{section}{TARGETS}", targets.numpy())
        _save(folder / f"{section}{FEATURES}", embedding[kept].numpy())
        write_json(folder / DESCRIPTION, {"classes": list(dataset.data.classes), "synthetic": dataset.data.synthetic})
        written.append(folder / f"{section}{FEATURES}")
    return written


def _save(path: Path, array: Any) -> None:
    write_atomically(path, lambda file: np.save(file, array))
