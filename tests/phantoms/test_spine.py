"""Axial slices through the spinal canal."""

from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from support_phantoms import FEW, files_below, items_of, read

from medssl_monai.data.datalist import load_datalist
from medssl_monai.phantoms import make_phantom
from medssl_monai.phantoms import spine as spine_kind
from medssl_monai.phantoms.spine import GRADE_COUNTS
from medssl_monai.readers.reader import ClinicalReader


def test_two_and_six_grades_are_labels_of_the_same_images(spine, tmp_path):
    two = make_phantom(tmp_path, "spine2", FEW)
    assert files_below(two.parent / "training") == files_below(spine.parent / "training")
    assert [i["label"] for i in items_of(two)] == [int(i["label"] >= 3) for i in items_of(spine)]
    assert load_datalist(two).classes == ("low", "high")


@pytest.mark.parametrize("count", [24, 240, 400])
def test_grades_have_the_shares_of_the_table_in_every_section(count):
    rng = np.random.default_rng(count)
    plan = spine_kind._spine_grades(rng, [int(n) for n in rng.integers(5, 8, count)])
    grades = np.concatenate([grade for grade, _ in plan])
    shares = np.bincount(grades, minlength=6) / len(grades)
    np.testing.assert_allclose(shares, np.array(GRADE_COUNTS) / sum(GRADE_COUNTS), atol=0.015)
    assert (shares > 0).all()
    within_patients = np.mean([grade.var() for grade, _ in plan])
    assert within_patients < 0.7 * grades.var(), "slices of a patient must be alike"


def test_nifti_and_dicom_share_their_axes(spine):
    formats = Counter(Path(item["image"]).suffix for item in items_of(spine))
    assert set(formats) == {".gz", ".dcm"}
    pictures = {".gz": [], ".dcm": []}
    for item in items_of(spine):
        assert ("slice" in item) == item["image"].endswith(".gz")
        pixels = read(item)
        assert pixels.shape == (64, 64)
        pictures[Path(item["image"]).suffix].append(pixels / pixels.mean())
    nifti, dicom = (np.mean(pictures[suffix], axis=0) for suffix in pictures)  # the anatomy that all share
    assert np.corrcoef(nifti.ravel(), dicom.ravel())[0, 1] > 0.8 > np.corrcoef(nifti.ravel(), dicom.T.ravel())[0, 1]


def test_series_and_masks_are_in_the_same_place(spine):
    series = [item for item in items_of(spine) if item["image"].endswith(".dcm")]
    headers = [pydicom.dcmread(item["image"]) for item in series if item["group"] == series[0]["group"]]
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    step = np.diff([header.ImagePositionPatient for header in headers], axis=0)
    np.testing.assert_allclose(step[:, 2], float(headers[0].SpacingBetweenSlices))
    affine = nibabel.load(spine.parent / series[0]["meta"]["masks"]["cord"]).affine
    np.testing.assert_allclose(affine[:3, 3] * (-1, -1, 1), headers[0].ImagePositionPatient, atol=1e-4)
    np.testing.assert_allclose(-affine[0, 0], headers[0].PixelSpacing[0], rtol=1e-6)


def test_the_deeper_the_mass_the_smaller_canal_and_cord():
    canal, cord = np.zeros((2, 6, 30))
    images = []
    for grade in range(6):
        for patient in range(30):  # same patient, same scanner, other grade
            rng = np.random.default_rng(patient)
            severity = np.full(5, 0.5, dtype=np.float32)
            image, canal_mask, cord_mask = spine_kind._spine_volume(rng, np.full(5, grade), severity, 0.6)
            canal[grade, patient], cord[grade, patient] = canal_mask.sum(), cord_mask.sum()
            assert (canal_mask >= cord_mask).all(), "the cord lies in the canal"
        images.append(image)
    assert (np.diff(canal, axis=0) < 0).all()
    np.testing.assert_array_equal(cord[:3], cord[[0, 0, 0]])  # b0 to b1b do not touch it
    assert (cord[3] >= 0.95 * cord[0]).all(), "abutment is no compression"
    assert (cord[4] < cord[3]).all(), "compression"
    assert cord[5].mean() < cord[4].mean()
    np.testing.assert_array_equal(canal[5], cord[5])  # in b3 the mass leaves no fluid
    assert (canal[4] > 1.5 * cord[4]).all(), "in b2 there is fluid"
    edge = np.abs(images[5] - images[0])[:, -8:]
    assert edge.mean() < 0.02 * images[0].mean(), "far from the canal the grade shows nothing"


def test_masks_follow_the_slices(spine):
    for item in items_of(spine):
        masks = [nibabel.load(spine.parent / item["meta"]["masks"][name]) for name in ("canal", "cord")]
        canal, cord = (np.asarray(mask.dataobj)[..., item["meta"]["slice"]] for mask in masks)
        assert (canal.sum() == cord.sum()) == (item["meta"]["grade"] == "b3")


def test_masks_of_the_spine_combine_those_of_its_parts(spine, tmp_path):
    path = make_phantom(tmp_path, "spine_cord", FEW)
    assert load_datalist(path).classes == ("background", "canal", "cord")
    items = items_of(path)
    assert len(items) == sum(FEW.values()), "an item is a volume"
    assert {Path(item["image"]).name for item in items} == {"image.nii.gz", "series"}
    slices = Counter(item["group"] for item in items_of(spine))
    for item in items:
        image, meta = ClinicalReader().get_data([Path(item["image"])])
        mask, place = ClinicalReader().get_data([Path(item["label"])])
        assert image.shape == mask.shape == (1, 64, 64, slices[item["group"]])
        np.testing.assert_allclose(place["affine"], meta["affine"], atol=1e-4)
        canal, cord = (
            np.asarray(nibabel.load(path.parent / item["meta"]["masks"][part]).dataobj) for part in ("canal", "cord")
        )
        combined = np.asarray(nibabel.load(item["label"]).dataobj)
        np.testing.assert_array_equal(combined == 2, cord == 1)
        np.testing.assert_array_equal(combined > 0, canal == 1)
