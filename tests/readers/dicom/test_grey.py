import numpy as np
import pydicom
import pytest
import torch
from pydicom import Dataset
from pydicom.uid import RLELossless
from support import dicom_sample
from support_readers import itk_pixels, load_image, patient_dicom

from medssl_monai.readers.dicom.pixels import processing

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (15, False), (8, True), (16, True), (16, False)])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_monochrome1_is_inverted_once_within_the_range_that_can_be_stored(tmp_path, bits, signed, syntax):
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    pixels = np.random.default_rng(0).integers(0, 2 ** (bits - signed), (24, 18)).astype(dtype)
    pixels[0, :2] = 0, 2 ** (bits - signed) - 1
    path = patient_dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", bits)
    if syntax:
        ds = pydicom.dcmread(path)
        ds.compress(syntax)
        ds.save_as(path)
    expected = torch.tensor((-1 if signed else 2**bits - 1) - pixels.astype(np.int32)).T.float()
    assert torch.equal(load_image(path)[0].as_tensor(), expected)
    assert np.array_equal(itk_pixels(path)[0, ..., 0], expected.numpy())  # the independent reader inverts, too


def test_a_radiograph_of_15_bits_without_spacing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**15, (9, 7)).astype(np.uint16)
    for spacing in ("0.000\\0.000", None):
        elements = {"PixelSpacing": [0.0, 0.0]} if spacing else {}
        image = load_image(patient_dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", 15, Modality="DX", **elements))
        assert torch.equal(image[0].as_tensor(), torch.tensor(2**15 - 1 - pixels.T.astype(np.int32)).float())
        assert np.isnan(image.meta["spacing"]).all()
        assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64))


def test_rescale_follows_the_inversion(tmp_path):
    pixels = np.array([[0, 10], [20, 255]], dtype=np.uint8)
    path = patient_dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", RescaleSlope=2, RescaleIntercept=-100)
    assert torch.equal(
        load_image(path)[0].as_tensor(), torch.tensor(2.0 * (255 - pixels.T.astype(float)) - 100).float()
    )
    path = patient_dicom(
        tmp_path / "b.dcm", pixels, RescaleSlope=0, RescaleIntercept=5
    )  # no slope would erase the image
    assert torch.equal(load_image(path)[0].as_tensor(), torch.tensor(pixels.T.astype(float) + 5).float())


def lut(first, bits, values, words=False):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", *(("OW", np.array(values, "<u2").tobytes()) if words else ("US", values)))
    return [item]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_modality_table_is_looked_up_before_the_inversion(tmp_path, photometric):
    pixels = np.array([[0, 1], [2, 9]], dtype=np.uint8)  # the table begins at 1 and ends at 3
    path = patient_dicom(tmp_path / "a.dcm", pixels, photometric, ModalityLUTSequence=lut(1, 10, [5, 500, 1000]))
    expected = np.array([[5, 5], [500, 1000]])
    expected = 1023 - expected if photometric == "MONOCHROME1" else expected
    assert torch.equal(load_image(path)[0].as_tensor(), torch.tensor(expected.T).float())


@pytest.mark.parametrize("first", [-4, 2**16 - 4])  # the same 16 bits, of the two types that they may have
def test_modality_table_of_words_and_of_signed_pixels_is_that_of_pydicom(tmp_path, first):
    pixels = np.arange(-5, 3, dtype=np.int16).reshape(2, 4)
    table = lut(-4, 16, [9, 99, 999, 9999], words=True)
    path = patient_dicom(tmp_path / "a.dcm", pixels, ModalityLUTSequence=table)
    ds = pydicom.dcmread(path)
    expected = processing.apply_modality_lut(ds.pixel_array, ds)
    path = patient_dicom(path, pixels, ModalityLUTSequence=lut(first, 16, [9, 99, 999, 9999], words=True))
    assert torch.equal(load_image(path)[0].as_tensor(), torch.tensor(expected.T.astype(float)).float())
    assert load_image(path).max() == 9999


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_display_window_is_that_of_pydicom_and_off_by_default(tmp_path, function, photometric):
    pixels = np.random.default_rng(0).integers(0, 4096, (9, 7)).astype(np.uint16)
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [800, 0], "WindowWidth": [1500, 1]}
    if function:
        elements["VOILUTFunction"] = function
    path = patient_dicom(tmp_path / "a.dcm", pixels, photometric, 12, **elements)
    ds = pydicom.dcmread(path)
    shown = processing.apply_windowing(processing.apply_modality_lut(ds.pixel_array, ds), ds)
    low, high = -1000, 2 * 4095 - 1000  # pydicom stretches the window over this range
    expected = (shown - low) / (high - low)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    image = load_image(path, display_window=True)
    assert np.allclose(image[0].numpy(), expected.T, atol=1e-5)
    assert 0 <= image.min() < 0.1 and 0.9 < image.max() <= 1
    assert load_image(path).max() > 1000


def test_display_table_and_a_file_that_suggests_nothing(tmp_path):
    pixels = np.array([[0, 100], [101, 255]], dtype=np.uint8)
    path = patient_dicom(
        tmp_path / "a.dcm", pixels, VOILUTSequence=lut(100, 8, [0, 255]), WindowCenter=1, WindowWidth=2
    )
    assert load_image(path, display_window=True)[0].tolist() == [[0, 1], [0, 1]]
    path = patient_dicom(tmp_path / "b.dcm", pixels, "MONOCHROME1", RescaleSlope=-1, RescaleIntercept=3)
    assert torch.allclose(load_image(path, display_window=True)[0].as_tensor(), torch.tensor(pixels.T / 255.0).float())
    colour = load_image(dicom_sample("SC_rgb_rle.dcm"), display_window=True)
    assert torch.equal(colour.as_tensor(), load_image(dicom_sample("SC_rgb_rle.dcm")).as_tensor())
