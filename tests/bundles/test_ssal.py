"""What is particular to the SSAL bundle: masks, a cold start, three stages, images and volumes."""

from __future__ import annotations

import csv
import json

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import zoom
from support import assert_same_state, refused

from medssl_monai.bundle.run import workflow
from medssl_monai.data import write_datalist
from medssl_monai.networks import weights_metadata

SHORT = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 2}
STAGE_1 = {"epoch_length": 3, "max_epochs": 2, "batch_size::unlabeled": 6, "pretrained": None}


@pytest.fixture
def run_ssal(run_bundle):
    """Runs the bundle, short and on toy masks where nothing else is said."""

    def _run(folder="run", overlays=(), **overrides):
        return run_bundle("ssal", folder, overlays, **{**SHORT, **overrides})

    return _run


@pytest.fixture
def volumes(tmp_path):
    """A datalist of NIfTI volumes of different sizes and axes; the mask of one has unlabeled slices."""
    rng, sections = np.random.default_rng(0), {}
    for section, count in (("training", 8), ("validation", 3)):
        sections[section] = []
        for number in range(count):
            shape = (14 + number % 3, 16, 8)
            mask = np.zeros(shape, np.uint8)
            mask[3:9, 4:12, 2:6] = 1
            mask[5:8, 6:9, 3:5] = 2
            image = (rng.normal(100, 10, shape) + 60 * mask).astype(np.float32)
            if section == "training" and number == 0:
                mask[..., 4:] = 3  # of three classes the first index that is no class: nobody labeled these slices
            affine = np.diag([-1.0, 1.0, 3.0, 1.0]) if number % 2 else np.diag([1.0, 1.0, 3.0, 1.0])
            name = f"{section}{number}"
            nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / f"{name}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / f"{name}_mask.nii.gz")
            item = {"image": f"{name}.nii.gz", "label": f"{name}_mask.nii.gz", "id": name, "group": name}
            sections[section].append(item)
    path = tmp_path / "volumes.json"
    write_datalist(path, sections, classes=["background", "shell", "core"])
    return path


VOLUMES = {
    "image_size": [16, 16, 8],
    "spacing": [1.0, 1.0, 3.0],
    "labels": 3,
    "batch_size": {"labeled": 2, "unlabeled": 2, "validation": 2},
}


def record(folder, number=0):
    return json.loads((folder / "rounds" / f"round_{number:02d}.json").read_text())


def test_three_stages_from_no_label_at_all(run_ssal, own_bundle, tmp_path):
    models = str(own_bundle("ssal") / "models")
    run_ssal("pretrain", ("pretrain.yaml",), **{**STAGE_1, "ckpt_dir": models, "rounds": 2})
    pretrained = own_bundle("ssal") / "models" / "pretrained.pt"
    state = torch.load(pretrained, weights_only=True)
    assert [value.shape[0] for key, value in state.items() if "output_block" in key and "weight" in key] == [1]

    run_ssal("asked", ("query.yaml",), labels=0, ckpt_dir=models, **{"query::budget": 5})
    query = json.loads((tmp_path / "asked" / "query.json").read_text())
    assert query["parts"]["label"]["kind"] == "masks"
    assert len(query["items"]) == 5
    assert all("cluster" in item["reason"] for item in query["items"])

    choice = {"labels": 0, "pretrained": str(pretrained), "rounds": 2, "query::budget": 3, "query::cold_start": 5}
    run_ssal("run", **choice)
    cold = json.loads((tmp_path / "run" / "queries" / "cold_start.json").read_text())
    assert [item["id"] for item in cold["items"]] == [item["id"] for item in query["items"]]
    assert [record(tmp_path / "run", number)["labels"] for number in (0, 1)] == [5, 8]
    evaluation = record(tmp_path / "run", 1)["evaluation"]
    assert evaluation["kind"] == "masks"
    assert evaluation["unit"] == "pixels"
    assert 0 <= evaluation["metrics"]["dice"]["low"] <= evaluation["metrics"]["dice"]["value"] <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "95 % Hausdorff distance (pixels)" in page
    assert "_mask.png" not in page


def test_rounds_extend_one_ranking_whatever_the_network_has_learned(run_ssal, tmp_path, caplog):
    """Of one pool, two rounds of 3 and 4 ask for what one round of 7 asks for."""
    choice = {"labels": 0, "query::budget": 4}
    run_ssal("two", **choice, rounds=2, **{"query::cold_start": 3})
    run_ssal("one", **choice, **{"query::cold_start": 7})

    def asked(*path):
        return {item["id"] for item in json.loads(tmp_path.joinpath(*path).read_text())["items"]}

    in_two = asked("two", "queries", "cold_start.json") | asked("two", "queries", "round_00.json")
    assert in_two == asked("one", "queries", "cold_start.json")
    assert "clusters are made with the network as it starts" in caplog.text


def test_other_strategies_do_not_warn_of_an_untrained_network(run_ssal, caplog):
    run_ssal(**{"query::strategy": "@strategies::random"})
    assert "untrained" not in caplog.text


def test_a_run_that_was_stopped_ends_bit_equal(run_ssal, tmp_path):
    choice = {"labels": 0, "method_def": "@methods::mean_teacher", "epochs_per_round": 2, "query::cold_start": 4}
    run_ssal("whole", **choice, rounds=2)
    run_ssal("parts", **choice, rounds=1, max_epochs=2, **{"lr_scheduler::lr_lambda::total": 8})
    run_ssal("parts", **choice, rounds=2)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert_same_state(*(state["method"] for state in states))
    assert_same_state(*(state["pool"] for state in states))


@pytest.mark.parametrize(
    "choice",
    [
        {"method_def": "@methods::mean_teacher", "query::strategy": "@strategies::entropy"},
        {"method_def": "@methods::cross_pseudo", "query::strategy": "@strategies::random"},
        {"method_def": "@methods::fixmatch", "query::strategy": "@strategies::foreground_random"},
        {"query::strategy": "@strategies::boundary_entropy"},
        {"query::strategy": "@strategies::bald"},
        {"query::strategy": "@strategies::ceal"},
        {"query::strategy": "@strategies::dice_disagreement"},
        {"query::strategy": "@strategies::coreset"},
        {"query::strategy": "@strategies::typiclust"},
        {"query::strategy": "@strategies::clusters_then_entropy"},
        {"query::strategy": "@strategies::clusters_and_entropy"},
        {"network_def": "@networks::basic_unet"},
        {"network_def": "@networks::unet"},
        {"network_def": "@networks::ssal_unet"},
        {"network_def": "@networks::dyn_unet", "query::budget": 0},
        {"patch_size": [8, 8]},
        {"amp": True},
    ],
    ids=str,
)
def test_choices_of_the_bundle(run_ssal, choice, tmp_path):
    run_ssal(**choice)
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "models" / "model.pt").exists()


@pytest.mark.parametrize("method", ["supervised", "mean_teacher", "cross_pseudo"])
def test_volumes_of_different_sizes_and_axes(run_ssal, volumes, method, tmp_path):
    run = run_ssal(overlays=("train_3d.yaml",), datalist=str(volumes), method_def=f"@methods::{method}", **VOLUMES)
    assert run.parser.get_parsed_content("train::dataset").images.shape == (8, 1, 16, 16, 8)
    evaluation = record(tmp_path / "run")["evaluation"]
    assert evaluation["unit"] == "mm"
    assert {"shell", "core"} == set(evaluation["per_class"])


def test_patches_of_volumes_and_windows_over_them(run_ssal, volumes, tmp_path):
    run_ssal(overlays=("train_3d.yaml",), datalist=str(volumes), **VOLUMES, patch_size=[8, 8, 8])
    assert "dice" in record(tmp_path / "run")["evaluation"]["metrics"]


@pytest.mark.parametrize("foreground", [0.33, 0.9])
def test_patches_show_as_much_foreground_as_the_configuration_says(run_ssal, foreground):
    run = run_ssal(patch_size=[8, 8], **({} if foreground == 0.33 else {"patch_foreground": foreground}))
    streams = run.parser.get_parsed_content("train::dataloader").streams
    assert streams["labeled"].dataset.foreground == foreground


def test_unlabeled_slices_and_padding_are_unknown(run_ssal, volumes):
    run = run_ssal(overlays=("train_3d.yaml",), datalist=str(volumes), **{**VOLUMES, "labels": "null"})
    pool = run.parser.get_parsed_content("pool")
    first, second = pool.first.targets(torch.tensor([0, 1]))
    assert (first[..., 4:] == -1).all()
    assert set(first[1:-1, :, :4].unique().tolist()) == {0, 1, 2}
    assert (second[0] == -1).all() or (second[-1] == -1).all()  # 15 of 16


def test_masks_and_networks_that_do_not_fit_are_refused(run_ssal, volumes, toy_datalist, toy_masks, tmp_path):
    assert "mend `network_def`" in refused(run_ssal, **{"networks::small_unet::num_classes": 3})
    small = {**VOLUMES, "image_size": [8, 16, 8]}
    said = refused(run_ssal, overlays=("train_3d.yaml",), datalist=str(volumes), **small)
    assert "larger than `image_size` [8, 16, 8]; set `image_size` to at least [16, 16, 8]" in said
    assert "slices" in refused(run_ssal, datalist=str(volumes))  # volumes in a 2-D run
    content = json.loads(toy_masks.read_text())
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(tmp_path / "short.png")
    content["training"][0]["label"] = str(tmp_path / "short.png")
    for section in ("training", "validation", "testing"):
        for item in content[section]:
            item["image"] = str(toy_masks.parent / item["image"])
            item["label"] = str(toy_masks.parent / item["label"])
    (tmp_path / "bad.json").write_text(json.dumps(content))
    said = refused(run_ssal, datalist=str(tmp_path / "bad.json"), labels="null")
    assert "training_0" in said
    assert "12 rows" in said
    run_ssal(datalist=str(tmp_path / "bad.json"), labels="null", on_bad_file="skip")
    assert [entry["id"] for entry in record(tmp_path / "run")["quarantine"]] == ["training_0"]
    assert record(tmp_path / "run")["labels"] == 23
    assert "is 0, and must be the path of a mask" in refused(run_ssal, "classes", datalist=str(toy_datalist))


def test_what_cannot_be_read_is_neither_restored_nor_asked_for(run_ssal, toy_masks, tmp_path):
    content = json.loads(toy_masks.read_text())
    (tmp_path / "broken.png").write_bytes(b"no image")
    for item in content["training"][:20]:
        item["image"] = str(tmp_path / "broken.png")
    (tmp_path / "list.json").write_text(json.dumps(content))
    where = {"datalist": str(tmp_path / "list.json"), "dataset_dir": str(toy_masks.parent), "on_bad_file": "skip"}
    run = run_ssal("pretrain", ("pretrain.yaml",), **{**STAGE_1, **where})
    assert len(run.parser.get_parsed_content("pool").first.indices("all")) == 4
    run_ssal(**where, labels=0, **{"query::cold_start": 10})
    query = json.loads((tmp_path / "run" / "queries" / "cold_start.json").read_text())
    assert {item["id"] for item in query["items"]} == {f"training_{number}" for number in range(20, 24)}
    assert "Cold start: 4 images" in (tmp_path / "run" / "report.html").read_text()


def test_a_model_is_measured_on_the_spacing_that_it_was_trained_on(run_ssal, volumes, own_bundle):
    where = {"datalist": str(volumes), "ckpt_dir": str(own_bundle("ssal") / "models"), **VOLUMES}
    run_ssal(overlays=("train_3d.yaml",), **where)
    where["spacing"] = [1.0, 1.0, 2.0]
    said = refused(run_ssal, "out", ("train_3d.yaml", "evaluate.yaml"), **where, section="validation")
    assert "was trained on volumes of [1.0, 1.0, 3.0] mm" in said


def test_an_empty_mask_as_the_only_label(run_ssal, toy_masks, tmp_path, caplog):
    content = json.loads(toy_masks.read_text())
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "empty.png")
    for section in ("training", "validation", "testing"):
        for number, item in enumerate(content[section]):
            item["image"] = str(toy_masks.parent / item["image"])
            item["label"] = str(toy_masks.parent / item["label"])
            if section == "training":
                item["label"] = str(tmp_path / "empty.png")
                item["labeled"] = number == 0
    (tmp_path / "empty.json").write_text(json.dumps(content))
    run_ssal(datalist=str(tmp_path / "empty.json"), labels="null")
    assert "none of the 1 masks that are known shows anything but background" in caplog.text
    evaluation = record(tmp_path / "run")["evaluation"]
    assert np.isfinite(record(tmp_path / "run")["training"]["loss"])
    assert 0 <= evaluation["metrics"]["dice"]["value"] <= 1


def test_train_evaluate_infer_export(run_ssal, own_bundle, toy_masks, tmp_path):
    bundle = own_bundle("ssal")
    configs, models = bundle / "configs", str(bundle / "models")
    run_ssal(ckpt_dir=models, rounds=1)
    metadata = weights_metadata(bundle / "models" / "model.pt")
    assert metadata["synthetic"] and metadata["classes"] == ["background", "disk"]
    run_ssal("out", ("evaluate.yaml",), ckpt_dir=models)
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["n"] == 8 and "SYNTHETIC" in figures["notice"] and "dice" in figures["metrics"]

    run = workflow(
        [configs / "inference.json"], "infer", logging_file=False, bundle_root=str(bundle), device="cpu",
        dataset_dir=str(toy_masks.parent), output_dir=str(tmp_path / "masks"),
    )  # fmt: skip
    run.initialize()
    assert run.check_properties() == []
    run.run()
    rows = list(csv.DictReader((tmp_path / "masks" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 2 * 40  # its masks are images as well
    assert all(row["file"] for row in rows)
    with Image.open(tmp_path / "masks" / rows[0]["file"]) as mask:
        assert mask.size == (16, 16)

    inference = {"config_file": str(configs / "inference.json"), "meta_file": str(configs / "metadata.json")}
    monai.bundle.verify_net_in_out(net_id="network_def", device="cpu", bundle_root=str(bundle), **inference)
    monai.bundle.ckpt_export(
        net_id="network_def", filepath=str(bundle / "models" / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"), bundle_root=str(bundle), **inference,
    )  # fmt: skip
    images = torch.rand(2, 1, 16, 16)
    assert torch.jit.load(bundle / "models" / "model.ts").eval()(images).shape == (2, 2, 16, 16)


# ---- defects of the published scripts, as the bundle has them repaired ----------------------------------------------


def test_trap_3_training_starts_from_the_weights_of_stage_1(run_ssal, own_bundle):
    """The released script names no weights, so that stage 1 is without effect."""
    models = own_bundle("ssal") / "models"
    run_ssal("pretrain", ("pretrain.yaml",), **STAGE_1, ckpt_dir=str(models))
    run_ssal(ckpt_dir=str(models), pretrained=str(models / "pretrained.pt"), **{"optimizer::lr": 0.0})
    first, last = (torch.load(models / name, weights_only=True) for name in ("pretrained.pt", "model.pt"))
    other = {key for key in last if not torch.equal(first[key], last[key])}
    assert other
    assert all("output_block" in key for key in other)


def test_trap_5_a_smaller_mask_keeps_its_border(run_ssal, toy_masks, tmp_path):
    """The released code resizes with cubic splines and takes for lesion what is exactly 255: the border is lost."""
    row, column = np.mgrid[:45, :45]
    inside = np.hypot(row - 22, column - 22) < 15
    Image.fromarray((255 * inside).astype(np.uint8)).save(tmp_path / "mask.png")
    Image.fromarray((90 + 90 * inside).astype(np.uint8)).save(tmp_path / "image.png")
    run = run_ssal(**{"query::budget": 0})
    item = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "mask.png"), "id": "one"}
    ours = run.parser.get_parsed_content("mask_preprocessing")(item)["label"]
    assert ours.unique().tolist() == [0, 1]
    assert float(ours.float().mean()) == pytest.approx(inside.mean(), rel=0.05)
    released = zoom(255.0 * inside, 16 / 45, order=3).round().clip(0, 255) == 255
    assert released.mean() < 0.85 * inside.mean()


def test_trap_7_random_images_are_others_with_another_seed(run_ssal, tmp_path):
    """The released baseline takes the first images of the pool, the same ones in every repeat."""
    drawn = []
    for seed in (0, 1):
        choice = {"labels": 0, "seed": seed, "query::strategy": "@strategies::random", "query::cold_start": 6}
        run_ssal(f"seed{seed}", **choice)
        query = json.loads((tmp_path / f"seed{seed}" / "queries" / "cold_start.json").read_text())
        drawn.append({item["id"] for item in query["items"]})
    assert drawn[0] != drawn[1]
    assert all(ids != {f"training_{number}" for number in range(6)} for ids in drawn)


def test_trap_14_stage_1_sees_training_images_alone(run_ssal, toy_masks, tmp_path):
    """The released stage 1 stops early by the images that the segmentation is tested on."""
    content = json.loads(toy_masks.read_text())
    for section in ("validation", "testing"):
        for item in content[section]:
            item["image"] = "not there.png"
    (tmp_path / "list.json").write_text(json.dumps(content))
    where = {"datalist": str(tmp_path / "list.json"), "dataset_dir": str(toy_masks.parent)}
    run_ssal("pretrain", ("pretrain.yaml",), **STAGE_1, **where)
    assert (tmp_path / "pretrain" / "models" / "pretrained.pt").exists()
