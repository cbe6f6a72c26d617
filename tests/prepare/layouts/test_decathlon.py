import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from support_masks import masks_of

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare

LABELS = {"0": "background", "1": "tumour"}


def names(k):
    return {"image": f"./imagesTr/c{k}.nii.gz", "label": f"./labelsTr/c{k}.nii.gz"}


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):
        for name, voxels in (
            ("imagesTr", rng.integers(0, 999, (6, 5, 4))),
            ("labelsTr", rng.integers(0, 2, (6, 5, 4))),
        ):
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.eye(4)), tmp_path / "in" / name / f"c{k}.nii.gz")
    return tmp_path / "in"


def told(source, **content):
    content = {"labels": LABELS, "training": [names(k) for k in range(3)]} | content
    (source / "dataset.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not None})
    )


def test_images_masks_and_classes_come_as_listed(source, tmp_path):
    told(source, modality={"0": "CT"}, test=["./imagesTs/c9.nii.gz"])
    content = json.loads(prepare(source, tmp_path / "out", split=(1, 0, 0)).read_text())
    assert content["labels"] == LABELS
    pairs = {item["image"].rpartition("/")[2]: item["label"].rpartition("/")[2] for item in content["training"]}
    assert pairs == {f"c{k}.nii.gz": f"c{k}.nii.gz" for k in range(3)}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"training": None}, "no list `training`"),
        ({"training": []}, "no list `training`"),
        ({"training": {"image": "a"}}, "no list `training`"),
        ({"training": ["a.nii.gz"]}, "entry 1 .* must have one `image`"),
        ({"training": [names(0), {"image": "x.nii.gz"}]}, "entry 2 .* must have one `image`"),
        ({"training": [{"image": ["a", "b"], "label": "c"}]}, "entry 1 .* must have one `image`"),
        ({"training": [{"image": 1, "label": "c"}]}, "entry 1 .* must have one `image`"),
        ({"training": [names(0), names(1), names(0)]}, "2 times"),
        ({"training": [names(0), names(1) | {"label": names(0)["label"]}]}, r"labelsTr/c0\.nii\.gz' 2 times"),
        ({"training": [names(0), names(1) | {"label": "imagesTr//c0.nii.gz"}]}, r"imagesTr/c0\.nii\.gz' 2 times"),
        ({"training": [names(0) | {"label": "../secret.nii.gz"}]}, "not below its folder"),
        ({"training": [names(0) | {"image": "a/../../b.nii.gz"}]}, "not below its folder"),
        ({"training": [names(0) | {"image": "/etc/passwd"}]}, "not below its folder"),
        ({"training": [names(0) | {"image": "C:/a.nii.gz"}]}, "not below its folder"),
        ({"training": [names(0) | {"image": "..\\a.nii.gz"}]}, "not below its folder"),
        ({"training": [names(0) | {"image": "a\0.nii.gz"}]}, "not below its folder"),
        ({"labels": {"0": "background", "2": "tumour"}}, "without gaps"),
        ({"labels": ["background", "tumour"]}, "by their number"),
        ({"labels": {"0": "background", "1": ["tumour"]}}, "by their number"),
        ({"labels": {"background": 0, "tumour": 1}}, "by their number"),
        ({"modality": {"0": "FLAIR", "1": "T1"}}, "2 channels"),
        ({"modality": ["FLAIR", "T1", "T2"]}, "3 channels"),
        ({"channel_names": {"0": "CT"}, "training": None}, "nnUNet_raw"),
        ({"file_ending": ".nii.gz", "training": None}, "nnUNet_raw"),
        ({"training": [{"image": "./imagesTr/d.nii.gz", "label": "./labelsTr/d.nii.gz"}]}, "nnUNet_raw"),
    ],
)
def test_other_content_is_refused(source, tmp_path, content, match):
    (source / "imagesTr" / "d_0000.nii.gz").touch()
    told(source, **content)
    with pytest.raises(ValueError, match=rf"dataset\.json.*{match}"):
        prepare(source, tmp_path / "out", split=(1, 0, 0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"labels": {"0": "background", "1": "a", "1": "b"}, "training": []}',
        "1" * 5000,
        "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_file_that_is_no_object_is_refused(source, tmp_path, text):
    (source / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        prepare(source, tmp_path / "out")


def test_a_list_of_the_decathlon(pairs, tmp_path):
    shutil.move(pairs / "images", pairs / "imagesTr")
    shutil.move(pairs / "masks", pairs / "labelsTr")
    content = {
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "training": [
            {"image": f"./imagesTr/case{k}.nii.gz", "label": f"./labelsTr/case{k}.nii.gz"} for k in (0, 1, 2, 9)
        ],
        "test": ["./imagesTs/case7.nii.gz"],
    }
    (pairs / "dataset.json").write_text(json.dumps(content))
    for source in (pairs, pairs / "dataset.json"):
        path = prepare(source, tmp_path / "out", split=(1, 0, 0))
        data = load_datalist(path)
        assert masks_of(data) == [(f"imagesTr/case{k}.nii.gz", f"labelsTr/case{k}.nii.gz") for k in range(3)]
        assert data.classes == ("background", "anterior", "posterior")
        dropped = json.loads((path.parent / "prepare_report.json").read_text())["dropped"]
        assert dropped["row whose file is missing"]["items"] == ["row 4"]
        assert "test image of the publisher, without a mask" in dropped
    (pairs / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no dataset\.json of the Decathlon"):
        prepare(pairs, tmp_path / "out")
