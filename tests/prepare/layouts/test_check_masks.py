"""Whether masks fit their images, and what they hold."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support_masks import masks_of, run, volume

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


def test_masks_that_do_not_fit_are_left_out_and_reported(pairs, tmp_path):
    shifted = np.diag([1.0, 1, 1, 1])
    shifted[0, 3] = 5
    volume(pairs / "masks" / "case0.nii.gz", 1, affine=shifted)
    volume(pairs / "masks" / "case1.nii.gz", 1, shape=(4, 5, 4))
    volume(pairs / "masks" / "case2.nii.gz", 0.5, dtype=np.float32)
    volume(pairs / "images" / "case3.nii.gz", 1)
    (pairs / "masks" / "case3.nii.gz").write_bytes(b"nothing")
    data, noted = run(tmp_path, masks="masks")
    assert [label for _, label in masks_of(data)] == [None] * 4
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
    assert [label for _, label in masks_of(data)] == ["masks/0.png", "masks/1.png"]
    assert noted == {}


def test_a_picture_over_a_dicom_file_has_no_place_to_compare(tmp_path):
    from medssl_monai.phantoms.files import write_dicom

    (tmp_path / "in" / "masks").mkdir(parents=True)
    header = {"InstanceNumber": 1, "SeriesDescription": "x", "PixelSpacing": [0.15, 0.14]}
    write_dicom(tmp_path / "in" / "a.dcm", np.ones((4, 6), np.uint16), "CR", "MONOCHROME2", header, "P1", "s")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(tmp_path / "in" / "masks" / "a.png")
    data, noted = run(tmp_path, masks="masks")
    assert [label for _, label in masks_of(data)] == ["masks/a.png"]
    assert noted == {}


def test_slices_that_nobody_labeled_have_no_label(tmp_path):
    volume(tmp_path / "in" / "images" / "case.nii.gz", 100)
    mask = np.zeros((4, 5, 3), np.uint8)
    mask[..., 1], mask[0, 0, 2] = 2, 2  # of two classes: nothing of slice 1 is labeled, of slice 2 all but one voxel
    (tmp_path / "in" / "masks").mkdir()
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "in" / "masks" / "case.nii.gz")
    options = {"split": (1, 0, 0), "clear_names": True, "masks": "masks", "classes": ["background", "lesion"]}
    path = prepare(tmp_path / "in", tmp_path / "out", **options)
    assert [(item["slice"], "label" in item) for item in load_datalist(path)] == [(0, True), (1, False), (2, True)]
    noted = json.loads((path.parent / "prepare_report.json").read_text())["noted"]
    assert noted["slice that nobody labeled"]["count"] == 1


def test_masks_in_colour(tmp_path):
    (tmp_path / "in" / "masks").mkdir(parents=True)
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "in" / "a.png")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)[..., None] * np.array([1, 0, 0], np.uint8)).save(
        tmp_path / "in" / "masks" / "a.png"
    )
    data, noted = run(tmp_path, masks="masks")
    assert masks_of(data) == [("a.png", None)]
    assert list(noted) == ["mask with channels that differ"]


@pytest.mark.parametrize(
    ("values", "classes"),
    [((0, 1), 2), ((0, 255), 2), ((0, -1), 2), ((0, 2), 3), ((0, 3, -1), 4)],
)
def test_classes_of_values(tmp_path, values, classes):
    """Two values far apart must not become two classes: the greater would count as unlabeled."""
    for k, value in enumerate(values):
        volume(tmp_path / "in" / "images" / f"case{k}.nii.gz", 100 + k)
        volume(tmp_path / "in" / "masks" / f"case{k}.nii.gz", value)
    data, _ = run(tmp_path, masks="masks")
    assert len(data.classes) == classes


def test_values_that_cannot_be_classes(pairs, tmp_path):
    volume(pairs / "masks" / "case2.nii.gz", 300)
    with pytest.raises(
        ValueError, match=r"the masks hold the values \[0, 1, 300\], and classes are numbers from 0 to 253"
    ):
        run(tmp_path, masks="masks")
    data, noted = run(tmp_path, masks="masks", classes=["air", "tissue"])
    assert noted == {"mask with values that are none of the 2 classes": {"count": 1, "items": ["images/case2.nii.gz"]}}
    assert data.classes == ("air", "tissue")


def test_masks_have_no_positive_class(pairs, tmp_path):
    with pytest.raises(ValueError, match="the labels are masks, and `positive` is for classes of images"):
        run(tmp_path, masks="masks", positive="1")
