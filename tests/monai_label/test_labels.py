"""Classes and findings as clients hand them over."""

from __future__ import annotations

import json

import pytest

from medssl_monai.kinds import Classes, Findings
from medssl_monai.monai_label.labels import read_class

FINDINGS = ["effusion", "mass", "nodule"]


class TestClasses:
    @pytest.fixture
    def read(self, tmp_path):
        """Reads a label, or a whole file if it is a text."""

        def _read(content, kind=None, classes=FINDINGS):
            path = tmp_path / "label.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            return read_class(path, None if kind is None else kind(tuple(classes)), classes)

        return _read

    @pytest.mark.parametrize("kind", [None, Classes])
    @pytest.mark.parametrize("label", ["mass", 1, "1"])
    def test_one_class(self, read, label, kind):
        assert read({"label": label}, kind) == 1

    def test_more_in_the_object_is_passed_over(self, read):
        assert read({"prediction": [], "label": "mass", "weights": "0123"}) == 1

    def test_names_come_before_numbers(self, read):
        assert read({"label": "1"}, classes=["1", "0"]) == 0
        assert read({"label": 1}, classes=["1", "0"]) == 1

    @pytest.mark.parametrize("kind", [None, Findings])
    @pytest.mark.parametrize(
        ("label", "states"),
        [
            (["mass"], [0, 1, 0]),
            (["nodule", "effusion"], [1, 0, 1]),
            ([], [0, 0, 0]),
            (["none"], [0, 0, 0]),
            ({"effusion": True, "mass": False, "nodule": None}, [1, 0, -1]),
            ({"effusion": 1, "mass": 0}, [1, 0, -1]),  # what is not named is unknown
            ([1, 0, -1], [1, 0, -1]),
            ("effusion; ?mass", [1, -1, 0]),
            ("none", [0, 0, 0]),
            ("1 0 -1", [1, 0, -1]),
        ],
    )
    def test_findings(self, read, label, states, kind):
        assert read({"label": label}, kind) == states

    def test_one_finding_as_a_text_is_a_list_only_where_the_kind_says_so(self, read):
        assert read({"label": "mass"}, Findings) == [0, 1, 0]
        assert read({"label": "mass"}) == 1

    @pytest.mark.parametrize(
        ("label", "kind", "wanted"),
        [
            ("MASS", None, 1),
            ("Mass", Classes, 1),
            ("Effusion; ?NODULE", None, [1, 0, -1]),
            (["Mass"], None, [0, 1, 0]),
            ({"Mass": True}, Findings, [-1, 1, -1]),
            ("None", Findings, [0, 0, 0]),
            (["NONE"], None, [0, 0, 0]),
        ],
    )
    def test_names_in_any_case(self, read, label, kind, wanted):
        assert read({"label": label}, kind) == wanted

    def test_a_case_that_tells_two_classes_apart(self, read):
        assert [read({"label": label}, classes=["a", "A"]) for label in ("a", "A")] == [0, 1]
        with pytest.raises(ValueError, match="which is none of the classes"):
            read({"label": "B"}, Classes, classes=["b", "b "])

    def test_a_key_that_is_there_twice(self, read):
        with pytest.raises(ValueError, match="the file has 'label' twice"):
            read('{"label": "mass", "label": "nodule"}')
        with pytest.raises(ValueError, match="the file has 'mass' twice"):
            read('{"label": {"mass": true, "mass": false}}')
        with pytest.raises(ValueError, match="write what is there"):
            read({"label": {"mass": True, "Mass": False}}, Findings)

    @pytest.mark.parametrize("content", ['{"label": ' + "[" * 10**5, '{"label": ' + "9" * 5000 + "}", '{"a":' * 9999])
    def test_depth(self, read, content):
        with pytest.raises(ValueError, match="the file is no JSON"):
            read(content)

    def test_size(self, read):
        with pytest.raises(ValueError, match="more than the 1,048,576 bytes"):
            read({"label": "mass", "more": "x" * 2**20})

    @pytest.mark.parametrize("content", ["", "mass", '{"label": ', "\xff"])
    def test_what_is_no_json(self, read, content):
        with pytest.raises(ValueError, match=r'the file is no JSON; a label is a JSON object such as \{"label": "eff'):
            read(content)

    @pytest.mark.parametrize("content", [[1], 3, {}, {"labels": 1}, None])
    def test_what_has_no_label(self, read, content):
        with pytest.raises(ValueError, match=r"the file has no 'label'; a label is a JSON object such as"):
            read(content)

    @pytest.mark.parametrize(
        "label", ["cyst", 3, -1, True, 1.0, None, "", "0 1 0", ["mass"], {"mass": True}, [0, 1, 0]]
    )
    def test_what_is_no_class(self, read, label):
        with pytest.raises(
            ValueError, match=r"the label is .*(none of the classes|a class index from 0 to 2).*; a label"
        ):
            read({"label": label}, Classes)

    @pytest.mark.parametrize("kind", [None, Findings])
    @pytest.mark.parametrize(
        "label",
        [
            *(["cyst"], {"cyst": True}, {"mass": "yes"}, {"mass": [1]}, {"mass": 2}, {"mass": 0.5}, [[1], [0], [0]]),
            *(
                [1, 0],
                [1, 0, 2],
                [1.0, 0.0, 0.0],
                [True, False, False],
                "1 0",
                "1 0 2",
                "mass; ?mass",
                "a;b",
                None,
                1.5,
            ),
            *([-1, -1, -1], {"effusion": None}, {}),  # nothing is known
        ],
    )
    def test_what_is_no_list_of_findings(self, read, label, kind):
        with pytest.raises(ValueError, match=r"the label (is|says) .*; a label is a JSON object such as"):
            read({"label": label}, kind)

    def test_the_message_shows_the_form_that_is_wanted(self, read):
        with pytest.raises(ValueError, match=r"the label is 1; write what is there, .* \{\"label\": \[\"effusion"):
            read({"label": 1}, Findings)
