import gzip
import zipfile
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from support_readers import itk_affine, load_image

from medssl_monai.readers.decoders import count_slices, header_notes
from medssl_monai.readers.nifti import PIXDIM, QFORM
from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize("name", ["t1/t1w.nii.gz", "t2/t2.nii.gz", "t2s/t2s.nii.gz", "mt/mt1.nii.gz"])
def test_nifti_has_the_pixels_and_the_affine_of_simpleitk(real_data, tmp_path, name):
    with zipfile.ZipFile(real_data / "spine_mri_mini.zip") as archive:
        path = archive.extract(name, tmp_path)
    expected = SimpleITK.DICOMOrient(SimpleITK.ReadImage(path), "LPS")
    volume = load_image(path)
    assert np.allclose(volume[0].numpy(), SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0))
    assert np.allclose(volume.affine, itk_affine(expected), atol=1e-4)
    assert volume.meta["spacing"] == pytest.approx(expected.GetSpacing(), rel=1e-5)


def test_nifti_with_colours_and_broken_affine(tmp_path):
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    assert (
        load_image(tmp_path / "colour.nii").shape == (3, 3, 4, 5) and load_image(tmp_path / "colour.nii").meta["colour"]
    )
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    image.header["pixdim"][1:4] = 0
    nib.save(image, tmp_path / "broken.nii")
    assert load_image(tmp_path / "broken.nii").shape == (1, 3, 4, 5)


@pytest.mark.parametrize("shape", [(4, 5, 6, 4), (4, 5, 6, 3), (4, 5, 1, 3), (4, 5, 6, 1, 3), (4, 5, 6, 2, 2)])
def test_a_fourth_axis_of_a_nifti_file_is_refused_with_its_length(tmp_path, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    length = next(size for size in shape[3:] if size > 1)
    for use in (load_image, count_slices):
        with pytest.raises(ValueError, match=rf"its shape is .*: {length} sequences, channels or points in time"):
            use(tmp_path / "a.nii.gz")


def test_a_fourth_axis_of_length_one_is_none(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    assert load_image(tmp_path / "a.nii.gz").shape == (1, 4, 5, 6)


def test_complex_voxels_other_headers_and_pairs_are_refused(tmp_path):
    voxels = np.zeros((4, 5, 6), np.complex64)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "complex.nii")
    nib.save(nib.Nifti1Image(voxels.real, np.eye(4)), tmp_path / "pair.nii")
    content = bytearray((tmp_path / "pair.nii").read_bytes())
    content[344:347] = b"ni1"
    (tmp_path / "pair.nii").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="complex numbers; save their magnitude"):
        load_image(tmp_path / "complex.nii")
    with pytest.raises(UnreadableImageError, match="its voxels are in another file"):
        load_image(tmp_path / "pair.nii")


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
    for use in (load_image, count_slices):
        with pytest.raises(UnreadableImageError, match=message):
            use(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_volume_that_lacks_most_of_its_voxels_is_not_made_room_for(tmp_path, suffix, monkeypatch):
    content = header((800, 800, 800), dtype=np.float64) + bytes(2000)
    if suffix == "nii.gz":  # whose last bytes say that all is there
        content = gzip.compress(content)[:-4] + ((352 + 8 * 800**3) % 2**32).to_bytes(4, "little")
    (tmp_path / f"a.{suffix}").write_bytes(content)
    monkeypatch.setattr(nib.volumeutils, "array_from_file", Mock(side_effect=AssertionError))
    with pytest.raises(UnreadableImageError, match="is cut short; copy it anew from its source"):
        load_image(tmp_path / f"a.{suffix}")


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
    assert np.isnan(load_image(tmp_path / "a.nii").meta["spacing"]).all()
    assert header_notes(tmp_path / "a.nii") == ["pixel spacing is missing or zero; taken as 1 mm"]
