"""What a name from data may be, and what nested values from data may hold."""

from __future__ import annotations

import copy

import pytest
from monai.bundle import ConfigParser

from medssl_monai import limits, names
from medssl_monai.kinds import Findings

REFUSED = {
    "$open('x', 'w')": r"begins with '\$', which a configuration would evaluate",
    "$import os": "would evaluate",
    "@risk": "would evaluate",
    "%/etc/x.json::y": "would evaluate",
    "\uff04open": r"begins with '\$'",  # a wide dollar
    "\uff1dcmd()": "begins with '='",
    "=1+1": "which a spreadsheet would compute",
    "+1+1": "would compute",
    "-2+3": "would compute",
    "+ve": "would compute",
    "-1,5": "would compute",
    "a@::b": "holds '@::', which a configuration would take for a reference",
    "50%#a": "holds '%#'",
    "a\x00": "control characters",
    "a\nb": "control characters",
    "\x1b[31mred": "control characters",
    "a\u202eb": "control characters",  # the rest is read from right to left
    "a\u200bb": "control characters",  # not seen
    "a\u2028b": "control characters",
    "\ufeffa": "control characters",
    "a\ud800": "control characters",
    "": "is empty",
    " \u00a0": "is empty",
    " a": "begins or ends with a blank",
    "a\u3000": "begins or ends with a blank",
    "a" * 5000: "is longer than 4,096 signs",
}
ALLOWED = ["a $b", "50%", "x@y", "risk: @1", "a::b", "a#b", "_target_", "-", "+", "-1", "+2.5e-3", "1", "<b>&", "a'b"]
ALLOWED += ['"', "none", "?x", "a;b", "'=1", "Läsion", "\u0645\u06cc\u200c\u062e\u0648", "病变", "a/b\\c", "{}", "null"]


@pytest.mark.parametrize(("name", "problem"), REFUSED.items())
def test_what_could_be_read_as_something_else_is_refused(name, problem):
    with pytest.raises(ValueError, match=f"^my.csv, line 3: the class .* {problem}.*; rename it.$"):
        names.check_name(name, "class", "my.csv, line 3")


@pytest.mark.parametrize("name", [None, 1, 1.5, True, ["a"], {"a": 1}, b"a"])
def test_what_is_no_text_is_no_name(name):
    with pytest.raises(ValueError, match=f"is no text but {type(name).__name__}"):
        names.check_name(name, "id", "my.json")


@pytest.mark.parametrize("name", ALLOWED)
def test_a_name_that_passes_means_nothing_to_a_configuration(name):
    names.check_name(name, "class", "here")
    config = {"top": {"deep": {"0": name}, "list": [name]}, "x": 1, "y": 2, "b": 3, "1": 4}
    parser = ConfigParser(copy.deepcopy(config))
    assert parser.get_parsed_content("top") == {
        "deep": {"0": name.replace("#", "::")},  # all that MONAI does to it, wherever it stands
        "list": [name.replace("#", "::")],
    }


def test_a_message_is_one_short_line():
    with pytest.raises(ValueError, match="control") as found:
        names.check_name("$" + "\n\x1b" * 1000, "class", "here")
    assert str(found.value).isprintable() and len(str(found.value)) < 200


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Effusion", "effusion"),
        ("a b", "a  b"),
        ("é", "e\u0301"),
        ("Straße", "STRASSE"),
        ("ab", "a\u200db"),
        ("a", "a"),
    ],
)
def test_classes_that_a_person_cannot_tell_apart(first, second):
    with pytest.raises(ValueError, match=r"my.json: the class .* is there as .* already; give each its own name"):
        names.check_classes([first, "other", second], "class", "my.json")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", "would mean that nothing is there"),
        ("None", "would mean that nothing is there"),
        ("a;b", "holds ';'"),
        ("?mass", r"begins with '\?'"),
    ],
)
def test_findings_that_the_text_of_a_label_cannot_carry(name, problem):
    names.check_classes(["a", name], "class", "my.json")  # one class per image is written as it is
    with pytest.raises(ValueError, match=f"the finding '.*' {problem}.*as labels are written; rename it"):
        Findings(("a", name)).check("my.json")


def test_the_number_of_classes_is_bounded():
    with pytest.raises(ValueError, match="holds 1,001 classes, and 1,000 are the most"):
        names.check_classes([f"class {k}" for k in range(1001)], "class", "my.json")
    with limits.raised(max_classes=1001):
        names.check_classes([f"class {k}" for k in range(1001)], "class", "my.json")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Mass", "Mass"),
        ("mass", "mass"),
        ("MASS", None),
        ("E\u0301tat", "État"),
        ("pleural  effusion", "Pleural Effusion"),
    ],
)
def test_a_person_may_write_a_name_in_any_case_where_only_one_can_be_meant(text, meant):
    assert names.find(text, ["Mass", "mass", "État", "Pleural Effusion"]) == meant


@pytest.mark.parametrize(
    "content",
    [
        {"a": [{"b": "$1"}]},
        {"a": ("%x",)},
        {"$a": 1},
        {"a": {"_target_": "print"}},
        {"a": {"_mode_": "debug"}},
        {"a::b": 1},
        {"a": {"b#c": 1}},
        {"a": "x @##y"},
        ["@x"],
        "@x",
    ],
)
def test_what_a_configuration_would_evaluate_is_not_inert(content):
    with pytest.raises(ValueError, match=r"^metadata.json: .* configuration"):
        names.check_inert(content, "metadata.json")


def test_what_is_inert_stays():
    cyclic: dict = {"a": ALLOWED, "b": {"0": 1.5, "1": None, "c_d": True}}
    cyclic["again"] = cyclic
    names.check_inert(cyclic, "metadata.json")


def test_numbers_in_names_are_sorted_by_their_size():
    assert sorted(["b", "slice10", "slice2", "a10/1", "2"], key=names.natural) == [
        "2",
        "a10/1",
        "b",
        "slice2",
        "slice10",
    ]
