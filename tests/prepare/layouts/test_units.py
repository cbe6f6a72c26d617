"""Images and volumes among files."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support_dicom import mr
from support_prepare import paint, sample, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.layouts.listing import list_images
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader


def test_volumes_become_slices_of_one_group(tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    shutil.copy(sample("MR_small.dcm"), tmp_path / "in" / "slice")
    (tmp_path / "in" / "t.csv").write_text("image,label\nv.nii.gz,ill\nslice,normal\n")
    items = section(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), clear_names=True))
    assert list(items) == ["slice", "v.nii.gz#0", "v.nii.gz#1", "v.nii.gz#2", "v.nii.gz#3"]
    assert len({item["group"] for item in items.values()}) == 2
    assert "4MR1" not in items["slice"]["group"]  # the patient of a DICOM file is a pseudonym in any case
    assert [item.get("slice") for item in items.values()] == [None, 0, 1, 2, 3]
    assert items["v.nii.gz#2"]["label"] == 0


@pytest.fixture
def holes(tmp_path):
    """Volumes with NaN around them, NaN inside, infinity, and none of these, with a mask each."""
    (tmp_path / "in").mkdir()
    for name in ("around", "inside", "infinite", "whole"):
        voxels = np.arange(210, dtype=np.float32).reshape(5, 6, 7) + len(name)
        place, value = {"around": (0, np.nan), "inside": ((2, 2, 2), np.nan), "infinite": (0, np.inf)}.get(name, (0, 1))
        voxels[place] = value
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
        mask = (voxels > 100).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "in" / f"{name}_seg.nii.gz")
    return tmp_path / "in"


def test_images_with_values_that_are_no_numbers_are_left_out_and_listed(holes, tmp_path):
    options = {"masks": "_seg", "split": (1, 0, 0), "clear_names": True, "volumes": True}
    path = prepare(holes, tmp_path / "out", **options)
    assert list(section(path)) == ["whole.nii.gz"]
    aside = {bad["id"]: bad["reason"] for bad in json.loads(path.read_text())["quarantine"]}
    assert set(aside) == {"around.nii.gz", "inside.nii.gz", "infinite.nii.gz"}
    assert "42 NaN" in aside["around.nii.gz"] and "nan: background" in aside["around.nii.gz"]
    path = prepare(holes, tmp_path / "again", **options, nan="background")
    assert {name: bool(item["label"]) for name, item in section(path).items()} == {
        "around.nii.gz": True,
        "whole.nii.gz": True,
    }
    noted = json.loads((path.parent / "prepare_report.json").read_text())["noted"]
    assert noted["NaN around an image, read as background"]["items"] == ["around.nii.gz: 20.00% of its voxels"]


def grey(item):
    return sorted(np.unique(ClinicalReader().get_data([Path(item["image"])])[0]).tolist())


def test_notes_on_the_geometry_of_files_are_told(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4))
    image.set_qform(np.diag([1, 1, 9, 1]), 1)
    image.set_sform(np.eye(4), 1)
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "a.nii.gz")
    prepare(tmp_path / "in", tmp_path / "out", volumes=True, split=(1, 0, 0))
    assert "qform and sform" in (tmp_path / "out" / "prepare_report.json").read_text()


def test_series_that_share_a_folder_are_volumes_each(tmp_path):
    for z in range(4):
        mr(tmp_path / "in" / f"IM{2 * z}", z, z)
        mr(tmp_path / "in" / f"IM{2 * z + 1}", 10 + z, 3 * z, series="1.2.3.2")
    paint(tmp_path / "in" / "photo.png")
    items, unusable, _ = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out")
    assert not unusable and len({item["id"] for item in items}) == 3
    volumes = [item for item in items if Path(item["image"]).is_dir()]
    assert [grey(item) for item in volumes] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    links = list(Path(volumes[0]["image"]).iterdir())
    assert all(link.is_symlink() for link in links)  # nothing of a patient is copied
    again = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out").items
    assert again == items


def test_a_series_in_several_folders_is_one_volume(tmp_path):
    for z in range(4):
        mr(tmp_path / "in" / "ab"[z % 2] / f"{z}", z, z)
    (item,) = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out").items
    assert grey(item) == [0, 1, 2, 3]


def test_series_without_uid_or_of_one_uid_for_all_are_told_apart(tmp_path):
    for patient in ("P1", "P2"):
        for z in range(3):
            mr(tmp_path / "in" / f"{patient}{z}", z + 10 * int(patient[1]), z, series="1.2", patient=patient)
    found = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out")
    assert sorted(map(grey, found.items)) == [[10, 11, 12], [20, 21, 22]]
    assert len({item["id"] for item in found.items}) == len({item["image"] for item in found.items}) == 2


def test_a_series_with_a_gap_in_a_shared_folder_is_not_read_as_something_else(tmp_path):
    for z in (0, 1, 2, 5, 6, 9):
        mr(tmp_path / "in" / f"a{z}", z, z)
    for z in range(3):
        mr(tmp_path / "in" / f"b{z}", z, z, series="1.2.3.2")
    found = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out")
    assert len(found.items) == 1
    (bad,) = found.unusable
    assert "2 slices are missing between 2.0 and 5.0 mm" in bad["reason"] and "2 between 6.0 and 9.0" in bad["reason"]


def test_a_folder_with_ignored_slices_of_another_series_is_not_taken_as_a_whole(tmp_path):
    for z in range(3):
        mr(tmp_path / "in" / f"a{z}", z, z)
        mr(tmp_path / "in" / f"skip{z}", 50 + z, z, series="1.2.3.2")
    path = prepare(tmp_path / "in", tmp_path / "out", volumes=True, split=(1, 0, 0), ignore=["skip*"])
    (item,) = load_datalist(path)
    assert grey(item) == [0, 1, 2]
    assert "fits a pattern to ignore" in (tmp_path / "out" / "prepare_report.json").read_text()


def test_images_of_one_uid_are_all_kept_with_a_word(tmp_path):
    for k in range(5):
        mr(tmp_path / "in" / f"{k}.dcm", k, instance="1.2.3.4")
    (tmp_path / "in" / "copy.dcm").write_bytes((tmp_path / "in" / "3.dcm").read_bytes())
    data = load_datalist(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0)))
    assert sorted(map(grey, data)) == [[0], [1], [2], [3], [4]]
    report = (tmp_path / "out" / "prepare_report.json").read_text()
    assert "its SOPInstanceUID is that of other images, too" in report and "exact copy of another image" in report


def test_four_sequences_of_the_decathlon_are_refused_with_a_word_on_them(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 4), np.float32), np.eye(4)), tmp_path / "in/imagesTr/a.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "in/labelsTr/a.nii.gz")
    about = {"labels": {"0": "background", "1": "x"}, "tensorImageSize": "4D"}
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({**about, "training": [pair]}))
    with pytest.raises(ValueError, match=r"a\.nii\.gz .*4 sequences, channels or points in time"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_series_with_gaps_that_is_all_there_is_says_where(tmp_path):
    for z in (0, 1, 2, 4, 5, 6, 9):
        mr(tmp_path / "in" / f"{z}", z, z)
    with pytest.raises(ValueError, match=r"between 2\.0 and 4\.0 mm.*and 2 between 6\.0 and 9\.0 mm"):
        prepare(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("lost", [0, 2, 4])
@pytest.mark.parametrize("share", [-0.2, 0.1, 0.15, 0.2, 0.3, 0.5])
def test_a_slice_that_is_cut_within_its_header_is_no_report(tmp_path, share, lost):
    """Its class says image, or nothing; a volume without it would be a shorter one, and nobody would know."""
    for z in range(5):
        mr(tmp_path / "in" / f"{z}.dcm", 10 + z, z)
    path = tmp_path / "in" / f"{lost}.dcm"
    whole = path.read_bytes()
    header = whole.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(whole[: 140 + int(share * (header - 140))])
    found = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "series")
    assert found.items == []
    assert any("1 files beside it are damaged, and may be slices of it" in bad["reason"] for bad in found.unusable)
    path.write_bytes(whole)
    assert len(list_images(tmp_path / "in", volumes=True).items) == 1


def test_a_slice_of_which_the_preamble_alone_is_left(tmp_path):
    for z in range(5):
        mr(tmp_path / "in" / f"IM{z}", 10 + z, z)
    (tmp_path / "in" / "IM4").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="its header is cut short"):
        ClinicalReader().get_data([tmp_path / "in"])
    assert list_images(tmp_path / "in", volumes=True, gather=tmp_path / "series").items == []
