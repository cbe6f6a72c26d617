import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.prepare import prepare


def volume(path, value, shape=(4, 5, 3), affine=None, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(shape, dtype=dtype)
    array[0, 0, 0] = value
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def run(tmp_path, **options):
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), volumes=True, clear_names=True, **options)
    return load_datalist(path), json.loads((path.parent / "prepare_report.json").read_text())["noted"]


@pytest.fixture
def pairs(tmp_path):
    for k in range(3):
        volume(tmp_path / "in" / "images" / f"case{k}.nii.gz", 100 + k)
        volume(tmp_path / "in" / "masks" / f"case{k}.nii.gz", k)
    return tmp_path / "in"


def names(data):
    return [(item["id"], item["label"].rpartition("/in/")[2] if "label" in item else None) for item in data]


def test_a_folder_of_masks(pairs, tmp_path):
    data, noted = run(tmp_path, masks="masks")
    assert names(data) == [(f"images/case{k}.nii.gz", f"masks/case{k}.nii.gz") for k in range(3)]
    assert data.classes == ("0", "1", "2")
    assert noted == {}


def test_masks_beside_their_images(tmp_path):
    for k in range(2):
        volume(tmp_path / "in" / f"case{k}.nii.gz", 100 + k)
        volume(tmp_path / "in" / f"case{k}_seg.nii.gz", 1)
    volume(tmp_path / "in" / "case2.nii", 100)
    data, noted = run(tmp_path, masks="_seg")
    assert names(data) == [
        ("case0.nii.gz", "case0_seg.nii.gz"),
        ("case1.nii.gz", "case1_seg.nii.gz"),
        ("case2.nii", None),
    ]
    assert data.classes == ("background", "foreground")
    assert noted == {"no mask": {"count": 1, "items": ["case2.nii"]}}


def test_a_column_of_masks(pairs, tmp_path):
    rows = ["image,mask,grade", *(f"images/case{k}.nii.gz,./masks/case{2 - k}.nii.gz,b{k}" for k in range(3))]
    (pairs / "t.csv").write_text("\n".join(rows))
    data, _ = run(tmp_path, masks="mask")
    assert names(data) == [(f"images/case{k}.nii.gz", f"masks/case{2 - k}.nii.gz") for k in range(3)]
    assert data[1]["meta"] == {"mask": "./masks/case1.nii.gz", "grade": "b1"}


def test_a_label_column_with_paths_is_one_of_masks(pairs, tmp_path):
    (pairs / "t.csv").write_text("image,label\nimages/case1.nii.gz,masks/case1.nii.gz\n")
    data, noted = run(tmp_path)
    assert names(data)[1] == ("images/case1.nii.gz", "masks/case1.nii.gz")
    assert noted["no mask"]["count"] == len(data) - 1


def test_masks_that_do_not_fit_are_left_out_and_reported(pairs, tmp_path):
    shifted = np.diag([1.0, 1, 1, 1])
    shifted[0, 3] = 5
    volume(pairs / "masks" / "case0.nii.gz", 1, affine=shifted)
    volume(pairs / "masks" / "case1.nii.gz", 1, shape=(4, 5, 4))
    volume(pairs / "masks" / "case2.nii.gz", 0.5, dtype=np.float32)
    volume(pairs / "images" / "case3.nii.gz", 1)
    (pairs / "masks" / "case3.nii.gz").write_bytes(b"nothing")
    data, noted = run(tmp_path, masks="masks")
    assert [label for _, label in names(data)] == [None] * 4
    reasons = {why: entry["items"] for why, entry in noted.items()}
    assert reasons.pop("mask that lies elsewhere than its image: the affines differ") == ["images/case0.nii.gz"]
    assert reasons.pop("mask of another shape than its image") == ["images/case1.nii.gz"]
    assert reasons.pop("mask with values that are no whole numbers from 0") == ["images/case2.nii.gz"]
    ((why, items),) = reasons.items()
    assert why.startswith("mask that cannot be read as NIfTI") and items == ["images/case3.nii.gz"]
    assert str(tmp_path) not in why


def test_masks_of_pictures(tmp_path):
    for k in range(2):
        for folder, value in (("images", 40 + k), ("masks", 255 * k)):
            (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 6), value, dtype=np.uint8)).save(tmp_path / "in" / folder / f"{k}.png")
    data, noted = run(tmp_path, masks="masks")
    assert data.classes == ("background", "foreground")
    assert [label for _, label in names(data)] == ["masks/0.png", "masks/1.png"]
    assert noted == {}


def test_no_masks_there(pairs, tmp_path):
    with pytest.raises(ValueError, match="'_mask' is no column of the table, no folder"):
        run(tmp_path, masks="_mask")


def test_decathlon(pairs, tmp_path):
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
        assert names(data) == [(f"imagesTr/case{k}.nii.gz", f"labelsTr/case{k}.nii.gz") for k in range(3)]
        assert data.classes == ("background", "anterior", "posterior")
        dropped = json.loads((path.parent / "prepare_report.json").read_text())["dropped"]
        assert dropped["row whose file is missing"]["items"] == ["row 4"]
        assert "test image of the publisher, without a mask" in dropped
    (pairs / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no dataset\.json of the Decathlon"):
        prepare(pairs, tmp_path / "out")
