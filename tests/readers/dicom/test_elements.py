import numpy as np
import pydicom
import pytest
import torch
from monai.transforms import Spacingd
from support_readers import AXIAL, load_image, patient_dicom

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize("spacing", [None, [0, 0], ["", ""], [-1, 1], [float("nan"), 1]])
def test_missing_or_impossible_spacing_is_nan_and_no_crash(tmp_path, picture, spacing):
    path = patient_dicom(tmp_path / "a.dcm", picture, "MONOCHROME1", bits=8)
    if spacing is not None:
        raw = "\\".join(map(str, spacing)).encode()
        ds = pydicom.dcmread(path)
        ds[0x00280030] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(0x00280030), "DS", len(raw), raw + b" " * (len(raw) % 2), 0, False, True
        )
        ds.save_as(path)
    image = load_image(path)
    assert np.isnan(image.meta["spacing"]).any()
    assert torch.equal(image.affine[:2, :2].isfinite(), torch.ones(2, 2, dtype=torch.bool))


def test_spacing_is_x_then_y_although_dicom_gives_rows_first(tmp_path, picture):
    image = load_image(
        patient_dicom(tmp_path / "a.dcm", picture, PixelSpacing=[0.5, 0.25], ImageOrientationPatient=AXIAL)
    )
    assert image.meta["spacing"] == (0.25, 0.5)


def test_a_sagittal_plane_can_be_resampled(tmp_path, picture):
    """In patient space, the affine of such an image has a singular 2x2 block, and `Spacingd` fails."""
    sagittal = [0, 1, 0, 0, 0, -1]
    path = patient_dicom(tmp_path / "a.dcm", picture, PixelSpacing=[2, 1], ImageOrientationPatient=sagittal)
    assert Spacingd("image", pixdim=(1.0, 1.0))({"image": load_image(path)})["image"].shape == (1, 6, 15)
