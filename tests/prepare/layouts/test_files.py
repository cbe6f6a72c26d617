"""What lies below a folder: images, what is passed over and why, and series that share folders."""

import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import MRImageStorage, generate_uid
from support import save_dicom

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.layouts import files
from medssl_monai.prepare.layouts.files import by_suffix, image_files, in_words
from medssl_monai.prepare.layouts.listing import list_images
from medssl_monai.prepare.layouts.series import put_series
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader

AXIAL = [1, 0, 0, 0, 1, 0]


def paint(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def mr(path, value, z=None, series="1.2.3.1", instance=None, patient="P1", **elements):
    """A slice of one grey value at `z` mm; None: an image that does not say where it lies."""
    place = {} if z is None else {"ImagePositionPatient": [0, 0, z], "ImageOrientationPatient": AXIAL}
    uids = {"SOPInstanceUID": instance or generate_uid(), "SeriesInstanceUID": series, "StudyInstanceUID": "1.2.3"}
    kind = MRImageStorage if z is not None else "1.2.840.10008.5.1.4.1.1.1.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    all_elements = {"SOPClassUID": kind, "PatientID": patient, "PixelSpacing": [1, 1], **uids, **place, **elements}
    return save_dicom(path, np.full((4, 6), value, np.uint16), "MONOCHROME2", **all_elements)


def grey(item):
    return sorted(np.unique(ClinicalReader().get_data([Path(item["image"])])[0]).tolist())


# ---- links, and what is passed over ---------------------------------------------------------------------------------
def test_linked_folders_are_read_once_and_cycles_end(tmp_path):
    source, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    paint(source / "a" / "1.png"), paint(elsewhere / "2.png"), paint(elsewhere / "deep" / "3.png")
    (source / "b").symlink_to(elsewhere)
    (source / "A again").symlink_to(source / "a")
    (source / "a" / "loop").symlink_to(source / "a")
    (source / "up").symlink_to(tmp_path)
    (source / "self").symlink_to(source)
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (source / "c.png").symlink_to(elsewhere / "2.png")
    found = image_files(source)
    assert found.images == ["a/1.png", "b/2.png", "b/deep/3.png", "c.png"]
    assert found.passed_over == {
        "link to a folder that was read already": ["A again", "a/loop", "b/deep/back"],
        "link to a folder that holds this one": ["self", "up"],
    }


def test_a_folder_keeps_its_own_path_before_a_link_to_it(tmp_path):
    paint(tmp_path / "z" / "1.png")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert image_files(tmp_path).images == ["z/1.png"]


def test_all_else_is_listed_by_reason(tmp_path, monkeypatch):
    for name in ("t.TIF", "b.bmp", "w.webp"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    for name in ("n.nrrd", "m.mha", "h.mhd", "h.raw", "README", "labels.csv", "scan.nii.bz2"):
        (tmp_path / name).write_text("x")
    nib.save(nib.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "p.img")
    paint(tmp_path / ".hidden.png"), paint(tmp_path / ".cache" / "deep" / "x.png"), paint(tmp_path / "1.png")
    (tmp_path / "DICOMDIR").write_bytes(b"")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = image_files(tmp_path)
    assert found.images == ["1.png"]
    reasons = {name: reason for reason, names in found.passed_over.items() for name in names}
    formats = [
        "t.TIF",
        "b.bmp",
        "w.webp",
        "n.nrrd",
        "m.mha",
        "h.mhd",
        "h.raw",
        "README",
        "labels.csv",
        "p.img",
        "p.hdr",
    ]
    assert reasons == {
        **dict.fromkeys([*formats, "scan.nii.bz2"], "not a format that is read"),
        **dict.fromkeys([".hidden.png", ".cache/deep/x.png"], "hidden"),
        "DICOMDIR": "index of DICOM files",
        "broken.png": "broken link",
        "pipe.png": "neither a file nor a folder",
    }
    table = by_suffix(found.unused(["labels.csv"], {"not in the list": ["c.png"]}))
    assert table[".png"]["not in the list"] == {"count": 1, "items": ["c.png"]}
    assert table[".tif"] == {"not a format that is read": {"count": 1, "items": ["t.TIF"]}}
    assert table[".png"]["hidden"] == {"count": 2, "items": [".cache/deep/x.png", ".hidden.png"]}
    assert table["without suffix"]["not a format that is read"]["items"] == ["README"]
    assert ".csv" not in table
    assert "1 x .mhd: not a format that is read (h.mhd)" in in_words(table)


def test_many_files_are_counted_and_few_named():
    table = by_suffix({"broken link": [f"{k}.png" for k in range(12)]})
    assert table == {".png": {"broken link": {"count": 12, "items": [f"{k}.png" for k in range(5)]}}}
    assert in_words(table) == "12 x .png: broken link (0.png, 1.png, 2.png, 3.png, 4.png, ...)"


def test_what_may_not_be_opened_is_named(tmp_path, monkeypatch):
    paint(tmp_path / "1.png"), paint(tmp_path / "shut" / "2.png"), paint(tmp_path / "3.png")
    scan, look = os.scandir, files.image_format

    def scandir(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    def image_format(path):
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(files, "image_format", image_format)
    assert image_files(tmp_path) == (
        ["1.png"],
        {
            "cannot be opened (Permission denied)": ["3.png"],
            "folder that cannot be opened (Permission denied)": ["shut"],
        },
    )


def test_a_name_that_is_no_text_is_passed_over_and_can_be_printed(tmp_path):
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).write_bytes(b"\x89PNG")
    found = image_files(tmp_path)
    assert found.images == [] and list(found.passed_over) == ["name that is no text in UTF-8"]
    in_words(by_suffix(found.passed_over)).encode()


# ---- cut short, or longer than the picture --------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["png", "jpg", "progressive"])
def test_bytes_after_a_picture_are_no_damage_and_missing_ones_are(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / f"a.{'png' if kind == 'png' else 'jpg'}"
    exif = Image.Exif()
    exif[270] = "a thumbnail ends here: \xff\xd9"
    noise.save(path, exif=exif, **({"progressive": True} if kind == "progressive" else {}))
    whole = path.read_bytes()
    for tail in (b"", b"\0" * 20_000, b"\xff" * 5000, whole[: len(whole) // 2]):
        path.write_bytes(whole + tail)
        assert len(list_images(tmp_path).items) == 1
        assert ClinicalReader().get_data([path])[0].shape == (3, 64, 64)
    for share in (0.3, 0.6, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "cut short" in list_images(tmp_path).unusable[0]["reason"]
    path.write_bytes(whole[:-2])
    assert "cut short" in list_images(tmp_path).unusable[0]["reason"]


def test_a_compressed_volume_is_unpacked_no_further_than_its_voxels(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").unlink()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(10**7)))
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    assert len(list_images(tmp_path, volumes=True).items) == 1
    assert max(read) < 10_000 and min(read) >= 0


def test_notes_on_the_geometry_of_files_are_told(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4))
    image.set_qform(np.diag([1, 1, 9, 1]), 1)
    image.set_sform(np.eye(4), 1)
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "a.nii.gz")
    prepare(tmp_path / "in", tmp_path / "out", volumes=True, split=(1, 0, 0))
    assert "qform and sform" in (tmp_path / "out" / "prepare_report.json").read_text()


# ---- series ---------------------------------------------------------------------------------------------------------
def test_series_that_share_a_folder_are_volumes_each(tmp_path):
    for z in range(4):
        mr(tmp_path / "in" / f"IM{2 * z}", z, z)
        mr(tmp_path / "in" / f"IM{2 * z + 1}", 10 + z, 3 * z, series="1.2.3.2")
    paint(tmp_path / "in" / "photo.png")
    items, unusable, _ = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out")
    assert not unusable and len({item["id"] for item in items}) == 3
    volumes = [item for item in items if Path(item["image"]).is_dir()]
    assert [grey(item) for item in volumes] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    links = list(Path(volumes[0]["image"]).iterdir())
    assert all(link.is_symlink() for link in links)  # nothing of a patient is copied
    again = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out").items
    assert again == items


def test_a_series_in_several_folders_is_one_volume(tmp_path):
    for z in range(4):
        mr(tmp_path / "in" / "ab"[z % 2] / f"{z}", z, z)
    (item,) = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out").items
    assert grey(item) == [0, 1, 2, 3]


def test_series_without_uid_or_of_one_uid_for_all_are_told_apart(tmp_path):
    for patient in ("P1", "P2"):
        for z in range(3):
            mr(tmp_path / "in" / f"{patient}{z}", z + 10 * int(patient[1]), z, series="1.2", patient=patient)
    found = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out")
    assert sorted(map(grey, found.items)) == [[10, 11, 12], [20, 21, 22]]
    assert len({item["id"] for item in found.items}) == len({item["image"] for item in found.items}) == 2


def test_a_series_with_a_gap_in_a_shared_folder_is_not_read_as_something_else(tmp_path):
    for z in (0, 1, 2, 5, 6, 9):
        mr(tmp_path / "in" / f"a{z}", z, z)
    for z in range(3):
        mr(tmp_path / "in" / f"b{z}", z, z, series="1.2.3.2")
    found = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "out")
    assert len(found.items) == 1
    (bad,) = found.unusable
    assert "2 slices are missing between 2.0 and 5.0 mm" in bad["reason"] and "2 between 6.0 and 9.0" in bad["reason"]


def test_a_folder_with_ignored_slices_of_another_series_is_not_taken_as_a_whole(tmp_path):
    for z in range(3):
        mr(tmp_path / "in" / f"a{z}", z, z)
        mr(tmp_path / "in" / f"skip{z}", 50 + z, z, series="1.2.3.2")
    path = prepare(tmp_path / "in", tmp_path / "out", volumes=True, split=(1, 0, 0), ignore=["skip*"])
    (item,) = load_datalist(path)
    assert grey(item) == [0, 1, 2]
    assert "fits a pattern to ignore" in (tmp_path / "out" / "prepare_report.json").read_text()


def test_what_was_gathered_before_gives_way(tmp_path):
    first, second = ([mr(tmp_path / f"{name}{z}", z, z) for z in range(count)] for name, count in (("a", 2), ("b", 3)))
    for link in (False, True):
        put_series(tmp_path / "series" / "x", second, link=link)
        put_series(tmp_path / "series" / "x", first, link=link)
        names = sorted(path.name for path in (tmp_path / "series" / "x").iterdir())
        assert names == ["00000.dcm", "00001.dcm"]
        assert [path.name for path in (tmp_path / "series").iterdir()] == ["x"]


def test_images_of_one_uid_are_all_kept_with_a_word(tmp_path):
    for k in range(5):
        mr(tmp_path / "in" / f"{k}.dcm", k, instance="1.2.3.4")
    (tmp_path / "in" / "copy.dcm").write_bytes((tmp_path / "in" / "3.dcm").read_bytes())
    data = load_datalist(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0)))
    assert sorted(map(grey, data)) == [[0], [1], [2], [3], [4]]
    report = (tmp_path / "out" / "prepare_report.json").read_text()
    assert "its SOPInstanceUID is that of other images, too" in report and "exact copy of another image" in report


def test_all_that_was_not_used_is_in_the_report_and_in_what_is_said_of_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "in" / "a.tiff")
    with pytest.raises(ValueError, match=r"holds no usable image.*1 x .tiff: not a format that is read \(a.tiff\)"):
        prepare(tmp_path / "in", tmp_path / "out")
    paint(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "labels.csv").write_text("image,label\nb.png,x\n")
    prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0))
    report = json.loads((tmp_path / "out" / "prepare_report.json").read_text())
    assert report["unused"] == {".tiff": {"not a format that is read": {"count": 1, "items": ["a.tiff"]}}}


def test_four_sequences_of_the_decathlon_are_refused_with_a_word_on_them(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 4), np.float32), np.eye(4)), tmp_path / "in/imagesTr/a.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "in/labelsTr/a.nii.gz")
    about = {"labels": {"0": "background", "1": "x"}, "tensorImageSize": "4D"}
    pair = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({**about, "training": [pair]}))
    with pytest.raises(ValueError, match=r"a\.nii\.gz .*4 sequences, channels or points in time"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_a_series_with_gaps_that_is_all_there_is_says_where(tmp_path):
    for z in (0, 1, 2, 4, 5, 6, 9):
        mr(tmp_path / "in" / f"{z}", z, z)
    with pytest.raises(ValueError, match=r"between 2\.0 and 4\.0 mm.*and 2 between 6\.0 and 9\.0 mm"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_masks_behind_a_link_are_masks_and_no_images(tmp_path):
    for k in range(3):
        paint(tmp_path / "in" / f"{k}.png", 10 * k)
        paint(tmp_path / "elsewhere" / f"{k}.png", 1)
    (tmp_path / "in" / "labels").symlink_to(tmp_path / "elsewhere")
    options = {"masks": "labels", "classes": ["background", "x"], "split": (1, 0, 0)}
    data = load_datalist(prepare(tmp_path / "in", tmp_path / "out", **options))
    assert len(data) == 3 and all(item["label"] for item in data)


# ---- what is damaged ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lost", [0, 2, 4])
@pytest.mark.parametrize("share", [-0.2, 0.1, 0.15, 0.2, 0.3, 0.5])
def test_a_slice_that_is_cut_within_its_header_is_no_report(tmp_path, share, lost):
    """Its class says image, or nothing; a volume without it would be a shorter one, and nobody would know."""
    for z in range(5):
        mr(tmp_path / "in" / f"{z}.dcm", 10 + z, z)
    path = tmp_path / "in" / f"{lost}.dcm"
    whole = path.read_bytes()
    header = whole.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(whole[: 140 + int(share * (header - 140))])
    found = list_images(tmp_path / "in", volumes=True, gather=tmp_path / "series")
    assert found.items == []
    assert any("1 files beside it are damaged, and may be slices of it" in bad["reason"] for bad in found.unusable)
    path.write_bytes(whole)
    assert len(list_images(tmp_path / "in", volumes=True).items) == 1


def test_a_slice_of_which_the_preamble_alone_is_left(tmp_path):
    for z in range(5):
        mr(tmp_path / "in" / f"IM{z}", 10 + z, z)
    (tmp_path / "in" / "IM4").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="its header is cut short"):
        ClinicalReader().get_data([tmp_path / "in"])
    assert list_images(tmp_path / "in", volumes=True, gather=tmp_path / "series").items == []


def test_pipes_and_devices_are_no_images(tmp_path):
    paint(tmp_path / "in" / "1.png")
    for name in ("pipe.nii.gz", "pipe.png"):
        os.mkfifo(tmp_path / "in" / name)
    (tmp_path / "in" / "zero.nii").symlink_to("/dev/zero")
    (tmp_path / "in" / "self.nii").symlink_to(tmp_path / "in" / "self.nii")
    found = image_files(tmp_path / "in")
    assert found.images == ["1.png"]
    there = sorted(name for names in found.passed_over.values() for name in names)
    assert there == ["pipe.nii.gz", "pipe.png", "self.nii", "zero.nii"]
    for name in ("pipe.nii.gz", "pipe.png", "zero.nii", "self.nii"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            ClinicalReader().get_data([tmp_path / "in" / name])
