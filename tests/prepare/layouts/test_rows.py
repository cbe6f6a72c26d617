"""Which row is of which image."""

import json

import nibabel as nib
import numpy as np
import pytest
from support_prepare import section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


def test_slices_of_a_volume_may_have_rows_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    rows = ["v.nii.gz,0,low,p1", "v.nii.gz,2.0,high,p1", "v.nii.gz,first,high,p1", "v.nii.gz,9,high,p1"]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,slice,label,patient", *rows]))
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), clear_names=True)
    assert [item.get("label") for item in section(path).values()] == [1, None, 0, None]
    assert [item["group"] for item in section(path).values()] == ["p1"] * 4
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
