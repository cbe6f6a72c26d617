"""The label of an item, whatever its kind."""

import pytest

from medssl_monai.prepare.labels import is_labeled, one_against_rest, strata
from medssl_monai.prepare.layouts.dataset import Dataset


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({}, []),
        ({"label": 2}, [2]),
        ({"label": [0, 1, -1, 1]}, [1, 3]),
        ({"label": [0, 0, -1]}, [-1]),
        ({"label": "masks/a.png"}, [0]),
        ({"mask": "masks/a.png"}, [-2]),
        ({"label": 1, "mask": "masks/a.png"}, [1, -2]),
    ],
)
def test_an_item_is_in_the_strata_of_all_that_it_shows(item, expected):
    assert strata(item) == expected
    assert is_labeled(item) == bool(expected)


def test_one_class_against_all_others():
    dataset = Dataset(items=[{"label": 0}, {"label": 2}, {"label": 1}, {}], classes=("a", "b", "c"))
    one_against_rest(dataset, "c", ())
    assert dataset.classes == ("other", "c")
    assert dataset.items == [{"label": 0}, {"label": 1}, {"label": 0}, {}]


def test_a_finding_that_is_not_known_is_no_label():
    dataset = Dataset(items=[{"label": [1, 0]}, {"label": [0, -1]}, {"label": [-1, 1]}], classes=("mass", "edema"))
    one_against_rest(dataset, "edema", ("no", "yes"))
    assert dataset.classes == ("no", "yes")
    assert dataset.items == [{"label": 0}, {}, {"label": 1}]


@pytest.mark.parametrize(
    ("labels", "positive", "names", "message"),
    [
        (["a.png"], "a", (), "the labels are masks"),
        ([0], "x", (), "'x' is none of the classes"),
        ([0], "a", ("a", "b", "c"), "there are two classes"),
    ],
)
def test_what_has_no_positive_class_is_refused(labels, positive, names, message):
    dataset = Dataset(items=[{"label": label} for label in labels], classes=("a", "b"))
    with pytest.raises(ValueError, match=message):
        one_against_rest(dataset, positive, names)
