"""Masks that are written over an image are read back as they were."""

import json

import numpy as np
import pydicom
import pytest
from PIL import Image
from support_readers import (
    AXIAL,
    SAGITTAL,
    STEP,
    N,
    any_mask,
    mr_series,
    mr_slice,
    planes,
    there_and_back,
)

from medssl_monai.data import LoadMaskd, load_datalist
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers import ClinicalReader
from medssl_monai.readers.mask_axes import to_file_axes
from medssl_monai.readers.mask_files import write_mask
from medssl_monai.transforms import TakeSliced


@planes
def test_the_mask_of_a_slice_comes_back(tmp_path, directions):
    mask = any_mask(N, N)
    image = mr_slice(tmp_path / "a.dcm", 2, directions)
    np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)


@pytest.mark.parametrize("spacing", [None, [0.5, 0.25]])
def test_the_mask_of_a_slice_that_does_not_say_where_it_lies_comes_back(tmp_path, spacing):
    mask = any_mask(N, N)
    image = mr_slice(tmp_path / "a.dcm", PixelSpacing=spacing)
    np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)


def test_the_mask_of_a_slice_without_spacing_comes_back(tmp_path):
    mask = any_mask(N, N)
    image = mr_slice(tmp_path / "a.dcm", 0, SAGITTAL, PixelSpacing=None)
    np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)


@planes
def test_the_mask_of_a_series_comes_back(tmp_path, directions):
    mask = any_mask(N, N, N)
    image = mr_series(tmp_path / "in", directions)
    np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)
    item = {"image": str(image), "label": str(tmp_path / "mask.nii.gz"), "slice": 4}
    cut = TakeSliced("label")(LoadMaskd("label", ClinicalReader(), 3)(item))["label"]
    np.testing.assert_array_equal(cut[0], mask[..., 4])


@planes
@pytest.mark.parametrize("places", [[2, 0, 1, 3, 5, 4], [0] * N], ids=["slices of a volume", "one place over time"])
def test_the_mask_of_the_frames_of_one_file_comes_back(tmp_path, directions, places):
    mask = any_mask(N, N, N)
    files = [pydicom.dcmread(mr_slice(tmp_path / f"{k}.dcm", k, directions)) for k in places]
    ds = files[0]
    ds.NumberOfFrames, ds.PixelData = N, b"".join(file.PixelData for file in files)
    ds.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in files]
    for frame, file in zip(ds.PerFrameFunctionalGroupsSequence, files, strict=True):
        frame.PlanePositionSequence = [pydicom.Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = file.ImagePositionPatient
    del ds.ImagePositionPatient
    ds.save_as(tmp_path / "frames.dcm")
    np.testing.assert_array_equal(there_and_back(tmp_path, tmp_path / "frames.dcm", mask), mask)


def test_the_mask_of_a_tilted_gantry_comes_back(tmp_path):
    mask = any_mask(N, N, N)
    tilted = [1, 0, 0, 0, float(np.cos(0.2)), float(np.sin(0.2))]
    image = mr_series(tmp_path / "in", tilted, axis=(0, 0, 1))
    np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)


def test_the_mask_of_a_series_that_does_not_say_where_it_lies_comes_back(tmp_path):
    mask = any_mask(N, N, N)
    image = mr_series(tmp_path / "in", None, SpacingBetweenSlices=STEP)
    np.testing.assert_array_equal(there_and_back(tmp_path, image, mask), mask)


@planes
def test_the_mask_of_one_slice_alone_fits_that_slice(tmp_path, directions):
    mask = any_mask(N, N)
    image = mr_series(tmp_path / "in", directions)
    file = write_mask(tmp_path / "mask", mask, image / f"{N - 2}.dcm", 3).path
    loaded = LoadMaskd("label", ClinicalReader(), 3)({"image": image, "label": file, "slice": 2})["label"]
    np.testing.assert_array_equal(loaded[0], mask)
    assert loaded.meta["spacing"] == pytest.approx((0.25, 0.5))
    np.testing.assert_allclose(loaded.affine, np.diag([0.25, 0.5, 1, 1]))


@pytest.mark.parametrize("alone", [True, False], ids=["folder of its own", "folder shared with another series"])
def test_slices_of_a_sagittal_series_that_nobody_labeled(tmp_path, alone):
    image = mr_series(tmp_path / "case", SAGITTAL)
    mask = np.ones((N, N, N), np.uint8)
    mask[..., 1] = 2  # of two classes
    write_mask(tmp_path / "case", mask, image, 2)
    image.rename((tmp_path / "in").resolve())
    if not alone:
        mr_slice(tmp_path / "in" / "other.dcm", 0, AXIAL, SeriesDescription="localizer", InstanceNumber=99)
    (tmp_path / "case.nii.gz").rename(tmp_path / "in" / "mask.nii.gz")
    named = "." if alone else "1.dcm"
    (tmp_path / "in" / "t.csv").write_text(f"image,mask\n{named},mask.nii.gz\n")
    path = prepare(tmp_path / "in", tmp_path / "out", masks="mask", classes=["a", "b"], split=(1, 0, 0))
    labeled = [item["slice"] for item in load_datalist(path) if "label" in item]
    report = json.loads((path.parent / "prepare_report.json").read_text())
    assert labeled == [0, 2, 3, 4, 5], report["noted"]
    assert report["noted"]["slice that nobody labeled"]["count"] == 1


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_the_mask_of_a_turned_photograph_is_written_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.zeros((10, 16, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    array, _ = ClinicalReader().get_data([tmp_path / "a.jpg"])
    mask = np.zeros(array.shape[1:], np.uint8)
    mask[:4, :2] = 1
    file = write_mask(tmp_path / "mask", to_file_axes(mask, tmp_path / "a.jpg"), tmp_path / "a.jpg", 2)
    with Image.open(file.path) as written:
        assert 274 not in written.getexif()
        np.testing.assert_array_equal(np.asarray(written) > 0, mask.T > 0)
    assert elsewhere_of(tmp_path / "a.jpg", file.path) is None


def elsewhere_of(image, mask):
    """What `LoadMaskd` says of a mask; None: it fits."""
    try:
        LoadMaskd("label", ClinicalReader(), 2)({"image": str(image), "label": str(mask), "id": "a"})
    except ValueError as error:
        return str(error)
    return None
