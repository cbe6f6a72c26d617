"""What tests of several bundles use."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from support import listed_files

from medssl_monai.bundle.run import workflow
from medssl_monai.engines import SSLTrainer

STAGE_A = {"epoch_length": 3, "max_epochs": 2, "batch_size::unlabeled": 6}


@pytest.fixture
def pretrain(run_bundle):
    """Runs stage A of a bundle, tiny."""

    def _pretrain(name="s2mts2", folder="pretrain", **overrides):
        # the keys of stage B that stage A has no use for are left as the bundle has them
        return run_bundle(
            name, folder, ("pretrain.yaml",), **{**STAGE_A, "pretrained": None, "labels": None, **overrides}
        )

    return _pretrain


@pytest.fixture
def infer(own_bundle, tmp_path):
    """Predicts a folder or a datalist with a bundle's inference.json; rows of the table by file."""

    def _infer(name, **overrides):
        bundle, out = own_bundle(name), tmp_path / "predicted"
        run = workflow(
            [bundle / "configs" / "inference.json"],
            "infer",
            logging_file=False,
            bundle_root=str(bundle),
            output_dir=str(out),
            device="cpu",
            **overrides,
        )
        run.initialize()
        run.run()
        listed = listed_files(Path(overrides.get("datalist") or out / "images.json"))
        files = {name: image.rsplit("/")[-1] for name, image in listed.items()}
        rows = csv.DictReader((out / "probabilities.csv").read_text().splitlines())
        return {files[row["id"]]: row for row in rows}

    return _infer


class KilledError(Exception):
    """Stands in for the power cut."""


@pytest.fixture
def cut_off(monkeypatch):
    """Lets a run stop at its step of this number, and starts it once more, as a new process would."""
    iteration = SSLTrainer._iteration

    def _cut_off(run, number):
        steps = []

        def stop_once(self, engine, batch):
            steps.append(1)
            if len(steps) == number:
                raise KilledError
            return iteration(self, engine, batch)

        monkeypatch.setattr(SSLTrainer, "_iteration", stop_once)
        with pytest.raises(RuntimeError, match="train::trainer") as error:
            run()
        assert isinstance(error.value.__cause__, KilledError)
        torch.rand(17)  # a new process would have another generator state
        run()

    return _cut_off
