"""How much is taken in."""

from __future__ import annotations

import pytest

from medssl_monai import limits


def test_the_usual_bound_holds_and_says_what_raises_it():
    usual = limits.LIMITS["max_classes"].usual
    limits.check("max_classes", usual, "my.csv")
    message = r"^my.csv holds 1,001 classes, and 1,000 .*`--max_classes 1001` .*variable MEDSSL_MAX_CLASSES\.$"
    with pytest.raises(ValueError, match=message):
        limits.check("max_classes", usual + 1, "my.csv")


def test_an_argument_counts_more_than_the_environment_and_that_more_than_the_usual(monkeypatch):
    monkeypatch.setenv("MEDSSL_MAX_ROWS", "7")
    assert limits.limit("max_rows") == 7
    with limits.raised(max_rows=9, max_classes=None):
        assert (limits.limit("max_rows"), limits.limit("max_classes")) == (9, 1000)
        with limits.raised(max_classes=2000):
            assert (limits.limit("max_rows"), limits.limit("max_classes")) == (9, 2000)
        assert limits.limit("max_classes") == 1000
    assert limits.limit("max_rows") == 7


def test_bounds_are_as_before_after_a_failure():
    with pytest.raises(KeyError), limits.raised(max_rows=9):
        raise KeyError
    assert limits.limit("max_rows") == limits.LIMITS["max_rows"].usual


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "1e6", "٣", "9" * 30])
def test_a_bound_that_is_no_number(monkeypatch, text):
    monkeypatch.setenv("MEDSSL_MAX_ROWS", text)
    with pytest.raises(ValueError, match="variable MEDSSL_MAX_ROWS must be a whole number above 0, got"):
        limits.limit("max_rows")
    with pytest.raises(ValueError, match="`max_rows` must be a whole number above 0"), limits.raised(max_rows=text):
        pass


def test_a_header_that_tells_less_than_nothing():
    with pytest.raises(ValueError, match=r"x.nii says that it holds -3 pixels or voxels; it is damaged"):
        limits.check_voxels((4, -3, -5), "x.nii")


def test_all_axes_of_an_image_count_and_none_overflows():
    limits.check_voxels((512, 512, 2048), "x.nii")
    for shape in [(512, 512, 2049), (2**62, 2**62), (32767,) * 7]:
        with pytest.raises(ValueError, match=r"x.nii holds .* pixels or voxels"):
            limits.check_voxels(shape, "x.nii")


def test_prepare_has_a_flag_for_every_bound():
    from medssl_monai.options import Options, option_names

    assert Options().bounds == dict.fromkeys(limits.LIMITS)
    assert [name for name in option_names() if name.startswith("max_")] == list(limits.LIMITS)
