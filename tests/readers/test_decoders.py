import nibabel as nib
import numpy as np
import pytest
from support import dicom_sample

from medssl_monai.readers.decoders import count_slices

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_count_slices_reads_headers_only(tmp_path, picture):
    assert count_slices(dicom_sample("CT_small.dcm")) is None
    assert count_slices(dicom_sample("SC_rgb_rle_2frame.dcm")) == 2
    assert count_slices(dicom_sample("MR_truncated.dcm")) is None
    with pytest.raises(ValueError, match="segmentation"):
        count_slices(dicom_sample("liver_1frame.dcm"))
    with pytest.raises(ValueError, match="it holds a report, not an image"):
        count_slices(dicom_sample("reportsi.dcm"))
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5)), np.eye(4)), tmp_path / "a.nii")
    assert count_slices(tmp_path / "a.nii") == 5
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 1)), np.eye(4)), tmp_path / "b.nii")
    assert count_slices(tmp_path / "b.nii") is None
