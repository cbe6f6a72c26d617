"""Which file is the mask of which image."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support_masks import masks_of, run, volume
from support_prepare import paint

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


def test_masks_behind_a_link_are_masks_and_no_images(tmp_path):
    for k in range(3):
        paint(tmp_path / "in" / f"{k}.png", 10 * k)
        paint(tmp_path / "elsewhere" / f"{k}.png", 1)
    (tmp_path / "in" / "labels").symlink_to(tmp_path / "elsewhere")
    options = {"masks": "labels", "classes": ["background", "x"], "split": (1, 0, 0)}
    data = load_datalist(prepare(tmp_path / "in", tmp_path / "out", **options))
    assert len(data) == 3 and all(item["label"] for item in data)


def test_a_folder_of_masks(pairs, tmp_path):
    data, noted = run(tmp_path, masks="masks")
    assert masks_of(data) == [(f"images/case{k}.nii.gz", f"masks/case{k}.nii.gz") for k in range(3)]
    assert data.classes == ("0", "1", "2")
    assert noted == {}


def test_masks_beside_their_images(tmp_path):
    for k in range(2):
        volume(tmp_path / "in" / f"case{k}.nii.gz", 100 + k)
        volume(tmp_path / "in" / f"case{k}_seg.nii.gz", 1)
    volume(tmp_path / "in" / "case2.nii", 100)
    data, noted = run(tmp_path, masks="_seg")
    assert masks_of(data) == [
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
    assert masks_of(data) == [(f"images/case{k}.nii.gz", f"masks/case{2 - k}.nii.gz") for k in range(3)]
    assert data[1]["meta"] == {"mask": "./masks/case1.nii.gz", "grade": "b1"}


def test_a_label_column_with_paths_is_one_of_masks(pairs, tmp_path):
    (pairs / "t.csv").write_text("image,label\nimages/case1.nii.gz,masks/case1.nii.gz\n")
    data, noted = run(tmp_path)
    assert masks_of(data)[1] == ("images/case1.nii.gz", "masks/case1.nii.gz")
    assert noted["no mask"]["count"] == len(data) - 1


def test_a_mask_goes_to_the_patient_whose_folder_it_lies_in(tmp_path):
    for k in range(3):
        volume(tmp_path / "in" / "images" / f"P{k}" / "scan.nii.gz", 100 + k)
    volume(tmp_path / "in" / "masks" / "P1" / "scan.nii.gz", 1)
    data, noted = run(tmp_path, masks="masks")
    assert [label for _, label in masks_of(data)] == [None, "masks/P1/scan.nii.gz", None]
    assert set(noted) == {"no mask"}


def test_a_mask_that_several_images_fit_is_given_to_none_and_named(tmp_path):
    for k, place in enumerate(("old/P1", "new/P1", "new/P2")):
        paint(tmp_path / "in" / place / "scan.jpg", 40 * k)
    for place in ("P1", "P2"):
        paint(tmp_path / "in" / "masks" / place / "scan.png", 1)
    paint(tmp_path / "in" / "masks" / "left.png", 1)
    data, noted = run(tmp_path, masks="masks")
    assert dict(masks_of(data)) == {
        "new/P1/scan.jpg": None,
        "new/P2/scan.jpg": "masks/P2/scan.png",
        "old/P1/scan.jpg": None,
    }
    reason = "mask that would fit several images, and is given to none"
    assert noted[reason]["items"] == ["P1/scan.png: new/P1/scan.jpg, old/P1/scan.jpg"]
    assert noted["mask that fits no image"]["items"] == ["left.png"]


def test_an_image_that_several_masks_fit_has_none(tmp_path):
    paint(tmp_path / "in" / "a.jpg", 7)
    paint(tmp_path / "in" / "b.jpg", 8)
    for name in ("a.png", "a.jpeg", "b.png"):
        paint(tmp_path / "in" / "masks" / name, 1)
    data, noted = run(tmp_path, masks="masks")
    assert dict(masks_of(data)) == {"a.jpg": None, "b.jpg": "masks/b.png"}
    assert noted["image that several masks fit, and which has none"]["items"] == ["a.jpg: a.jpeg, a.png"]


def test_the_folder_of_masks_may_lie_beside_the_source(tmp_path, monkeypatch):
    paint(tmp_path / "in" / "P1" / "a.jpg", 7)
    paint(tmp_path / "masks" / "P1" / "a.png", 1)
    monkeypatch.chdir(tmp_path)
    for folder in ("masks", str(tmp_path / "masks")):
        data, _ = run(tmp_path, masks=folder)
        assert [Path(item["label"]).resolve() for item in data] == [tmp_path / "masks" / "P1" / "a.png"]
    with pytest.raises(ValueError, match=r"the folder of masks .* holds the images as well"):
        run(tmp_path, masks=str(tmp_path))


def test_names_of_masks_may_begin_otherwise(tmp_path):
    for k in range(2):
        paint(tmp_path / "in" / f"case{k}.jpg", 7 + k)
        paint(tmp_path / "in" / f"seg_case{k}.png", 1)
    data, _ = run(tmp_path, masks="seg_")
    assert masks_of(data) == [(f"case{k}.jpg", f"seg_case{k}.png") for k in range(2)]


def test_a_mask_file_that_several_rows_name_is_given_to_none(tmp_path):
    for k in range(3):
        paint(tmp_path / "in" / f"{k}.jpg", 7 + k)
    paint(tmp_path / "in" / "m" / "0.png", 1)
    paint(tmp_path / "in" / "m" / "1.png", 1)
    rows = ["image,mask", "0.jpg,m/0.png", "1.jpg,m/1.png", "2.jpg,./m\\1.PNG"]
    (tmp_path / "in" / "t.csv").write_text("\n".join(rows))
    data, noted = run(tmp_path, masks="mask")
    assert masks_of(data) == [("0.jpg", "m/0.png"), ("1.jpg", None), ("2.jpg", None)]
    assert noted["mask that would fit several images, and is given to none"]["items"] == ["1.png: 1.jpg, 2.jpg"]


def test_the_mask_of_a_slice_is_not_that_of_all(tmp_path):
    volume(tmp_path / "in" / "case.nii.gz", 100)
    (tmp_path / "in" / "m").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 1), dtype=np.uint8), np.eye(4)), tmp_path / "in" / "m" / "case.nii.gz")
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), masks="m")
    assert not any("label" in item for item in load_datalist(path))
    noted = json.loads((path.parent / "prepare_report.json").read_text())["noted"]
    assert noted["mask of another shape than its image"]["count"] == 3


def test_masks_of_slices_alone(tmp_path):
    volume(tmp_path / "in" / "case.nii.gz", 100)
    rows = ["image,slice,mask"]
    for k in range(2):
        Image.fromarray(np.full((5, 4), k, dtype=np.uint8)).save(tmp_path / "in" / f"m{k}.png")
        rows.append(f"case.nii.gz,{k},m{k}.png")
    (tmp_path / "in" / "t.csv").write_text("\n".join(rows))
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), clear_names=True, masks="mask")
    assert [(i["slice"], i.get("label", "")[-6:]) for i in load_datalist(path)] == [
        (0, "m0.png"),
        (1, "m1.png"),
        (2, ""),
    ]


def test_no_masks_there(pairs, tmp_path):
    with pytest.raises(ValueError, match="'_mask' is no column of the table, no folder"):
        run(tmp_path, masks="_mask")


def test_the_mask_of_another_patient_is_not_that_of_the_one_folder_prepared(tmp_path):
    for k in range(3):
        paint(tmp_path / f"P{k}" / "scan.png", 40 + k)
    paint(tmp_path / "masks" / "P2" / "scan.png", 1)
    with pytest.raises(ValueError, match=r"none of the 1 masks fits an image: masks are called like 'P2/scan\.png'"):
        prepare(tmp_path / "P1", tmp_path / "out", masks=str(tmp_path / "masks"))
    data = load_datalist(prepare(tmp_path / "P2", tmp_path / "out", masks=str(tmp_path / "masks"), split=(1, 0, 0)))
    assert data[0]["label"].endswith("masks/P2/scan.png")


@pytest.mark.parametrize("link", ["hardlink_to", "symlink_to"])
@pytest.mark.parametrize("column", [False, True])
def test_links_to_a_mask_are_one_file(tmp_path, link, column):
    for k in range(3):
        paint(tmp_path / "in" / "images" / f"{k}.png", 40 + k)
    paint(tmp_path / "in" / "m" / "0.png", 1)
    paint(tmp_path / "in" / "m" / "2.png", 1)  # equal, but another file
    getattr(tmp_path / "in" / "m" / "1.png", link)(tmp_path / "in" / "m" / "0.png")
    if column:
        (tmp_path / "in" / "t.csv").write_text("image,own\n" + "".join(f"images/{k}.png,m/{k}.png\n" for k in range(3)))
    data, noted = run(tmp_path, masks="own" if column else "m")
    assert [label for _, label in masks_of(data)] == [None, None, "m/2.png"]
    (line,) = noted["mask that would fit several images, and is given to none"]["items"]
    assert line == "0.png, 1.png: images/0.png, images/1.png"


def test_masks_that_no_row_names_are_no_images(tmp_path):
    for k in range(3):
        paint(tmp_path / "in" / "images" / f"P{k}" / "a.png", 40 + k)
        paint(tmp_path / "in" / "m" / f"P{k}" / "a.png", 1)
    (tmp_path / "in" / "t.csv").write_text("image,mask\nimages/P0/a.png,m/P0/a.png\n")
    path = prepare(tmp_path / "in", tmp_path / "out", masks="mask", clear_names=True, split=(1, 0, 0))
    assert [item["id"] for item in load_datalist(path)] == [f"images/P{k}/a.png" for k in range(3)]
    dropped = json.loads((path.parent / "prepare_report.json").read_text())["dropped"]
    assert dropped["file in a folder of masks that no row names"]["items"] == ["m/P1/a.png", "m/P2/a.png"]


def test_a_mask_by_name_alone_takes_no_image_away(tmp_path):
    for k in range(2):
        paint(tmp_path / "in" / "images" / f"{k}.png", 40 + k)
        paint(tmp_path / "in" / "m" / f"{k}.png", 1)
    (tmp_path / "in" / "t.csv").write_text("image,mask\nimages/0.png,0.png\nimages/1.png,1.png\n")
    data, _ = run(tmp_path, masks="mask")
    assert masks_of(data) == [(f"images/{k}.png", f"m/{k}.png") for k in range(2)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("0.png,1.png\n1.png,0.png", {"masks": "mask"}, r"row 2: the mask '1\.png' .* is the image of a row"),
        ("0.png,\n1.png,", {"label_column": "image"}, r"row 2: the mask '0\.png' in the column 'image'"),
        ("0.png,m/0.png\n1.png,m/1.png", {"masks": "mask"}, r"none of the 2 masks in the column 'mask' is there"),
    ],
)
def test_columns_that_name_no_masks(tmp_path, rows, options, message):
    for k in range(2):
        paint(tmp_path / "in" / f"{k}.png", 40 + k)
    (tmp_path / "in" / "t.csv").write_text(f"image,mask\n{rows}\n")
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)
