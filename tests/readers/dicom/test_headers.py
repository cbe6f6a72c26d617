import pydicom
import pytest
from support import dicom_sample
from support_readers import write_slice, write_stack

from medssl_monai.readers.dicom.series import find_series, find_volume

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of a plug-in nobody asked for


@pytest.mark.parametrize("at", [1, 2])
def test_a_slice_that_is_cut_short_spoils_its_volume_even_at_the_end(tmp_path, at):
    files = write_stack(tmp_path, [0, 3, 6])
    whole = files[at].read_bytes()
    files[at].write_bytes(whole[:-8])
    found, unusable = find_series(files)
    assert unusable == {files[at]: "it is cut short; copy it anew from its source"}
    assert found[0].problem == "1 of its 3 files are cut short; copy them anew from their source"
    assert files[at] not in found[0].files
    with pytest.raises(ValueError, match="it is cut short"):
        find_volume(tmp_path)
    (tmp_path / "Z").write_bytes(whole)  # a whole copy mends it
    assert find_series(tmp_path.iterdir())[0][0].problem is None


def test_a_damaged_header_is_told_without_its_content(tmp_path):
    path = write_slice(tmp_path / "Secret.dcm", InstanceNumber=1)
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x10\x00US")
    path.write_bytes(content[:at] + b"\x28\x00\x10\x00DS\x04\x00Susa" + content[at + 10 :])
    _, unusable = find_series([path])
    assert unusable == {path: "it is damaged (ValueError); copy it anew from its source"}


def test_only_what_is_needed_is_read_and_no_pixels(tmp_path, monkeypatch):
    calls = []

    def read(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs)

    original = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", read)
    files = write_stack(tmp_path, [0, 3, 6])
    find_series(files)
    assert len(calls) == 3  # each file once
    find_volume(tmp_path)
    names = [{pydicom.datadict.keyword_for_tag(tag) for tag in call["specific_tags"]} for call in calls]
    assert all(call["stop_before_pixels"] for call in calls)
    assert "PatientID" in names[0] and "PatientID" not in names[-1]
    assert not any("Name" in name or "Birth" in name or "Date" in name for read in names for name in read)


@pytest.mark.parametrize("name", ["image_dfl.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "examples_ybr_color.dcm"])
def test_a_whole_file_is_not_called_cut_short_whatever_its_encoding(name):
    path = dicom_sample(name)
    series, unusable = find_series([path])
    assert [one.files for one in series] == [(path,)] and unusable == {}
