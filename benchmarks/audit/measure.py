"""How many planted copies the audit finds, how many other pairs it takes for copies, and how long it takes.

    OMP_NUM_THREADS=2 python benchmarks/audit/measure.py

Copies of 500 images are planted among 5,000 real ones and all are read from files. *combined*: resized by a factor
of 0.5 to 2 with a filter of Pillow, gamma 0.9 to 1.1, brightness 0.9 to 1.1, JPEG of quality 50. *single*: one of the
three (resized, gamma, JPEG) alone. Images that equal another one are left out before. Seeds from 101 on were not looked
at while parameters were chosen. Needs the real images (``$MEDSSL_DATA``, by default ``../shared/data``), of which
nothing but figures is kept. Writes ``results.json`` beside this file.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks
from medssl_monai.data import write_datalist
from medssl_monai.files import write_json
from medssl_monai.prepare.prepare import prepare

Array = NDArray[Any]
ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MEDSSL_DATA") or ROOT.parent / "shared" / "data")
FILTERS = {way.name.lower(): way for way in Image.Resampling if way.name != "HAMMING"}
KERMANY = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[_-]")
PLANTED, AMONG = 500, 5000


def npz(name: str) -> dict[str, Array]:
    """Arrays of a file."""
    with np.load(DATA / name) as file:
        return {key: file[key] for key in file.files}


def nih() -> Iterator[tuple[Array, str]]:
    """Images and, where known, whom they show; else an empty text."""
    yield from ((image, "") for image in npz("nih_cxr_64_unlabelled.npz")["images"])


def pneumonia() -> Iterator[tuple[Array, str]]:
    """See `nih`."""
    arrays = npz("pneumoniamnist_28_trainval.npz")
    for part in ("train", "val"):
        for image, name in zip(arrays[f"{part}_images"], arrays[f"{part}_ids"], strict=True):
            match = KERMANY.match(name)
            yield image, match[1] if match else ""


def ham28() -> Iterator[tuple[Array, str]]:
    """See `nih`."""
    arrays = npz("ham10000_28_trainval.npz")
    yield from zip(arrays["images"], arrays["lesion_ids"].tolist(), strict=True)


def archive(name: str, column: str, owner: str) -> Iterator[tuple[Array, str]]:
    """See `nih`."""
    with zipfile.ZipFile(DATA / name) as file:
        for row in csv.DictReader(io.StringIO(file.read("manifest.csv").decode())):
            with Image.open(io.BytesIO(file.read(row[column]))) as image:
                pixels = np.asarray(image)
            grey = pixels.ndim == 3 and (pixels == pixels[..., :1]).all()
            yield pixels[..., 0] if grey else pixels, row[owner]


SETS: dict[str, Callable[[], Iterator[tuple[Array, str]]]] = {
    "NIH chest, 64 x 64": nih,
    "PneumoniaMNIST, 28 x 28": pneumonia,
    "HAM10000, 28 x 28": ham28,
    "HAM10000, 200 x 150": lambda: archive("ham10000_200x150_trainval.zip", "image", "lesion_id"),
    "Kermany chest, 224 x 224": lambda: archive("kermany_cxr_224_trainval.zip", "file", "patient"),
}


def plant(pixels: Array, mode: str, rng: np.random.Generator) -> tuple[Image.Image, str, dict[str, Any]]:
    """Return a copy, the suffix of its file, and what was done."""
    factor, name = float(rng.uniform(0.5, 2.0)), str(rng.choice(list(FILTERS)))
    gamma, brightness = rng.uniform(0.9, 1.1, 2)
    kind = "combined" if mode == "combined" else str(rng.choice(["resized", "gamma", "jpeg"]))
    values = pixels / 255
    if kind in ("combined", "gamma"):
        values = values**gamma
    if kind == "combined":
        values = values * brightness
    image = Image.fromarray((255 * values).round().clip(0, 255).astype(np.uint8))
    if kind in ("combined", "resized"):
        image = image.resize([max(1, round(side * factor)) for side in image.size], FILTERS[name])
    resized = {"filter": name, "factor": factor} if kind in ("combined", "resized") else {}
    return image, "jpg" if kind in ("combined", "jpeg") else "png", {"kind": kind, **resized}


def distinct(read: Callable[[], Iterator[tuple[Array, str]]]) -> list[tuple[Array, str]]:
    """Without exact copies and images of a single value."""
    found = {(pixels.shape, pixels.tobytes()): (pixels, owner) for pixels, owner in read() if np.ptp(pixels)}
    return list(found.values())


def find_planted(images: list[tuple[Array, str]], mode: str, seed: int) -> dict[str, Any]:
    """Plant, audit, count."""
    rng = np.random.default_rng(seed)
    chosen = [images[k] for k in rng.permutation(len(images))[:AMONG]]
    sources = rng.permutation(len(chosen))[:PLANTED].tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training, validation, done = [], [], []
        for k, (pixels, _) in enumerate(chosen):
            Image.fromarray(pixels).save(folder / f"{k}.png", compress_level=1)
            training.append({"image": f"{k}.png", "id": str(k)})
        for k in sources:
            image, suffix, what = plant(chosen[k][0], mode, rng)
            image.save(folder / f"copy{k}.{suffix}", **({"quality": 50} if suffix == "jpg" else {}))
            validation.append({"image": f"copy{k}.{suffix}", "id": f"copy {k}"})
            done.append(what)
        write_datalist(folder / "datalist.json", {"training": training, "validation": validation})
        start = time.perf_counter()
        result = audit(folder / "datalist.json", folder)
        seconds = time.perf_counter() - start
    listed = [*result["near_copies"]["list"], *result["exact_copies"]["list"]]
    pairs = {tuple(item["id"].removeprefix("copy ") for item in entry["items"][:2]) for entry in listed}
    found = [(str(k), str(k)) in pairs for k in sources]
    others = [(chosen[int(a)][1], chosen[int(b)][1]) for a, b in pairs if a != b]
    return {
        "mode": mode,
        "seed": seed,
        "images": len(chosen),
        "planted": len(sources),
        "found": sum(found),
        "recall": round(sum(found) / len(found), 4),
        "missed": [what for what, there in zip(done, found, strict=True) if not there],
        "other_pairs": len(others),
        "other_pairs_of_one_patient_or_lesion": sum(a == b != "" for a, b in others),
        "seconds": round(seconds, 1),
    }


def time_ten_thousand() -> dict[str, Any]:
    """Audit and check of 10,000 small files: 5,000 of 64 x 64 in grey, 5,000 of 28 x 28 in colour."""
    images = [*distinct(nih)[:5000], *distinct(ham28)[:5000]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = []
        for k, (pixels, _) in enumerate(images):
            Image.fromarray(pixels).save(folder / f"{k}.png")
            items.append({"image": f"{k}.png", "id": str(k), "label": k % 2})
        write_datalist(folder / "datalist.json", {"training": items[::2], "validation": items[1::2]})
        start = time.perf_counter()
        check_leaks(folder / "datalist.json")
        checked = time.perf_counter()
        audit(folder / "datalist.json", folder)
        return {
            "images": len(images),
            "check_leaks_seconds": round(checked - start, 2),
            "audit_seconds": round(time.perf_counter() - checked, 1),
        }


def known_leaks() -> dict[str, Any]:
    """Return what the audit says of the publishers' splits."""
    found = {}
    for name, source, column in (
        ("PneumoniaMNIST, as published", "pneumoniamnist_28_trainval.npz", None),
        ("HAM10000, lists of TEAR", "ham10000_200x150_trainval.zip", "tear_split"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = prepare(DATA / source, folder, split_column=column, keep_duplicates=True, allow_leaks=True)
            result = audit(path)
            found[name] = {kind: result[kind] for kind in ("leaks", "errors", "warnings")}
    return found


def main() -> None:
    """Measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    planted: dict[str, list[dict[str, Any]]] = {}
    for name, read in SETS.items():
        images = distinct(read)
        runs = [("combined", seed) for seed in arguments.seeds] + [("single", arguments.seeds[0])]
        planted[name] = [find_planted(images, mode, seed) for mode, seed in runs]
        for run in planted[name]:
            print(name, {key: value for key, value in run.items() if key != "missed"}, flush=True)
    speed = time_ten_thousand()
    print(speed, flush=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    content = {
        "command": " ".join(["OMP_NUM_THREADS=2 python benchmarks/audit/measure.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "git_commit": git.strip(),
        "environment": {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, shared with other work",
            "threads_of_torch": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "planted": planted,
        "ten_thousand_small_images": speed,
        "known_leaks": known_leaks(),
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
