"""Grids on toy images, and cells that are run by a few lines of Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from medssl_monai.benchmark.cells import Pretraining

BASELINES = {"semi-supervision": ("supervised", "random")}


FAKE = """
import json, os, pathlib, signal, sys
cell = json.loads(sys.argv[1])
folder, moods = pathlib.Path(cell["folder"]), json.loads(os.environ.get("MOODS", "{}"))
mood = moods.get(cell["name"], "")
with open("calls.txt", "a") as file:
    file.write(cell["name"] + (", probe" if cell["folder"].startswith("probes") else "") + chr(10))
(folder / "run" / "rounds").mkdir(parents=True, exist_ok=True)
(folder / "run" / "state.pt").touch()
for number in range(cell["rounds"]):
    auroc = 0.6 + 0.1 * (cell["method"] == "fixmatch") + 0.01 * cell["seed"] + 0.05 * number
    metrics = {"auroc": {"value": auroc, "low": auroc - 0.1, "high": auroc + 0.1}, "ece": {"value": 0.2}}
    labels = cell["start"] + number * cell["budget"] - (mood == "fewer labels" and number > 0)
    record = {"round": number, "labels": labels, "training": {}, "pseudo_labels": {},
              "evaluation": {"synthetic": True, "n": 20, "groups": 10, "metrics": metrics}}
    if cell["method"] == "fixmatch":
        record |= {"training": {"mask_rate": 0.5}, "pseudo_labels": {"accepted": 8, "accuracy": 0.75}}
    (folder / "run" / "rounds" / f"round_{number:02d}.json").write_text(json.dumps(record))
    if mood == "stopped":
        os.kill(os.getpid(), signal.SIGTERM)
    if mood == "out of memory":
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "broken":
        raise OSError("cannot read '/clinic/John Smith/head 1.dcm' or /clinic/jane.dcm, nor mary.png; id case_7")
"""


FAKE_PRETRAINING = """
import json, os, pathlib, sys
run = json.loads(sys.argv[1])
with open("calls.txt", "a") as file:
    file.write(run["name"] + chr(10))
if "pre-training" in json.loads(os.environ.get("MOODS", "{}")):
    raise OSError("no space left")
pathlib.Path(run["weights"]).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(run["weights"]).touch()
"""


@pytest.fixture
def grid_file(tmp_path, toy_datalist):
    """Writes a grid: two methods, a random query, two seeds, on toy images; tiny enough to be run."""

    def _write(**changes) -> Path:
        content = {
            "name": "toy grid",
            "bundle": "boostmis",
            "overrides": {
                "device": "cpu",
                "image_size": [16, 16],
                "epochs_per_round": 1,
                "epoch_length": 2,
                "batch_size::labeled": 4,
                "batch_size::unlabeled": 6,
                "cache_dir": None,
            },
            "data": {"toy": {"datalist": str(toy_datalist)}},
            "method": {
                "supervised": {"method_def": "@methods::supervised"},
                "fixmatch": {"method_def": "@methods::fixmatch"},
            },
            "query": {"random": {"query::strategy": "@strategies::random"}},
            "labels": {"few": {"start": 6, "end": 9, "rounds": 2}},
            "seeds": [0, 1],
            "baselines": {"semi-supervision": {"method": "supervised", "query": "random"}},
            **changes,
        }
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return _write


@pytest.fixture
def fake(monkeypatch):
    """Cells are run by a few lines of Python in place of MONAI; ``MOODS`` says what befalls a cell."""

    def _arguments(cell, folder, **changes):
        if isinstance(cell, Pretraining):
            return ["-c", FAKE_PRETRAINING, json.dumps({"name": cell.name, "weights": cell.weights})]
        facts = {"name": f"{cell.method} {cell.seed}", "folder": folder, "method": cell.method, "seed": cell.seed}
        schedule = {"start": cell.schedule.start, "budget": cell.schedule.budget, "rounds": cell.schedule.rounds}
        return ["-c", FAKE, json.dumps({**facts, **schedule, **changes})]

    for module in ("forecast", "process"):
        monkeypatch.setattr(f"medssl_monai.benchmark.{module}.arguments", _arguments)

    def _moods(**moods):
        monkeypatch.setenv("MOODS", json.dumps({name.replace("_", " "): mood for name, mood in moods.items()}))

    return _moods


# ---- the grid -------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """An archive of images of 20 patients, and one of others without a label."""
    rng = np.random.default_rng(0)
    ids, label, patient = np.arange(60).astype(str), np.arange(60) % 2, np.arange(60) // 3
    pixels = rng.integers(0, 255, (60, 16, 16), np.uint8)
    np.savez(tmp_path / "some.npz", images=pixels, ids=ids, labels=label, patient=patient)
    np.savez(tmp_path / "more.npz", images=rng.integers(0, 255, (9, 16, 16), np.uint8), ids=np.arange(9).astype(str))
    return {"source": "some.npz", "group_column": "patient", "folds": 4}


PRETRAINED = {
    "supervised": {"method_def": "@methods::supervised"},
    "tuned": {"pretrain": "jcl", "method_def": "@methods::supervised"},
    "probe": {"pretrain": "jcl", "overlay": "probe", "probe": "knn"},
}


@pytest.fixture
def pretrained_grid(grid_file):
    def _write(**changes):
        labels = {"few": {"start": 6, "end": 6, "rounds": 1}, "more": {"start": 8, "end": 8, "rounds": 1}}
        return grid_file(
            **{
                "pretrain": {"jcl": {"max_epochs": 3}},
                "method": PRETRAINED,
                "labels": labels,
                "baselines": {},
                **changes,
            }
        )

    return _write
