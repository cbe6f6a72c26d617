"""Files below a folder: images, and what is passed over and why."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from support_prepare import paint

from medssl_monai.prepare.layouts import files
from medssl_monai.prepare.layouts.files import by_suffix, image_files, in_words
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader


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
