import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from monai.transforms import Compose, LoadImaged
from support_readers import itk_affine, load_image, patient_dicom

from medssl_monai.readers.decoders import count_slices
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError
from medssl_monai.transforms.load import TakeSliced

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_a_folder_of_one_series_is_a_volume_whose_slices_are_its_files(series):
    folder, pixels = series
    assert image_format(folder) == "DICOM"
    assert count_slices(folder) == 5
    volume = load_image(folder)
    assert volume.shape == (1, 6, 8, 5)
    assert volume.meta["spacing"] == pytest.approx((0.25, 0.5, 3.0))
    for k, name in enumerate("dbeca"):
        assert torch.equal(volume[..., k].as_tensor(), load_image(folder / name).as_tensor())
        assert torch.equal(volume[0, ..., k].as_tensor(), torch.tensor((k + 1) * pixels[k].T.astype(float)).float())
        ds = pydicom.dcmread(folder / name)
        row, column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        corner = np.array(ds.ImagePositionPatient, float) + 5 * 0.25 * row + 7 * 0.5 * column
        assert np.allclose(volume.affine.numpy() @ [5, 7, k, 1], [-corner[0], -corner[1], corner[2], 1])
    shown = load_image(folder, display_window=True)
    assert torch.equal(shown[..., 2].as_tensor(), load_image(folder / "e", display_window=True).as_tensor())
    assert shown.max() <= 1
    cut = Compose([LoadImaged("image", reader=ClinicalReader(), ensure_channel_first=True), TakeSliced("image")])
    assert torch.equal(
        cut({"image": str(folder), "slice": 3})["image"].as_tensor(), load_image(folder / "c").as_tensor()
    )


def test_real_series_has_the_pixels_and_the_affine_of_simpleitk(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        for name in archive.namelist():
            if name.startswith("mr_t1_7t/"):
                archive.extract(name, tmp_path)
    folder = tmp_path / "mr_t1_7t"
    expected = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    for k, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"IM{37 * k % 64}")
    volume = load_image(folder)
    assert volume.shape == (1, 274, 384, 64)
    assert np.array_equal(volume[0].numpy(), SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0))
    assert np.allclose(volume.affine, itk_affine(expected), atol=1e-6)
    assert volume.meta["spacing"] == pytest.approx(expected.GetSpacing())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "e").unlink(), "a slice is missing between -3[0-9.]+ and -3[0-9.]+ mm"),
        (lambda folder: (folder / "b").write_bytes((folder / "b").read_bytes()[:-60]), "it is cut short"),
        (lambda folder: patient_dicom(folder / "f", np.zeros((8, 6), np.uint8)), "the folder holds 2 series"),
        (lambda folder: [path.write_text("no") for path in folder.iterdir()], "neither PNG, JPEG, NIfTI nor DICOM"),
        (lambda folder: (folder / "z").write_bytes(b""), "1 of its 6 files cannot be used: it is empty"),
    ],
)
def test_a_folder_that_is_no_volume_is_refused_without_its_path_in_the_reason(series, change, message):
    folder, _ = series
    change(folder)
    for use in (count_slices, lambda path: ClinicalReader().get_data([path])):
        with pytest.raises(UnreadableImageError, match=message) as error:
            use(folder)
        assert error.value.path == folder
        assert "Secret" not in error.value.reason and "T2" not in error.value.reason
        assert "Susan" not in error.value.reason and "4711" not in error.value.reason


def test_a_slice_that_cannot_be_decoded_is_the_path_of_the_error(series, monkeypatch):
    folder, _ = series
    ds = pydicom.dcmread(folder / "c")
    ds.PhotometricInterpretation = "MONOCHROME7"
    del ds.BitsStored
    ds.save_as(folder / "c")
    with pytest.raises(UnreadableImageError, match="cannot be read as DICOM") as error:
        ClinicalReader().get_data([folder])
    assert error.value.path == folder / "c"
    assert str(folder) not in error.value.reason


def test_a_folder_of_a_single_file_reads_as_the_file(tmp_path, picture):
    (tmp_path / "one").mkdir()
    path = patient_dicom(tmp_path / "one" / "a", picture)
    assert torch.equal(load_image(tmp_path / "one").as_tensor(), load_image(path).as_tensor())
    assert count_slices(tmp_path / "one") is None
    patient_dicom(path, np.stack([picture] * 3))
    assert count_slices(tmp_path / "one") == 3
    assert load_image(tmp_path / "one").shape == (1, 6, 8, 3)
