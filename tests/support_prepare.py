"""Data made up for tests of the preparation."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.data import get_testdata_file

from medssl_monai.data.datalist import load_datalist

COLUMNS = {"label_column": "diagnosis", "group_column": "patient", "clear_names": True}
LUNGS = {"mask_classes": ["background", "lung"]}


def sample(name):
    return Path(get_testdata_file(name, download=False))


def report(path):
    return json.loads((path.parent / "prepare_report.json").read_text())


def found(path, kind):
    return {why: entry["items"] for why, entry in report(path)[kind].items()}


def section(path, name="training"):
    return {item["id"]: item for item in load_datalist(path, name)}


def paint(path, value=0):
    """A picture of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)
    return path


def shown(path):
    return {item["group"] for item in section(path).values() if item.get("labeled", True) and "label" in item}


def radiographs(count, seed=0, side=40):
    """Distinct pictures with detail."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, side // 4, side // 4))
    return np.kron(coarse, np.ones((1, 4, 4))).astype(np.uint8)


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def lungs(size=40):
    return np.pad(np.full((size // 2, size // 2), 255, dtype=np.uint8), size // 4)
