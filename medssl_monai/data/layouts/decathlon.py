"""The ``dataset.json`` of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from medssl_monai.data.layouts.base import Found, Request
from medssl_monai.data.layouts.files import image_files
from medssl_monai.data.layouts.table import join
from medssl_monai.tables import Table


def fits(source: Path) -> bool:
    """Whether a source is such a file, or a folder that holds one."""
    return _file(source).is_file() and _file(source).name == "dataset.json"


def read(request: Request) -> Found:
    """Images and masks of the list ``training``; the publisher's ``test`` has no masks and is left out.

    Raises:
        ValueError: if the file is not of that form.
    """
    path = _file(request.source)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(entry["image"], entry["label"]) for entry in content["training"]]
        names = content.get("labels", {})
        classes = tuple(str(names[key]) for key in sorted(names, key=int))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no dataset.json of the Decathlon ({type(error).__name__}: {error}).") from None
    clean = [(image.removeprefix("./"), mask.removeprefix("./")) for image, mask in pairs]
    table = Table(["image", "mask"], [(n, {"image": i, "mask": m}) for n, (i, m) in enumerate(clean, start=1)])
    root = path.parent
    files = [name for pair in clean for name in pair if (root / name).is_file()]
    whole = replace(request, masks="mask", volumes=True, classes=request.classes or classes)
    found = join(table, root, files, whole, replace(request.names, clear=True))
    there, listed = image_files(root), {os.path.normpath(name) for name in files}
    others = [name for name in there.images if name not in listed]
    found.passed_over = there.unused([path.name], {"not in the training list": others})
    if content.get("test"):
        found.add("dropped", "test image of the publisher, without a mask", f"{len(content['test'])} images")
    return found


def _file(source: Path) -> Path:
    return source / "dataset.json" if source.is_dir() else source
