import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, PydicomReader
from monai.transforms import Compose, GaussianSmooth, LoadImaged, SaveImage, Spacingd
from PIL import Image
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medssl_monai.data import reader as reader_module
from medssl_monai.data.reader import ClinicalReader, count_slices, image_format
from medssl_monai.transforms.load import TakeSliced

DATA = Path(os.environ.get("MEDSSL_DATA", Path(__file__).parents[3] / "shared/data"))
AXIAL = [1, 0, 0, 0, 1, 0]
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def load(path):
    loader = LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)
    return loader({"image": str(path)})["image"]


def sample(name):
    path = get_testdata_file(name, download=False)
    assert path is not None, f"pydicom ships no {name}"
    return Path(path)


def dicom(path, pixels, photometric="MONOCHROME2", bits=None, **elements):
    """Write `pixels` (rows, columns) or (frames, rows, columns) as a DICOM file with a patient in it."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Secret^Susan", "4711", "19600101"
    ds.set_pixel_data(pixels, photometric, bits or pixels.dtype.itemsize * 8, generate_instance_uid=False)
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path


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


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (15, False), (8, True), (16, True)])
def test_monochrome1_is_inverted_within_the_stored_range_whichever_decoder(tmp_path, monkeypatch, bits, signed):
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    pixels = np.array([[0, 1, 2], [3, 100, 2 ** (bits - 1) - 1]], dtype=dtype)
    path = dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", bits)
    expected = torch.tensor((-1 if signed else 2**bits - 1) - pixels.astype(np.int32)).T.float()
    assert torch.equal(load(path)[0].as_tensor(), expected)

    def no_plugin(ds):
        raise RuntimeError("all plugins are missing dependencies")

    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", no_plugin)
    assert torch.equal(load(path)[0].as_tensor(), expected)


def test_monochrome1_in_a_syntax_that_pydicom_cannot_decode_is_inverted_once(tmp_path):
    import pydicom

    ds = pydicom.dcmread(sample("MR_small_jpeg_ls_lossless.dcm"))
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(tmp_path / "a.dcm")
    assert torch.equal(load(tmp_path / "a.dcm").as_tensor(), -1 - load(sample("MR_small.dcm")).as_tensor())


def test_rescale_follows_the_inversion(tmp_path):
    pixels = np.array([[0, 10], [20, 255]], dtype=np.uint8)
    path = dicom(tmp_path / "a.dcm", pixels, "MONOCHROME1", RescaleSlope=2, RescaleIntercept=-100)
    assert torch.equal(load(path)[0].as_tensor(), torch.tensor(2.0 * (255 - pixels.T.astype(float)) - 100).float())


def test_tiny_real_monochrome1_radiographs_read():
    path = sample("dicomdirtests/77654033/CR1/6154")
    assert image_format(path) == "DICOM"
    assert load(path).shape[0] == 1


@pytest.mark.parametrize(
    "suffix", ["_implicit", "_bigendian", "_expb", "_RLE", "_jp2klossless", "_padded", "_jpeg_ls_lossless"]
)
@pytest.mark.filterwarnings("ignore:The pixel data is 8320 bytes long")
def test_every_transfer_syntax_gives_the_same_pixels(suffix):
    expected = load(sample("MR_small.dcm"))
    image = load(sample(f"MR_small{suffix}.dcm"))
    assert torch.equal(image.as_tensor(), expected.as_tensor())
    assert image.meta["spacing"] == expected.meta["spacing"] == (0.3125, 0.3125)


@pytest.mark.skipif(not (DATA / "dicom_samples.zip").is_file(), reason="needs $MEDSSL_DATA")
def test_enhanced_mr_in_five_syntaxes_gives_equal_frames(tmp_path):
    with zipfile.ZipFile(DATA / "dicom_samples.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("mr_enhanced/")]
        volumes = [load(archive.extract(name, tmp_path)) for name in names]
    assert len(volumes) == 5
    for volume in volumes:
        assert volume.shape == (1, 64, 64, 10)
        assert torch.equal(volume.as_tensor(), volumes[0].as_tensor())


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
        ("JPGExtended.dcm", (1, 256, 1024)),  # 12 bit: SimpleITK
        ("image_dfl.dcm", (1, 512, 512)),  # deflated
    ],
)
def test_colour_and_odd_encodings(name, shape):
    import SimpleITK

    image = load(sample(name))
    assert image.shape == shape
    assert image.max() <= 255 or name == "JPGExtended.dcm"
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(sample(name)))).astype(float)
    expected = expected.reshape(*expected.shape[:3], -1).transpose(3, 2, 1, 0).reshape(shape)
    assert np.abs(image.numpy() - expected).max() <= 3  # decoders of lossy JPEG differ by rounding


@pytest.mark.parametrize("spacing", [None, [0, 0], ["", ""], [-1, 1], [float("nan"), 1]])
def test_missing_or_impossible_spacing_is_nan_and_no_crash(tmp_path, picture, spacing):
    path = dicom(tmp_path / "a.dcm", picture, "MONOCHROME1", bits=8)
    if spacing is not None:
        raw = "\\".join(map(str, spacing)).encode()
        import pydicom

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


def test_nifti_with_channels_colour_and_broken_affine(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "channels.nii")
    assert load(tmp_path / "channels.nii").shape == (2, 3, 4, 5)
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    assert load(tmp_path / "colour.nii").shape == (3, 3, 4, 5)
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    image.header["pixdim"][1:4] = 0
    nib.save(image, tmp_path / "broken.nii")
    assert load(tmp_path / "broken.nii").shape == (1, 3, 4, 5)


def test_several_files_become_channels(tmp_path, picture):
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    Image.fromarray(picture[:4]).save(tmp_path / "c.png")
    loader = LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)
    assert loader({"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]})["image"].shape == (2, 6, 8)
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
def test_truncated_compressed_dicom_is_refused_by_both_decoders(tmp_path, name):
    import pydicom
    from pydicom.encaps import encapsulate, generate_frames

    ds = pydicom.dcmread(sample(name))
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds["PixelData"].value = encapsulate([frame[: len(frame) // 3 * 2]])
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="copy it anew"):
        load(tmp_path / "a.dcm")
    content = sample(name).read_bytes()
    (tmp_path / "b.dcm").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="copy it anew"):
        load(tmp_path / "b.dcm")


def test_truncated_file_of_pydicom():
    with pytest.raises(ValueError, match=r"MR_truncated\.dcm cannot be read as DICOM .*8130 vs 8192 bytes"):
        load(sample("MR_truncated.dcm"))


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
    assert "PatientName" not in reader_module._open_dicom(path, pixels=True)
    assert "Secret" not in str(load(path).meta)


def test_count_slices_reads_headers_only(tmp_path, picture):
    assert count_slices(sample("CT_small.dcm")) is None
    assert count_slices(sample("examples_ybr_color.dcm")) == 30
    assert count_slices(sample("MR_truncated.dcm")) is None
    with pytest.raises(ValueError, match="segmentation"):
        count_slices(sample("liver_1frame.dcm"))
    with pytest.raises(ValueError, match="holds no image"):
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
