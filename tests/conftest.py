"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import ROOT

from medssl_monai.data import write_datalist

torch.set_num_threads(1)  # tests compare runs; small tensors gain nothing from threads


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the tests that are marked `every`")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark whole runs of bundles slow, leave out `every` unless all is asked for, and begin with what takes longest."""
    for item in items:
        if {"run_bundle", "serve"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    if not config.getoption("--all"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("every")])
        items[:] = [item for item in items if not item.get_closest_marker("every")]
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys and caches of tests are not those of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSSL_KEY_FILE", str(tmp_path_factory.mktemp("key") / "pseudonym.key"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip with the reason."""
    folder = Path(os.environ.get("MEDSSL_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set MEDSSL_DATA")
    return folder


@pytest.fixture(scope="session")
def toy_datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of 16 x 16 PNG files: two classes, a bright left or right half; patients of two images each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, count in (("training", 40), ("validation", 16), ("testing", 12)):
        sections[section] = []
        for number in range(count):
            label = number % 2
            pixels = rng.normal(90, 35, (16, 16))
            pixels[:, 8 * label : 8 * label + 8] += 60
            name = f"{section}_{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            item = {"image": name, "label": label, "id": name, "group": f"{section}_{number // 4}"}
            sections[section].append(item)
    write_datalist(folder / "datalist.json", sections, classes=["left", "right"], name="toy", synthetic=True)
    return folder / "datalist.json"


@pytest.fixture(scope="session")
def toy_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of 16 x 16 PNG files with a bright disk, and masks of it; patients of two images each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("toy_masks")
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:16, :16]
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, count in (("training", 24), ("validation", 8), ("testing", 8)):
        sections[section] = []
        for number in range(count):
            inside = np.hypot(row - rng.uniform(5, 10), column - rng.uniform(5, 10)) < rng.uniform(3, 5)
            pixels = (rng.normal(90, 20, (16, 16)) + 90 * inside).clip(0, 255)
            name = f"{section}_{number}"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray((255 * inside).astype(np.uint8)).save(folder / f"{name}_mask.png")
            item = {"image": f"{name}.png", "label": f"{name}_mask.png", "id": name}
            sections[section].append({**item, "group": f"{section}_{number // 2}"})
    classes = ["background", "disk"]
    write_datalist(folder / "datalist.json", sections, classes=classes, name="toy masks", synthetic=True)
    return folder / "datalist.json"


@pytest.fixture(scope="session")
def toy_joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of 16 x 16 PNG files with a bright disk: its side is the class, its pixels are the mask."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("toy_joint")
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:16, :16]
    sections: dict[str, list[dict[str, Any]]] = {}
    for section, count in (("training", 32), ("validation", 12), ("testing", 12)):
        sections[section] = []
        for number in range(count):
            label = number % 2
            inside = np.hypot(row - rng.uniform(5, 10), column - (4 + 7 * label)) < rng.uniform(2.5, 4)
            pixels = (rng.normal(90, 20, (16, 16)) + 90 * inside).clip(0, 255)
            name = f"{section}_{number}"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
            Image.fromarray((255 * inside).astype(np.uint8)).save(folder / f"{name}_mask.png")
            item = {"image": f"{name}.png", "label": label, "mask": f"{name}_mask.png", "id": name}
            sections[section].append({**item, "group": f"{section}_{number // 4}"})
    write_datalist(
        folder / "datalist.json",
        sections,
        classes=["left", "right"],
        mask_classes=["background", "disk"],
        name="toy joint",
        synthetic=True,
    )
    return folder / "datalist.json"


@pytest.fixture
def tiny(toy_datalist: Path, toy_masks: Path, toy_joint: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Overrides that make a bundle's run tiny: toy images, two rounds of two epochs of three steps, on the CPU."""

    own: dict[str, dict[str, Any]] = {
        "ssal": {"datalist": str(toy_masks)},
        "multimix": {
            "datalist": str(toy_joint),
            "mask_labels": 4,
            "batch_size::segmented": 3,
            "batch_size::unsegmented": 2,
        },
    }

    def _tiny(folder: str = "run", name: str = "boostmis", **overrides: Any) -> dict[str, Any]:
        return {
            "datalist": str(toy_datalist),
            "output_dir": str(tmp_path / folder),
            "ckpt_dir": str(tmp_path / folder / "models"),
            "device": "cpu",
            "image_size": [16, 16],
            "labels": 6,
            "rounds": 2,
            "epochs_per_round": 2,
            "epoch_length": 3,
            "batch_size::labeled": 4,
            "batch_size::unlabeled": 6,
            "query::budget": 3,
            **own.get(name, {}),
            **overrides,
        }

    return _tiny


@pytest.fixture
def own_bundle(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a shipped bundle, since a run writes weights and metadata into its bundle."""

    def _copy(name: str) -> Path:
        from medssl_monai.bundle.shipped import copy_bundle

        target = tmp_path / "bundles" / name
        return target if target.exists() else copy_bundle(name, target)

    return _copy


@pytest.fixture
def run_bundle(
    own_bundle: Callable[[str], Path], tiny: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs a bundle in this process, tiny, with further config files of the bundle; returns the workflow.

    The picture in its report is left empty: to draw it takes a third of such a run, and the tests of reports draw it.
    """
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **options: file.write(b"<svg/>"))

    def _run(name: str = "boostmis", folder: str = "run", overlays: tuple[str, ...] = (), **overrides: Any) -> Any:
        from medssl_monai.bundle.run import workflow

        bundle = own_bundle(name)
        files = [bundle / "configs" / file for file in ("train.yaml", *overlays)]
        run = workflow(files, bundle_root=str(bundle), logging_file=False, **tiny(folder, name, **overrides))
        run.initialize()
        run.run()
        run.finalize()
        return run

    return _run


@pytest.fixture(scope="session")
def finished_runs() -> dict[str, Path]:
    """Folders of what `finished` has run, by name and overrides."""
    return {}


@pytest.fixture
def finished(
    run_bundle: Callable[..., Any],
    finished_runs: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., None]:
    """Leaves what `run_bundle` leaves, for tests of what comes after; runs each once and copies it from then on."""

    def _finished(name: str = "boostmis", **overrides: Any) -> None:
        key = json.dumps([name, overrides], sort_keys=True)
        if key in finished_runs:
            shutil.copytree(finished_runs[key], tmp_path, dirs_exist_ok=True)
            return
        run_bundle(name, **overrides)
        finished_runs[key] = tmp_path_factory.mktemp("finished")
        for folder in ("run", "bundles"):
            shutil.copytree(tmp_path / folder, finished_runs[key] / folder)

    return _finished
