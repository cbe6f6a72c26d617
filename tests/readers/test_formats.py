from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from support_readers import load_image, patient_dicom

from medssl_monai.readers.decoders import count_slices
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize("kind", ["png", "jpg", "nii.gz", "dcm"])
def test_truncated_file_names_the_file_and_what_to_do(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind == "nii.gz":
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    elif kind == "dcm":
        patient_dicom(path, noise)
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"a\.{kind} cannot be read as .* copy it anew") as error:
        ClinicalReader().get_data([path])
    assert "Secret" not in str(error.value)
    with pytest.raises(ValueError, match="copy it anew"):  # and no other reader of MONAI's steps in
        load_image(path)


@pytest.mark.filterwarnings("ignore")  # of what pydicom finds in garbage
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["txt", "png", "jpg", "nii", "nii.gz", "dcm"])
def test_the_reason_names_neither_file_nor_folder(tmp_path, monkeypatch, kind, relative):
    folder = tmp_path / "Secret'Susan"
    folder.mkdir()
    path = folder / f"Susan 4711.{kind}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    if kind in ("nii", "nii.gz"):
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    elif kind == "dcm":
        patient_dicom(path, noise)
    elif kind != "txt":
        Image.fromarray(noise).save(path)
    whole = path.read_bytes() if path.exists() else b""
    monkeypatch.chdir(folder)
    path = Path(path.name) if relative else path
    for content in (b"", b"garbage" * 99, whole[: len(whole) * 2 // 3]):
        path.write_bytes(content)
        with pytest.raises(UnreadableImageError) as error:
            ClinicalReader().get_data([path])
        assert error.value.path == path
        assert "Susan" not in error.value.reason and "4711" not in error.value.reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hello", "neither PNG, JPEG, NIfTI nor DICOM"),
        ("a.png", b"", "cannot be read as PNG"),
        ("a.dcm", b"garbage" * 100, "cannot be read as DICOM"),
        ("a.nii.gz", b"garbage", "cannot be read as NIfTI"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it finds in garbage
def test_no_image(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_image(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        count_slices(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.dcm"])
def test_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is no file .*{name}"):
        load_image(tmp_path / name)


def test_formats_are_told_apart_by_content(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert image_format(tmp_path / "a.jpg") == "PNG"
    patient_dicom(tmp_path / "without_suffix", picture)
    assert image_format(tmp_path / "without_suffix") == "DICOM"
    (tmp_path / "notes.txt").write_text("hello")
    assert image_format(tmp_path / "notes.txt") is None
    assert ClinicalReader().verify_suffix([tmp_path / "a.jpg", tmp_path / "without_suffix"])
    assert not ClinicalReader().verify_suffix(str(tmp_path / "notes.txt"))


def test_a_dicom_file_without_preamble_is_known_by_its_content(tmp_path, picture):
    whole = patient_dicom(tmp_path / "whole.dcm", picture)
    (tmp_path / "bare").write_bytes(whole.read_bytes()[132:])
    assert image_format(tmp_path / "bare") == "DICOM"
    assert torch.equal(load_image(tmp_path / "bare").as_tensor(), load_image(whole).as_tensor())
