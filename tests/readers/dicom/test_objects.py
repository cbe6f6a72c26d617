import shutil

import pydicom
import pytest
import torch
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, generate_uid
from support import dicom_sample, save_dicom
from support_readers import load_image, patient_dicom, write_stack

from medssl_monai.readers.decoders import count_slices
from medssl_monai.readers.dicom import objects as objects_module
from medssl_monai.readers.dicom.series import find_series, find_volume
from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_a_file_that_does_not_name_its_syntax_reads(tmp_path, picture):
    """Old exports are a bare data set: no preamble, no header."""
    path = patient_dicom(tmp_path / "a.dcm", picture)
    ds = pydicom.dcmread(path)
    content = {element.tag: element for element in ds}
    for name, implicit in (("implicit.dcm", True), ("explicit.dcm", False)):
        FileDataset(name, content, is_implicit_VR=implicit).save_as(str(tmp_path / name))
        assert torch.equal(load_image(tmp_path / name)[0].as_tensor(), torch.from_numpy(picture.T).float())


def test_no_patient_data_leaves_the_file(tmp_path, picture):
    path = patient_dicom(tmp_path / "a.dcm", picture)
    assert "PatientName" not in objects_module.open_dicom(path, pixels=True)
    assert "Secret" not in str(load_image(path).meta)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 60_000, "Columns": 60_000}, "holds 3,600,000,000 pixels"),
        ({"NumberOfFrames": 2_000_000_000}, "it says that it has 2000000000 frames"),
        ({"NumberOfFrames": -3}, "it says that it has -3 frames"),
        ({"Rows": 0}, "it is damaged"),
        ({"SamplesPerPixel": 65_000, "Rows": 65_000}, "pixels or voxels"),
    ],
)
def test_what_a_dicom_header_says_is_checked_before_memory_is_taken(tmp_path, picture, elements, message):
    path = patient_dicom(tmp_path / "a.dcm", picture, **elements)
    for use in (load_image, count_slices):
        with pytest.raises(UnreadableImageError, match=message):
            use(path)


def test_a_deflated_file_that_unpacks_without_end_is_refused(tmp_path, picture, monkeypatch):
    whole = dicom_sample("image_dfl.dcm")
    assert load_image(whole).shape == (1, 512, 512)
    monkeypatch.setattr(objects_module, "MOST_INFLATED", 2**16)
    with pytest.raises(UnreadableImageError, match="it unpacks to more than"):
        load_image(whole)


@pytest.mark.parametrize(
    ("uid", "modality", "held"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", "a segmentation"),
        ("1.2.840.10008.5.1.4.1.1.66.5", None, r"a segmentation \(class Surface Segmentation\)"),
        (CTImageStorage, "SEG", "a segmentation"),  # the class was lost on the way
        ("1.2.840.10008.5.1.4.1.1.11.1", "CT", "Presentation State"),
        ("1.2.840.10008.5.1.4.1.1.88.33", None, "Comprehensive SR"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE", "a dose distribution"),
        ("1.2.840.10008.5.1.4.1.1.481.5", None, "RT Plan"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG", "a waveform"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "OT", "Encapsulated PDF"),
    ],
)
def test_a_dicom_object_that_is_no_image_is_not_read_although_it_has_pixels(tmp_path, picture, uid, modality, held):
    path = save_dicom(
        tmp_path / "a.dcm", picture, "MONOCHROME2", SOPClassUID=uid, SOPInstanceUID=generate_uid(), Modality=modality
    )
    for use in (load_image, count_slices):
        with pytest.raises(UnreadableImageError, match=rf"it holds .*{held}.*, not an image"):
            use(path)


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.1.1.481.1", "1.2.840.10008.5.1.4.1.1.6.2", "1.2.3.4"])
def test_images_of_the_beam_enhanced_ultrasound_and_classes_that_nobody_knows_are_images(tmp_path, picture, uid):
    path = save_dicom(tmp_path / "a.dcm", picture, "MONOCHROME2", SOPClassUID=uid, SOPInstanceUID=generate_uid())
    assert load_image(path).shape == (1, 6, 8)


@pytest.mark.filterwarnings("ignore:The SOP Class 'Media Storage Directory Storage'")  # of pydicom 2
def test_what_is_no_image_is_named_and_what_is_damaged_spoils_the_folder(tmp_path):
    write_stack(tmp_path, [0, 3, 6])
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
