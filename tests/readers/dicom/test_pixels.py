import zipfile
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from pydicom.encaps import encapsulate
from support import dicom_sample
from support_readers import itk_pixels, load_image, patient_dicom

from medssl_monai.readers.dicom import pixels as pixels_module
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", None),  # no plug-in here: SimpleITK decodes
        ("MR_small_jp2klossless.dcm", None),
        ("MR_small_jp2klossless.dcm", RuntimeError("all plugins are missing dependencies")),
        ("MR_small_jp2klossless.dcm", OverflowError("a plug-in that fails")),
    ],
)
def test_compressed_monochrome1_is_inverted_once_whoever_decodes(tmp_path, monkeypatch, name, failure):
    ds = pydicom.dcmread(dicom_sample(name))
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.RescaleSlope, ds.RescaleIntercept = 2, -10
    ds.save_as(tmp_path / "a.dcm")
    if failure:
        monkeypatch.setattr(pixels_module, "_decode_with_pydicom", Mock(side_effect=failure))
    image = load_image(tmp_path / "a.dcm")
    stored = pydicom.dcmread(dicom_sample("MR_small.dcm")).pixel_array
    assert torch.equal(image[0].as_tensor(), torch.tensor(2.0 * (-1 - stored.T.astype(np.int32)) - 10).float())
    assert np.array_equal(itk_pixels(tmp_path / "a.dcm")[..., 0], image.numpy())


def test_the_copy_for_simpleitk_holds_stored_values_and_no_person(monkeypatch):
    seen = []

    def spy(path):
        seen.append(pydicom.dcmread(path))
        return original(path)

    original = SimpleITK.ReadImage
    monkeypatch.setattr(SimpleITK, "ReadImage", spy)
    load_image(dicom_sample("MR_small_jpeg_ls_lossless.dcm"))
    assert len(seen) == 1
    assert {element.tag.group for element in seen[0]} == {0x0008, 0x0028, 0x7FE0}
    assert [element.keyword for element in seen[0].group_dataset(0x0008)] == ["SOPClassUID", "SOPInstanceUID"]


def test_tiny_real_monochrome1_radiographs_read():
    path = dicom_sample("dicomdirtests/77654033/CR1/6154")
    assert image_format(path) == "DICOM"
    assert load_image(path).shape[0] == 1


@pytest.mark.parametrize(
    "suffix", ["_implicit", "_bigendian", "_expb", "_RLE", "_jp2klossless", "_padded", "_jpeg_ls_lossless"]
)
@pytest.mark.filterwarnings("ignore:The .*8320 bytes")
def test_every_transfer_syntax_gives_the_same_pixels(suffix):
    expected = load_image(dicom_sample("MR_small.dcm"))
    image = load_image(dicom_sample(f"MR_small{suffix}.dcm"))
    assert torch.equal(image.as_tensor(), expected.as_tensor())
    assert image.meta["spacing"] == expected.meta["spacing"] == (0.3125, 0.3125)


def test_enhanced_mr_in_five_syntaxes_gives_equal_frames(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("mr_enhanced/")]
        volumes = [load_image(archive.extract(name, tmp_path)) for name in names]
    assert len(volumes) == 5
    for volume in volumes:
        assert volume.shape == (1, 64, 64, 10)
        assert torch.equal(volume.as_tensor(), volumes[0].as_tensor())
    assert np.array_equal(volumes[0].numpy(), itk_pixels(tmp_path / "mr_enhanced" / "emri_small.dcm"))


def test_compressed_ct_is_in_hounsfield_units():
    image = load_image(dicom_sample("693_J2KI.dcm"))
    assert image.min() == -2971 - 1024
    assert image.meta["spacing"] == pytest.approx((0.478516, 0.478516))


def test_wrong_sign_flag_is_tolerated():
    assert load_image(dicom_sample("J2K_pixelrep_mismatch.dcm")).min() == -2000


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("examples_palette.dcm", (3, 800, 350)),
        ("examples_rgb_color.dcm", (3, 320, 240)),
        ("examples_ybr_color.dcm", (3, 320, 240, 30)),
        ("examples_jpeg2k.dcm", (3, 640, 480)),
        ("SC_ybr_full_422_uncompressed.dcm", (3, 100, 100)),
        ("SC_rgb_rle_2frame.dcm", (3, 100, 100, 2)),
        ("JPGExtended.dcm", (1, 256, 1024)),  # 12 bit: SimpleITK
        ("image_dfl.dcm", (1, 512, 512)),  # deflated
    ],
)
def test_colour_and_odd_encodings(name, shape):
    image = load_image(dicom_sample(name))
    assert image.shape == shape
    assert image.max() <= 255 or name == "JPGExtended.dcm"
    assert (
        np.abs(image.numpy() - itk_pixels(dicom_sample(name)).reshape(shape)).max() <= 3
    )  # lossy decoders differ by rounding


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "examples_overlay.dcm"]
)
def test_grey_pixels_are_those_of_an_independent_reader(name):
    """Overlays are not drawn, and what a file says of its sign is not believed against the code stream."""
    assert np.array_equal(load_image(dicom_sample(name)).numpy(), itk_pixels(dicom_sample(name))[..., 0])


def test_an_overlay_in_the_bits_above_the_image_is_not_drawn(tmp_path):
    pixels = np.arange(48, dtype=np.uint16).reshape(8, 6) * 80
    path = patient_dicom(tmp_path / "a.dcm", pixels, bits=12)
    ds = pydicom.dcmread(path)
    ds.PixelData = (pixels | np.uint16(0x1000)).tobytes()
    ds.save_as(path)
    assert torch.equal(load_image(path)[0].as_tensor(), torch.tensor(pixels.T.astype(np.int32)).float())


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm"])
@pytest.mark.parametrize("share", [0.67, 0.99])  # SimpleITK would read an RLE frame that lacks its last bytes
def test_truncated_compressed_dicom_is_refused_by_both_decoders(tmp_path, name, share):
    ds = pydicom.dcmread(dicom_sample(name))
    frame = ds.PixelData[ds.PixelData.index(b"\xfe\xff\x00\xe0", 4) + 8 :]  # one item after the table of offsets
    ds["PixelData"].value = encapsulate([frame[: int(len(frame) * share)]])
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="copy it anew"):
        load_image(tmp_path / "a.dcm")
    content = dicom_sample(name).read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="copy it anew"):
        load_image(tmp_path / "b.dcm")


def test_truncated_file_of_pydicom():
    with pytest.raises(ValueError, match=r"MR_truncated\.dcm cannot be read as DICOM .*8130 .*8192 bytes"):
        load_image(dicom_sample("MR_truncated.dcm"))


@pytest.mark.parametrize(
    ("name", "place", "size"),
    [("JPGExtended.dcm", b"\xff\xc1\x00", 2), ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 4)],
)
def test_a_compressed_picture_of_another_size_than_its_header_says_is_refused(tmp_path, name, place, size):
    content = bytearray(dicom_sample(name).read_bytes())
    at = content.index(place) + (5 if size == 2 else 8)
    content[at : at + 2 * size] = (60_000).to_bytes(size) * 2
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="pixels, its picture 60000 x 60000; it is damaged"):
        load_image(tmp_path / "a.dcm")


@pytest.mark.filterwarnings("ignore")
def test_a_part_of_a_compressed_picture_that_is_longer_than_the_file_is_not_made_room_for(tmp_path, monkeypatch):
    content = dicom_sample("MR_small_jpeg_ls_lossless.dcm").read_bytes()
    at = content.rindex(b"\xfe\xff\x00\xe0") + 4
    (tmp_path / "a.dcm").write_bytes(content[:at] + (2**32 - 16).to_bytes(4, "little") + content[at + 4 :])
    monkeypatch.setattr(pixels_module, "_decode_with_itk", Mock(side_effect=AssertionError))
    with pytest.raises(UnreadableImageError, match="cannot be read as DICOM"):
        load_image(tmp_path / "a.dcm")
