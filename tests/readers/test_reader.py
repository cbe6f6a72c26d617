import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor, PydicomReader
from monai.transforms import Compose, GaussianSmooth, LoadImaged, SaveImage
from PIL import Image
from support import dicom_sample
from support_readers import AXIAL, load_image, patient_dicom

from medssl_monai.readers.decoders import DECODERS, count_slices
from medssl_monai.readers.dicom import volumes
from medssl_monai.readers.reader import ClinicalReader
from medssl_monai.transforms.load import TakeSliced

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_one_convention_png_dicom_and_nifti_give_the_same_pixels(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    patient_dicom(tmp_path / "a.dcm", picture)
    nib.save(nib.Nifti1Image(picture.T[..., None], np.diag([-1, -1, 1, 1])), tmp_path / "a.nii.gz")
    for name in ("a.png", "a.dcm", "a.nii.gz"):
        image = load_image(tmp_path / name)
        assert isinstance(image, MetaTensor)
        assert image.shape == (1, 6, 8), name
        assert torch.equal(image[0], torch.from_numpy(picture.T).float()), name
        assert image.meta["original_channel_dim"] == 0
        assert image.meta["spatial_shape"] == (6, 8)


def test_axes_are_those_of_monais_own_dicom_reader():
    path = dicom_sample("CT_small.dcm")
    monai = LoadImaged("image", reader=PydicomReader(), image_only=True, ensure_channel_first=True)({"image": path})
    assert torch.equal(load_image(path).as_tensor(), monai["image"].as_tensor())


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
        path = patient_dicom(
            tmp_path / f"{k}.dcm",
            volume[k],
            PixelSpacing=[spacing[1], spacing[0]],
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, spacing[2] * k],
        )
        slice_of_volume, file = cut({"image": str(tmp_path / "volume.nii.gz"), "slice": k})["image"], load_image(path)
        assert torch.equal(slice_of_volume.as_tensor(), file.as_tensor())
        assert torch.allclose(slice_of_volume.affine, file.affine)
        assert slice_of_volume.meta["spacing"] == pytest.approx(file.meta["spacing"])


def test_a_mask_of_a_turned_volume_is_saved_on_the_grid_of_its_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(("P", "S", "R")), (4, 5, 6))
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "mask.nii.gz")
    image = load_image(tmp_path / "mask.nii.gz")
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
    image = load_image(tmp_path / "a.png")
    assert image.spatial_ndim == 2
    assert GaussianSmooth(1.0)(image).shape == (1, 6, 8)
    volume = load_image(patient_dicom(tmp_path / "a.dcm", np.stack([picture] * 4)))
    assert GaussianSmooth(1.0)(volume).shape == (1, 6, 8, 4)


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
    expected = {path: load_image(path) for path in (folder, tmp_path / "a.nii.gz")}
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
        assert torch.equal(image.as_tensor(), load_image(folder)[..., k % 5].as_tensor())


def test_several_files_become_channels(tmp_path, picture):
    for name in ("a.png", "b.png"):
        Image.fromarray(picture).save(tmp_path / name)
    Image.fromarray(picture[:4]).save(tmp_path / "c.png")
    loader = LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True)
    several = loader({"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")] * 2})["image"]
    assert several.shape == (4, 6, 8) and not several.meta["colour"]
    with pytest.raises(ValueError, match="differ in shape"):
        loader({"image": [str(tmp_path / "a.png"), str(tmp_path / "c.png")]})


def test_there_are_two_ways_to_take_nan():
    with pytest.raises(ValueError, match="`nan` is refuse or background, got 'zero'"):
        ClinicalReader(nan="zero")
