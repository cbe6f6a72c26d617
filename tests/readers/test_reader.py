import gzip
import os
import pickle
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor, PydicomReader
from monai.transforms import Compose, GaussianSmooth, LoadImaged, SaveImage, Spacingd
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, RLELossless, generate_uid
from support import dicom_sample as sample
from support import save_dicom

from medssl_monai.readers.decoders import DECODERS, count_slices, header_notes, nonfinite
from medssl_monai.readers.dicom import objects as objects_module
from medssl_monai.readers.dicom import pixels as pixels_module
from medssl_monai.readers.dicom import volumes
from medssl_monai.readers.dicom.pixels import processing
from medssl_monai.readers.formats import image_format
from medssl_monai.readers.nifti import PIXDIM, QFORM
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.readers.refusals import UnreadableImageError
from medssl_monai.transforms.load import TakeSliced

AXIAL = [1, 0, 0, 0, 1, 0]
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def load(path, **options):
    loader = LoadImaged("image", reader=ClinicalReader(**options), image_only=True, ensure_channel_first=True)
    return loader({"image": str(path)})["image"]


def itk(path):
    """Pixels by an independent reader, as (C, x, y, z)."""
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(float)
    return array.reshape(*array.shape[:3], -1).transpose(3, 2, 1, 0)


def itk_affine(image):
    """To RAS, of an image of SimpleITK."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


def dicom(path, pixels, photometric="MONOCHROME2", bits=None, **elements):
    """Write `pixels` (rows, columns) or (frames, rows, columns) as a DICOM file with a patient in it."""
    person = {"PatientName": "Secret^Susan", "PatientID": "4711", "PatientBirthDate": "19600101"}
    uids = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid()}
    return save_dicom(path, pixels, photometric, bits, **person, **uids, **elements)


@pytest.fixture
def picture():
    """Eight rows, six columns: no symmetry hides a flip or a swap."""
    return np.arange(48, dtype=np.uint8).reshape(8, 6) * 3


def test_one_convention_png_dicom_and_nifti_give_the_same_pixels(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    dicom(tmp_path / "a.dcm", picture)
    nib.save(nib.Nifti1Image(picture.T[..., None], np.diag([-1, -1, 1, 1])), tmp_path / "a.nii.gz")
    for name in ("a.png", "a.dcm", "a.nii.gz"):
        image = load(tmp_path / name)
        assert isinstance(image, MetaTensor)
        assert image.shape == (1, 6, 8), name
        assert torch.equal(image[0], torch.from_numpy(picture.T).float()), name
        assert image.meta["original_channel_dim"] == 0
        assert image.meta["spatial_shape"] == (6, 8)


def test_axes_are_those_of_monais_own_dicom_reader():
    path = sample("CT_small.dcm")
    monai = LoadImaged("image", reader=PydicomReader(), image_only=True, ensure_channel_first=True)({"image": path})
    assert torch.equal(load(path).as_tensor(), monai["image"].as_tensor())


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "PSR", "LAS"])
def test_axial_slice_of_a_nifti_volume_equals_the_dicom_file_of_that_slice(tmp_path, axcodes):
    volume = np.random.default_rng(0).integers(0, 2000, (7, 6, 5)).astype(np.int16)  # z, y, x as a scanner sends it
    spacing = (0.5, 0.75, 3.0)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # x to the left, y to the back, z up, in RAS
    image = nib.Nifti1Image(volume.transpose(2, 1, 0), affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(axcodes)))
    nib.save(image.as_reoriented(turn), tmp_path / "volume.nii.gz")
    cut = Compose([LoadImaged("image", reader=ClinicalReader(), ensure_channel_first=True), TakeSliced("image")])
    assert count_slices(tmp_path / "volume.nii.gz") == 7
    for k in (0, 4):
        path = dicom(
            tmp_path / f"{k}.dcm",
            volume[k],
            PixelSpacing=[spacing[1], spacing[0]],
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, spacing[2] * k],
        )
        slice_of_volume, file = cut({"image": str(tmp_path / "volume.nii.gz"), "slice": k})["image"], load(path)
        assert torch.equal(slice_of_volume.as_tensor(), file.as_tensor())
        assert torch.allclose(slice_of_volume.affine, file.affine)
        assert slice_of_volume.meta["spacing"] == pytest.approx(file.meta["spacing"])


def test_a_mask_of_a_turned_volume_is_saved_on_the_grid_of_its_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(("P", "S", "R")), (4, 5, 6))
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "mask.nii.gz")
    image = load(tmp_path / "mask.nii.gz")
    assert image.shape != (1, 4, 5, 6)
    SaveImage(tmp_path, output_postfix="out", resample=True, separate_folder=False, mode="nearest", print_log=False)(
        image
    )
    saved = nib.load(tmp_path / "mask_out.nii.gz")
    assert np.array_equal(np.asanyarray(saved.dataobj), values)
    assert np.allclose(saved.affine, affine)


def test_smoothing_works_on_what_the_loader_yields(tmp_path, picture):
    """MONAI 1.6: a declared missing channel makes `GaussianSmooth` smooth over channel and x."""
    Image.fromarray(picture).save(tmp_path / "a.png")
    image = load(tmp_path / "a.png")
    assert image.spatial_ndim == 2
    assert GaussianSmooth(1.0)(image).shape == (1, 6, 8)
    volume = load(dicom(tmp_path / "a.dcm", np.stack([picture] * 4)))
    assert GaussianSmooth(1.0)(volume).shape == (1, 6, 8, 4)


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (15, False), (8, True), (16, True), (16, False)])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_monochrome1_is_inverted_once_within_the_range_that_can_be_stored(tmp_path, bits, signed, syntax):
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    pixels = np.random.default_rng(0).integers(0, 2 ** (bits - signed), (24, 18)).astype(dtype)
    pixels[0, :2] = 0, 2 ** (bits - signed) - 1
    path = dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", bits)
    if syntax:
        ds = pydicom.dcmread(path)
        ds.compress(syntax)
        ds.save_as(path)
    expected = torch.tensor((-1 if signed else 2**bits - 1) - pixels.astype(np.int32)).T.float()
    assert torch.equal(load(path)[0].as_tensor(), expected)
    assert np.array_equal(itk(path)[0, ..., 0], expected.numpy())  # the independent reader inverts, too


def test_a_radiograph_of_15_bits_without_spacing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**15, (9, 7)).astype(np.uint16)
    for spacing in ("0.000\\0.000", None):
        elements = {"PixelSpacing": [0.0, 0.0]} if spacing else {}
        image = load(dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", 15, Modality="DX", **elements))
        assert torch.equal(image[0].as_tensor(), torch.tensor(2**15 - 1 - pixels.T.astype(np.int32)).float())
        assert np.isnan(image.meta["spacing"]).all()
        assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64))


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
    ds = pydicom.dcmread(sample(name))
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.RescaleSlope, ds.RescaleIntercept = 2, -10
    ds.save_as(tmp_path / "a.dcm")
    if failure:
        monkeypatch.setattr(pixels_module, "_decode_with_pydicom", Mock(side_effect=failure))
    image = load(tmp_path / "a.dcm")
    stored = pydicom.dcmread(sample("MR_small.dcm")).pixel_array
    assert torch.equal(image[0].as_tensor(), torch.tensor(2.0 * (-1 - stored.T.astype(np.int32)) - 10).float())
    assert np.array_equal(itk(tmp_path / "a.dcm")[..., 0], image.numpy())


def test_the_copy_for_simpleitk_holds_stored_values_and_no_person(monkeypatch):
    seen = []

    def spy(path):
        seen.append(pydicom.dcmread(path))
        return original(path)

    original = SimpleITK.ReadImage
    monkeypatch.setattr(SimpleITK, "ReadImage", spy)
    load(sample("MR_small_jpeg_ls_lossless.dcm"))
    assert len(seen) == 1
    assert {element.tag.group for element in seen[0]} == {0x0008, 0x0028, 0x7FE0}
    assert [element.keyword for element in seen[0].group_dataset(0x0008)] == ["SOPClassUID", "SOPInstanceUID"]


def test_rescale_follows_the_inversion(tmp_path):
    pixels = np.array([[0, 10], [20, 255]], dtype=np.uint8)
    path = dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", RescaleSlope=2, RescaleIntercept=-100)
    assert torch.equal(load(path)[0].as_tensor(), torch.tensor(2.0 * (255 - pixels.T.astype(float)) - 100).float())
    path = dicom(tmp_path / "b.dcm", pixels, RescaleSlope=0, RescaleIntercept=5)  # no slope would erase the image
    assert torch.equal(load(path)[0].as_tensor(), torch.tensor(pixels.T.astype(float) + 5).float())


def lut(first, bits, values, words=False):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", *(("OW", np.array(values, "<u2").tobytes()) if words else ("US", values)))
    return [item]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_modality_table_is_looked_up_before_the_inversion(tmp_path, photometric):
    pixels = np.array([[0, 1], [2, 9]], dtype=np.uint8)  # the table begins at 1 and ends at 3
    path = dicom(tmp_path / "a.dcm", pixels, photometric, ModalityLUTSequence=lut(1, 10, [5, 500, 1000]))
    expected = np.array([[5, 5], [500, 1000]])
    expected = 1023 - expected if photometric == "MONOCHROME1" else expected
    assert torch.equal(load(path)[0].as_tensor(), torch.tensor(expected.T).float())


@pytest.mark.parametrize("first", [-4, 2**16 - 4])  # the same 16 bits, of the two types that they may have
def test_modality_table_of_words_and_of_signed_pixels_is_that_of_pydicom(tmp_path, first):
    pixels = np.arange(-5, 3, dtype=np.int16).reshape(2, 4)
    table = lut(-4, 16, [9, 99, 999, 9999], words=True)
    path = dicom(tmp_path / "a.dcm", pixels, ModalityLUTSequence=table)
    ds = pydicom.dcmread(path)
    expected = processing.apply_modality_lut(ds.pixel_array, ds)
    path = dicom(path, pixels, ModalityLUTSequence=lut(first, 16, [9, 99, 999, 9999], words=True))
    assert torch.equal(load(path)[0].as_tensor(), torch.tensor(expected.T.astype(float)).float())
    assert load(path).max() == 9999


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_display_window_is_that_of_pydicom_and_off_by_default(tmp_path, function, photometric):
    pixels = np.random.default_rng(0).integers(0, 4096, (9, 7)).astype(np.uint16)
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": [800, 0], "WindowWidth": [1500, 1]}
    if function:
        elements["VOILUTFunction"] = function
    path = dicom(tmp_path / "a.dcm", pixels, photometric, 12, **elements)
    ds = pydicom.dcmread(path)
    shown = processing.apply_windowing(processing.apply_modality_lut(ds.pixel_array, ds), ds)
    low, high = -1000, 2 * 4095 - 1000  # pydicom stretches the window over this range
    expected = (shown - low) / (high - low)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    image = load(path, display_window=True)
    assert np.allclose(image[0].numpy(), expected.T, atol=1e-5)
    assert 0 <= image.min() < 0.1 and 0.9 < image.max() <= 1
    assert load(path).max() > 1000


def test_display_table_and_a_file_that_suggests_nothing(tmp_path):
    pixels = np.array([[0, 100], [101, 255]], dtype=np.uint8)
    path = dicom(tmp_path / "a.dcm", pixels, VOILUTSequence=lut(100, 8, [0, 255]), WindowCenter=1, WindowWidth=2)
    assert load(path, display_window=True)[0].tolist() == [[0, 1], [0, 1]]
    path = dicom(tmp_path / "b.dcm", pixels, "MONOCHROME1", RescaleSlope=-1, RescaleIntercept=3)
    assert torch.allclose(load(path, display_window=True)[0].as_tensor(), torch.tensor(pixels.T / 255.0).float())
    colour = load(sample("SC_rgb_rle.dcm"), display_window=True)
    assert torch.equal(colour.as_tensor(), load(sample("SC_rgb_rle.dcm")).as_tensor())


def test_tiny_real_monochrome1_radiographs_read():
    path = sample("dicomdirtests/77654033/CR1/6154")
    assert image_format(path) == "DICOM"
    assert load(path).shape[0] == 1


@pytest.mark.parametrize(
    "suffix", ["_implicit", "_bigendian", "_expb", "_RLE", "_jp2klossless", "_padded", "_jpeg_ls_lossless"]
)
@pytest.mark.filterwarnings("ignore:The .*8320 bytes")
def test_every_transfer_syntax_gives_the_same_pixels(suffix):
    expected = load(sample("MR_small.dcm"))
    image = load(sample(f"MR_small{suffix}.dcm"))
    assert torch.equal(image.as_tensor(), expected.as_tensor())
    assert image.meta["spacing"] == expected.meta["spacing"] == (0.3125, 0.3125)


def test_enhanced_mr_in_five_syntaxes_gives_equal_frames(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("mr_enhanced/")]
        volumes = [load(archive.extract(name, tmp_path)) for name in names]
    assert len(volumes) == 5
    for volume in volumes:
        assert volume.shape == (1, 64, 64, 10)
        assert torch.equal(volume.as_tensor(), volumes[0].as_tensor())
    assert np.array_equal(volumes[0].numpy(), itk(tmp_path / "mr_enhanced" / "emri_small.dcm"))


def test_compressed_ct_is_in_hounsfield_units():
    image = load(sample("693_J2KI.dcm"))
    assert image.min() == -2971 - 1024
    assert image.meta["spacing"] == pytest.approx((0.478516, 0.478516))


def test_wrong_sign_flag_is_tolerated():
    assert load(sample("J2K_pixelrep_mismatch.dcm")).min() == -2000


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
    image = load(sample(name))
    assert image.shape == shape
    assert image.max() <= 255 or name == "JPGExtended.dcm"
    assert np.abs(image.numpy() - itk(sample(name)).reshape(shape)).max() <= 3  # lossy decoders differ by rounding


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "examples_overlay.dcm"]
)
def test_grey_pixels_are_those_of_an_independent_reader(name):
    """Overlays are not drawn, and what a file says of its sign is not believed against the code stream."""
    assert np.array_equal(load(sample(name)).numpy(), itk(sample(name))[..., 0])


def test_an_overlay_in_the_bits_above_the_image_is_not_drawn(tmp_path):
    pixels = np.arange(48, dtype=np.uint16).reshape(8, 6) * 80
    path = dicom(tmp_path / "a.dcm", pixels, bits=12)
    ds = pydicom.dcmread(path)
    ds.PixelData = (pixels | np.uint16(0x1000)).tobytes()
    ds.save_as(path)
    assert torch.equal(load(path)[0].as_tensor(), torch.tensor(pixels.T.astype(np.int32)).float())


@pytest.mark.parametrize("spacing", [None, [0, 0], ["", ""], [-1, 1], [float("nan"), 1]])
def test_missing_or_impossible_spacing_is_nan_and_no_crash(tmp_path, picture, spacing):
    path = dicom(tmp_path / "a.dcm", picture, "MONOCHROME1", bits=8)
    if spacing is not None:
        raw = "\\".join(map(str, spacing)).encode()
        ds = pydicom.dcmread(path)
        ds[0x00280030] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(0x00280030), "DS", len(raw), raw + b" " * (len(raw) % 2), 0, False, True
        )
        ds.save_as(path)
    image = load(path)
    assert np.isnan(image.meta["spacing"]).any()
    assert torch.equal(image.affine[:2, :2].isfinite(), torch.ones(2, 2, dtype=torch.bool))


def test_spacing_is_x_then_y_although_dicom_gives_rows_first(tmp_path, picture):
    image = load(dicom(tmp_path / "a.dcm", picture, PixelSpacing=[0.5, 0.25], ImageOrientationPatient=AXIAL))
    assert image.meta["spacing"] == (0.25, 0.5)


def test_a_sagittal_plane_can_be_resampled(tmp_path, picture):
    """In patient space, the affine of such an image has a singular 2x2 block, and `Spacingd` fails."""
    sagittal = [0, 1, 0, 0, 0, -1]
    path = dicom(tmp_path / "a.dcm", picture, PixelSpacing=[2, 1], ImageOrientationPatient=sagittal)
    assert Spacingd("image", pixdim=(1.0, 1.0))({"image": load(path)})["image"].shape == (1, 6, 15)


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
    path = dicom(
        tmp_path / "a.dcm",
        np.stack([picture] * 3),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    volume = load(path)
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
    volume = load(dicom(tmp_path / "a.dcm", pixels, PerFrameFunctionalGroupsSequence=frames, **elements))
    assert volume.affine[2].tolist() == [0, 0, 3, 0]
    for place, k in enumerate([1, 2, 0, 3]):
        assert torch.equal(volume[0, ..., place].as_tensor(), torch.tensor(float(k + 1) * pixels[k].T).float())
    for places in ([6, 0, 3, 18], [6, 0, 6, 0], [5, 5, 5, 5]):  # a gap, two moments, one place
        frames = frames_at(places)
        volume = load(dicom(tmp_path / "b.dcm", pixels, PerFrameFunctionalGroupsSequence=frames, **elements))
        assert np.array_equal(volume[0].numpy(), pixels.transpose(2, 1, 0))
        assert volume.affine.diagonal().tolist() == [1, 1, 7, 1]


def test_a_file_that_does_not_name_its_syntax_reads(tmp_path, picture):
    """Old exports are a bare data set: no preamble, no header."""
    path = dicom(tmp_path / "a.dcm", picture)
    ds = pydicom.dcmread(path)
    content = {element.tag: element for element in ds}
    for name, implicit in (("implicit.dcm", True), ("explicit.dcm", False)):
        FileDataset(name, content, is_implicit_VR=implicit).save_as(str(tmp_path / name))
        assert torch.equal(load(tmp_path / name)[0].as_tensor(), torch.from_numpy(picture.T).float())


# ---- folders of one series ------------------------------------------------------------------------------------------
@pytest.fixture
def series(tmp_path):
    """A folder of five oblique slices of a tilted gantry, under names in another order, and their pixels."""
    folder = tmp_path / "Secret^Susan" / "T2 sag"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 4096, (5, 8, 6)).astype(np.uint16)
    tilt = np.radians(10)
    directions = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    for k, name in enumerate("dbeca"):
        dicom(
            folder / name,
            pixels[k],
            bits=12,
            PixelSpacing=[0.5, 0.25],
            ImageOrientationPatient=directions,
            ImagePositionPatient=[-10.0, 5.0, 3.0 * k - 40],
            SeriesInstanceUID="1.2.3",
            InstanceNumber=5 - k,
            RescaleSlope=k + 1,
            RescaleIntercept=0,
        )
    return folder, pixels


def test_a_folder_of_one_series_is_a_volume_whose_slices_are_its_files(series):
    folder, pixels = series
    assert image_format(folder) == "DICOM"
    assert count_slices(folder) == 5
    volume = load(folder)
    assert volume.shape == (1, 6, 8, 5)
    assert volume.meta["spacing"] == pytest.approx((0.25, 0.5, 3.0))
    for k, name in enumerate("dbeca"):
        assert torch.equal(volume[..., k].as_tensor(), load(folder / name).as_tensor())
        assert torch.equal(volume[0, ..., k].as_tensor(), torch.tensor((k + 1) * pixels[k].T.astype(float)).float())
        ds = pydicom.dcmread(folder / name)
        row, column = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        corner = np.array(ds.ImagePositionPatient, float) + 5 * 0.25 * row + 7 * 0.5 * column
        assert np.allclose(volume.affine.numpy() @ [5, 7, k, 1], [-corner[0], -corner[1], corner[2], 1])
    shown = load(folder, display_window=True)
    assert torch.equal(shown[..., 2].as_tensor(), load(folder / "e", display_window=True).as_tensor())
    assert shown.max() <= 1
    cut = Compose([LoadImaged("image", reader=ClinicalReader(), ensure_channel_first=True), TakeSliced("image")])
    assert torch.equal(cut({"image": str(folder), "slice": 3})["image"].as_tensor(), load(folder / "c").as_tensor())


def test_real_series_has_the_pixels_and_the_affine_of_simpleitk(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "dicom_samples.zip") as archive:
        for name in archive.namelist():
            if name.startswith("mr_t1_7t/"):
                archive.extract(name, tmp_path)
    folder = tmp_path / "mr_t1_7t"
    expected = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    for k, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"IM{37 * k % 64}")
    volume = load(folder)
    assert volume.shape == (1, 274, 384, 64)
    assert np.array_equal(volume[0].numpy(), SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0))
    assert np.allclose(volume.affine, itk_affine(expected), atol=1e-6)
    assert volume.meta["spacing"] == pytest.approx(expected.GetSpacing())


@pytest.mark.parametrize("name", ["t1/t1w.nii.gz", "t2/t2.nii.gz", "t2s/t2s.nii.gz", "mt/mt1.nii.gz"])
def test_nifti_has_the_pixels_and_the_affine_of_simpleitk(real_data, tmp_path, name):
    with zipfile.ZipFile(real_data / "spine_mri_mini.zip") as archive:
        path = archive.extract(name, tmp_path)
    expected = SimpleITK.DICOMOrient(SimpleITK.ReadImage(path), "LPS")
    volume = load(path)
    assert np.allclose(volume[0].numpy(), SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0))
    assert np.allclose(volume.affine, itk_affine(expected), atol=1e-4)
    assert volume.meta["spacing"] == pytest.approx(expected.GetSpacing(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "e").unlink(), "a slice is missing between -3[0-9.]+ and -3[0-9.]+ mm"),
        (lambda folder: (folder / "b").write_bytes((folder / "b").read_bytes()[:-60]), "it is cut short"),
        (lambda folder: dicom(folder / "f", np.zeros((8, 6), np.uint8)), "the folder holds 2 series"),
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
    path = dicom(tmp_path / "one" / "a", picture)
    assert torch.equal(load(tmp_path / "one").as_tensor(), load(path).as_tensor())
    assert count_slices(tmp_path / "one") is None
    dicom(path, np.stack([picture] * 3))
    assert count_slices(tmp_path / "one") == 3
    assert load(tmp_path / "one").shape == (1, 6, 8, 3)


# ---- the volume read last -------------------------------------------------------------------------------------------
@pytest.fixture
def decoded(monkeypatch):
    """Paths in the order of decoding."""
    paths = []

    def spied(original):
        def spy(path, *args, **kwargs):
            paths.append(path.name)
            return original(path, *args, **kwargs)

        return spy

    monkeypatch.setattr(volumes, "read_dicom_file", spied(volumes.read_dicom_file))
    for kind in ("PNG", "JPEG", "NIfTI"):
        monkeypatch.setitem(DECODERS, kind, spied(DECODERS[kind]))
    return paths


def test_slices_of_a_volume_decode_it_once(series, tmp_path, decoded):
    folder, _ = series
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    cut = Compose([LoadImaged("image", reader=ClinicalReader(), ensure_channel_first=True), TakeSliced("image")])
    expected = {path: load(path) for path in (folder, tmp_path / "a.nii.gz")}
    decoded.clear()
    for path, volume in expected.items():
        for k in range(volume.shape[-1]):
            image = cut({"image": str(path), "slice": k})["image"]
            assert torch.equal(image.as_tensor(), volume[..., k].as_tensor())
            image.zero_()  # must not reach what the reader keeps
    assert decoded == [*"dbeca", "a.nii.gz"]


def test_a_changed_file_is_noticed_and_images_are_not_kept(series, tmp_path, decoded, picture):
    folder, _ = series
    reader = ClinicalReader()
    first, meta = reader.get_data([folder])
    first[:], meta["affine"][:] = 0, 0
    second, meta = reader.get_data([folder])
    assert len(decoded) == 5 and second.any() and meta["affine"].any()
    kept = second.copy()
    second[:], meta["affine"][:] = 0, 0
    second, meta = reader.get_data([folder])
    assert np.array_equal(second, kept) and meta["affine"].any()
    ds = pydicom.dcmread(folder / "c")
    ds.RescaleSlope = 9
    ds.save_as(folder / "c")
    os.utime(folder / "c", ns=(1, 1))
    third, _ = reader.get_data([folder])
    assert len(decoded) == 10
    assert (third[..., 3] == second[..., 3] / 4 * 9).all()
    (folder / "a").unlink()
    assert reader.get_data([folder])[0].shape[-1] == 4
    Image.fromarray(picture).save(tmp_path / "a.png")
    for _ in range(2):
        reader.get_data([tmp_path / "a.png"])
    assert decoded[-2:] == ["a.png", "a.png"]
    with pytest.raises(FileNotFoundError):
        reader.get_data([folder / "gone"])


def test_a_reader_travels_without_its_volume(series):
    folder, _ = series
    reader = ClinicalReader(display_window=True)
    reader.get_data([folder])
    text = pickle.dumps(reader)
    assert len(text) < 2000
    assert np.array_equal(pickle.loads(text).get_data([folder])[0], reader.get_data([folder])[0])


def test_workers_share_nothing_and_agree(series):
    folder, _ = series
    transform = Compose([LoadImaged("image", reader=ClinicalReader(), ensure_channel_first=True), TakeSliced("image")])
    items = [{"image": str(folder), "slice": k} for k in range(5)] * 2
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda item: transform(item)["image"], items))
    for k, image in enumerate(images):
        assert torch.equal(image.as_tensor(), load(folder)[..., k % 5].as_tensor())


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("LA", 1), ("1", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)]
)
def test_png_modes(tmp_path, picture, mode, channels):
    image = (
        Image.fromarray(picture.astype(np.uint16) * 100) if mode == "I;16" else Image.fromarray(picture).convert(mode)
    )
    image.save(tmp_path / "a.png")
    read = load(tmp_path / "a.png")
    assert read.shape == (channels, 6, 8)
    assert read.max() == {"1": 1, "I;16": 141 * 100}.get(mode, 141)  # a 1-bit mask is 0 and 1
    assert np.isnan(read.meta["spacing"]).all()


def test_grey_jpeg_stored_in_colour_keeps_three_channels(tmp_path, picture):
    Image.fromarray(np.stack([picture] * 3, axis=-1)).save(tmp_path / "a.jpeg")
    assert load(tmp_path / "a.jpeg").shape == (3, 6, 8)


def test_nifti_with_colours_and_broken_affine(tmp_path):
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    assert load(tmp_path / "colour.nii").shape == (3, 3, 4, 5) and load(tmp_path / "colour.nii").meta["colour"]
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    image.header["pixdim"][1:4] = 0
    nib.save(image, tmp_path / "broken.nii")
    assert load(tmp_path / "broken.nii").shape == (1, 3, 4, 5)


def test_several_files_become_channels(tmp_path, picture):
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    Image.fromarray(picture[:4]).save(tmp_path / "c.png")
    loader = LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)
    several = loader({"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")] * 2})["image"]
    assert several.shape == (4, 6, 8) and not several.meta["colour"]
    with pytest.raises(ValueError, match="differ in shape"):
        loader({"image": [str(tmp_path / "a.png"), str(tmp_path / "c.png")]})


@pytest.mark.parametrize("kind", ["png", "jpg", "nii.gz", "dcm"])
def test_truncated_file_names_the_file_and_what_to_do(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = tmp_path / f"a.{kind}"
    if kind == "nii.gz":
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    elif kind == "dcm":
        dicom(path, noise)
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"a\.{kind} cannot be read as .* copy it anew") as error:
        ClinicalReader().get_data([path])
    assert "Secret" not in str(error.value)
    with pytest.raises(ValueError, match="copy it anew"):  # and no other reader of MONAI's steps in
        load(path)


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm"])
@pytest.mark.parametrize("share", [0.67, 0.99])  # SimpleITK would read an RLE frame that lacks its last bytes
def test_truncated_compressed_dicom_is_refused_by_both_decoders(tmp_path, name, share):
    ds = pydicom.dcmread(sample(name))
    frame = ds.PixelData[ds.PixelData.index(b"\xfe\xff\x00\xe0", 4) + 8 :]  # one item after the table of offsets
    ds["PixelData"].value = encapsulate([frame[: int(len(frame) * share)]])
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="copy it anew"):
        load(tmp_path / "a.dcm")
    content = sample(name).read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="copy it anew"):
        load(tmp_path / "b.dcm")


def test_truncated_file_of_pydicom():
    with pytest.raises(ValueError, match=r"MR_truncated\.dcm cannot be read as DICOM .*8130 .*8192 bytes"):
        load(sample("MR_truncated.dcm"))


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
        dicom(path, noise)
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
        load(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        count_slices(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.dcm"])
def test_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is no file .*{name}"):
        load(tmp_path / name)


def test_no_patient_data_leaves_the_file(tmp_path, picture):
    path = dicom(tmp_path / "a.dcm", picture)
    assert "PatientName" not in objects_module.open_dicom(path, pixels=True)
    assert "Secret" not in str(load(path).meta)


def test_count_slices_reads_headers_only(tmp_path, picture):
    assert count_slices(sample("CT_small.dcm")) is None
    assert count_slices(sample("SC_rgb_rle_2frame.dcm")) == 2
    assert count_slices(sample("MR_truncated.dcm")) is None
    with pytest.raises(ValueError, match="segmentation"):
        count_slices(sample("liver_1frame.dcm"))
    with pytest.raises(ValueError, match="it holds a report, not an image"):
        count_slices(sample("reportsi.dcm"))
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5)), np.eye(4)), tmp_path / "a.nii")
    assert count_slices(tmp_path / "a.nii") == 5
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 1)), np.eye(4)), tmp_path / "b.nii")
    assert count_slices(tmp_path / "b.nii") is None


def test_formats_are_told_apart_by_content(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert image_format(tmp_path / "a.jpg") == "PNG"
    dicom(tmp_path / "without_suffix", picture)
    assert image_format(tmp_path / "without_suffix") == "DICOM"
    (tmp_path / "notes.txt").write_text("hello")
    assert image_format(tmp_path / "notes.txt") is None
    assert ClinicalReader().verify_suffix([tmp_path / "a.jpg", tmp_path / "without_suffix"])
    assert not ClinicalReader().verify_suffix(str(tmp_path / "notes.txt"))


# ---- what is never read by half -------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(4, 5, 6, 4), (4, 5, 6, 3), (4, 5, 1, 3), (4, 5, 6, 1, 3), (4, 5, 6, 2, 2)])
def test_a_fourth_axis_of_a_nifti_file_is_refused_with_its_length(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    length = next(size for size in shape[3:] if size > 1)
    for use in (load, count_slices):
        with pytest.raises(ValueError, match=rf"its shape is .*: {length} sequences, channels or points in time"):
            use(tmp_path / "a.nii.gz")


def test_a_fourth_axis_of_length_one_is_none(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    assert load(tmp_path / "a.nii.gz").shape == (1, 4, 5, 6)


def test_complex_voxels_other_headers_and_pairs_are_refused(tmp_path):
    voxels = np.zeros((4, 5, 6), np.complex64)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "complex.nii")
    nib.save(nib.Nifti1Image(voxels.real, np.eye(4)), tmp_path / "pair.nii")
    content = bytearray((tmp_path / "pair.nii").read_bytes())
    content[344:347] = b"ni1"
    (tmp_path / "pair.nii").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="complex numbers; save their magnitude"):
        load(tmp_path / "complex.nii")
    with pytest.raises(UnreadableImageError, match="its voxels are in another file"):
        load(tmp_path / "pair.nii")


def header(shape, offset=352.0, dtype=np.uint8, extension=None):
    """A NIfTI header that says what nothing follows it."""
    head = nib.Nifti1Header()
    head.set_data_dtype(dtype)
    head["dim"][: 1 + len(shape)] = len(shape), *shape
    head["magic"], head["vox_offset"] = b"n+1", offset
    flag = bytes(4) if extension is None else bytes([1, 0, 0, 0]) + np.array([extension, 6], "<i4").tobytes()
    return head.binaryblock + flag


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((2000, 2000, 500)), "holds 2,000,000,000 pixels or voxels.*MEDSSL_MAX_VOXELS"),
        (header((32767,) * 7), "pixels or voxels"),
        (header((4, -5, 6)), "is damaged|cannot be read"),
        (header((4, 5, 6), offset=2e9), "voxels begin at byte 2000000000; it is damaged"),
        (header((4, 5, 6), offset=-1e9), "it is damaged"),
        (header((4, 5, 6), offset=float("nan")), "it is damaged"),
        (header((4, 5, 6), offset=1000.0, extension=2**31 - 1) + bytes(2000), "says that it has 2147483647 bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_header_says_is_checked_before_memory_is_taken(tmp_path, content, message, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == "nii.gz" else content)
    for use in (load, count_slices):
        with pytest.raises(UnreadableImageError, match=message):
            use(path)


def test_a_bound_can_be_raised(tmp_path, picture, monkeypatch):
    Image.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setenv("MEDSSL_MAX_VOXELS", "47")
    with pytest.raises(UnreadableImageError, match="holds 48 pixels or voxels, and 47 are the most"):
        load(tmp_path / "a.png")
    monkeypatch.setenv("MEDSSL_MAX_VOXELS", "48")
    assert load(tmp_path / "a.png").shape == (1, 6, 8)


def test_a_picture_of_huge_size_is_refused_without_a_warning(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = np.array([40_000, 40_000], ">u4").tobytes()
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="holds 1,600,000,000 pixels or voxels"):
        load(tmp_path / "a.png")


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
    path = dicom(tmp_path / "a.dcm", picture, **elements)
    for use in (load, count_slices):
        with pytest.raises(UnreadableImageError, match=message):
            use(path)


def test_a_deflated_file_that_unpacks_without_end_is_refused(tmp_path, picture, monkeypatch):
    whole = sample("image_dfl.dcm")
    assert load(whole).shape == (1, 512, 512)
    monkeypatch.setattr(objects_module, "MOST_INFLATED", 2**16)
    with pytest.raises(UnreadableImageError, match="it unpacks to more than"):
        load(whole)


@pytest.mark.parametrize(
    ("name", "place", "size"),
    [("JPGExtended.dcm", b"\xff\xc1\x00", 2), ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 4)],
)
def test_a_compressed_picture_of_another_size_than_its_header_says_is_refused(tmp_path, name, place, size):
    content = bytearray(sample(name).read_bytes())
    at = content.index(place) + (5 if size == 2 else 8)
    content[at : at + 2 * size] = (60_000).to_bytes(size) * 2
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="pixels, its picture 60000 x 60000; it is damaged"):
        load(tmp_path / "a.dcm")


@pytest.mark.filterwarnings("ignore")
def test_a_part_of_a_compressed_picture_that_is_longer_than_the_file_is_not_made_room_for(tmp_path, monkeypatch):
    content = sample("MR_small_jpeg_ls_lossless.dcm").read_bytes()
    at = content.rindex(b"\xfe\xff\x00\xe0") + 4
    (tmp_path / "a.dcm").write_bytes(content[:at] + (2**32 - 16).to_bytes(4, "little") + content[at + 4 :])
    monkeypatch.setattr(pixels_module, "_decode_with_itk", Mock(side_effect=AssertionError))
    with pytest.raises(UnreadableImageError, match="cannot be read as DICOM"):
        load(tmp_path / "a.dcm")


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_volume_that_lacks_most_of_its_voxels_is_not_made_room_for(tmp_path, suffix, monkeypatch):
    content = header((800, 800, 800), dtype=np.float64) + bytes(2000)
    if suffix == "nii.gz":  # whose last bytes say that all is there
        content = gzip.compress(content)[:-4] + ((352 + 8 * 800**3) % 2**32).to_bytes(4, "little")
    (tmp_path / f"a.{suffix}").write_bytes(content)
    monkeypatch.setattr(nib.volumeutils, "array_from_file", Mock(side_effect=AssertionError))
    with pytest.raises(UnreadableImageError, match="is cut short; copy it anew from its source"):
        load(tmp_path / f"a.{suffix}")


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
    for use in (load, count_slices):
        with pytest.raises(UnreadableImageError, match=rf"it holds .*{held}.*, not an image"):
            use(path)


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.1.1.481.1", "1.2.840.10008.5.1.4.1.1.6.2", "1.2.3.4"])
def test_images_of_the_beam_enhanced_ultrasound_and_classes_that_nobody_knows_are_images(tmp_path, picture, uid):
    path = save_dicom(tmp_path / "a.dcm", picture, "MONOCHROME2", SOPClassUID=uid, SOPInstanceUID=generate_uid())
    assert load(path).shape == (1, 6, 8)


def test_a_dicom_file_without_preamble_is_known_by_its_content(tmp_path, picture):
    whole = dicom(tmp_path / "whole.dcm", picture)
    (tmp_path / "bare").write_bytes(whole.read_bytes()[132:])
    assert image_format(tmp_path / "bare") == "DICOM"
    assert torch.equal(load(tmp_path / "bare").as_tensor(), load(whole).as_tensor())


# ---- pictures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_upright_as_pillow_shows_it(tmp_path, suffix, orientation):
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8] = 200
    stored[8:, 24:] = 100
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    image = load(path)
    assert np.array_equal(image[0].numpy(), expected.T)
    assert image.meta["spatial_shape"] == image.shape[1:]
    assert bool(header_notes(path)) == (orientation > 1)


def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(tmp_path, picture):
    exif = Image.Exif()
    exif[274] = 99
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert load(tmp_path / "a.png").shape == (1, 6, 8) and not header_notes(tmp_path / "a.png")
    broken = Image.Exif()
    broken[274] = 6
    Image.fromarray(picture).save(tmp_path / "b.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + broken.tobytes()[14:])
    assert load(tmp_path / "b.jpg").shape == (1, 6, 8)


def test_an_animation_is_refused(tmp_path, picture):
    frames = [Image.fromarray(picture + k) for k in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    for use in (load, count_slices):
        with pytest.raises(UnreadableImageError, match="an animation of 3 pictures; save the one that is meant"):
            use(tmp_path / "a.png")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImageError, match="neither PNG"):
        load(tmp_path / "a.gif")


@pytest.mark.parametrize(("kind", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_not_cut_to_8(tmp_path, kind, samples):
    def chunk(name, data):
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    head = np.array([2, 2], ">u4").tobytes() + bytes([16, kind, 0, 0, 0])
    pixels = zlib.compress((b"\0" + bytes(2 * samples * 2)) * 2)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="colours or transparency of 16 bits; save it in grey"):
        load(tmp_path / "a.png")


def test_another_format_under_the_name_of_a_picture_is_not_read(tmp_path, picture):
    for kind in ("TIFF", "BMP", "GIF", "WEBP"):
        Image.fromarray(picture).save(tmp_path / "a.png", format=kind)
        with pytest.raises(UnreadableImageError, match="cannot be read as PNG"):
            load(tmp_path / "a.png")


def test_a_palette_is_colours_and_for_masks_the_index(tmp_path):
    indices = np.arange(48, dtype=np.uint8).reshape(8, 6) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 255]))
    assert load(tmp_path / "a.png").shape == (3, 6, 8)
    assert np.array_equal(load(tmp_path / "a.png", indexed=True)[0].numpy(), indices.T)


# ---- NaN and infinity -----------------------------------------------------------------------------------------------
@pytest.fixture
def nan_around(tmp_path):
    """A volume in a frame of NaN, two voxels wide, with the values of the inner part."""
    voxels = np.full((8, 9, 10), np.nan, np.float32)
    inner = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32) - 3
    voxels[2:6, 2:7, 2:8] = inner

    def save(name="a.nii.gz", **changes):
        changed = voxels.copy()
        for place, value in changes.values():
            changed[place] = value
        nib.save(nib.Nifti1Image(changed, np.diag([-1, -1, 1, 1])), tmp_path / name)
        return tmp_path / name

    return save, inner


def test_nan_is_refused_with_its_number_unless_it_is_background(nan_around):
    save, inner = nan_around
    path, number = save(), 8 * 9 * 10 - 4 * 5 * 6
    with pytest.raises(
        UnreadableImageError, match=rf"NaN or infinite voxels \({number} NaN, of 720\).*`nan: background`"
    ):
        load(path)
    image = load(path, nan="background")
    assert image.isfinite().all()
    assert np.array_equal(image[0, 2:6, 2:7, 2:8].numpy(), inner)
    assert (image[0, :2] == float(inner.min())).all()
    assert image.meta["nan_share"] == pytest.approx(number / 720)
    assert nonfinite(path) == (number, 0, 0, 720)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [((4, 4, 4), np.nan, "1 NaN inside"), ((4, 4, 4), np.inf, "1 infinite"), ((0, 0, 0), -np.inf, "1 infinite")],
)
def test_nan_inside_and_infinity_anywhere_stay_refused(nan_around, place, value, message):
    save, _ = nan_around
    path = save(change=(place, value))
    for nan in ("refuse", "background"):
        with pytest.raises(UnreadableImageError, match=message) as error:
            load(path, nan=nan)
        assert "nan: background" not in str(error.value)
    assert nonfinite(path).problem("background")


def test_nothing_but_nan_is_no_image(tmp_path):
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), np.nan, np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImageError, match="60 NaN, of 60"):
        load(tmp_path / "a.nii", nan="background")


def test_nan_of_a_plane_and_of_whole_numbers_there_is_none(tmp_path, picture):
    plane = picture.astype(np.float32)[..., None]
    plane[0, 0] = np.nan
    nib.save(nib.Nifti1Image(plane, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImageError, match="1 NaN, of 48"):
        load(tmp_path / "a.nii")
    assert load(tmp_path / "a.nii", nan="background").meta["nan_share"] == pytest.approx(1 / 48)
    Image.fromarray(picture).save(tmp_path / "a.png")
    nib.save(nib.Nifti1Image(picture[..., None], np.eye(4)), tmp_path / "b.nii")
    for path in (tmp_path / "a.png", tmp_path / "b.nii", dicom(tmp_path / "a.dcm", picture)):
        assert nonfinite(path) is None
        assert load(path).meta["nan_share"] == 0


def test_a_rescale_slope_beyond_all_numbers_is_refused(tmp_path, picture):
    path = dicom(tmp_path / "a.dcm", picture, RescaleSlope="1e300", RescaleIntercept=0)
    with pytest.raises(UnreadableImageError, match="infinite"), np.errstate(over="ignore"):
        load(path)


def test_there_are_two_ways_to_take_nan():
    with pytest.raises(ValueError, match="`nan` is refuse or background, got 'zero'"):
        ClinicalReader(nan="zero")


# ---- geometry -------------------------------------------------------------------------------------------------------
def test_qform_and_sform_that_disagree_are_noted(tmp_path):
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    other = affine.copy()
    other[0, 3] = 20

    def notes(change):
        image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine)
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        change(image)
        nib.save(image, tmp_path / "a.nii.gz")
        return header_notes(tmp_path / "a.nii.gz")

    assert notes(lambda image: None) == []
    assert notes(lambda image: image.set_qform(other, 1)) == [QFORM]
    assert notes(lambda image: image.set_qform(other, 0)) == []  # says itself that it is nothing
    assert notes(lambda image: image.set_sform(None, 0)) == []
    assert notes(lambda image: image.header.set_zooms((1, 1, 2)))[0] == PIXDIM


@pytest.mark.parametrize("zero", ["pixdim", "sform"])
def test_a_zero_sform_or_pixdim_is_unknown_spacing_and_said(tmp_path, zero):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None)
    if zero == "pixdim":
        image.header["pixdim"][1:4] = 0
    else:
        image.header["sform_code"] = 1
    nib.save(image, tmp_path / "a.nii")
    if zero == "sform":
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[254:256], content[280:328] = (1).to_bytes(2, "little"), bytes(48)
        (tmp_path / "a.nii").write_bytes(content)
    assert np.isnan(load(tmp_path / "a.nii").meta["spacing"]).all()
    assert header_notes(tmp_path / "a.nii") == ["pixel spacing is missing or zero; taken as 1 mm"]
