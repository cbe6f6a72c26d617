import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl_monai.cli import main
from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.layouts.labels import finding
from medssl_monai.prepare.prepare import prepare


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


def items_of(path, section="training"):
    return {item["id"]: item for item in load_datalist(path, section)}


def noted(path):
    return json.loads((path.parent / "prepare_report.json").read_text())["noted"]


@pytest.mark.parametrize(
    ("text", "uncertain", "blank", "value"),
    [
        ("1", "ignore", "ignore", 1),
        ("0.0", "one", "one", 0),
        ("-1.0", "ignore", "one", -1),
        ("-1", "zero", "one", 0),
        ("-1", "one", "zero", 1),
        ("", "one", "ignore", -1),
        ("NaN", "one", "zero", 0),
        (" ", "zero", "one", 1),
        ("maybe", "zero", "zero", None),
        ("2", "zero", "zero", None),
    ],
)
def test_findings_follow_the_policy(text, uncertain, blank, value):
    assert finding(text, uncertain, blank) == value


def test_several_label_columns_are_findings(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "t.csv").write_text("image,mass,edema\n0,1,0\n1,-1,\n2,,1.0\n3,odd,1\n")
    options = {"label_column": "mass, edema", "split": (1, 0, 0), "clear_names": True}
    path = prepare(tmp_path / "in", tmp_path / "out", **options)
    assert load_datalist(path).classes == ("mass", "edema")
    assert [item.get("label") for item in items_of(path).values()] == [[1, 0], [-1, -1], [-1, 1], None]
    assert noted(path)["finding that is neither 1, 0, -1 nor blank"]["items"] == ["row 5"]
    path = prepare(tmp_path / "in", tmp_path / "out", **options, uncertain="one", blank="zero")
    assert [item.get("label") for item in items_of(path).values()] == [[1, 0], [1, 0], [0, 1], None]


def test_columns_of_the_usual_names_are_taken_as_such(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / f"{k}.png", k)
    rows = [f"{k}.png,{k % 2},case{k},p{k // 2},{'train' if k < 2 else 'val'},{30 + k}" for k in range(4)]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["file,label,ID,Patient_ID,split,image_age", *rows]))
    path = prepare(tmp_path / "in", tmp_path / "out", clear_names=True)
    training, validation = items_of(path), items_of(path, "validation")
    assert [*training, *validation] == ["case0", "case1", "case2", "case3"]
    assert [item["group"] for item in training.values()] == ["p0", "p0"]
    assert training["case1"]["meta"] == {
        "image_age": "31"
    }  # as `image_age` MONAI would take it for the image's metadata


def test_groups_of_a_table_become_pseudonyms(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / f"{k}.png", k)
    rows = [f"{k}.png,{k % 2},Doe{k // 2}" for k in range(4)]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,label,patient", *rows]))
    groups = [item["group"] for item in items_of(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0))).values()]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert not any("Doe" in group for group in groups)


def test_slices_of_a_volume_may_have_rows_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    rows = ["v.nii.gz,0,low,p1", "v.nii.gz,2.0,high,p1", "v.nii.gz,first,high,p1", "v.nii.gz,9,high,p1"]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,slice,label,patient", *rows]))
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), clear_names=True)
    assert [item.get("label") for item in items_of(path).values()] == [1, None, 0, None]
    assert [item["group"] for item in items_of(path).values()] == ["p1"] * 4
    report = json.loads((path.parent / "prepare_report.json").read_text())
    assert report["dropped"]["row whose slice is no number from 0"]["items"] == ["row 4"]
    assert report["noted"]["file without a row"]["items"] == ["v.nii.gz#1", "v.nii.gz#3"]


def test_slices_that_are_counted_from_one_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.int16), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    table = tmp_path / "in" / "t.csv"
    table.write_text("image,slice,label\n" + "".join(f"v.nii.gz,{k},{'ab'[k % 2]}\n" for k in (1, 2, 3)))
    with pytest.raises(ValueError, match=r"row 4 names the slice after the last .* counted from 1"):
        prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0))
    table.write_text(table.read_text() + "v.nii.gz,0,a\n")
    assert [item["label"] for item in load_datalist(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0)))] == [
        *(0, 1, 0),
    ]


def test_how_many_rows_are_of_images_here_is_told(tmp_path, capsys):
    for k in range(2):
        paint(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "t.csv").write_text("image,label\n0.png,a\n1.png,b\n5.png,a\nx/1.png,b\n")
    assert main(["prepare", str(tmp_path / "in"), str(tmp_path / "out"), "--split", "1", "0", "0"]) == 0
    assert "table: only 2 of its 4 rows are of images here" in capsys.readouterr().out


def test_files_that_look_like_spellings_of_one_name_are_no_patients(tmp_path):
    names = ["1.png", "01.png", "001.png", "a b.png", "ab.png", "A b.png"]
    for k, name in enumerate(names):
        paint(tmp_path / "in" / name, k)
    (tmp_path / "in" / "t.csv").write_text(
        "image,label\n" + "".join(f"{name},{'xy'[k % 2]}\n" for k, name in enumerate(names))
    )
    path = prepare(tmp_path / "in", tmp_path / "out", split=(0.5, 0.5, 0), clear_names=True)
    assert len(items_of(path)) + len(items_of(path, "validation")) == 6
    assert json.loads((path.parent / "prepare_report.json").read_text())["merged_groups"] == []
