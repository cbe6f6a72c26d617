"""What makes a run this run and no other."""

from __future__ import annotations

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from support import BUNDLES, refused

from medssl_monai.bundle.run import workflow
from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.engines import identity
from medssl_monai.engines.identity import LENGTH, PLACES, WIRING, Identity, choices, differences
from medssl_monai.files import load_tensors

ALTERNATIVES = {"networks", "criteria", "methods", "annotators", "strategies"}
"""Of these the run uses some; those are choices."""
ADAM = {"_target_": "torch.optim.Adam", "params": "$@method_def.parameter_groups(weight_decay=0.0)"}
SHORT = {"rounds": 1, "epochs_per_round": 1}
FIXED = {"lr_scheduler::lr_lambda::total": 12, "methods::boostmis::threshold::last_step": 9}
"""Schedules that do not follow the number of rounds."""


@pytest.fixture
def built(own_bundle, tiny):
    """The choices of a bundle whose run has been built."""

    def _built(name="boostmis", overlays=(), **overrides):
        folder = own_bundle(name) / "configs"
        values = tiny(name=name, **overrides)
        run = workflow([folder / file for file in ("train.yaml", *overlays)], logging_file=False, **values)
        run.initialize()
        return run.parser.get_parsed_content("train::handlers::0").identity.state()["facts"]

    return _built


@pytest.fixture
def own_toys(toy_datalist, tmp_path):
    """A copy of the toy images, to change, and overrides that name it."""
    shutil.copytree(toy_datalist.parent, tmp_path / "toys")
    return tmp_path / "toys"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in BUNDLES.glob("*/configs")))
def test_every_choice_of_a_bundle_is_part_of_it(built, name):
    known = {key.partition("::")[0] for key in built(name)}
    config = ConfigParser.load_config_file(BUNDLES / name / "configs" / "train.yaml")
    wiring = {key.partition("::")[0] for key in WIRING if "::" not in key}
    left = {key for key in config if "::" not in key} - known - PLACES - LENGTH - wiring - {"imports"}
    assert left <= {"phantom", "allow_leaks", "criteria", "annotators"}  # the data as they are; alternatives


def test_the_wiring_is_what_the_bundles_share():
    wiring = ConfigParser.load_config_file(BUNDLES / "_shared" / "wiring.yaml")
    multi = ConfigParser.load_config_file(BUNDLES / "_shared" / "multi_gpu_train.yaml")
    assert {*wiring, *multi} - {"device"} == WIRING


def test_what_a_run_does_not_use_is_no_part_of_it(built):
    known = built()
    assert not any(key.startswith(("methods::fixmatch", "strategies::entropy", "criteria::weighted")) for key in known)
    assert known["methods::boostmis::threshold::alpha"] == 0.9
    assert known["lr_scheduler::lr_lambda::total"] == 12
    assert (known["image_size"], known["classes"], known["label_kind"]) == ([16, 16], ["left", "right"], None)


def test_places_titles_devices_workers_and_rounds_are_no_part_of_it(built, tmp_path):
    first = built()
    moved = {
        "output_dir": str(tmp_path / "elsewhere"),
        "ckpt_dir": str(tmp_path / "there"),
        "cache_dir": None,
        "title": "another",
        "device": torch.device("cpu"),
        "train::dataloader::streams::labeled::num_workers": 1,
    }
    assert built(**moved) == first
    longer = {"lr_scheduler::lr_lambda::total": 12, "methods::boostmis::threshold::last_step": 9, "rounds": 5}
    assert built(**longer) == first


@pytest.mark.parametrize("name", ["tear", "ssal", "multimix"])
def test_what_comes_of_the_data_is_part_of_it_by_its_value(built, name):
    known = built(name)
    assert isinstance(known["channels"], int)
    assert all(isinstance(known[key], list) for key in ("classes", *(["mask_classes"] if name == "multimix" else [])))


def test_several_processes_make_no_other_run(built):
    assert built(overlays=("multi_gpu_train.yaml",), device="cpu", initialize=["$(@seed, @deterministic)"]) == built()


def test_a_tracker_makes_no_other_run(built, own_bundle):
    config = ConfigParser.load_config_file(own_bundle("boostmis") / "configs" / "train.yaml")
    tracker = {"_target_": "StatsHandler", "name": "$@title", "iteration_log": "$@seed + 1 > 0"}
    assert built(**{"train::handlers": [*config["train::handlers"], tracker]}) == built()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer::lr": 0.5}, "optimizer::lr 0.03, this one has 0.5"),
        ({"image_size": [8, 8]}, r"image_size \[16, 16\], this one has \[8, 8\]"),
        ({"batch_size::labeled": 5}, "batch_size::labeled 4, this one has 5"),
        ({"val_interval": 2}, "val_interval 1, this one has 2"),
        ({"deterministic": True}, "deterministic False, this one has True"),
        ({"amp": True}, "amp False, this one has True"),
        ({"best_by": "accuracy"}, "best_by 'auroc', this one has 'accuracy'"),
        ({"query::budget": 4}, "query::budget 3, this one has 4"),
        ({"query::strategy": "@strategies::entropy"}, "query::strategy '@strategies::boostmis', this one has"),
        ({"views::weak::rotate": 6}, "views::weak::rotate 5, this one has 6"),
        ({"network_def": "@networks::densenet121"}, "network_def '@networks::small_resnet', this one has"),
        ({"methods::boostmis::threshold::alpha": 0.8}, "threshold::alpha 0.9, this one has 0.8"),
        ({"on_bad_file": "skip"}, "on_bad_file 'stop', this one has 'skip'"),
        ({"label_draw": "stratified"}, "label_draw 'balanced', this one has 'stratified'"),
        ({"classes": ["right", "left"]}, r"classes \['left', 'right'\], this one has \['right', 'left'\]"),
        ({"optimizer": ADAM}, "optimizer::_target_ 'torch.optim.SGD', this"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_choice_is_named_with_both_values(built, change, message):
    assert re.search(message, "; ".join(differences(built(), built(**change))))


def test_a_key_that_follows_from_another_is_not_said_twice():
    before = {"labels": 6, "pool::labels": 6, "a::b": 1}
    assert differences(before, {"labels": 7, "pool::labels": 7, "a::b": 1}) == ["labels 6, this one has 7"]
    assert differences({"a": 1, "a::x": 2}, {"a": 3, "a::y": 4}) == ["a 1, this one has 3"]
    assert differences({"a": None}, {}) == ["a None, this one has None"]
    assert differences(before, dict(before)) == []


def test_a_file_counts_by_its_content(built, tmp_path, own_toys):
    table = own_toys / "labels.csv"
    table.write_text("id,label\ntraining_0.png,left\ntraining_1.png,right\n")
    shutil.copy(table, tmp_path / "copy.csv")
    first = built(labels=str(table))
    assert built(labels=str(tmp_path / "copy.csv")) == first
    table.write_text("id,label\ntraining_0.png,left\ntraining_1.png,left\n")
    assert built(labels=str(table)) != first
    assert str(tmp_path) not in json.dumps(first)


def test_a_run_that_started_from_the_weights_that_it_overwrites_goes_on(run_bundle, tmp_path):
    run_bundle(**SHORT)
    shutil.copy(tmp_path / "run" / "models" / "model.pt", tmp_path / "before.pt")
    (tmp_path / "again" / "models").mkdir(parents=True)
    weights = tmp_path / "again" / "models" / "model.pt"
    shutil.copy(tmp_path / "before.pt", weights)
    run_bundle(folder="again", pretrained=str(weights), **SHORT)
    assert weights.read_bytes() != (tmp_path / "before.pt").read_bytes()
    run_bundle(folder="again", pretrained=str(weights), **SHORT)
    other = refused(run_bundle, folder="again", pretrained=str(tmp_path / "before.pt"), **SHORT)
    assert "pretrained 'the weights that it writes', this one has 'sha256 " in other


def test_choices_without_a_configuration_are_those_that_are_given():
    assert Identity(seed=3).state()["facts"] == {"seed": 3}
    parser = ConfigParser({"initialize": [], "run": ["$@a + 1"], "a": 2, "b": 3, "_meta_": {}})
    assert choices(parser) == {"a": 2}


def test_the_parser_is_that_of_the_configuration_being_built():
    text = {"_target_": "medssl_monai.engines.identity.Identity", "seed": "@seed"}
    parser = ConfigParser({"seed": 4, "it": text, "run": ["$@it"]})
    assert parser.get_parsed_content("it").parser is parser
    assert Identity().parser is None


# ---- images ---------------------------------------------------------------------------------------------------------


def hashes(*rows, **item):
    data = Datalist([{"image": str(k), "id": str(k), **item} for k in range(len(rows))])
    return identity.image_hashes(ImageDataset(data, lambda item: {"image": torch.tensor(rows[int(item["image"])])}))


def test_each_image_and_the_file_of_its_mask_has_a_hash(tmp_path):
    first = hashes([[[0.1]]], [[[0.2]]])
    assert first.shape == (2,)
    assert first.dtype == torch.int64
    assert (first != hashes([[[0.1]]], [[[0.9]]])).tolist() == [False, True]
    (tmp_path / "mask.png").write_bytes(b"1")
    masked = hashes([[[0.1]]], mask=str(tmp_path / "mask.png"))
    (tmp_path / "mask.png").write_bytes(b"2")
    assert masked.tolist() != hashes([[[0.1]]], mask=str(tmp_path / "mask.png")).tolist()


def test_many_changed_images_are_not_all_named():
    dataset = ImageDataset(Datalist([{"image": "x", "id": f"i{k}"} for k in range(12)]), lambda item: item)
    state = {"facts": {}, "images": {"training": torch.zeros(12)}, "version": "1"}
    text = Identity({"training": dataset}).refusal(state, {**state, "images": {"training": torch.ones(12)}})
    assert text.endswith("i8, i9 and 2 more")


def test_another_version_is_said_and_not_refused(caplog):
    state = {"facts": {}, "images": {}, "version": "1"}
    with caplog.at_level(logging.WARNING):
        assert Identity().refusal(state, {**state, "version": "2"}) == ""
    assert "begun with version 1 and goes on with 2" in caplog.text


# ---- a run continued ------------------------------------------------------------------------------------------------


def swap(content, section):
    item = content[section][3]
    item["label"] = 1 - item["label"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: swap(content, "validation"), "validation section '"),
        (lambda content: swap(content, "training"), "training section '"),
        (lambda content: content["validation"].pop(), "validation section '"),
        (lambda content: content.update(labels={"0": "right", "1": "left"}), r"classes \['left', 'right'\], this one"),
    ],
    ids=["validation_label", "training_label", "validation_list", "classes"],
)
def test_other_data_are_refused(run_bundle, own_toys, tmp_path, change, message):
    datalist = own_toys / "datalist.json"
    run_bundle(datalist=str(datalist), **SHORT)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    edit(datalist, change)
    said = refused(run_bundle, datalist=str(datalist), **SHORT)
    assert re.search(message, said)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize("section", ["training", "validation"])
def test_an_image_that_changed_is_named(run_bundle, own_toys, section):
    datalist = str(own_toys / "datalist.json")
    run_bundle(datalist=datalist, **SHORT)
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(own_toys / f"{section}_3.png")
    said = refused(run_bundle, datalist=datalist, **SHORT)
    assert f"images of the {section} section, or masks of them, had another content" in said
    assert f"than the files have now: {section}_3.png;" in said


def test_data_that_moved_are_the_same_data(run_bundle, own_toys, tmp_path):
    run_bundle(datalist=str(own_toys / "datalist.json"), **SHORT)
    own_toys.rename(tmp_path / "moved")
    run = run_bundle(datalist=str(tmp_path / "moved" / "datalist.json"), **SHORT)
    assert run.parser.get_parsed_content("method").steps_done == 3


def test_a_run_grows_where_no_schedule_spans_it(run_bundle, tmp_path):
    run_bundle(rounds=1)
    said = refused(run_bundle, rounds=2)
    assert "lr_scheduler::lr_lambda::total 6, this one has 12" in said
    assert "longer only where no schedule spans the run" in said
    run = run_bundle(folder="fixed", rounds=1, **FIXED)
    assert run.parser.get_parsed_content("method").steps_done == 6
    run = run_bundle(folder="fixed", rounds=2, **FIXED)
    assert run.parser.get_parsed_content("method").steps_done == 12


def test_pre_training_has_an_identity_as_well(own_bundle, tiny):
    def run(**overrides):
        own = {"labels": None, "max_epochs": 1, "epoch_length": 2, "batch_size::unlabeled": 4}
        files = [own_bundle("s2mts2") / "configs" / name for name in ("train.yaml", "pretrain.yaml")]
        done = workflow(files, logging_file=False, **{**tiny(name="s2mts2"), **own, **overrides})
        done.initialize()
        done.run()

    run()
    run(title="another")
    assert "contrast::temperature 0.07, this one has 0.1" in refused(run, **{"contrast::temperature": 0.1})


def test_a_run_of_the_command_line_goes_on_under_monai_label(run_bundle, own_bundle, tiny, tmp_path):
    """Its own app makes a parser, puts handlers of its own first, and sets the number of epochs at the trainer."""
    run_bundle(**SHORT)
    bundle = own_bundle("boostmis")
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "train.yaml")
    parser.read_meta(bundle / "configs" / "metadata.json")
    torch.save({"model": {}}, tmp_path / "start.pt")
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(tmp_path / "start.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    parser.update({key.replace("::", "#"): value for key, value in tiny(**SHORT).items()})
    parser.update(
        {
            "bundle_root": str(bundle),
            "train#trainer#max_epochs": 2,
            "device": torch.device("cpu"),
            "train#handlers": [loader, *parser["train::handlers"]],
        }
    )
    parser.parse()
    parser.get_parsed_content("train::trainer").run()
    assert parser.get_parsed_content("method").steps_done == 6
    assert load_tensors(tmp_path / "run" / "state.pt")["trainer"]["max_epochs"] == 2
    assert parser.get_parsed_content("train::trainer").state.epoch == 2


def test_masks_that_changed_are_named(run_bundle, toy_masks, tmp_path):
    shutil.copytree(toy_masks.parent, tmp_path / "toys")
    datalist = str(tmp_path / "toys" / "datalist.json")
    run_bundle("ssal", datalist=datalist, labels=4, **SHORT)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "toys" / "validation_2_mask.png")
    assert "validation_2;" in refused(run_bundle, "ssal", datalist=datalist, labels=4, **SHORT)
