"""Every bundle keeps one contract, and what bundles share cannot drift apart."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from support import BUNDLES, ROOT, listed_files, refused
from sync_bundles import stale_files

from medssl_monai.networks import weights_metadata

NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/train.yaml"))
REQUIRED = [
    "bundle_root",
    "device",
    "dataset_dir",
    "network_def",
    "network",
    "method_def",
    "method",
    "pool",
    "optimizer",
    "train::dataset::data",
    "train::preprocessing",
    "train::inferer",
    "train::handlers",
    "train::trainer::max_epochs",
    "validate::evaluator",
    "datalist",
    "output_dir",
    "labels",
    "pretrained",
    "allow_leaks",
    "seed",
    "max_epochs",
]
WITH_MASKS = {"multimix", "ssal"}  # what is particular to masks is in their own files
CLASSIFIERS = [name for name in NAMES if name not in WITH_MASKS]
README_SECTIONS = ["Model Description", "Data", "Performance", "Limitations", "Deviations", "References", "License"]


def config(name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(BUNDLES / name / "configs" / "train.yaml")
    return parser


@pytest.fixture(params=CLASSIFIERS)
def trained(request, run_bundle, own_bundle, tmp_path):
    """A bundle that was trained on toy images, with its weights where MONAI looks for them."""
    run_bundle(request.param, ckpt_dir=str(own_bundle(request.param) / "models"))
    return own_bundle(request.param)


@pytest.mark.parametrize("name", NAMES)
class TestConfig:
    def test_has_the_ids_that_other_tools_rely_on(self, name):
        parser = config(name)
        assert [i for i in REQUIRED if i not in parser] == []
        assert isinstance(parser["train::handlers"], list)  # MONAI Label inserts into it before parsing

    def test_uses_every_key_it_defines(self, name):
        text = (BUNDLES / name / "configs" / "train.yaml").read_text()
        known = {"imports", "bundle_root", "initialize", "run", "finalize", "_meta_"}
        keys = {key.split("::")[0] for key in config(name).config} - known
        assert [key for key in keys if f"@{key}" not in text] == []

    def test_imports_work_in_a_fresh_process(self, name):
        """MONAI resolves `from package import module` only if somebody else has imported the module."""
        for path in (BUNDLES / name / "configs").glob("*.*"):
            assert "$from medssl_monai import" not in path.read_text(), path

    def test_checkpoint_is_the_first_handler(self, name):
        assert config(name)["train::handlers"][0]["_target_"].endswith("TrainingCheckpoint")

    def test_initialize_touches_neither_data_nor_trainer(self, name):
        """`monai.bundle.load` runs it."""
        text = json.dumps(config(name)["initialize"])
        assert "train::" not in text
        assert "pool" not in text

    def test_readme_has_the_sections_of_the_zoo(self, name):
        text = (BUNDLES / name / "docs" / "README.md").read_text()
        assert [section for section in README_SECTIONS if section not in text] == []
        assert "not a medical device" in text

    def test_has_what_the_model_zoo_asks_for(self, name):
        """The steps of its acceptance script that need no weights; the others are below."""
        metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
        assert (BUNDLES / name / "LICENSE").is_file()
        assert metadata["version"] in metadata["changelog"]

    def test_a_wheel_has_every_file(self, name):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
        patterns = project["package-data"]["medssl_monai.bundles"]
        shipped = {path for pattern in patterns for path in BUNDLES.glob(pattern)}
        made = {"models", "eval", "__pycache__"}
        wanted = {p for p in (BUNDLES / name).rglob("*") if p.is_file() and not made & set(p.parts)}
        assert wanted <= shipped
        folders = {p.parent for p in (ROOT / "medssl_monai").rglob("*.py")}
        packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"medssl_monai.bundles"}
        assert set(project["packages"]) == packages

    def test_metadata_fit_the_schema(self, name, tmp_path):
        schema = ROOT.parent / "shared" / "schema" / "meta_schema_20240725.json"
        if not schema.exists():
            pytest.skip(f"MONAI's metadata schema is not at {schema}, and fetching it needs the network")
        shutil.copy(schema, tmp_path / "schema.json")
        monai.bundle.verify_metadata(
            meta_file=str(BUNDLES / name / "configs" / "metadata.json"),
            filepath=str(tmp_path / "schema.json"),
            hash_val="06954cad2cc5d3784e72077ac76f0fc8",
        )


def test_properties_are_complete(run_bundle, own_bundle, tiny):
    for name in NAMES:
        bundle = own_bundle(name)
        run = ConfigWorkflow(
            str(bundle / "configs" / "train.yaml"),
            bundle_root=str(bundle),
            logging_file=False,
            workflow_type="train",
            **tiny(name=name),
        )
        run.initialize()
        assert run.check_properties() == []


def test_train_evaluate_query_infer_export(trained, tiny, toy_datalist, tmp_path):
    """What a user does with a trained bundle, in the order of its README."""
    configs, out = trained / "configs", tmp_path / "out"
    base = {**tiny(), "output_dir": str(out), "ckpt_dir": str(trained / "models"), "bundle_root": str(trained)}

    def run(*overlays: str, **more):
        workflow = ConfigWorkflow(
            [str(configs / file) for file in ("train.yaml", *overlays)], logging_file=False, **{**base, **more}
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    metadata = weights_metadata(trained / "models" / "model.pt")
    assert metadata["synthetic"] and metadata["data"] == "SYNTHETIC"
    assert metadata["classes"] == ["left", "right"]
    state = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())  # a plain state dict of network_def

    run("evaluate.yaml")
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["n"] == 12 and figures["groups"] == 3 and "SYNTHETIC" in figures["notice"]
    assert 0 <= figures["metrics"]["auroc"]["low"] <= figures["metrics"]["auroc"]["value"] <= 1

    run("query.yaml")
    query = json.loads((out / "query.json").read_text())
    assert {"id", "rank", "reason", "scores"} <= query["items"][0].keys()
    assert len(query["model_sha256"]) == len(query["datalist_sha256"]) == 64
    assert query["synthetic"] is True

    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        Image.fromarray((np.arange(400) % 251).astype(np.uint8).reshape(20, 20)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:40])
    infer = ConfigWorkflow(
        str(configs / "inference.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(trained),
        dataset_dir=str(folder),
        output_dir=str(out),
        device="cpu",
    )
    infer.initialize()
    assert infer.check_properties() == []
    infer.run()
    files = {name: Path(image).relative_to(folder) for name, image in listed_files(out / "images.json").items()}
    table = csv.DictReader((out / "probabilities.csv").read_text().splitlines())
    rows = {files[row["id"]].as_posix(): row for row in table}
    assert set(rows) == {"a.png", "deep/b.png", "broken.png"}
    assert float(rows["a.png"]["left"]) + float(rows["a.png"]["right"]) == pytest.approx(1, abs=1e-5)
    assert rows["broken.png"]["error"] and not rows["broken.png"]["left"]
    assert "SYNTHETIC" in rows["a.png"]["model"]

    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(trained),
    )
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(trained / "models" / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        bundle_root=str(trained),
    )
    parser = ConfigParser()
    parser.read_config(configs / "inference.json")
    parser.read_meta(configs / "metadata.json")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(state)
    images = torch.rand(2, 1, 16, 16)
    exported = torch.jit.load(trained / "models" / "model.ts").eval()
    torch.testing.assert_close(exported(images), network(images))

    loaded = monai.bundle.load(
        trained.name,
        bundle_dir=str(trained.parent),
        source="github",
        workflow_type="inference",
        device="cpu",
    )
    torch.testing.assert_close(loaded.eval()(images), network(images))


@pytest.mark.slow
def test_a_misspelt_override_stops_the_run(own_bundle):
    """`--datalsit` must never train on phantoms."""
    bundle = own_bundle("boostmis")
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        "configs/train.yaml",
        "--datalsit",
        "x.json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "the override `--datalsit` names nothing in the configuration; did you mean `--datalist`?" in done.stderr
    assert not (bundle / "models").exists()


def test_a_shared_patient_stops_the_run_unless_allowed(run_bundle, toy_datalist, tmp_path):
    content = json.loads(toy_datalist.read_text())
    content["validation"][0]["group"] = content["training"][0]["group"]
    leaky = tmp_path / "leaky.json"
    leaky.write_text(json.dumps(content))
    where = {"datalist": str(leaky), "dataset_dir": str(toy_datalist.parent)}
    assert re.search(r"groups \(patients, lesions\).* both training and validation", refused(run_bundle, **where))
    run_bundle(allow_leaks=True, **where)


def test_bundles_are_in_sync_with_what_they_share():
    assert not stale_files(BUNDLES), "run scripts/sync_bundles.py"


def test_a_changed_bundle_is_noticed(tmp_path):
    shutil.copytree(BUNDLES, tmp_path, dirs_exist_ok=True)
    path: Path = tmp_path / "boostmis" / "configs" / "train.yaml"
    path.write_text(path.read_text().replace("_target_: medssl_monai.engines.SSLTrainer", "_target_: Other"))
    assert list(stale_files(tmp_path)) == [path]


def test_whole_volumes(own_bundle, tmp_path):
    """Three numbers in `image_size`: a 3-D network on whole volumes, volume views, no slices."""
    import nibabel

    from medssl_monai.bundle.run import workflow
    from medssl_monai.data import write_datalist

    rng, sections = np.random.default_rng(0), {}
    for section, count in (("training", 12), ("validation", 4)):
        sections[section] = []
        for number in range(count):
            volume = rng.normal(100, 20, (10, 12, 8)).astype(np.float32)
            volume[: 5 + 5 * (number % 2)] += 60
            name = f"{section}{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.0, 1.0, 3.0, 1.0])), tmp_path / name)
            sections[section].append({"image": name, "label": number % 2})
    write_datalist(tmp_path / "volumes.json", sections, classes=["half", "whole"])
    bundle = own_bundle("boostmis")
    values = {"image_size": [16, 16, 8], "labels": 4, "rounds": 1, "epochs_per_round": 1, "epoch_length": 2}
    run = workflow(
        [bundle / "configs" / "train.yaml"],
        bundle_root=str(bundle),
        logging_file=False,
        datalist=str(tmp_path / "volumes.json"),
        output_dir=str(tmp_path / "out"),
        device="cpu",
        **{**values, "batch_size::labeled": 2, "batch_size::unlabeled": 3, "query::budget": 2},
    )
    run.initialize()
    run.run()
    assert run.parser.get_parsed_content("train::dataset").images.shape == (12, 1, 16, 16, 8)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16, 8]


@pytest.mark.parametrize(
    "choice",
    [
        {"query::strategy": "@strategies::random"},
        {"query::budget": 0},
        {"labels": "null"},  # as a shell passes it; MONAI drops a None
        {"labels": 0.5},
        {"method_def": "@methods::mean_teacher", "query::strategy": "@strategies::entropy"},
        {"network_def": "@networks::densenet121", "image_size": [32, 32]},
        {"network_def": "@networks::resnet50", "image_size": [32, 32]},
        {"amp": True},
        {"query::annotator": "@annotators::nobody"},
    ],
    ids=str,
)
def test_choices_of_the_bundle(run_bundle, choice, tmp_path):
    run_bundle(epoch_length=1, **choice)
    assert (tmp_path / "run" / "report.html").exists()
    assert weights_metadata(tmp_path / "run" / "models" / "model.pt")["metric"] == "auroc"
