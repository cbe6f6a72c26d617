"""Metadata of a bundle, what is asked of them, and that nothing in them is evaluated."""

import json
import os
import shutil

import pytest
from support import BUNDLES

from medssl_monai.bundle.describe import describe_data
from medssl_monai.bundle.facts import channels_of, classes_of, image_size_of, mask_classes_of
from medssl_monai.bundle.metadata import metadata_of, write_metadata
from medssl_monai.bundle.run import workflow
from medssl_monai.bundle.shipped import shipped_bundles
from medssl_monai.data import Datalist

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


@pytest.mark.slow
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
    monkeypatch.setattr("medssl_monai.bundle.describe.is_first", lambda: False)
    describe_data(bundle, ["low", "high"], 1, [32, 32], synthetic=True)
    assert metadata_of(bundle) == METADATA


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
