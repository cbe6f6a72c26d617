import re

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from support_readers import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    SERIES,
    STUDY,
    load_image,
    only_series,
    patient_dicom,
    write_slice,
    write_stack,
)

from medssl_monai.readers.dicom.identity import instance_uid
from medssl_monai.readers.dicom.series import find_volume

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_multi_frame_geometry_comes_from_the_frames(tmp_path, picture):
    frames = [Dataset() for _ in range(3)]
    for k, frame in enumerate(frames):
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [10, 20, 30 + 4 * k]
        frame.PixelValueTransformationSequence = [Dataset()]
        frame.PixelValueTransformationSequence[0].RescaleSlope = k + 1
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -k
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.25]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = AXIAL
    path = patient_dicom(
        tmp_path / "a.dcm",
        np.stack([picture] * 3),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    volume = load_image(path)
    assert volume.meta["spacing"] == (0.25, 0.5, 4.0)
    assert torch.allclose(volume.affine.diagonal(), torch.tensor([-0.25, -0.5, 4.0, 1.0], dtype=torch.float64))
    assert volume.affine[:3, 3].tolist() == [-10, -20, 30]
    for k in range(3):
        assert torch.equal(volume[0, ..., k].as_tensor(), torch.tensor(picture.T * float(k + 1) - k).float())


def frames_at(places, slope=None):
    frames = [Dataset() for _ in places]
    for k, (frame, place) in enumerate(zip(frames, places, strict=True)):
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, place]
        frame.PlaneOrientationSequence = [Dataset()]
        frame.PlaneOrientationSequence[0].ImageOrientationPatient = AXIAL
        if slope:
            frame.PixelValueTransformationSequence = [Dataset()]
            frame.PixelValueTransformationSequence[0].RescaleSlope = slope[k]
            frame.PixelValueTransformationSequence[0].RescaleIntercept = 0
    return frames


def test_frames_of_one_stack_are_sorted_with_their_scale_and_others_are_not(tmp_path, picture):
    pixels = np.stack([picture + k for k in range(4)])
    elements = {"PixelSpacing": [1, 1], "SpacingBetweenSlices": 7}
    frames = frames_at([6, 0, 3, 9], slope=[1, 2, 3, 4])
    volume = load_image(patient_dicom(tmp_path / "a.dcm", pixels, PerFrameFunctionalGroupsSequence=frames, **elements))
    assert volume.affine[2].tolist() == [0, 0, 3, 0]
    for place, k in enumerate([1, 2, 0, 3]):
        assert torch.equal(volume[0, ..., place].as_tensor(), torch.tensor(float(k + 1) * pixels[k].T).float())
    for places in ([6, 0, 3, 18], [6, 0, 6, 0], [5, 5, 5, 5]):  # a gap, two moments, one place
        frames = frames_at(places)
        volume = load_image(
            patient_dicom(tmp_path / "b.dcm", pixels, PerFrameFunctionalGroupsSequence=frames, **elements)
        )
        assert np.array_equal(volume[0].numpy(), pixels.transpose(2, 1, 0))
        assert volume.affine.diagonal().tolist() == [1, 1, 7, 1]


def test_slices_are_sorted_along_their_normal_whatever_their_names_and_numbers(tmp_path):
    files = write_stack(tmp_path, [0, 3, 6, 9])
    series = only_series([files[k] for k in (2, 0, 3, 1)])
    assert series.files == tuple(files)
    assert (series.patient, series.study, series.uid) == ("4711", STUDY, SERIES)
    assert series.volume and series.problem is None and series.notes == ()
    backwards = write_stack(tmp_path / "b", [9, 6, 3, 0])
    assert only_series(backwards).files == tuple(reversed(backwards))


def test_the_normal_of_a_sagittal_stack_points_to_the_right(tmp_path):
    """It is the cross product of x (to the back) and y (down)."""
    files = write_stack(tmp_path, [0, 3, 6], SAGITTAL, axis=(-1, 0, 0))
    assert only_series(files).files == tuple(files)
    _, (affine, spacing) = find_volume(tmp_path)
    assert np.allclose(affine[:3, :3], np.column_stack([[0, -0.25, 0], [0, 0, -0.5], [3, 0, 0]]))  # in RAS
    assert spacing.tolist() == [0.25, 0.5, 3.0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(6)),
    names=st.permutations(range(6)),
    jitter=st.lists(st.floats(-1e-4, 1e-4), min_size=6, max_size=6),
    angle=st.floats(-0.6, 0.6),
    numbered=st.booleans(),
)
def test_shuffled_names_numbers_and_jitter_change_nothing(tmp_path_factory, order, names, jitter, angle, numbered):
    folder = tmp_path_factory.mktemp("stack")
    directions = [np.cos(angle), 0, np.sin(angle), 0, 1, 0]
    for k, (number, name) in enumerate(zip(order, names, strict=True)):
        position = [0.0, 0.0, 2.0 * k + jitter[k]]
        turned = [float(part) + jitter[k] / 100 for part in directions]
        elements = {"ImagePositionPatient": position, "ImageOrientationPatient": turned}
        write_slice(
            folder / f"a{name}", InstanceNumber=number if numbered else None, SOPInstanceUID=f"1.2.{k}", **elements
        )
    files, (affine, spacing) = find_volume(folder)
    assert [instance_uid(path) for path in files] == [f"1.2.{k}" for k in range(6)]
    for k, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"b{order[k]}")
    files, (same_affine, same_spacing) = find_volume(folder)
    assert [instance_uid(path) for path in files] == [f"1.2.{k}" for k in range(6)]
    assert np.array_equal(affine, same_affine) and np.array_equal(spacing, same_spacing)


def test_tilted_gantry_is_named_and_in_the_affine_but_not_refused(tmp_path):
    tilt = np.radians(12.0)
    directions = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    files = write_stack(tmp_path, [0, 3, 6, 9], directions)
    series = only_series(files)
    assert series.files == tuple(files)
    assert series.problem is None and series.notes == ("gantry tilted by 12.0 degrees",)
    _, (affine, spacing) = find_volume(tmp_path)
    for k, path in enumerate(files):
        ds = pydicom.dcmread(path)
        row, column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        corner = np.array(ds.ImagePositionPatient, float) + 2 * 0.25 * row + 3 * 0.5 * column  # PS3.3, C.7.6.2.1.1
        assert np.allclose(affine @ [2, 3, k, 1], [*corner * [-1, -1, 1], 1])
    assert spacing[2] == pytest.approx(3.0)


def test_a_step_of_half_a_degree_is_no_tilt(tmp_path):
    assert only_series(write_stack(tmp_path, [0, 3, 6], axis=(0, 0.008, 1))).notes == ()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            [0, 3, 6, 9, 12, 18, 21],
            "a slice is missing between 12.0 and 18.0 mm along the slice axis (other steps: 3.0 mm)",
        ),
        ([0, 3, 9], "a slice is missing between 3.0 and 9.0 mm along the slice axis (other steps: 3.0 mm)"),
        ([0, 0.5, 2, 2.5, 4], "2 slices are missing between 0.500 and 2.000 mm"),
        (
            [0, 3, 9, 12, 30],
            "a slice is missing between 3.0 and 9.0 mm along the slice axis (other steps: 3.0 mm), and 5 between 12.0 "
            "and 30.0 mm",
        ),
        ([0, 3, 6, 9, 11, 13, 15], "its slices are unevenly spaced: one lies 1.5 mm off (steps: 2.0 mm)"),
        ([0, 3, 6, 6, 9], "several images lie at 1 of its 4 slice positions; these are probably several echoes"),
    ],
)
def test_gaps_repeats_and_uneven_steps_are_named(tmp_path, places, message):
    series = only_series(write_stack(tmp_path, places))
    assert series.volume
    assert series.problem.startswith(message)
    with pytest.raises(ValueError, match=re.escape(series.problem)):
        find_volume(tmp_path)


def test_rounded_positions_are_even_enough(tmp_path):
    assert only_series(write_stack(tmp_path, np.round(0.67 * np.arange(12), 1))).problem is None


@pytest.mark.parametrize(
    ("element", "values", "name"),
    [
        ("EchoTime", (20, 80), "differ in echo time"),
        ("DiffusionBValue", (0.0, 800.0), "differ in b-value"),
        ("TemporalPositionIdentifier", (1, 2), "differ in time"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "differ in image type"),
    ],
)
def test_two_images_at_each_position_are_told_apart_by_what_differs(tmp_path, element, values, name):
    files = [file for k, v in enumerate(values) for file in write_stack(tmp_path / str(k), [0, 3, 6], **{element: v})]
    series = only_series(files)
    assert series.problem.startswith(f"several images lie at 3 of its 3 slice positions and {name};")
    assert "Split the series" in series.problem


def test_what_differs_between_positions_alone_is_not_blamed(tmp_path):
    twice = [file for k in range(2) for file in write_stack(tmp_path / str(k), [0, 3, 6], InstanceNumber=None)]
    for k, path in enumerate(twice):
        ds = pydicom.dcmread(path)
        ds.TriggerTime = k % 3
        ds.save_as(path)
    assert "differ" not in only_series(twice).problem


def test_one_place_only_is_no_volume(tmp_path):
    """A heart over time, one file for each moment."""
    files = write_stack(tmp_path, [5, 5, 5, 5])
    series = only_series(files)
    assert not series.volume and series.problem is None
    assert series.files == tuple(files)
    with pytest.raises(ValueError, match="its 4 images are no slices of a volume; name each file by itself"):
        find_volume(tmp_path)


def test_three_planes_of_one_image_each_are_images(tmp_path):
    files = [file for plane in (AXIAL, SAGITTAL, CORONAL) for file in write_stack(tmp_path / str(plane), [0], plane)]
    assert not only_series(files).volume


def test_more_gaps_than_are_worth_naming_are_counted(tmp_path):
    places = [place for k in range(14) for place in (10 * k, 10 * k + 1, 10 * k + 2, 10 * k + 3)]
    problem = only_series(write_stack(tmp_path, places)).problem
    assert problem.startswith("6 slices are missing between 3.0 and 10.0 mm")
    assert problem.count("between") == 11 and problem.endswith("at 2 further places")
