import pydicom
import pytest
from support_readers import write_slice

from medssl_monai.files import sha256
from medssl_monai.readers.dicom.identity import instance_uid

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


def test_instance_uid_or_the_hash_of_the_content(tmp_path):
    assert instance_uid(write_slice(tmp_path / "a", SOPInstanceUID="1.2.3")) == "1.2.3"
    ds = pydicom.dcmread(tmp_path / "a")
    del ds.SOPInstanceUID
    ds.save_as(tmp_path / "b")
    assert instance_uid(tmp_path / "b") == sha256(tmp_path / "b")
    (tmp_path / "c").write_text("hello")
    assert instance_uid(tmp_path / "c") == sha256(tmp_path / "c")
