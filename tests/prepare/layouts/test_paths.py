"""Which file a table, or the name of a mask, means."""

import os

import pytest

from medssl_monai.prepare.layouts.paths import Paths, pairs, parts_of, shared

FILES = ["1.png", "a/2.png", "a/b/3.PNG", "b/4.png", "c/4.png", "d/5.png", "d/5.jpg", "ISIC_7.jpeg"]


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "study" / "P1").mkdir(parents=True)
    return Paths(FILES, tmp_path / "study" / "P1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1.png", "1.png"),
        ("./1.png", "1.png"),
        ("a\\2.png", "a/2.png"),
        ("a/2", "a/2.png"),
        ("a/b/3.png", "a/b/3.PNG"),
        ("a/x/../2.png", "a/2.png"),
        ("P1/1.png", "1.png"),
        ("study/P1/a/2.png", "a/2.png"),
        ("2.png", "a/2.png"),
        ("3.jpg", "a/b/3.PNG"),
        ("d/5.jpeg", "d/5.jpg"),
        ("ISIC_7", "ISIC_7.jpeg"),
    ],
)
def test_a_path_means_the_file_that_it_names(paths, text, name):
    assert paths.fitting(text) == [name]


@pytest.mark.parametrize(
    "text", ["P2/1.png", "b/2.png", "b/3.png", "x/study/P1/1.png", "../P2/1.png", "../1.png", "", "9.png"]
)
def test_the_end_of_a_path_is_not_enough(paths, text):
    assert paths.fitting(text) == []


@pytest.mark.parametrize(("text", "names"), [("4.png", ["b/4.png", "c/4.png"]), ("d/5", ["d/5.jpg", "d/5.png"])])
def test_what_several_files_fit_is_told(paths, text, names):
    assert paths.fitting(text) == names


def test_a_path_that_was_written_down_whole(paths, tmp_path):
    assert paths.fitting(str(tmp_path / "study" / "P1" / "1.png")) == ["1.png"]
    assert paths.fitting("C:\\study\\P1\\1.png") == ["1.png"]  # the drive does not count
    assert paths.fitting("C:\\old\\study\\P1\\1.png") == []
    assert Paths(["1.png"], tmp_path).fitting(os.path.abspath(tmp_path / "1.png")) == ["1.png"]


def test_a_folder_below_and_the_folder_itself_may_both_be_meant(tmp_path):
    found = Paths(["P1/1.png", "1.png"], tmp_path / "P1").fitting("P1/1.png")
    assert found == ["P1/1.png", "1.png"]


def test_accents_are_compared_as_they_look(tmp_path):
    assert Paths(["u\u0308/a\u0308.png"], tmp_path).fitting("\u00fc/\u00e4.png") == ["u\u0308/a\u0308.png"]
    assert Paths(["u\u0308.png", "\u00fc.png"], tmp_path).fitting("\u00fc.png") == ["u\u0308.png", "\u00fc.png"]


def test_a_name_alone_is_known_as_such(paths):
    assert paths.is_bare("2.png", "a/2.png") and not paths.is_bare("1.png", "1.png")
    assert not paths.is_bare("a/2.png", "a/2.png")


def test_parts_of_a_path():
    assert parts_of("//a\\.//b/../c.png ") == ("a", "c.png")


@pytest.mark.parametrize(
    ("images", "masks", "found"),
    [
        (["images/P1/s.png", "images/P2/s.png"], ["P1/s.png"], {"images/P1/s.png": ["P1/s.png"]}),
        (["1.jpg", "2.jpg"], ["2.png"], {"2.jpg": ["2.png"]}),
        (["images/1.jpg"], ["1.nii.gz"], {"images/1.jpg": ["1.nii.gz"]}),
        (["1.jpg"], ["P7/1.png"], {}),
        (["s.png"], ["study/P1/s.png", "study/P2/s.png"], {"s.png": ["study/P1/s.png"]}),
        (["s.png"], ["P1/s_seg.png", "P2/s_seg.png"], {"s.png": ["P1/s_seg.png"]}),
        (["s.png"], ["P2/s.png"], {}),
        (["t/s.png"], ["P1/t/s.png", "P2/t/s.png"], {"t/s.png": ["P1/t/s.png"]}),
        (["P1/s.png"], ["P2/s.png"], {}),
        (["P1/s.png", "P2/s.png"], ["s.png"], {}),
        (["s.png"], ["P1/s.png", "P2/s.png"], {"s.png": ["P1/s.png"]}),
        (["P1/1.png", "P2/2.png"], ["P1/2.png"], {}),
        (["1.jpg", "2.jpg"], ["1_mask.png", "2_mask.png"], {"1.jpg": ["1_mask.png"], "2.jpg": ["2_mask.png"]}),
        (["a/1.jpg", "a/10.jpg"], ["a/seg_10.png"], {"a/10.jpg": ["a/seg_10.png"]}),
        (["c_1.jpg", "c_1_2.jpg"], ["c_1_2_seg.png"], {"c_1_2.jpg": ["c_1_2_seg.png"]}),
        (["c.jpg", "c_b.jpg"], ["c_b_seg.png"], {"c_b.jpg": ["c_b_seg.png"]}),
        (["b.jpg", "a_b.jpg"], ["seg_a_b.png"], {"a_b.jpg": ["seg_a_b.png"]}),
        (["a.jpg", "b.jpg"], ["a_b.png"], {"a.jpg": ["a_b.png"], "b.jpg": ["a_b.png"]}),
        (["1.png"], ["P01_1.png"], {}),
        (["1.png", "2.png"], ["1_seg.png", "2_mask.png"], {}),
    ],
)
def test_masks_and_images_fit_by_their_paths(images, masks, found, tmp_path):
    assert pairs(images, masks, tmp_path / "study" / "P1") == found


def test_two_masks_of_an_image_and_two_images_of_a_mask_are_told(tmp_path):
    assert pairs(["1.jpg"], ["1.png", "1.nii.gz"], tmp_path) == {"1.jpg": ["1.png", "1.nii.gz"]}
    found = pairs(["a/P1/s.png", "b/P1/s.png"], ["P1/s.png"], tmp_path)
    assert shared(found) == {"P1/s.png": ["a/P1/s.png", "b/P1/s.png"]}
    assert shared({"1.jpg": ["1.png"]}) == {}
