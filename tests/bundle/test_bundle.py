"""What bundles lean on: misspelt overrides, metadata that fit, copies."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import BUNDLES

from medssl_monai.bundle.run import (
    channels_of,
    check_command_line,
    check_overrides,
    check_trained,
    classes_of,
    copy_bundle,
    describe_data,
    image_size_of,
    load_data,
    load_images,
    mask_classes_of,
    metadata_of,
    nested,
    output_dir,
    path_value,
    shipped_bundles,
    workflow,
    write_metadata,
)
from medssl_monai.data import Datalist
from medssl_monai.files import save_tensors
from medssl_monai.networks.pretrained import describe

CONFIG = {
    "labels": 24,
    "max_epochs": "$@rounds * 5",
    "rounds": 4,
    "batch_size": {"labeled": 16, "unlabeled": 32},
    "pool": {"_target_": "medssl_monai.pool.LabelPool", "labels": "@labels"},
    "train": {
        "trainer": {"_target_": "SSLTrainer", "max_epochs": 3},
        "handlers": [{"_target_": "EpochSeed", "seed": 0}],
    },
}


@pytest.mark.parametrize(
    "name",
    [
        "labels",
        "batch_size::labeled",
        "batch_size#labeled",
        "train::trainer::max_epochs",
        "train::handlers::0::seed",
        "train::handlers#0#seed",
        "pool::seed",  # one more argument of a component
        "train",
    ],
)
def test_overrides_that_name_something_pass(name):
    check_overrides([name], CONFIG)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lables", "labels"),
        ("max_epoch", "max_epochs"),
        ("batch_size::labelled", "batch_size::labeled"),
        ("train::trainr::max_epochs", "train::trainer"),  # the part that is misspelt is the one that is mended
    ],
)
def test_overrides_that_name_nothing_are_refused_with_the_nearest_name(name, meant):
    match = f"the override `--{name}` names nothing in the configuration; did you mean `--{meant}"
    with pytest.raises(ValueError, match=match):
        check_overrides(["rounds", name], CONFIG)


@pytest.mark.parametrize("name", ["train::handlers::1::seed", "labels::count", "pool::seeds::more", "zzzzzz"])
def test_overrides_that_resemble_nothing_are_refused_without_a_guess(name):
    with pytest.raises(ValueError, match=f"the override `--{name}` names nothing in the configuration$"):
        check_overrides([name], CONFIG)


def test_keys_with_colons_are_put_into_their_places():
    flat = {
        "train": {"dataset": {"data": 1}},
        "train::handlers": [1, 2],
        "train::trainer::max_epochs": 3,
        "validate::evaluator": {"_target_": "x"},
        "train::dataset::transform": 4,
        "seed": 0,
    }
    before = copy.deepcopy(flat)
    assert nested(flat) == {
        "train": {"dataset": {"data": 1, "transform": 4}, "handlers": [1, 2], "trainer": {"max_epochs": 3}},
        "validate": {"evaluator": {"_target_": "x"}},
        "seed": 0,
    }
    assert flat == before


def test_a_key_with_colons_before_the_one_that_it_belongs_to():
    assert nested({"a::b": 1, "a": {"c": 2}}) == {"a": {"c": 2, "b": 1}}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    trainer = "{_target_: T, max_epochs: 2}"
    path.write_text(f"bundle_root: .\nrounds: 4\nlearning_rate: 0.1\ntrain: {{data: x}}\ntrain::trainer: {trainer}\n")
    return str(path)


def run(*arguments, program="/site-packages/monai/bundle/__main__.py"):
    check_command_line([program, *arguments])


def test_flags_of_a_run_that_name_something_pass(config):
    run("run", "--config_file", config, "--rounds", "2", "--train::trainer::max_epochs", "1", "--bundle_root", ".")
    run("run", "train", "--config_file=" + config, "--learning_rate=-1", "--rounds", "-1")


def test_flags_of_monai_itself_pass(config):
    run("run", "--config_file", config, "--meta_file", "m.json", "--logging_file", "l.conf", "--run_id", "run")
    run("run", "--config_file", config, "--workflow_type", "train", "--tracking", "mlflow", "--final_id", "finalize")


@pytest.mark.parametrize("flag", ["--round", "--round=3", "-round", "--learning-rates", "--train::trainer::epochs::x"])
def test_a_misspelt_flag_is_refused(config, flag):
    with pytest.raises(ValueError, match="names nothing in the configuration"):
        run("run", "--config_file", config, flag, "3")


def test_a_flag_with_hyphens_is_the_one_with_underscores(config):
    """Fire, which reads MONAI's command line, takes both."""
    run("run", "--config-file", config, "--learning-rate", "0.2")


@pytest.mark.parametrize("files", ["['{0}','{1}']", "[{0},{1}]", "{0},{1}"])
def test_several_config_files_count_together(config, tmp_path, files):
    overlay = tmp_path / "multi_gpu_train.yaml"
    overlay.write_text("sync_batch_norm: true\n")
    run("run", "--config_file", files.format(config, overlay), "--rounds", "1", "--sync_batch_norm", "false")
    with pytest.raises(ValueError, match="sync_batch"):
        run("run", "--config_file", files.format(config, overlay), "--sync_batch", "false")


def test_arguments_from_a_file_count_too(config, tmp_path):
    (tmp_path / "args.json").write_text(json.dumps({"config_file": config, "roundz": 3}))
    with pytest.raises(ValueError, match="roundz"):
        run("run", "--args_file", str(tmp_path / "args.json"))


@pytest.mark.parametrize(
    "argv",
    [
        ["/usr/bin/pytest", "run", "--nonsense", "1"],
        ["/site-packages/monai/bundle/__main__.py", "verify_metadata", "--nonsense", "1"],
        ["/site-packages/monai/bundle/__main__.py", "run", "--nonsense", "1"],  # without a config file
        [],
    ],
)
def test_another_program_is_left_alone(argv):
    check_command_line(argv)


def test_a_workflow_checks_its_overrides_before_it_builds_anything(config):
    with pytest.raises(ValueError, match=r"`--round` names nothing in the configuration; did you mean `--rounds`\?"):
        workflow([config], round=3)


METADATA = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 2, "spatial_shape": [64, 64], "channel_def": {"0": "T1", "1": "T2"}}},
        "outputs": {"pred": {"num_channels": 11, "channel_def": {str(i): f"class {i}" for i in range(11)}}},
    },
    "data_type": "SYNTHETIC phantoms",
}


def test_classes_are_those_of_the_datalist_or_else_of_the_metadata():
    assert classes_of(Datalist([], classes=["a", "b"]), METADATA) == ["a", "b"]
    for data in ([{"image": "x.png"}], Datalist([])):  # from another tool, or without names
        assert classes_of(data, METADATA) == [f"class {i}" for i in range(11)]  # 10 after 9, not after 1


def test_channels_are_those_of_the_datalist_or_else_of_the_metadata():
    assert channels_of(Datalist([], modality=["T1", "T2", "FLAIR"]), METADATA) == 3
    assert channels_of([{"image": "x.png"}], METADATA) == 2


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    return tmp_path


@pytest.mark.parametrize("synthetic", [True, False])
def test_metadata_say_what_the_network_is_trained_on(bundle, synthetic):
    describe_data(bundle, ["low", "high"], 1, [32, 48], synthetic)
    image, pred = metadata_of(bundle)["network_data_format"]["inputs"], metadata_of(bundle)["network_data_format"]
    assert image["image"] == {"num_channels": 1, "spatial_shape": [32, 48], "channel_def": {"0": "image"}}
    assert pred["outputs"]["pred"] == {"num_channels": 2, "channel_def": {"0": "low", "1": "high"}}
    assert ("SYNTHETIC" in metadata_of(bundle)["data_type"]) == synthetic
    assert classes_of([], metadata_of(bundle)) == ["low", "high"]


def test_metadata_of_several_channels(bundle):
    describe_data(bundle, ["low", "high"], 3, [32, 32, 16], synthetic=False)
    image = metadata_of(bundle)["network_data_format"]["inputs"]["image"]
    assert image["channel_def"] == {"0": "channel 0", "1": "channel 1", "2": "channel 2"}
    assert image["spatial_shape"] == image_size_of(metadata_of(bundle)) == [32, 32, 16]


def test_metadata_are_those_of_the_bundle(bundle, tmp_path):
    assert metadata_of(bundle) == METADATA
    assert metadata_of(tmp_path / "none") == {}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(METADATA), encoding="utf-16")
    with pytest.raises(ValueError, match=r"metadata.json is not in UTF-8"):
        metadata_of(bundle)


@pytest.mark.parametrize(
    "network", [{}, {"inputs": {"image": 3}, "outputs": {"pred": {}}}, {"inputs": [], "outputs": 1}]
)
def test_metadata_that_describe_no_network_are_named(bundle, network):
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": network}))
    with pytest.raises(ValueError, match=r"metadata.json does not"):
        describe_data(bundle, ["a", "b"], 1, [32, 48], synthetic=True)


def test_a_run_that_monai_starts_evaluates_nothing_of_the_metadata(bundle, tmp_path):
    """As `python -m monai.bundle run` does it: without `workflow`, which looks at them first."""
    from monai.bundle import ConfigWorkflow

    names = {"0": "a", "1": f"$open({str(tmp_path / 'EXECUTED')!r}, 'w')"}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata_of_pred(names)))
    for file in ("inference.json", "train.yaml"):
        shutil.copy(BUNDLES / "boostmis" / "configs" / file, bundle / "configs")
        run = ConfigWorkflow([str(bundle / "configs" / file)], logging_file=False, bundle_root=str(bundle))
        with pytest.raises((ValueError, RuntimeError)):
            run.parser.get_parsed_content("classes" if file == "inference.json" else "channels")
        run.parser.get_parsed_content("device")
    assert not (tmp_path / "EXECUTED").exists()


def test_names_are_as_the_file_has_them_and_not_as_monai_reads_it(bundle):
    """It reads ``#`` as its older sign for ``::``."""
    describe_data(bundle, ["a#b", "c::d"], 1, [32, 48], synthetic=False)
    (bundle / "configs" / "inference.json").write_text("{}")
    run = workflow([bundle / "configs" / "inference.json"], "infer", logging_file=False)
    read = run.parser.get_parsed_content("_meta_")
    assert classes_of([], read) == ["a::b", "c::d"]
    assert classes_of([], metadata_of(bundle)) == ["a#b", "c::d"]


EVALUATED = ["$open('EXECUTED', 'w')", "$import this", "@risk", "%x", "a @##b"]


@pytest.mark.parametrize("name", EVALUATED)
def test_nothing_that_monai_evaluates_is_written_into_metadata(bundle, name):
    before = (bundle / "configs" / "metadata.json").read_bytes()
    for arguments in ({"classes": ["a", name]}, {"classes": ["a"], "mask_classes": ["background", name]}):
        if "mask_classes" in arguments:
            (bundle / "configs" / "metadata.json").write_text(json.dumps(joint_metadata_of_images()))
            before = (bundle / "configs" / "metadata.json").read_bytes()
        with pytest.raises(ValueError, match=r"metadata.json: .* is a text that a configuration would evaluate"):
            describe_data(bundle, **arguments, channels=1, image_size=[32, 48], synthetic=False)
        assert (bundle / "configs" / "metadata.json").read_bytes() == before


def joint_metadata_of_images():
    metadata = joint_metadata()
    metadata["network_data_format"]["inputs"] = METADATA["network_data_format"]["inputs"]
    return metadata


@pytest.mark.parametrize("content", [{"_target_": "print"}, {"a": {"_mode_": "debug"}}, {"a::b": 1}, {"x": "$1"}])
def test_metadata_with_a_meaning_for_monai_are_neither_written_nor_read(bundle, content):
    path = bundle / "configs" / "metadata.json"
    with pytest.raises(ValueError, match=r"metadata.json: .* configuration"):
        write_metadata(path, content)
    assert metadata_of(bundle) == METADATA
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"metadata.json: .* configuration"):
        metadata_of(bundle)


def test_metadata_from_elsewhere_are_checked_before_monai_reads_them(bundle):
    (bundle / "configs" / "inference.json").write_text('{"metadata": "@_meta_"}')
    trap = bundle / "EXECUTED"
    names = {"0": "a", "1": f"$open({str(trap)!r}, 'w')"}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata_of_pred(names)))
    with pytest.raises(ValueError, match=r"metadata.json: .* is a text that a configuration would evaluate"):
        workflow([bundle / "configs" / "inference.json"], "infer", logging_file=False)
    assert not trap.exists()


@pytest.mark.parametrize("name", [*EVALUATED, "=1+1", "a\x00", 5, None])
def test_a_class_of_metadata_from_elsewhere_is_checked(name):
    metadata = metadata_of_pred({"0": "a", "1": name})
    with pytest.raises(ValueError, match=r"metadata.json: the class .* rename it"):
        classes_of([], metadata)
    with pytest.raises(ValueError, match=r"metadata.json: the class of masks .* rename it"):
        mask_classes_of([], metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"network_data_format": None},
        {"network_data_format": {"outputs": []}},
        {"network_data_format": {"inputs": {"image": {}}, "outputs": {"pred": {}}}},
        {
            "network_data_format": {
                "inputs": {"image": {"num_channels": "$1", "spatial_shape": ["64", 64]}},
                "outputs": {"pred": {"channel_def": ["a"]}},
            }
        },
        {
            "network_data_format": {
                "inputs": {"image": {"num_channels": 0, "spatial_shape": [64, -64]}},
                "outputs": {"pred": {"channel_def": {}}},
            }
        },
        {
            "network_data_format": {
                "inputs": {"image": {"num_channels": 10**12, "spatial_shape": [10**6, 10**6]}},
                "outputs": {"pred": {"channel_def": {"0": "a", "2": "b"}}},
            }
        },
    ],
)
@pytest.mark.parametrize(
    "read", [image_size_of, *(lambda m, f=f: f([], m) for f in (classes_of, mask_classes_of, channels_of))]
)
def test_damaged_metadata_are_named(metadata, read):
    with pytest.raises(ValueError, match=r"metadata.json"):
        read(metadata)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 5000])
def test_metadata_that_are_no_json_are_named(bundle, text):
    (bundle / "configs" / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata.json"):
        metadata_of(bundle)


def test_labels_of_a_list_without_names_are_bounded():
    with pytest.raises(ValueError, match="holds 1,000,000,001 classes"):
        classes_of(Datalist([{"image": "x", "label": 10**9}]), METADATA)


def test_findings_are_checked_where_labels_say_that_they_are_such():
    for label, refused in ((1, False), ([1, 0], True)):
        data = Datalist([{"image": "x", "label": label}], classes=["mass", "none"], name="toy")
        if refused:
            with pytest.raises(ValueError, match="toy: the finding 'none' would mean that nothing is there"):
                classes_of(data, METADATA)
        else:
            assert classes_of(data, METADATA) == ["mass", "none"]


@pytest.mark.parametrize("folder", ["$x", "@x", "%x"])
def test_a_path_as_a_value_begins_with_nothing_that_is_evaluated(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_value(folder) == str(tmp_path / folder)


@pytest.mark.parametrize("folder", ["a#b", "a@::b", "x%::y"])
def test_a_path_that_monai_would_change_is_refused(folder):
    with pytest.raises(ValueError, match="which MONAI's configurations replace; give the folder another name"):
        path_value(folder)


@pytest.mark.parametrize(
    "told",
    [
        {"spacing": ["$print(1)"]},
        {"classes": ["a", "@x"]},
        {"classes": ["a", "=1+1"]},
        {"mask_classes": ["a", "A"]},
        {"task": "multilabel", "classes": ["none"]},
    ],
)
def test_what_weights_say_of_themselves_is_checked(tmp_path, told):
    save_tensors(tmp_path / "model.pt", describe(torch.nn.Linear(1, 1), told))
    with pytest.raises(ValueError, match=r"model.pt: .*(configuration|rename|its own name)"):
        check_trained(tmp_path / "model.pt", ["a"], None)


def test_a_list_of_another_tool_is_trained_on_in_a_folder_of_its_own(tmp_path, monkeypatch):
    assert output_dir(tmp_path, Datalist()) == str(tmp_path / "eval")
    assert Path(output_dir(tmp_path, [])).parent == tmp_path / "eval"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one-for-all-processes")
    assert output_dir(tmp_path, []) == str(tmp_path / "eval" / "one-for-all-processes")


def test_metadata_that_fit_already_are_not_written_again(bundle):
    path = bundle / "configs" / "metadata.json"
    describe_data(bundle, ["low", "high"], 1, [32, 48], synthetic=True)
    os.utime(path, (1, 1))
    describe_data(bundle, ["low", "high"], 1, (32, 48), synthetic=True)
    assert path.stat().st_mtime == 1


def test_a_bundle_without_metadata_stays_without(tmp_path):
    describe_data(tmp_path, ["low", "high"], 1, [32, 32], synthetic=True)
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_writes_metadata(bundle, monkeypatch):
    monkeypatch.setattr("medssl_monai.bundle.run.is_first", lambda: False)
    describe_data(bundle, ["low", "high"], 1, [32, 32], synthetic=True)
    assert metadata_of(bundle) == METADATA


def test_shipped_bundles_are_found():
    assert shipped_bundles().resolve() == (Path(__file__).parents[2] / "bundles").resolve()


def test_a_copy_has_everything_but_results(tmp_path, monkeypatch):
    source = tmp_path / "bundles" / "mine"
    for name in ("configs/train.yaml", "docs/README.md", "LICENSE", "models/model.pt", "eval/report.html"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (tmp_path / "bundles" / "_shared").mkdir()
    monkeypatch.setattr("medssl_monai.bundle.run.shipped_bundles", lambda: tmp_path / "bundles")
    target = copy_bundle("mine", tmp_path / "a" / "copy")
    assert target == tmp_path / "a" / "copy"
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert copied == ["LICENSE", "configs/train.yaml", "docs/README.md"]


def test_an_empty_folder_may_become_a_bundle(tmp_path):
    assert (copy_bundle("boostmis", tmp_path) / "configs" / "train.yaml").is_file()


def test_a_folder_in_use_is_not_copied_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; name a new folder"):
        copy_bundle("boostmis", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["boostmiss", "_shared", "", "..", "boostmis/configs"])
def test_a_bundle_that_is_not_shipped(tmp_path, name):
    with pytest.raises(ValueError, match=r"there is no bundle .*; there are \[.*'boostmis'"):
        copy_bundle(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_images_to_predict_must_be_named():
    with pytest.raises(ValueError, match="name the images to predict: `--dataset_dir FOLDER` or `--datalist FILE`"):
        load_images(None)


def test_a_folder_without_images_says_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="holds no PNG, JPEG, NIfTI or DICOM image; it is empty"):
        load_images(None, dataset_dir=tmp_path)
    for name in ("a.tif", "b.tif", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"there are 1 x .png: hidden .*; 2 x .tif: not a format that is read"):
        load_images(None, dataset_dir=tmp_path)


def test_what_cannot_be_used_is_in_the_list_with_its_reason(tmp_path, caplog):
    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:-9])
    (tmp_path / "notes.txt").write_text("x")
    data = load_images(None, dataset_dir=tmp_path, list_to=tmp_path / "out" / "images.json")
    assert [Path(item["image"]).name for item in data] == ["good.png", "bad.png"]
    assert ["problem" in item for item in data] == [False, True] and "cut short" in data[1]["problem"]
    assert "Not predicted: 1 x .txt: not a format that is read (notes.txt)" in caplog.text
    written = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [Path(item["image"]).name for item in written["testing"]] == ["good.png"]
    assert [Path(item["image"]).name for item in written["quarantine"]] == ["bad.png"]
    assert len(load_images(tmp_path / "out" / "images.json")) == 1


def test_patients_or_copies_in_two_sections_stop_a_training(toy_datalist, tmp_path):
    content = json.loads(toy_datalist.read_text())
    for section in ("training", "validation", "testing"):
        for item in content[section]:
            item["image"] = str(toy_datalist.parent / item["image"])
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(content))
    assert len(load_data(path, "training")) == 40
    copy = tmp_path / "copy.png"
    shutil.copy(content["training"][0]["image"], copy)
    content["validation"][0]["image"] = str(copy)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="exact copies in training"):
        load_data(path, "training")
    assert len(load_data(path, "training", allow_leaks=True)) == 40


def joint_metadata():
    metadata = metadata_of_pred({"0": "background", "1": "lung"})
    metadata["network_data_format"]["outputs"]["classes"] = {"channel_def": {"0": "normal", "1": "pneumonia"}}
    return metadata


def metadata_of_pred(channels):
    return {"network_data_format": {"outputs": {"pred": {"format": "segmentation", "channel_def": channels}}}}


def test_where_masks_are_the_output_the_classes_have_one_of_their_own():
    data = Datalist([], classes=["a", "b"], mask_classes=["nothing", "spot"])
    assert classes_of(data, joint_metadata()) == ["a", "b"]
    assert mask_classes_of(data, joint_metadata()) == ["nothing", "spot"]
    assert classes_of([], joint_metadata()) == ["normal", "pneumonia"]
    assert mask_classes_of([], joint_metadata()) == ["background", "lung"]


def test_metadata_of_classes_and_masks(tmp_path):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / "metadata.json"
    shutil.copy(shipped_bundles() / "multimix" / "configs" / "metadata.json", path)
    describe_data(tmp_path, ["a", "b", "c"], 3, [32, 48], synthetic=False, mask_classes=["nothing", "spot"])
    outputs = json.loads(path.read_text())["network_data_format"]["outputs"]
    assert outputs["pred"]["channel_def"] == {"0": "nothing", "1": "spot"}
    assert outputs["pred"]["spatial_shape"] == [32, 48]
    assert outputs["classes"]["channel_def"] == {"0": "a", "1": "b", "2": "c"}
    assert outputs["classes"]["num_channels"] == 3


def test_weights_for_other_masks_are_refused(tmp_path):
    network = torch.nn.Linear(1, 1)
    save_tensors(tmp_path / "model.pt", describe(network, {"classes": ["a"], "mask_classes": ["nothing", "spot"]}))
    check_trained(tmp_path / "model.pt", ["a"], None, ["nothing", "spot"])
    check_trained(tmp_path / "model.pt", ["a"], None)  # what was not learned is not measured
    with pytest.raises(ValueError, match=r"classes \['nothing', 'spot'\], the datalist has \['x', 'y'\]"):
        check_trained(tmp_path / "model.pt", ["a"], None, ["x", "y"])
