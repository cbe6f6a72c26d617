"""What is particular to the MultiMix bundle: classes and masks, of one source or of two, and a saliency in between."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from support import assert_same_state, refused

from medssl_monai.data import write_datalist
from medssl_monai.networks import MultiMixNetwork, export_joint, weights_metadata

SHORT = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 2, "query::budget": 0}
WEIGHTS = {  # and bridge: the baselines of the paper
    "enc": ({"loss_weights::weight": 0, "loss_weights::mask_weight": 0, "loss_weights::consistency_weight": 0}, "none"),
    "enc_ssl": ({"loss_weights::mask_weight": 0, "loss_weights::consistency_weight": 0}, "none"),
    "unet": (
        {"loss_weights::class_weight": 0, "loss_weights::weight": 0, "loss_weights::consistency_weight": 0},
        "none",
    ),
    "umtl": ({"loss_weights::weight": 0, "loss_weights::consistency_weight": 0}, "none"),
    "umtls": ({"loss_weights::weight": 0, "loss_weights::consistency_weight": 0}, "concat"),
    "umtl_ssl": ({"loss_weights::consistency_weight": 0}, "none"),
    "umtl_ssl_s": ({"loss_weights::consistency_weight": 0}, "concat"),
    "multimix": ({}, "concat"),
}
LEARNED = {"enc": ["label"], "enc_ssl": ["label"], "unet": ["mask"]}


@pytest.fixture
def run_multimix(run_bundle):
    """Runs the bundle, short and on toy images where nothing else is said."""

    def _run(folder="run", overlays=(), **overrides):
        return run_bundle("multimix", folder, overlays, **{**SHORT, **overrides})

    return _run


@pytest.fixture
def changed(toy_joint, tmp_path):
    """Writes the toy datalist anew, each item as a function of section and item says."""

    def _changed(change, name="changed", **header):
        content = json.loads(toy_joint.read_text())
        sections = {
            section: [change(section, dict(item)) for item in content[section]]
            for section in ("training", "validation", "testing")
        }
        for item in (item for items in sections.values() for item in items):
            item["image"] = str(toy_joint.parent / item["image"])
            if "mask" in item:
                item["mask"] = str(toy_joint.parent / item["mask"])
        names = {"classes": ["left", "right"], "mask_classes": ["background", "disk"], "synthetic": True, **header}
        write_datalist(tmp_path / f"{name}.json", sections, **names)
        return str(tmp_path / f"{name}.json")

    return _changed


def record(folder, number=0):
    return json.loads((folder / "rounds" / f"round_{number:02d}.json").read_text())


def without(key):
    return lambda section, item: {name: value for name, value in item.items() if name != key}


# ---- what is learned, and measured -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_baselines_are_choices_of_weights_and_bridge(run_multimix, own_bundle, tmp_path, name):
    weights, bridge = WEIGHTS[name]
    models = str(own_bundle("multimix") / "models")
    run = run_multimix(ckpt_dir=models, bridge=bridge, **weights)
    learned = LEARNED.get(name, ["label", "mask"])
    found = weights_metadata(own_bundle("multimix") / "models" / "model.pt")
    assert found["learned"] == learned
    assert found["metric"] == "joint"
    assert found["value"] is not None
    assert found["mask_classes"] == ["background", "disk"]
    streams = {"labeled": "label" in learned, "segmented": "mask" in learned}
    streams |= {"unlabeled": "ssl" in name or name == "multimix", "unsegmented": name == "multimix"}
    loader = run.parser.get_parsed_content("train::dataloader")
    assert set(loader.streams) == {stream for stream, wanted in streams.items() if wanted}

    measured = record(tmp_path / "run")["evaluation"]
    assert ("accuracy" in measured["metrics"], "dice" in measured["metrics"]) == (
        "label" in learned,
        "mask" in learned,
    )
    run_multimix("measured", ("evaluate.yaml",), ckpt_dir=models)  # the weights know what they are of
    again = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    assert set(again["metrics"]) == set(measured["metrics"]), "what was not learned is not measured"
    assert (tmp_path / "measured" / "cases.csv").exists() == ("mask" in learned)


def test_a_run_says_how_many_of_each_are_known(run_multimix, tmp_path):
    run_multimix()
    found = record(tmp_path / "run")
    assert (found["labels"], found["masks"]) == (6, 4)
    page = (tmp_path / "run" / "report.html").read_text()
    assert ">masks<" in page
    assert "95 % Hausdorff distance (pixels)" in page
    assert "macro-F1" in page


def test_it_learns_both_on_toy_images(run_multimix, tmp_path):
    run_multimix(epochs_per_round=6, epoch_length=20, labels=16, mask_labels=8, **{"optimizer::lr": 0.01})
    metrics = record(tmp_path / "run")["evaluation"]["metrics"]
    assert metrics["auroc"]["value"] > 0.9
    assert metrics["dice"]["value"] > 0.8


def test_the_metadata_say_both(run_multimix, own_bundle):
    run_multimix()
    text = (own_bundle("multimix") / "configs" / "metadata.json").read_text()
    outputs = json.loads(text)["network_data_format"]["outputs"]
    assert outputs["classes"]["channel_def"] == {"0": "left", "1": "right"}
    assert outputs["pred"]["channel_def"] == {"0": "background", "1": "disk"}
    assert outputs["pred"]["spatial_shape"] == [16, 16]


def test_a_run_that_was_stopped_ends_bit_equal(run_multimix, tmp_path):
    choice = {"epochs_per_round": 2, "rounds": 2, "query::budget": 12}
    run_multimix("whole", **choice)
    run_multimix("parts", **{**choice, "rounds": 1}, **{"lr_scheduler::lr_lambda::total": 8})
    run_multimix("parts", **choice)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert_same_state(*(state["method"] for state in states))
    assert_same_state(*(state["pool"] for state in states))
    known = [label for part in states[0]["pool"]["parts"].values() for label in part["labels"]]
    assert sum(label is not None for label in known) > 10, "some were asked for"


def test_another_number_of_masks_is_another_run(run_multimix, tmp_path):
    run_multimix()
    assert "labels" in refused(run_multimix, mask_labels=5)


@pytest.mark.slow
def test_volumes(run_bundle, tmp_path):
    import nibabel

    rng, sections = np.random.default_rng(0), {}
    for section, count in (("training", 10), ("validation", 4)):
        sections[section] = []
        for number in range(count):
            mask = np.zeros((16, 16, 16), np.uint8)
            mask[3:9, 4:12, 2 + 6 * (number % 2) : 8 + 6 * (number % 2)] = 1
            image = (rng.normal(100, 10, mask.shape) + 60 * mask).astype(np.float32)
            name = f"{section}{number}"
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / f"{name}_mask.nii.gz")
            item = {"image": f"{name}.nii.gz", "label": number % 2, "mask": f"{name}_mask.nii.gz", "id": name}
            sections[section].append({**item, "group": name})
    write_datalist(tmp_path / "v.json", sections, classes=["low", "high"], mask_classes=["background", "box"])
    batches = {f"batch_size::{name}": 2 for name in ("labeled", "unlabeled", "segmented", "unsegmented", "validation")}
    choice = {"datalist": str(tmp_path / "v.json"), "image_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0]}
    run_bundle("multimix", **{**SHORT, **choice, **batches, "labels": 4, "mask_labels": 3})
    evaluation = record(tmp_path / "run")["evaluation"]
    assert evaluation["masks"]["unit"] == "mm"
    assert {"accuracy", "dice", "hd95"} <= set(evaluation["metrics"])


# ---- what may be missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "mask_labels"), [(32, 4), (6, 32), (32, 32)])
def test_labeled_images_stand_in_where_all_are_labeled(run_multimix, caplog, labels, mask_labels):
    """The released loop makes no step at all."""
    run = run_multimix(labels=labels, mask_labels=mask_labels)
    assert run.parser.get_parsed_content("method").steps_done == 2
    assert ("without labels" in caplog.text, "without masks" in caplog.text) == (labels == 32, mask_labels == 32)


@pytest.mark.parametrize(
    ("key", "choice", "message"),
    [
        ("mask", {}, "`mask_labels` asks for 4 items, and the training section has 0 with a mask"),
        ("mask", {"mask_labels": 0}, "no validation image has a mask"),
        ("label", {}, "the training section has 0 with a label"),
    ],
)
def test_a_kind_that_is_not_there_is_refused(run_multimix, changed, key, choice, message):
    assert message in refused(run_multimix, datalist=changed(without(key)), **choice)


def test_without_masks_classes_alone_can_be_learned(run_multimix, changed, tmp_path):
    weights, bridge = WEIGHTS["enc_ssl"]
    run_multimix(datalist=changed(without("mask")), mask_labels=0, bridge=bridge, **weights)
    assert "dice" not in record(tmp_path / "run")["evaluation"]["metrics"]


def test_without_classes_masks_alone_can_be_learned(run_multimix, changed, tmp_path):
    weights, bridge = WEIGHTS["unet"]
    run_multimix(datalist=changed(without("label")), labels=0, bridge=bridge, **weights)
    assert "dice" in record(tmp_path / "run")["evaluation"]["metrics"]


def test_masks_of_no_known_image_are_refused_before_training(run_multimix):
    assert "no labeled samples to draw from" in refused(run_multimix, mask_labels=0)


def test_a_cold_start_needs_a_mask_before_anybody_is_asked(run_multimix, tmp_path):
    said = refused(run_multimix, labels=0, mask_labels=0, **{"query::cold_start": 12})
    assert "no mask is known, and a cold start asks for labels first" in said
    assert not (tmp_path / "run" / "queries").exists()


def test_patches_are_refused_in_words(run_multimix):
    assert "set `patch_size` to null" in refused(run_multimix, patch_size=[16, 16])


def test_masks_that_nobody_learns_are_not_read(run_multimix, changed, tmp_path):
    path = Path(changed(lambda section, item: item))
    content = json.loads(path.read_text())
    content["training"][0]["mask"] = content["validation"][0]["mask"] = str(tmp_path / "lost.png")
    path.write_text(json.dumps(content))
    weights, bridge = WEIGHTS["enc_ssl"]
    run_multimix(datalist=str(path), mask_labels=1.0, bridge=bridge, **weights)
    assert record(tmp_path / "run")["quarantine"] == []


def test_a_bad_mask_is_named_or_skipped_and_takes_no_class_away(run_multimix, changed, tmp_path):
    path = changed(lambda section, item: item)
    content = json.loads(Path(path).read_text())
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    content["training"][0]["mask"] = str(tmp_path / "torn.png")
    Path(path).write_text(json.dumps(content))
    said = refused(run_multimix, datalist=path, mask_labels=1.0, labels=1.0)
    assert "training_0" in said
    assert "mask" in said
    run_multimix(datalist=path, mask_labels=1.0, labels=1.0, on_bad_file="skip")
    found = record(tmp_path / "run")
    assert (found["labels"], found["masks"]) == (32, 31)
    assert [bad["id"] for bad in found["quarantine"]] == ["training_0"]


# ---- two sources -----------------------------------------------------------------------------------------------------


def two_sources(section, item):
    """Every third image is of a source with masks and without classes, whose grey values are others."""
    number = int(item["id"].rpartition("_")[2])
    return without("label")(section, {**item, "source": "masks"}) if number % 3 == 2 else without("mask")(section, item)


def test_two_sources_meet_in_the_encoder_only(run_multimix, changed, toy_joint, tmp_path):
    """Classes of the one, masks of the other: each stream is of its own source."""
    run = run_multimix(datalist=changed(two_sources), labels=8, mask_labels=4)
    ids = [item["id"] for item in run.parser.get_parsed_content("train::dataset::data")]
    masks = {name for name in ids if int(name.rpartition("_")[2]) % 3 == 2}
    for batch in run.parser.get_parsed_content("train::dataloader"):
        of = {stream: {ids[i] for i in part["index"].tolist()} for stream, part in batch.items()}
        assert of["segmented"] | of["unsegmented"] <= masks
        assert not (of["labeled"] | of["unlabeled"]) & masks
    found = record(tmp_path / "run")["evaluation"]
    assert (found["n"], found["masks"]["n"]) == (8, 4)


@pytest.fixture
def other_grey_scale(toy_joint, tmp_path):
    """The toy images with another offset and gain, as of another scanner."""
    folder = tmp_path / "grey"
    shutil.copytree(toy_joint.parent, folder)
    for path in folder.glob("*.png"):
        if "mask" not in path.name:
            pixels = np.asarray(Image.open(path)).astype(float)
            Image.fromarray((100 + pixels / 3).astype(np.uint8)).save(path)
    return str(folder / "datalist.json")


def test_another_grey_scale_is_the_same_image(run_multimix, own_bundle, other_grey_scale, tmp_path):
    """Each image is scaled by its own percentiles, so that a linear change of the scale changes next to nothing."""
    models = str(own_bundle("multimix") / "models")
    run_multimix(ckpt_dir=models, epochs_per_round=2, epoch_length=10)
    run_multimix("near", ("evaluate.yaml",), ckpt_dir=models)
    run_multimix("far", ("evaluate.yaml",), ckpt_dir=models, datalist=other_grey_scale)
    near, far = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("near", "far"))
    assert near["metrics"]["dice"]["value"] == pytest.approx(far["metrics"]["dice"]["value"], abs=0.03)
    assert near["metrics"]["auroc"]["value"] == pytest.approx(far["metrics"]["auroc"]["value"], abs=0.1)


def test_a_second_source_of_other_classes_is_refused(run_multimix, own_bundle, changed):
    models = str(own_bundle("multimix") / "models")
    run_multimix(ckpt_dir=models)
    for names in ({"classes": ["right", "left"]}, {"mask_classes": ["background", "box"]}):
        said = refused(
            run_multimix, "far", ("evaluate.yaml",), ckpt_dir=models, datalist=changed(lambda _, item: item, **names)
        )
        assert "was trained on the classes" in said


def test_a_model_of_masks_alone_is_not_measured_on_other_masks(run_multimix, own_bundle, changed):
    models, (weights, bridge) = str(own_bundle("multimix") / "models"), WEIGHTS["unet"]
    run_multimix(ckpt_dir=models, bridge=bridge, **weights)
    other = changed(lambda _, item: item, classes=["right", "left"], mask_classes=["background", "box"])
    said = refused(run_multimix, "far", ("evaluate.yaml",), ckpt_dir=models, datalist=other)
    assert "was trained on the classes ['background', 'disk']" in said
    other = changed(lambda _, item: item, classes=["right", "left"])
    run_multimix("far", ("evaluate.yaml",), ckpt_dir=models, datalist=other)  # classes that it never learned


@pytest.mark.parametrize(("key", "metric"), [("mask", "dice"), ("label", "accuracy")])
def test_a_source_of_first_part_is_measured_by_that(run_multimix, own_bundle, changed, tmp_path, key, metric):
    models = str(own_bundle("multimix") / "models")
    run_multimix(ckpt_dir=models)
    other = {"mask": "label", "label": "mask"}[key]
    run_multimix("far", ("evaluate.yaml",), ckpt_dir=models, datalist=changed(without(other)))
    metrics = json.loads((tmp_path / "far" / "metrics.json").read_text())["metrics"]
    assert metric in metrics
    assert len({"dice", "accuracy"} & set(metrics)) == 1


def test_nothing_is_asked_for_that_a_source_does_not_have(run_multimix, changed, tmp_path):
    """Else the oracle could not answer, and the same images would come back in every query."""
    costs = {"strategies::joint::costs": {"label": 1.0, "mask": 1.0}}
    run_multimix(datalist=changed(two_sources), labels=8, mask_labels=4, **{"query::budget": 18}, **costs)
    query = json.loads((tmp_path / "run" / "queries" / "round_00.json").read_text())
    kinds = {item["id"]: item["ask"] for item in query["items"]}
    masks = {name for name in kinds if int(name.rpartition("_")[2]) % 3 == 2}
    assert {name for name, kind in kinds.items() if kind == "mask"} == masks
    assert 0 < len(masks) < len(kinds)


# ---- queries ---------------------------------------------------------------------------------------------------------


def test_rounds_ask_for_classes_and_for_masks(run_multimix, tmp_path):
    costs = {"strategies::joint::costs": {"label": 1.0, "mask": 2.0}}
    run_multimix(rounds=2, **{"query::budget": 9}, **costs)
    query = json.loads((tmp_path / "run" / "queries" / "round_00.json").read_text())
    asked = [item["ask"] for item in query["items"]]
    assert sum({"label": 1, "mask": 2}[kind] for kind in asked) <= 9
    before, after = record(tmp_path / "run"), record(tmp_path / "run", 1)
    assert after["labels"] - before["labels"] == asked.count("label")
    assert after["masks"] - before["masks"] == asked.count("mask")


def test_a_strategy_of_classes_asks_for_classes(run_multimix, tmp_path):
    run_multimix(rounds=2, **{"query::budget": 3, "query::strategy": "@strategies::entropy"})
    after = record(tmp_path / "run", 1)
    assert (after["labels"], after["masks"]) == (9, 4)


def test_what_to_label_next_by_a_trained_model(run_multimix, own_bundle, tmp_path):
    models = str(own_bundle("multimix") / "models")
    run_multimix(ckpt_dir=models)
    run_multimix("asked", ("query.yaml",), ckpt_dir=models, **{"query::budget": 12})
    query = json.loads((tmp_path / "asked" / "query.json").read_text())
    assert sum({"label": 1, "mask": 10}[item["ask"]] for item in query["items"]) == 12
    rows = list(csv.DictReader((tmp_path / "asked" / "query.csv").read_text().splitlines()))
    assert {"id", "ask", "label", "mask"} <= set(rows[0])


# ---- inference and deployment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet", "enc_ssl"])
def test_a_query_knows_what_its_weights_learned(run_multimix, own_bundle, tmp_path, name):
    models, (weights, bridge) = str(own_bundle("multimix") / "models"), WEIGHTS[name]
    run_multimix(ckpt_dir=models, bridge=bridge, **weights)
    strategy = "@strategies::mask_entropy" if name == "unet" else "@strategies::joint"
    run_multimix("asked", ("query.yaml",), ckpt_dir=models, **{"query::budget": 3, "query::strategy": strategy})
    rows = list(csv.DictReader((tmp_path / "asked" / "query.csv").read_text().splitlines()))
    assert len(rows) == 3
    assert {row.get("ask", "label") for row in rows} == {"mask" if name == "unet" else "label"}


def test_the_file_of_a_run_is_the_start_of_another_whatever_else_is_asked_for(run_multimix, tmp_path):
    run_multimix()
    run_multimix("again", labels=str(tmp_path / "run" / "pool.json"), mask_labels=400)
    assert (record(tmp_path / "again")["labels"], record(tmp_path / "again")["masks"]) == (6, 4)


@pytest.fixture
def trained(run_multimix, own_bundle):
    """A bundle that was trained on toy images, with its weights where MONAI looks for them."""
    run_multimix(ckpt_dir=str(own_bundle("multimix") / "models"))
    return own_bundle("multimix")


def test_weights_load_eagerly_and_torchscript_is_refused(trained):
    """The acceptance steps of the Model Zoo, but for TorchScript, which cannot hold a gradient."""
    configs = trained / "configs"
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(trained),
    )
    parser = ConfigParser()
    parser.read_config(configs / "inference.json")
    parser.read_meta(configs / "metadata.json")
    parser["bundle_root"] = str(trained)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    assert isinstance(network, MultiMixNetwork)
    images = torch.rand(2, 1, 16, 16)
    loaded = monai.bundle.load(
        trained.name, bundle_dir=str(trained.parent), source="github", workflow_type="inference", device="cpu"
    )
    torch.testing.assert_close(loaded.eval()(images), network(images))
    with pytest.raises(RuntimeError, match="TorchScript cannot hold this network"):
        torch.jit.script(network)
    program = export_joint(network, images).module()
    torch.testing.assert_close(program(images), tuple(network.joint(images)))
