import random
import re
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid
from support import dicom_sample, save_dicom

from medssl_monai.files import sha256
from medssl_monai.readers.dicom.identity import instance_uid
from medssl_monai.readers.dicom.series import find_series, find_volume

AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
STUDY, SERIES = generate_uid(), generate_uid()


def write(path, pixels=None, kind=MRImageStorage, **elements):
    """One tiny image of a person, with `elements`; None leaves one out."""
    values = {
        "SOPClassUID": kind,
        "SOPInstanceUID": generate_uid(),
        "PatientName": "Secret^Susan",
        "PatientID": "4711",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "PixelSpacing": [0.5, 0.25],
        **elements,
    }
    pixels = np.zeros((4, 3), np.uint8) if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in values.items() if value is not None}
    return save_dicom(path, pixels, "MONOCHROME2", **given)


def stack(folder, places, directions=AXIAL, axis=(0, 0, 1), **elements):
    """Slices at `places` (mm) along `axis`, under names that say nothing; in the order of `places`."""
    files = []
    for k, place in enumerate(places):
        position = (np.multiply(axis, place) + np.array([10, 20, 0])).tolist()
        name = f"IM{random.Random(k).getrandbits(32):010d}"
        each = {"ImagePositionPatient": position, "ImageOrientationPatient": directions, "InstanceNumber": k + 1}
        files.append(write(folder / name, **{**each, **elements}))
    return files


def only(files):
    found, unusable = find_series(files)
    assert not unusable
    assert len(found) == 1
    return found[0]


# ---- volumes --------------------------------------------------------------------------------------------------------
def test_slices_are_sorted_along_their_normal_whatever_their_names_and_numbers(tmp_path):
    files = stack(tmp_path, [0, 3, 6, 9])
    series = only([files[k] for k in (2, 0, 3, 1)])
    assert series.files == tuple(files)
    assert (series.patient, series.study, series.uid) == ("4711", STUDY, SERIES)
    assert series.volume and series.problem is None and series.notes == ()
    backwards = stack(tmp_path / "b", [9, 6, 3, 0])
    assert only(backwards).files == tuple(reversed(backwards))


def test_the_normal_of_a_sagittal_stack_points_to_the_right(tmp_path):
    """It is the cross product of x (to the back) and y (down)."""
    files = stack(tmp_path, [0, 3, 6], SAGITTAL, axis=(-1, 0, 0))
    assert only(files).files == tuple(files)
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
        write(folder / f"a{name}", InstanceNumber=number if numbered else None, SOPInstanceUID=f"1.2.{k}", **elements)
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
    files = stack(tmp_path, [0, 3, 6, 9], directions)
    series = only(files)
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
    assert only(stack(tmp_path, [0, 3, 6], axis=(0, 0.008, 1))).notes == ()


# ---- what is wrong with them ----------------------------------------------------------------------------------------
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
    series = only(stack(tmp_path, places))
    assert series.volume
    assert series.problem.startswith(message)
    with pytest.raises(ValueError, match=re.escape(series.problem)):
        find_volume(tmp_path)


def test_rounded_positions_are_even_enough(tmp_path):
    assert only(stack(tmp_path, np.round(0.67 * np.arange(12), 1))).problem is None


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
    files = [file for k, v in enumerate(values) for file in stack(tmp_path / str(k), [0, 3, 6], **{element: v})]
    series = only(files)
    assert series.problem.startswith(f"several images lie at 3 of its 3 slice positions and {name};")
    assert "Split the series" in series.problem


def test_what_differs_between_positions_alone_is_not_blamed(tmp_path):
    twice = [file for k in range(2) for file in stack(tmp_path / str(k), [0, 3, 6], InstanceNumber=None)]
    for k, path in enumerate(twice):
        ds = pydicom.dcmread(path)
        ds.TriggerTime = k % 3
        ds.save_as(path)
    assert "differ" not in only(twice).problem


def test_one_place_only_is_no_volume(tmp_path):
    """A heart over time, one file for each moment."""
    files = stack(tmp_path, [5, 5, 5, 5])
    series = only(files)
    assert not series.volume and series.problem is None
    assert series.files == tuple(files)
    with pytest.raises(ValueError, match="its 4 images are no slices of a volume; name each file by itself"):
        find_volume(tmp_path)


def test_mixed_orientations_sizes_and_spacings_are_refused(tmp_path):
    turned = stack(tmp_path / "a", [0, 3, 6]) + stack(tmp_path / "b", [0], SAGITTAL)
    assert only(turned).problem.startswith("its 4 images have 2 orientations; are there localizers")
    larger = stack(tmp_path / "c", [0, 3]) + stack(tmp_path / "d", [6], pixels=np.zeros((8, 8), np.uint8))
    assert only(larger).problem == "its images differ in size (3 x 4, 8 x 8) or in colour; split the series"
    finer = stack(tmp_path / "e", [0, 3]) + stack(tmp_path / "f", [6], PixelSpacing=[0.4, 0.25])
    assert only(finer).problem == "its images differ in pixel spacing; split the series"


def test_localizers_are_set_apart_from_the_slices_planned_on_them(tmp_path):
    scout = stack(tmp_path, [0], CORONAL, InstanceNumber=0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    slices = stack(tmp_path / "rest", [0, 3, 6], ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    for path in slices:
        shutil.move(path, tmp_path / f"s{path.name}")
    found, unusable = find_series(list(tmp_path.glob("*M*")))
    assert not unusable
    volume, alone = sorted(found, key=lambda series: -len(series.files))
    assert (len(volume.files), volume.volume, volume.problem) == (3, True, None)
    assert (alone.files, alone.volume, alone.notes) == (
        tuple(scout),
        False,
        ("localizer (scout): not a slice of a volume",),
    )
    assert len(find_volume(tmp_path)[0]) == 3


def test_three_planes_of_one_image_each_are_images(tmp_path):
    files = [file for plane in (AXIAL, SAGITTAL, CORONAL) for file in stack(tmp_path / str(plane), [0], plane)]
    assert not only(files).volume


def test_radiographs_stay_images(tmp_path):
    views = [write(tmp_path / f"{k}.dcm", kind=DIGITAL_XRAY, InstanceNumber=10 - k) for k in range(2)]
    series = only(views)
    assert not series.volume and series.problem is None
    assert series.files == tuple(reversed(views))  # by InstanceNumber
    unnumbered = [write(tmp_path / "n" / f"im{k}", kind=DIGITAL_XRAY) for k in (10, 2)]
    assert only(unnumbered).files == tuple(reversed(unnumbered))  # im2 before im10
    assert find_volume_of(views[0], tmp_path / "single")[1] is None


def find_volume_of(path, folder):
    folder.mkdir()
    shutil.copy(path, folder)
    return find_volume(folder)


# ---- what is missing ------------------------------------------------------------------------------------------------
def test_without_positions_slices_are_sorted_by_slice_location(tmp_path):
    files = [write(tmp_path / f"{9 - k}", SliceLocation=4.0 * k, InstanceNumber=k) for k in range(4)]
    series = only(files)
    assert series.files == tuple(files) and series.volume
    assert series.notes == ("slice positions are missing; sorted by SliceLocation",)
    _, (affine, spacing) = find_volume(tmp_path)
    assert np.allclose(affine, np.diag([0.25, 0.5, 4.0, 1.0])) and spacing.tolist() == [0.25, 0.5, 4.0]
    assert "a slice is missing between 4.0 and 12.0 mm" in only([files[k] for k in (0, 1, 3)]).problem


def test_without_locations_slices_are_sorted_by_instance_number(tmp_path):
    files = [write(tmp_path / f"{9 - k}", kind=CTImageStorage, InstanceNumber=k) for k in range(4)]
    series = only(files)
    assert series.files == tuple(files) and series.volume
    assert series.notes[0] == "slice positions are missing; sorted by InstanceNumber"
    assert series.notes[1] == "the distance of slices or frames is unknown; taken as 1 mm"
    assert np.isnan(find_volume(tmp_path)[1][1][2])
    assert "images between InstanceNumber 1 and 3" in only([files[k] for k in (0, 1, 3)]).problem
    between = [write(tmp_path / f"b{k}", InstanceNumber=k, SpacingBetweenSlices=2.5) for k in range(3)]
    assert len(only(between).notes) == 1


def test_where_nothing_tells_the_order_there_is_no_volume(tmp_path):
    assert not only([write(tmp_path / f"{k}") for k in range(3)]).volume
    assert not only([write(tmp_path / f"n{k}", InstanceNumber=1) for k in range(3)]).volume


def test_a_few_missing_positions_are_a_problem(tmp_path):
    files = [*stack(tmp_path, [0, 3, 6]), write(tmp_path / "lost")]
    assert only(files).problem == "1 of its 4 images do not say where they lie; take them out"
    skewed = [*stack(tmp_path / "b", [0, 3, 6]), *stack(tmp_path / "c", [9], [1, 0, 0, 1, 0, 0])]
    assert "do not say where they lie" in only(skewed).problem


@pytest.mark.parametrize("spacing", [None, [0, 0], [0.5, -1]])
def test_missing_or_zero_spacing_is_noted(tmp_path, spacing):
    series = only(stack(tmp_path, [0, 3, 6], PixelSpacing=spacing))
    assert series.volume and series.problem is None
    assert series.notes == ("pixel spacing is missing or zero; taken as 1 mm",)
    _, (affine, measured) = find_volume(tmp_path)
    assert np.isnan(measured[:2]).any() and measured[2] == 3.0
    assert np.linalg.det(affine[:3, :3]) == pytest.approx(3.0 * (0.5 if spacing == [0.5, -1] else 1.0))


def test_without_a_series_uid_the_images_of_a_folder_are_a_series(tmp_path):
    files = stack(tmp_path / "a", [0, 3, 6], SeriesInstanceUID=None) + stack(
        tmp_path / "b", [0], SeriesInstanceUID=None
    )
    found, _ = find_series(files)
    assert [len(series.files) for series in found] == [3, 1]
    assert found[0].uid == "" and "SeriesInstanceUID is missing" in found[0].notes[0]


# ---- folders as they come -------------------------------------------------------------------------------------------
def test_several_series_and_patients_in_one_folder_are_kept_apart(tmp_path):
    """Careless anonymisation gives two people the same UIDs."""
    other = generate_uid()
    stack(tmp_path / "a", [0, 3])
    stack(tmp_path / "b", [0, 3, 6], SeriesInstanceUID=other)
    stack(tmp_path / "c", [0, 3, 6, 9], PatientID="0815")
    for letter in "abc":
        for path in (tmp_path / letter).iterdir():
            shutil.move(path, tmp_path / f"{letter}{path.name}")
        (tmp_path / letter).rmdir()
    found, _ = find_series(tmp_path.iterdir())
    assert [(len(s.files), s.patient, s.uid) for s in found] == [
        (2, "4711", SERIES),
        (3, "4711", other),
        (4, "0815", SERIES),
    ]
    with pytest.raises(ValueError, match="the folder holds 2 series; give each a folder of its own"):
        find_volume(tmp_path)


def test_copies_are_passed_over_and_other_images_of_the_same_uid_are_not(tmp_path):
    files = stack(tmp_path, [0, 3, 6])
    shutil.copy(files[1], tmp_path / "zcopy")
    found, unusable = find_series(tmp_path.iterdir())
    assert found[0].problem is None and len(found[0].files) == 3
    assert unusable == {tmp_path / "zcopy": "it is a copy of another file (equal SOPInstanceUID and pixels)"}
    assert len(find_volume(tmp_path)[0]) == 3
    assert found[0].copies == ((tmp_path / "zcopy", files[1]),)
    same = stack(tmp_path / "same", [0, 3, 6], SOPInstanceUID="1.2.3")  # from careless anonymisation, again
    assert len(only(same).files) == 3


def test_one_uid_for_all_makes_no_copies_of_images_with_other_pixels(tmp_path):
    files = [
        write(tmp_path / f"{k}", np.full((4, 3), k, np.uint8), DIGITAL_XRAY, SOPInstanceUID="1.2") for k in range(4)
    ]
    twin = write(tmp_path / "twin", np.full((4, 3), 2, np.uint8), DIGITAL_XRAY, SOPInstanceUID="1.2", PatientName="X")
    series, unusable = find_series([*files, twin])
    assert [one.files for one in series] == [tuple(files)]
    assert unusable == {twin: "it is a copy of another file (equal SOPInstanceUID and pixels)"}
    assert series[0].copies == ((twin, files[2]),)
    assert "its SOPInstanceUID is that of other images, too; kept, as no copy has other pixels" in series[0].notes
    other = write(
        tmp_path / "of another", np.full((4, 3), 2, np.uint8), DIGITAL_XRAY, PatientID="2", SOPInstanceUID="1.2"
    )
    assert len(find_series([files[0], other])[0]) == 2


def test_pixels_that_cannot_be_decoded_make_no_copy(tmp_path):
    files = [write(tmp_path / f"{k}", kind=DIGITAL_XRAY, SOPInstanceUID="1.2", BitsAllocated=7 + k) for k in range(2)]
    series, unusable = find_series(files)
    assert not unusable and len(series[0].files) == 2


def test_more_gaps_than_are_worth_naming_are_counted(tmp_path):
    places = [place for k in range(14) for place in (10 * k, 10 * k + 1, 10 * k + 2, 10 * k + 3)]
    problem = only(stack(tmp_path, places)).problem
    assert problem.startswith("6 slices are missing between 3.0 and 10.0 mm")
    assert problem.count("between") == 11 and problem.endswith("at 2 further places")


@pytest.mark.filterwarnings("ignore:The SOP Class 'Media Storage Directory Storage'")  # of pydicom 2
def test_what_is_no_image_is_named_and_what_is_damaged_spoils_the_folder(tmp_path):
    stack(tmp_path, [0, 3, 6])
    for name in ("reportsi.dcm", "liver_1frame.dcm", "rtdose.dcm"):
        shutil.copy(dicom_sample(name), tmp_path)
    shutil.copy(dicom_sample("dicomdirtests/DICOMDIR"), tmp_path)
    (tmp_path / "Secret^Susan.txt").write_text("hello")
    (tmp_path / ".hidden").write_text("")
    found, unusable = find_series(path for path in tmp_path.iterdir() if path.name != ".hidden")
    assert len(found) == 1
    assert {path.name: reason for path, reason in unusable.items()} == {
        "reportsi.dcm": "it holds a report, not an image",
        "liver_1frame.dcm": "it holds a segmentation, not an image",
        "rtdose.dcm": "it holds a dose distribution, not an image",
        "DICOMDIR": "it holds an index of other files (DICOMDIR) (class Media), not an image",
        "Secret^Susan.txt": "it is not a DICOM file",
    }
    assert len(find_volume(tmp_path)[0]) == 3
    (tmp_path / "IM9").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of its 9 files cannot be used: it is empty; copy it anew"):
        find_volume(tmp_path)


@pytest.mark.parametrize("at", [1, 2])
def test_a_slice_that_is_cut_short_spoils_its_volume_even_at_the_end(tmp_path, at):
    files = stack(tmp_path, [0, 3, 6])
    whole = files[at].read_bytes()
    files[at].write_bytes(whole[:-8])
    found, unusable = find_series(files)
    assert unusable == {files[at]: "it is cut short; copy it anew from its source"}
    assert found[0].problem == "1 of its 3 files are cut short; copy them anew from their source"
    assert files[at] not in found[0].files
    with pytest.raises(ValueError, match="it is cut short"):
        find_volume(tmp_path)
    (tmp_path / "Z").write_bytes(whole)  # a whole copy mends it
    assert find_series(tmp_path.iterdir())[0][0].problem is None


def test_a_damaged_header_is_told_without_its_content(tmp_path):
    path = write(tmp_path / "Secret.dcm", InstanceNumber=1)
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x10\x00US")
    path.write_bytes(content[:at] + b"\x28\x00\x10\x00DS\x04\x00Susa" + content[at + 10 :])
    _, unusable = find_series([path])
    assert unusable == {path: "it is damaged (ValueError); copy it anew from its source"}


def test_a_folder_without_images_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="the folder holds no DICOM image"):
        find_volume(tmp_path)
    assert find_series([]) == ([], {})


# ---- multi-frame files ----------------------------------------------------------------------------------------------
def enhanced(path, places, **elements):
    frames = [Dataset() for _ in places]
    for frame, place in zip(frames, places, strict=True):
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [Dataset()], [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, place]
        frame.PlaneOrientationSequence[0].ImageOrientationPatient = AXIAL
    pixels = np.zeros((len(places), 4, 3), np.uint8) if len(places) > 1 else None
    return write(path, pixels, PerFrameFunctionalGroupsSequence=frames, **elements)


def test_a_multi_frame_file_is_a_series_of_its_own(tmp_path):
    files = [enhanced(tmp_path / "1", [0, 3, 6]), enhanced(tmp_path / "2", [0, 6, 9], PixelSpacing=None)]
    found, unusable = find_series(files)
    assert not unusable
    assert [series.files for series in found] == [(file,) for file in files]
    assert not any(series.volume or series.problem for series in found)
    assert found[0].notes == ()
    assert found[1].notes == (
        "pixel spacing is missing or zero; taken as 1 mm",
        "its frames stay in their order, as they are no volume: a slice is missing between 0.0 and 6.0 mm along the "
        "slice axis (other steps: 3.0 mm)",
        "the distance of slices or frames is unknown; taken as 1 mm",
    )


def test_enhanced_files_of_one_frame_each_are_slices(tmp_path):
    files = [enhanced(tmp_path / f"{9 - k}", [3 * k], kind="1.2.840.10008.5.1.4.1.1.4.1") for k in range(3)]
    series = only(files)
    assert series.volume and series.problem is None
    assert series.files == tuple(files)


# ---- real files -----------------------------------------------------------------------------------------------------
def test_real_series_is_sorted_as_by_gdcm(real_data, tmp_path):
    import SimpleITK

    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        for name in archive.namelist():
            if name.startswith("mr_t1_7t/"):
                target = tmp_path / f"{hash(name) % 10**9}"
                target.write_bytes(archive.read(name))
    series = only(tmp_path.iterdir())
    assert series.volume and series.problem is None and series.notes == ()
    assert tuple(map(str, series.files)) == SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))


def test_pydicoms_folder_of_folders(tmp_path):
    """Two people, three modalities, a DICOMDIR, scouts, no suffixes."""
    root = dicom_sample("dicomdirtests")
    found, unusable = find_series(
        path for folder in ("77654033", "98892001", "98892003") for path in (root / folder).rglob("*") if path.is_file()
    )
    assert not unusable
    assert {series.patient for series in found} == {"77654033", "98890234"}
    shown = {f"{s.files[0].parent.parent.name}/{s.files[0].parent.name}": s for s in found}
    assert not shown["77654033/CR1"].volume
    assert shown["77654033/CT2"].problem.startswith("161 slices are missing between -99.5 and 103.0 mm")
    assert shown["98892001/CT2N"].notes == ("localizer (scout): not a slice of a volume",)
    assert (shown["98892001/CT5N"].volume, shown["98892001/CT5N"].problem) == (True, None)
    assert not shown["98892003/MR1"].volume  # three planes


# ---- names and speed ------------------------------------------------------------------------------------------------
def test_only_what_is_needed_is_read_and_no_pixels(tmp_path, monkeypatch):
    calls = []

    def read(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs)

    original = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", read)
    files = stack(tmp_path, [0, 3, 6])
    find_series(files)
    assert len(calls) == 3  # each file once
    find_volume(tmp_path)
    names = [{pydicom.datadict.keyword_for_tag(tag) for tag in call["specific_tags"]} for call in calls]
    assert all(call["stop_before_pixels"] for call in calls)
    assert "PatientID" in names[0] and "PatientID" not in names[-1]
    assert not any("Name" in name or "Birth" in name or "Date" in name for read in names for name in read)


def test_instance_uid_or_the_hash_of_the_content(tmp_path):
    assert instance_uid(write(tmp_path / "a", SOPInstanceUID="1.2.3")) == "1.2.3"
    ds = pydicom.dcmread(tmp_path / "a")
    del ds.SOPInstanceUID
    ds.save_as(tmp_path / "b")
    assert instance_uid(tmp_path / "b") == sha256(tmp_path / "b")
    (tmp_path / "c").write_text("hello")
    assert instance_uid(tmp_path / "c") == sha256(tmp_path / "c")


@pytest.mark.parametrize("name", ["image_dfl.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "examples_ybr_color.dcm"])
def test_a_whole_file_is_not_called_cut_short_whatever_its_encoding(name):
    path = dicom_sample(name)
    series, unusable = find_series([path])
    assert [one.files for one in series] == [(path,)] and unusable == {}
