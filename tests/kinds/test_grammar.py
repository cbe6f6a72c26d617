"""Labels as people write them."""

import os

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.tables import Table, text_of

FINDINGS = ["effusion", "mass", "pleural/other"]


def parsed(kind, text):
    """The label of a cell; the words of the refusal if it is none."""
    try:
        return kind.parse(text)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("text", "label"), [("high", 1), ("HIGH", 1), ("Low", 0), ("1.0", 1), ("01", 1), ("0", 0), (1, 1)]
)
def test_a_class_by_name_or_index(text, label):
    assert Classes(("low", "high")).parse(text) == label


@pytest.mark.parametrize(
    "text", ["²", "\uff11", "1e0", "1E0", "True", "1.5", "1,0", "0x1", "½", "٣", "1_0", "1.", ".0", "--1", "9" * 5000]
)
def test_what_is_no_whole_number_is_no_index(text):
    with pytest.raises(ValueError, match=r"which is none of the classes \['low', 'high'\]") as refused:
        Classes(("low", "high")).parse(text)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("value", ["3", 3, -1, True, 1.0, None, [1], "1 0"])
def test_what_is_no_class_says_what_may_be(value):
    with pytest.raises(ValueError, match="class"):
        Classes(("low", "high")).parse(value)


def test_classes_without_names_are_indices():
    assert Classes().parse("3") == 3
    with pytest.raises(ValueError, match="must be a class index from 0"):
        Classes().parse("low")


@pytest.mark.parametrize(("text", "label"), [("2", 0), ("3", 1), ("2.0", 0), ("02", 0), ("other", 2), ("+2", 0)])
def test_where_a_class_is_named_by_a_number_numbers_are_names(text, label):
    """Else 1 would be the class 3, and nobody would see it."""
    assert Classes(("2", "3", "Other")).parse(text) == label
    for index in ("0", "1"):
        with pytest.raises(ValueError, match="none of the classes"):
            Classes(("2", "3", "Other")).parse(index)


def test_a_number_that_two_names_read_as_is_none_of_them():
    assert "none of the classes" in parsed(Classes(("1", "1.0")), "1.00")
    assert [Classes(("1", "1.0")).parse(text) for text in ("1", "1.0")] == [0, 1]
    assert "none of the classes" in parsed(Classes(("0.5", "1.5")), "1")


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("none", [0, 0, 0]),
        ("None", [0, 0, 0]),
        ("mass", [0, 1, 0]),
        ("MASS; Pleural/Other", [0, 1, 1]),
        (" mass ;?effusion;", [-1, 1, 0]),
        ("? Mass; effusion", [1, -1, 0]),
        ("1 0 -1", [1, 0, -1]),
        ("1.0 0.0 -1.0", [1, 0, -1]),
        ([1, 0, -1], [1, 0, -1]),
        (["Mass"], [0, 1, 0]),
        ([], [0, 0, 0]),
        (["none"], [0, 0, 0]),
        ({"mass": True, "effusion": None}, [-1, 1, -1]),
        ({"mass": 1, "effusion": 0, "pleural/other": -1}, [0, 1, -1]),
    ],
)
def test_findings_by_name_or_number(given, label):
    assert Findings(tuple(FINDINGS)).parse(given) == label


@pytest.mark.parametrize(
    "given", ["mass; Mass", "mass; none", "?", ";", "1 ² 0", "1 0", "", 1, None, True, ["lung"], {"mass": "yes"}]
)
def test_what_is_no_findings_says_what_may_be(given):
    with pytest.raises(ValueError, match=r"finding|write what is there"):
        Findings(tuple(FINDINGS)).parse(given)


def test_a_finding_that_nobody_looked_at_in_all_is_no_label():
    with pytest.raises(ValueError, match="says of every finding that it is unknown"):
        Findings(tuple(FINDINGS)).parse("-1 -1 -1")


def test_a_single_finding_is_no_class_index():
    assert [Findings(("mass",)).parse(text) for text in ("1", "0")] == [[1], [0]]
    assert [Findings(("7",)).parse(text) for text in ("7", "7.0")] == [[1], [1]]
    assert "write what is there" in parsed(Findings(("7",)), "0")


def test_masks_are_paths_whatever_they_look_like(tmp_path):
    assert [Masks(("bg", "1")).parse(text) for text in ("1", "bg", "a/b.nii")] == ["1", "bg", "a/b.nii"]
    (tmp_path / "m.png").write_bytes(b"")
    assert os.path.samefile(Masks().parse("m.png", tmp_path), tmp_path / "m.png")
    for wrong in ("", " ", 1, None, "a\0b"):
        with pytest.raises(ValueError, match="path"):
            Masks().parse(wrong)
    with pytest.raises(ValueError, match=r"is 'lost\.png', and there is no such file"):
        Masks().parse("lost.png", tmp_path)


ODD = ["1", "0 1", "-", "+", "-1", "1.0", "None", "a;b", "?", "'", "'=a", "0", "Wirbelsäule", "a  b", "1e5", "mask"]
NAMES = st.lists(st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=8)), min_size=1, max_size=4)


def allowed(kind):
    try:
        kind.check("here")
    except ValueError:
        return False
    return True


def through_a_table(text):
    """A label after it was written for a spreadsheet and read again."""
    ((_, row),) = Table.parse(text_of([["id", "label"], ["s0", text]]).encode(), "t.csv").rows
    return row["label"]


@settings(max_examples=300, deadline=None)
@given(names=NAMES, data=st.data())
def test_a_class_as_text_is_read_back_whatever_its_name(names, data):
    kind = Classes(tuple(names))
    assume(allowed(kind))
    label = data.draw(st.integers(0, len(names) - 1))
    assert kind.parse(through_a_table(kind.text(label))) == label


@settings(max_examples=300, deadline=None)
@given(names=NAMES, data=st.data())
def test_findings_as_text_are_read_back_whatever_their_names(names, data):
    kind = Findings(tuple(names))
    assume(allowed(kind))
    label = data.draw(st.lists(st.integers(-1, 1), min_size=len(names), max_size=len(names)))
    assume(kind.known(label))
    assert kind.parse(through_a_table(kind.text(label))) == label
    assert Findings().parse(through_a_table(Findings().text(label))) == label


@pytest.mark.parametrize("name", ["none", "None", "a;b", "?mass"])
def test_a_finding_whose_name_means_something_else_is_refused(name):
    with pytest.raises(ValueError, match=r"here: the finding .* as labels are written; rename it"):
        Findings((name, "mass")).check("here")
    Classes((name, "mass")).check("here")  # a class is written alone
