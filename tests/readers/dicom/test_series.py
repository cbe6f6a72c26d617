import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from support import dicom_sample
from support_readers import AXIAL, CORONAL, DIGITAL_XRAY, SAGITTAL, SERIES, only_series, write_slice, write_stack

from medssl_monai.readers.dicom.series import find_series, find_volume

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_mixed_orientations_sizes_and_spacings_are_refused(tmp_path):
    turned = write_stack(tmp_path / "a", [0, 3, 6]) + write_stack(tmp_path / "b", [0], SAGITTAL)
    assert only_series(turned).problem.startswith("its 4 images have 2 orientations; are there localizers")
    larger = write_stack(tmp_path / "c", [0, 3]) + write_stack(tmp_path / "d", [6], pixels=np.zeros((8, 8), np.uint8))
    assert only_series(larger).problem == "its images differ in size (3 x 4, 8 x 8) or in colour; split the series"
    finer = write_stack(tmp_path / "e", [0, 3]) + write_stack(tmp_path / "f", [6], PixelSpacing=[0.4, 0.25])
    assert only_series(finer).problem == "its images differ in pixel spacing; split the series"


def test_localizers_are_set_apart_from_the_slices_planned_on_them(tmp_path):
    scout = write_stack(tmp_path, [0], CORONAL, InstanceNumber=0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    slices = write_stack(tmp_path / "rest", [0, 3, 6], ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
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


def test_radiographs_stay_images(tmp_path):
    views = [write_slice(tmp_path / f"{k}.dcm", kind=DIGITAL_XRAY, InstanceNumber=10 - k) for k in range(2)]
    series = only_series(views)
    assert not series.volume and series.problem is None
    assert series.files == tuple(reversed(views))  # by InstanceNumber
    unnumbered = [write_slice(tmp_path / "n" / f"im{k}", kind=DIGITAL_XRAY) for k in (10, 2)]
    assert only_series(unnumbered).files == tuple(reversed(unnumbered))  # im2 before im10
    assert find_volume_of(views[0], tmp_path / "single")[1] is None


def find_volume_of(path, folder):
    folder.mkdir()
    shutil.copy(path, folder)
    return find_volume(folder)


def test_without_positions_slices_are_sorted_by_slice_location(tmp_path):
    files = [write_slice(tmp_path / f"{9 - k}", SliceLocation=4.0 * k, InstanceNumber=k) for k in range(4)]
    series = only_series(files)
    assert series.files == tuple(files) and series.volume
    assert series.notes == ("slice positions are missing; sorted by SliceLocation",)
    _, (affine, spacing) = find_volume(tmp_path)
    assert np.allclose(affine, np.diag([0.25, 0.5, 4.0, 1.0])) and spacing.tolist() == [0.25, 0.5, 4.0]
    assert "a slice is missing between 4.0 and 12.0 mm" in only_series([files[k] for k in (0, 1, 3)]).problem


def test_without_locations_slices_are_sorted_by_instance_number(tmp_path):
    files = [write_slice(tmp_path / f"{9 - k}", kind=CTImageStorage, InstanceNumber=k) for k in range(4)]
    series = only_series(files)
    assert series.files == tuple(files) and series.volume
    assert series.notes[0] == "slice positions are missing; sorted by InstanceNumber"
    assert series.notes[1] == "the distance of slices or frames is unknown; taken as 1 mm"
    assert np.isnan(find_volume(tmp_path)[1][1][2])
    assert "images between InstanceNumber 1 and 3" in only_series([files[k] for k in (0, 1, 3)]).problem
    between = [write_slice(tmp_path / f"b{k}", InstanceNumber=k, SpacingBetweenSlices=2.5) for k in range(3)]
    assert len(only_series(between).notes) == 1


def test_where_nothing_tells_the_order_there_is_no_volume(tmp_path):
    assert not only_series([write_slice(tmp_path / f"{k}") for k in range(3)]).volume
    assert not only_series([write_slice(tmp_path / f"n{k}", InstanceNumber=1) for k in range(3)]).volume


def test_a_few_missing_positions_are_a_problem(tmp_path):
    files = [*write_stack(tmp_path, [0, 3, 6]), write_slice(tmp_path / "lost")]
    assert only_series(files).problem == "1 of its 4 images do not say where they lie; take them out"
    skewed = [*write_stack(tmp_path / "b", [0, 3, 6]), *write_stack(tmp_path / "c", [9], [1, 0, 0, 1, 0, 0])]
    assert "do not say where they lie" in only_series(skewed).problem


@pytest.mark.parametrize("spacing", [None, [0, 0], [0.5, -1]])
def test_missing_or_zero_spacing_is_noted(tmp_path, spacing):
    series = only_series(write_stack(tmp_path, [0, 3, 6], PixelSpacing=spacing))
    assert series.volume and series.problem is None
    assert series.notes == ("pixel spacing is missing or zero; taken as 1 mm",)
    _, (affine, measured) = find_volume(tmp_path)
    assert np.isnan(measured[:2]).any() and measured[2] == 3.0
    assert np.linalg.det(affine[:3, :3]) == pytest.approx(3.0 * (0.5 if spacing == [0.5, -1] else 1.0))


def test_without_a_series_uid_the_images_of_a_folder_are_a_series(tmp_path):
    files = write_stack(tmp_path / "a", [0, 3, 6], SeriesInstanceUID=None) + write_stack(
        tmp_path / "b", [0], SeriesInstanceUID=None
    )
    found, _ = find_series(files)
    assert [len(series.files) for series in found] == [3, 1]
    assert found[0].uid == "" and "SeriesInstanceUID is missing" in found[0].notes[0]


def test_several_series_and_patients_in_one_folder_are_kept_apart(tmp_path):
    """Careless anonymisation gives two people the same UIDs."""
    other = generate_uid()
    write_stack(tmp_path / "a", [0, 3])
    write_stack(tmp_path / "b", [0, 3, 6], SeriesInstanceUID=other)
    write_stack(tmp_path / "c", [0, 3, 6, 9], PatientID="0815")
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
    files = write_stack(tmp_path, [0, 3, 6])
    shutil.copy(files[1], tmp_path / "zcopy")
    found, unusable = find_series(tmp_path.iterdir())
    assert found[0].problem is None and len(found[0].files) == 3
    assert unusable == {tmp_path / "zcopy": "it is a copy of another file (equal SOPInstanceUID and pixels)"}
    assert len(find_volume(tmp_path)[0]) == 3
    assert found[0].copies == ((tmp_path / "zcopy", files[1]),)
    same = write_stack(tmp_path / "same", [0, 3, 6], SOPInstanceUID="1.2.3")  # from careless anonymisation, again
    assert len(only_series(same).files) == 3


def test_one_uid_for_all_makes_no_copies_of_images_with_other_pixels(tmp_path):
    files = [
        write_slice(tmp_path / f"{k}", np.full((4, 3), k, np.uint8), DIGITAL_XRAY, SOPInstanceUID="1.2")
        for k in range(4)
    ]
    twin = write_slice(
        tmp_path / "twin", np.full((4, 3), 2, np.uint8), DIGITAL_XRAY, SOPInstanceUID="1.2", PatientName="X"
    )
    series, unusable = find_series([*files, twin])
    assert [one.files for one in series] == [tuple(files)]
    assert unusable == {twin: "it is a copy of another file (equal SOPInstanceUID and pixels)"}
    assert series[0].copies == ((twin, files[2]),)
    assert "its SOPInstanceUID is that of other images, too; kept, as no copy has other pixels" in series[0].notes
    other = write_slice(
        tmp_path / "of another", np.full((4, 3), 2, np.uint8), DIGITAL_XRAY, PatientID="2", SOPInstanceUID="1.2"
    )
    assert len(find_series([files[0], other])[0]) == 2


def test_pixels_that_cannot_be_decoded_make_no_copy(tmp_path):
    files = [
        write_slice(tmp_path / f"{k}", kind=DIGITAL_XRAY, SOPInstanceUID="1.2", BitsAllocated=7 + k) for k in range(2)
    ]
    series, unusable = find_series(files)
    assert not unusable and len(series[0].files) == 2


def test_a_folder_without_images_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="the folder holds no DICOM image"):
        find_volume(tmp_path)
    assert find_series([]) == ([], {})


def enhanced(path, places, **elements):
    frames = [Dataset() for _ in places]
    for frame, place in zip(frames, places, strict=True):
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [Dataset()], [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, place]
        frame.PlaneOrientationSequence[0].ImageOrientationPatient = AXIAL
    pixels = np.zeros((len(places), 4, 3), np.uint8) if len(places) > 1 else None
    return write_slice(path, pixels, PerFrameFunctionalGroupsSequence=frames, **elements)


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
    series = only_series(files)
    assert series.volume and series.problem is None
    assert series.files == tuple(files)


def test_real_series_is_sorted_as_by_gdcm(real_data, tmp_path):

    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        for name in archive.namelist():
            if name.startswith("mr_t1_7t/"):
                target = tmp_path / f"{hash(name) % 10**9}"
                target.write_bytes(archive.read(name))
    series = only_series(tmp_path.iterdir())
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
