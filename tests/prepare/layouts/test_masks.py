import json
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


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


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, dtype=np.uint8)).save(path)


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


def test_a_picture_over_a_dicom_file_has_no_place_to_compare(tmp_path):
    from medssl_monai.phantoms.files import write_dicom

    (tmp_path / "in" / "masks").mkdir(parents=True)
    header = {"InstanceNumber": 1, "SeriesDescription": "x", "PixelSpacing": [0.15, 0.14]}
    write_dicom(tmp_path / "in" / "a.dcm", np.ones((4, 6), np.uint16), "CR", "MONOCHROME2", header, "P1", "s")
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(tmp_path / "in" / "masks" / "a.png")
    data, noted = run(tmp_path, masks="masks")
    assert [label for _, label in names(data)] == ["masks/a.png"]
    assert noted == {}


def test_a_mask_goes_to_the_patient_whose_folder_it_lies_in(tmp_path):
    for k in range(3):
        volume(tmp_path / "in" / "images" / f"P{k}" / "scan.nii.gz", 100 + k)
    volume(tmp_path / "in" / "masks" / "P1" / "scan.nii.gz", 1)
    data, noted = run(tmp_path, masks="masks")
    assert [label for _, label in names(data)] == [None, "masks/P1/scan.nii.gz", None]
    assert set(noted) == {"no mask"}


def test_a_mask_that_several_images_fit_is_given_to_none_and_named(tmp_path):
    for k, place in enumerate(("old/P1", "new/P1", "new/P2")):
        paint(tmp_path / "in" / place / "scan.jpg", 40 * k)
    for place in ("P1", "P2"):
        paint(tmp_path / "in" / "masks" / place / "scan.png", 1)
    paint(tmp_path / "in" / "masks" / "left.png", 1)
    data, noted = run(tmp_path, masks="masks")
    assert dict(names(data)) == {
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
    assert dict(names(data)) == {"a.jpg": None, "b.jpg": "masks/b.png"}
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
    assert names(data) == [(f"case{k}.jpg", f"seg_case{k}.png") for k in range(2)]


def test_a_mask_file_that_several_rows_name_is_given_to_none(tmp_path):
    for k in range(3):
        paint(tmp_path / "in" / f"{k}.jpg", 7 + k)
    paint(tmp_path / "in" / "m" / "0.png", 1)
    paint(tmp_path / "in" / "m" / "1.png", 1)
    rows = ["image,mask", "0.jpg,m/0.png", "1.jpg,m/1.png", "2.jpg,./m\\1.PNG"]
    (tmp_path / "in" / "t.csv").write_text("\n".join(rows))
    data, noted = run(tmp_path, masks="mask")
    assert names(data) == [("0.jpg", "m/0.png"), ("1.jpg", None), ("2.jpg", None)]
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
    assert names(data) == [("a.png", None)]
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


def arrays(**more):
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 255, (4, 6, 5, 3), dtype=np.uint8),
        "ids": np.array(["a", "b", "c", "d/e"]),
        "labels": np.array([1, 0, 1, 0]),
        "label_names": np.array(["nv", "mel"]),
        "lesion_ids": np.array(["L1", "L1", "L2", "L3"]),
        "masks": rng.integers(0, 2, (4, 6, 5), dtype=np.uint8),
        **more,
    }


def test_arrays_of_masks_are_labels_if_asked_for(tmp_path):
    content = arrays()
    np.savez(tmp_path / "set.npz", **content)
    plain = load_datalist(prepare(tmp_path / "set.npz", tmp_path / "plain", split=(1, 0, 0)))
    assert plain.classes == ("nv", "mel") and [item["label"] for item in plain] == [1, 0, 1, 0]
    data = load_datalist(prepare(tmp_path / "set.npz", tmp_path / "out", split=(1, 0, 0), masks="masks"))
    assert data.classes == ("background", "foreground")
    assert [item["meta"] for item in data] == [{"label": name} for name in ("mel", "nv", "mel", "nv")]
    assert [item["group"] for item in data] == ["L1", "L1", "L2", "L3"]
    for item, mask in zip(data, content["masks"], strict=True):
        with Image.open(item["label"]) as image:
            np.testing.assert_array_equal(np.asarray(image), mask * 255)


def test_arrays_of_masks_of_more_classes(tmp_path):
    masks = np.arange(4, dtype=np.int64)[:, None, None] % 3 * np.ones((1, 6, 5), np.int64)
    np.savez(tmp_path / "set.npz", **arrays(masks=masks))
    data = load_datalist(prepare(tmp_path / "set.npz", tmp_path / "out", split=(1, 0, 0), masks="masks"))
    assert data.classes == ("0", "1", "2")
    with Image.open(data[2]["label"]) as image:
        assert (np.asarray(image) == 2).all()


def test_arrays_without_such_masks(tmp_path):
    np.savez(tmp_path / "set.npz", **arrays(masks=np.zeros((4, 3, 3))))
    for name, problem in (
        ("mask", " has no array 'mask'"),
        ("masks", r": the array 'masks' .* must have the shape \(4, "),
    ):
        with pytest.raises(ValueError, match=f"set.npz{problem}"):
            prepare(tmp_path / "set.npz", tmp_path / "out", masks=name)


@pytest.mark.parametrize("options", [{"masks": "mask"}, {"label_column": "mask"}], ids=["masks", "label"])
def test_an_archive_of_classes_and_masks(tmp_path, options):
    """As HAM10000: classes without an option, masks with one."""
    rows = ["image,mask,id,label,label_name,lesion_id"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for k in range(4):
            for name, pixels in (("images", np.full((4, 6, 3), 50 * k)), ("masks", np.eye(4, 6) * 255)):
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "x.png")
                archive.write(tmp_path / "x.png", f"{name}/{k}.png")
            rows.append(f"images/{k}.png,masks/{k}.png,i{k},{k % 2},{'nv' if k % 2 else 'mel'},L{k // 2}")
        archive.writestr("manifest.csv", "\n".join(rows))
    plain = load_datalist(prepare(tmp_path / "set.zip", tmp_path / "plain", split=(1, 0, 0)))
    assert plain.classes == ("mel", "nv")
    data = load_datalist(prepare(tmp_path / "set.zip", tmp_path / "out", split=(1, 0, 0), **options))
    assert data.classes == ("background", "foreground")
    assert [Path(item["label"]) for item in data] == [tmp_path / "out" / "masks" / f"{k}.png" for k in range(4)]
    assert all(Path(item["label"]).is_file() for item in data)
    assert data[0]["meta"]["label_name"] == "mel"
    both = {"masks": "mask", "mask_classes": ["skin", "lesion"], "split": (1, 0, 0)}
    joint = load_datalist(prepare(tmp_path / "set.zip", tmp_path / "both", **both))
    assert (joint.classes, joint.mask_classes) == (("mel", "nv"), ("skin", "lesion"))
    assert [item["label"] for item in joint] == [0, 1, 0, 1]
    assert all(Path(item["mask"]).is_file() for item in joint)


def test_arrays_of_masks_beside_classes(tmp_path):
    content = arrays()
    np.savez(tmp_path / "set.npz", **content)
    options = {"masks": "masks", "mask_classes": ["skin", "lesion"], "split": (1, 0, 0)}
    data = load_datalist(prepare(tmp_path / "set.npz", tmp_path / "out", **options))
    assert (data.classes, data.mask_classes) == (("nv", "mel"), ("skin", "lesion"))
    assert [item["label"] for item in data] == [1, 0, 1, 0]
    assert not any("meta" in item for item in data)
    for item, mask in zip(data, content["masks"], strict=True):
        with Image.open(item["mask"]) as image:
            np.testing.assert_array_equal(np.asarray(image), mask * 255)


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
    assert [label for _, label in names(data)] == [None, None, "m/2.png"]
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
    assert names(data) == [(f"images/{k}.png", f"m/{k}.png") for k in range(2)]


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
