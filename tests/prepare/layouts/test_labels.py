"""Labels in cells."""

import json

import pytest
from support_prepare import paint, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.layouts.labels import finding
from medssl_monai.prepare.prepare import prepare


def noted(path):
    return json.loads((path.parent / "prepare_report.json").read_text())["noted"]


@pytest.mark.parametrize(
    ("text", "uncertain", "blank", "value"),
    [
        ("1", "ignore", "ignore", 1),
        ("0.0", "one", "one", 0),
        ("-1.0", "ignore", "one", -1),
        ("-1", "zero", "one", 0),
        ("-1", "one", "zero", 1),
        ("", "one", "ignore", -1),
        ("NaN", "one", "zero", 0),
        (" ", "zero", "one", 1),
        ("maybe", "zero", "zero", None),
        ("2", "zero", "zero", None),
    ],
)
def test_findings_follow_the_policy(text, uncertain, blank, value):
    assert finding(text, uncertain, blank) == value


def test_several_label_columns_are_findings(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "t.csv").write_text("image,mass,edema\n0,1,0\n1,-1,\n2,,1.0\n3,odd,1\n")
    options = {"label_column": "mass, edema", "split": (1, 0, 0), "clear_names": True}
    path = prepare(tmp_path / "in", tmp_path / "out", **options)
    assert load_datalist(path).classes == ("mass", "edema")
    assert [item.get("label") for item in section(path).values()] == [[1, 0], [-1, -1], [-1, 1], None]
    assert noted(path)["finding that is neither 1, 0, -1 nor blank"]["items"] == ["row 5"]
    path = prepare(tmp_path / "in", tmp_path / "out", **options, uncertain="one", blank="zero")
    assert [item.get("label") for item in section(path).values()] == [[1, 0], [1, 0], [0, 1], None]
