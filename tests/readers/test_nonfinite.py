import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support_readers import load_image, patient_dicom

from medssl_monai.readers.decoders import nonfinite
from medssl_monai.readers.refusals import UnreadableImageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


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
        load_image(path)
    image = load_image(path, nan="background")
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
            load_image(path, nan=nan)
        assert "nan: background" not in str(error.value)
    assert nonfinite(path).problem("background")


def test_nothing_but_nan_is_no_image(tmp_path):
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), np.nan, np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImageError, match="60 NaN, of 60"):
        load_image(tmp_path / "a.nii", nan="background")


def test_nan_of_a_plane_and_of_whole_numbers_there_is_none(tmp_path, picture):
    plane = picture.astype(np.float32)[..., None]
    plane[0, 0] = np.nan
    nib.save(nib.Nifti1Image(plane, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImageError, match="1 NaN, of 48"):
        load_image(tmp_path / "a.nii")
    assert load_image(tmp_path / "a.nii", nan="background").meta["nan_share"] == pytest.approx(1 / 48)
    Image.fromarray(picture).save(tmp_path / "a.png")
    nib.save(nib.Nifti1Image(picture[..., None], np.eye(4)), tmp_path / "b.nii")
    for path in (tmp_path / "a.png", tmp_path / "b.nii", patient_dicom(tmp_path / "a.dcm", picture)):
        assert nonfinite(path) is None
        assert load_image(path).meta["nan_share"] == 0


def test_a_rescale_slope_beyond_all_numbers_is_refused(tmp_path, picture):
    path = patient_dicom(tmp_path / "a.dcm", picture, RescaleSlope="1e300", RescaleIntercept=0)
    with pytest.raises(UnreadableImageError, match="infinite"), np.errstate(over="ignore"):
        load_image(path)
