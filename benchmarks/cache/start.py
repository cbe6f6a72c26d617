"""How long until a run on 10,000 small images trains, without and with a filled cache of decoded images.

    OMP_NUM_THREADS=1 python benchmarks/cache/start.py [--repeats 7]

Each start is a process of its own, ``python -m monai.bundle run`` of the BoostMIS bundle, on two cores. The clock runs
from the start of the process to the log line that tells that the images are there and the first epoch begins, and to
that of the first optimizer step (epochs are one step long here); then the process is ended. The first start finds no
cache, the second ones a full one, the last one a full one and one image that has changed. ``import monai.bundle`` in a
process of its own, what no run can do without, is timed in between. Writes ``results.json`` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from PIL import Image

from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.data import write_datalist
from medssl_monai.files import write_json

SECTIONS = {"training": 8000, "validation": 2000}
SIZES = (28, 64)
CORES = 2
LINES = {  # of the log, in their order; the last line of a kind counts
    "imports": "--- input summary of monai.bundle",
    "images": "{0} of {0} images are in the cache".format(SECTIONS["validation"]),
    "first_step": "Epoch 1/1: loss",
}


def make_images(folder: Path, size: int) -> Path:
    """PNG images of noise, two classes by the bright half, and their datalist."""
    rng = np.random.default_rng(size)
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, count in SECTIONS.items():
        sections[section] = []
        for number in range(count):
            pixels = rng.normal(90, 35, (size, size))
            pixels[:, (number % 2) * size // 2 :][:, : size // 2] += 40
            name = f"{section}/{number:05d}.png"
            (folder / section).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            item = {"image": name, "id": name, "group": f"{section}{number // 4}", "label": number % 2}
            sections[section].append(item)
    write_datalist(folder / "datalist.json", sections, classes=["left", "right"], name="noise", synthetic=True)
    return folder / "datalist.json"


def timed_start(command: list[str]) -> dict[str, float]:
    """Seconds from the start of a run until `LINES` appear; ends it with the last.

    There is no ``images`` for a start that had to read some: no line tells when that was done. `cpu` is the time that
    the process and its workers spent computing: of a busy machine, the truer figure.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds: dict[str, float] = {}
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        seconds |= {key: round(time.perf_counter() - started, 2) for key, text in LINES.items() if text in line}
        if "first_step" in seconds:
            break
    process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    seconds["cpu"] = round(usage.ru_utime + usage.ru_stime, 2)
    if "first_step" not in seconds:
        raise RuntimeError("".join(lines[-20:]))
    return seconds


def timed_import() -> float:
    """Seconds of a process that does nothing but import what every bundle run imports."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import os, monai.bundle; os._exit(0)"], check=True, capture_output=True)
    return round(time.perf_counter() - started, 2)


def measure(size: int, repeats: int, folder: Path) -> dict[str, Any]:
    """All starts on images of one size."""
    datalist = make_images(folder / "images", size)
    bundle, cache = copy_bundle("boostmis", folder / "bundle"), folder / "cache"
    values = {
        "bundle_root": bundle, "output_dir": folder / "eval", "ckpt_dir": folder / "models", "datalist": datalist,
        "cache_dir": cache, "image_size": f"[{size}, {size}]", "device": "cpu",
        "rounds": 1, "epochs_per_round": 1, "epoch_length": 1,
    }  # fmt: skip
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    config = str(bundle / "configs" / "train.yaml")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, *flags]
    first = timed_start(command)
    imports, second = [], []
    for _ in range(repeats):
        imports.append(timed_import())
        second.append(timed_start(command))
    packs = sum(path.stat().st_size for path in cache.glob("*/*.npy"))
    changed = folder / "images" / "training" / "00000.png"
    Image.fromarray(np.zeros((size, size), dtype=np.uint8)).save(changed)
    return {
        "size": size,
        "images": sum(SECTIONS.values()),
        "cache_megabytes": round(packs / 1e6, 1),
        "first_start": first,
        "second_start": second,
        "one_file_changed": timed_start(command),
        "import_monai_bundle": imports,
        "median": {
            **{f"second_start_{key}": statistics.median(start[key] for start in second) for key in (*LINES, "cpu")},
            "import_monai_bundle": statistics.median(imports),
        },
    }


def main() -> None:
    """Measure all sizes and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    results = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            results.append(measure(size, arguments.repeats, Path(name)))
        print(results[-1], flush=True)
    result = {
        "data": "SYNTHETIC",
        "command": f"OMP_NUM_THREADS=1 python benchmarks/cache/start.py --repeats {arguments.repeats}",
        "date": datetime.date.today().isoformat(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "load_average": [round(load, 1) for load in os.getloadavg()],
        },
        "seconds": results,
    }
    write_json(Path(__file__).with_name("results.json"), result)


if __name__ == "__main__":
    main()
