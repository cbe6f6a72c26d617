"""Images below a folder, without a table."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support_prepare import paint, sample

from medssl_monai.prepare.layouts.listing import list_images


def test_list_images_tells_images_from_the_rest(tmp_path):
    paint(tmp_path / "im10.png", 1)
    paint(tmp_path / "im9.png", 2)
    paint(tmp_path / ".hidden.png", 3)
    paint(tmp_path / ".cache" / "x.png", 3)
    (tmp_path / "notes.txt").write_text("no image")
    shutil.copy(sample("DICOMDIR"), tmp_path / "DICOMDIR")
    shutil.copy(sample("MR_small.dcm"), tmp_path / "MR0001")
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(sample("examples_ybr_color.dcm"), study / "us.dcm")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 3), dtype=np.int16), np.eye(4)), study / "v.nii")
    items, unusable, _ = list_images(tmp_path)
    places = [(Path(item["image"]).relative_to(tmp_path).as_posix(), item.get("slice")) for item in items]
    assert places == [
        *(("MR0001", None), ("im9.png", None), ("im10.png", None)),
        *(("study/us.dcm", k) for k in range(30)),
        *(("study/v.nii", k) for k in range(3)),
    ]
    assert unusable == []
    assert not any(name in json.dumps([i["id"] + i["group"] for i in items]) for name in ("MR0001", "im9", "study"))
    assert len({item["id"] for item in items}) == len(items)
    assert items[-1]["id"] == items[-1]["group"] + "#2"
    assert list_images(tmp_path)[0] == items


@pytest.mark.parametrize("cut", [10, 1000])
def test_list_images_gives_the_reason_for_files_that_cannot_be_used(tmp_path, cut):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise).save(tmp_path / "b.jpg")
    for name in ("c.nii", "d.nii.gz"):
        nib.save(nib.Nifti1Image(noise[..., None].repeat(3, axis=2), np.eye(4)), tmp_path / name)
    shutil.copy(sample("CT_small.dcm"), tmp_path / "e.dcm")
    assert not list_images(tmp_path)[1]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-cut])
    shutil.copy(sample("MR_truncated.dcm"), tmp_path / "f.dcm")
    shutil.copy(sample("liver_1frame.dcm"), tmp_path / "g.dcm")
    shutil.copy(sample("reportsi.dcm"), tmp_path / "h.dcm")
    (tmp_path / "i.png").write_bytes(b"")
    items, unusable, _ = list_images(tmp_path)
    left = {Path(item["image"]).name for item in items}
    assert left <= ({"e.dcm"} if cut == 10 else set())  # ten bytes of padding are no loss
    unusable = {Path(bad["image"]).name: bad["reason"] for bad in unusable}
    assert {name[0] for name in unusable} >= set("abcdfghi")
    assert not any(str(tmp_path) in reason for reason in unusable.values())
    assert all("cut short" in unusable[name] for name in ("a.png", "b.jpg", "c.nii", "d.nii.gz", "f.dcm"))
    assert "segmentation" in unusable["g.dcm"]
    assert "a report" in unusable["h.dcm"]


def test_list_images_of_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list_images(tmp_path / "none")
