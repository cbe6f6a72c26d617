"""What is particular to the TEAR bundle: colour images, its choices, and what does not fit them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support import refused

from medssl_monai.bundle.run import workflow
from medssl_monai.data import write_datalist

SHORT = {"rounds": 1, "epochs_per_round": 1, "epoch_length": 2}


@pytest.fixture(scope="session")
def colour_datalist(tmp_path_factory):
    """Like `toy_datalist`, in colour: a red left or right half."""
    folder = tmp_path_factory.mktemp("colour")
    rng = np.random.default_rng(0)
    sections = {}
    for section, count in (("training", 24), ("validation", 12), ("testing", 8)):
        sections[section] = []
        for number in range(count):
            pixels = rng.normal(90, 35, (16, 16, 3))
            pixels[:, 8 * (number % 2) : 8 * (number % 2) + 8, 0] += 60
            name = f"{section}_{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            item = {"image": name, "label": number % 2, "id": name, "group": f"{section}_{number // 4}"}
            sections[section].append(item)
    path = folder / "datalist.json"
    names = ["red", "green", "blue"]
    write_datalist(path, sections, classes=["left", "right"], name="toy", synthetic=True, modality=names)
    return path


@pytest.fixture
def run_tear(run_bundle, colour_datalist):
    """Runs the bundle, short and on colour images where nothing else is said."""

    def _run(**overrides):
        return run_bundle("tear", **{**SHORT, "datalist": str(colour_datalist), **overrides})

    return _run


def test_phantoms_of_seven_classes_in_colour_are_the_default(own_bundle, tmp_path):
    bundle = own_bundle("tear")
    run = workflow(
        [bundle / "configs" / "train.yaml"],
        bundle_root=str(bundle),
        logging_file=False,
        device="cpu",
        dataset_dir=str(tmp_path / "phantoms"),
        output_dir=str(tmp_path / "run"),
        image_size=[32, 32],
        labels=14,
        phantom={"kind": "lesion7", "patients": {"training": 50, "validation": 40}},
        **SHORT,
    )
    run.initialize()
    run.run()
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert state["backbone.conv1.weight"].shape[1] == 3
    assert state["head.weight"].shape[0] == 7
    formats = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert list(formats["outputs"]["pred"]["channel_def"].values()) == [
        "MEL",
        "NV",
        "BCC",
        "AKIEC",
        "BKL",
        "DF",
        "VASC",
    ]
    assert formats["inputs"]["image"]["num_channels"] == 3
    record = json.loads((tmp_path / "run" / "rounds" / "round_00.json").read_text())
    assert {"loss", "supervised", "unsupervised", "mask_rate", "estimated_loss", "prototype"} <= set(record["training"])


@pytest.mark.parametrize(
    "choice",
    [
        {"method_def": "@methods::fixmatch"},
        {"method_def": "@methods::boostmis", "query::strategy": "@strategies::boostmis"},
        {"method_def": "@methods::mean_teacher", "query::strategy": "@strategies::margin"},
        {"method_def": "@methods::supervised", "query::strategy": "@strategies::random"},
        {"query::strategy": "@strategies::boostmis"},
        {"query::budget": 0},
        {"network_def": "@networks::small_convnet", "image_size": [32, 32], "query::strategy": "@strategies::boostmis"},
        {"network_def": "@networks::densenet121", "image_size": [32, 32]},
        {"methods::tear::adapl::_disabled_": True},  # None of a command line would be a word
        {"methods::tear::iph::_disabled_": True},
        {"methods::tear::alignment::_disabled_": True},
        {"methods::tear::adapl::previous": "bank"},
        {"methods::tear::adapl::previous": "snapshot"},
        {"methods::tear::iph::mode": "matched"},
        {"criterion_def": "@criteria::weighted"},
        {"balanced_sampling": True},
    ],
    ids=str,
)
def test_choices_of_the_bundle(run_tear, choice, tmp_path):
    run_tear(**choice)
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "models" / "model.pt").exists()


def test_parts_that_are_switched_off_are_gone(run_tear):
    method = run_tear(**{f"methods::tear::{part}::_disabled_": True for part in ("adapl", "iph", "alignment")})
    method = method.parser.get_parsed_content("method_def")
    assert (method.adapl, method.iph, method.alignment) == (None, None, None)


class TestGreyAndColour:
    def test_grey_images_train_a_network_of_one_channel(self, run_tear, toy_datalist):
        run = run_tear(datalist=str(toy_datalist))
        assert run.parser.get_parsed_content("network").backbone.conv1.in_channels == 1

    @pytest.mark.parametrize(("kind", "channels"), [("grey", 3), ("colour", 1)])
    def test_training_refuses_images_of_the_other_kind(self, run_tear, toy_datalist, colour_datalist, kind, channels):
        datalist = str({"grey": toy_datalist, "colour": colour_datalist}[kind])
        said = refused(run_tear, datalist=datalist, channels=channels)
        assert "images cannot be read" in said
        assert f"training_0.png: 'image' is a {kind} image" in said.replace("ValueError: ", "")
        run = run_tear(datalist=datalist, channels=channels, convert_channels=True)
        assert run.parser.get_parsed_content("network").backbone.conv1.in_channels == channels

    def test_a_network_of_other_channels_than_the_data_is_refused(self, run_tear):
        network = {"_target_": "medssl_monai.networks.small_resnet", "num_classes": 2, "in_channels": 1, "width": 2}
        assert "the network is for 1 channels, the data have 3" in refused(run_tear, network_def=network)

    @pytest.mark.parametrize(("trained", "given"), [("grey", "colour"), ("colour", "grey")])
    @pytest.mark.parametrize("overlay", ["evaluate.yaml", "query.yaml"])
    def test_a_model_of_the_other_kind_is_refused(
        self, run_tear, toy_datalist, colour_datalist, trained, given, overlay
    ):
        datalists = {"grey": str(toy_datalist), "colour": str(colour_datalist)}
        run_tear(datalist=datalists[trained])
        said = refused(run_tear, datalist=datalists[given], overlays=(overlay,))
        counts = (1, 3) if trained == "grey" else (3, 1)
        assert "they are for {} image channels (1: grey, 3: colour), the network for {}".format(*counts) in said

    def test_pretrained_weights_of_the_other_kind_are_refused(self, run_tear, toy_datalist, tmp_path):
        run_tear(folder="colour")
        weights = str(tmp_path / "colour" / "models" / "model.pt")
        said = refused(run_tear, datalist=str(toy_datalist), pretrained=weights)
        assert "they are for 3 image channels (1: grey, 3: colour), the network for 1" in said

    def test_inference_names_the_image_of_the_other_kind_and_predicts_the_others(
        self, run_tear, own_bundle, infer, toy_datalist, colour_datalist, tmp_path
    ):
        run_tear(ckpt_dir=str(own_bundle("tear") / "models"))
        folder = tmp_path / "folder"
        folder.mkdir()
        shutil.copy(colour_datalist.parent / "testing_0.png", folder / "colour.png")
        shutil.copy(toy_datalist.parent / "testing_0.png", folder / "grey.png")
        rows = infer("tear", dataset_dir=str(folder))
        assert float(rows["colour.png"]["left"]) + float(rows["colour.png"]["right"]) == pytest.approx(1, abs=1e-5)
        assert "is a grey image, and colour ones are wanted" in rows["grey.png"]["error"]
        assert not rows["grey.png"]["left"]
        assert infer("tear", dataset_dir=str(folder), convert_channels=True)["grey.png"]["left"]


def test_classes_that_the_model_does_not_know_are_refused(run_tear, colour_datalist, tmp_path):
    run_tear()
    content = json.loads(colour_datalist.read_text())
    content["labels"]["2"] = "both"
    other = tmp_path / "three.json"
    other.write_text(json.dumps(content))
    where = {"datalist": str(other), "dataset_dir": str(colour_datalist.parent)}
    said = refused(run_tear, overlays=("evaluate.yaml",), **where)
    assert "was trained on the classes ['left', 'right'], the datalist has ['left', 'right', 'both']" in said
    weights = str(tmp_path / "run" / "models" / "model.pt")
    said = refused(run_tear, folder="again", pretrained=weights, **where)
    assert "they are for 2 classes, the network for 3" in said


def test_a_network_for_other_classes_than_the_data_is_refused(run_tear):
    network = {"_target_": "medssl_monai.networks.small_resnet", "num_classes": 5, "in_channels": 3, "width": 2}
    assert "the network is for 5 classes, the data have 2" in refused(run_tear, network_def=network)


def test_a_batch_with_fewer_images_than_clusters_is_refused(run_tear):
    said = refused(run_tear, **{"methods::tear::iph::num_clusters": 11})
    assert "cannot make 11 clusters of a batch of 10 images" in said


def test_images_too_small_for_the_convnet_are_refused(run_tear):
    said = refused(run_tear, network_def="@networks::small_convnet")
    assert "must be two numbers of at least 32, got [16, 16]; for smaller images" in said


def test_a_pool_in_which_all_is_labeled_is_said_to_be_one(run_tear, caplog, tmp_path):
    run_tear(labels="null")
    assert "No image is without labels, and TEAR learns from such" in caplog.text
    assert json.loads((tmp_path / "run" / "queries" / "round_00.json").read_text())["items"] == []
    caplog.clear()
    run_tear(folder="supervised", labels="null", method_def="@methods::supervised")
    assert "No image is without" not in caplog.text
