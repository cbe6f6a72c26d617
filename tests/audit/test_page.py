"""The page of an audit: complete, bounded, and safe to open."""

import numpy as np
import pytest
from support import Outline

from medssl_monai.audit.page import LISTED, SHOWN, SHOWN_OF_SET, write_audit_page

EVIL = "<script>alert('&')</script>"


def entry(*names, crossing=True, conflict=False, **more):
    items = [{"id": name, "section": "training", "group": f"of {name}", "label": "benign"} for name in names]
    return {"crossing": crossing, "conflict": conflict, "items": items, **more}


def counted(*entries, **more):
    return {"count": len(entries), "crossing": len(entries), "conflict": 0, "list": list(entries), **more}


def make_result(**changes):
    sections = {
        name: {"items": 9, "groups": 4, "labeled": 3, "labels": {"benign": 5, "malignant": 4}}
        for name in ("training", "validation")
    }
    shift = {"question": "class", "shifted": True, "p": 0.001, "cramers_v": 0.4, "statement": "benign is rarer."}
    return {
        "datalist": {"name": "lesions", "sha256": "0", "synthetic": False},
        "created": "2026-01-01T00:00:00+00:00",
        "package": "medssl_monai 0",
        "seconds": 12.3,
        "leaks": ["exact copies: 1."],
        "errors": ["labels contradict: 1."],
        "warnings": ["near copies: 1."],
        "sections": sections,
        "shared_groups": {
            "count": 1,
            "pairs": [{"sections": ["training", "validation"], "count": 1, "items": {"training": 3, "validation": 2}}],
            "list": [{"name": "patient 5", "items": {"training": 3, "validation": 2}}],
        },
        "shared_volumes": {"count": 0, "pairs": [], "list": []},
        "exact_copies": counted(entry("a", "b"), images=2),
        "near_copies": counted(entry("c", "d", score=0.987, same_group=True, conflict=True)),
        "recurring": [
            {
                "from": "training",
                "in": "validation",
                "exact": {"images": 8, "copies": 10},
                "near": {"images": 3, "copies": 4},
                "list": [],
            }
        ],
        "label_shift": [shift],
        "intensity_shift": {
            "sections": {"training": {"mean": 100.0, "std": 20.0, "p1": 3.0, "p99": 250.0}},
            "comparisons": [{"statement": "images of validation are brighter.", "shifted": True}],
        },
        "unreadable": [{"id": "bad one", "section": "validation", "reason": "is cut short."}],
        "blank": ["black one"],
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def _write(images=None, **changes):
        page = write_audit_page(tmp_path / "audit.html", make_result(**changes), images or {}).read_text("utf-8")
        return page, Outline(page)

    return _write


def test_all_that_was_found_is_told(write):
    _, outline = write()
    for text in (
        *("Audit of lesions", "exact copies: 1.", "labels contradict: 1.", "near copies: 1.", "took 12 s"),
        *("patient 5", "similarity 0.987", "of one group", "across sections", "labels contradict", "of a"),
        *("benign is rarer.", "images of validation are brighter.", "bad one (validation) is cut short.", "black one"),
    ):
        assert text in outline.text
    assert "SYNTHETIC" not in outline.text
    assert "research, not a medical device" in outline.text


def test_pairs_stand_side_by_side_with_their_pictures(write):
    grey, colour = np.zeros((30, 20), dtype=np.uint8), np.zeros((300, 200, 3), dtype=np.uint8)
    page, outline = write(images={"a": grey, "b": colour})
    assert [image["alt"] for image in outline.all("img")] == ["Image a", "Image b"]
    assert all(image["src"].startswith("data:image/png;base64,") for image in outline.all("img"))
    assert page.count("no preview") == 2
    assert len(outline.all("figure")) == 4


def test_the_page_is_one_file_without_script(write):
    page, outline = write()
    assert not outline.all("script") and not outline.all("link")
    assert "default-src 'none'" in outline.all("meta")[2]["content"]
    assert "http" not in page.replace("http-equiv", "")


def test_names_from_outside_are_escaped(write):
    copies = counted(entry(EVIL, "b"), images=2)
    copies["list"][0]["items"][1] |= {"section": EVIL, "label": EVIL, "group": EVIL}
    shared = make_result()["shared_groups"]
    shared["list"] = [{"name": EVIL, "items": {"training": 1}}]
    page, outline = write(
        exact_copies=copies,
        shared_groups=shared,
        unreadable=[{"id": EVIL, "section": EVIL, "reason": EVIL}],
        blank=[EVIL],
        warnings=[EVIL],
        datalist={"name": EVIL, "sha256": "0", "synthetic": False},
        images={EVIL: np.zeros((8, 8), dtype=np.uint8)},
    )
    assert "<script>" not in page
    assert outline.text.count(EVIL) >= 10
    assert not outline.all("a")


def test_what_is_too_much_is_counted(write):
    names = [f"n{k}" for k in range(LISTED + 7)]
    _, outline = write(
        exact_copies=counted(*[entry(*names[: SHOWN_OF_SET + 4]) for _ in range(SHOWN + 5)], images=900),
        near_copies=counted(*[entry("c", "d", score=0.9) for _ in range(SHOWN + 3)]),
        blank=names,
    )
    assert len(outline.all("figure")) == SHOWN * (SHOWN_OF_SET + 2)
    assert "and 4 more" in outline.text
    for left in (5, 3, 7):
        assert f"{left} more are listed in audit.json." in outline.text


def test_a_clean_datalist_has_a_short_page(write):
    nothing = {"count": 0, "pairs": [], "list": []}
    empty = {name: [] for name in ("leaks", "errors", "warnings", "recurring", "label_shift", "unreadable", "blank")}
    none = dict.fromkeys(("shared_groups", "exact_copies", "near_copies"), nothing)
    _, outline = write(**empty, **none)
    assert "The sections share no group and no exact copy." in outline.text
    assert "cannot be read" not in outline.text and "single grey value" not in outline.text
    assert outline.text.count("None.") == 3


def test_phantoms_are_said_to_be_phantoms(write):
    phantoms = {"name": "chest", "sha256": "0", "synthetic": True}
    page, outline = write(datalist=phantoms)
    assert "<title>SYNTHETIC DATA: Audit of chest" in page
    assert any(attributes.get("class") == "banner" for attributes in outline.all("p"))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "Figures from this split are too good: a training stops unless leaks are allowed."),
        ({"leaks": []}, "The sections share nothing, but labels contradict each other."),
        ({"leaks": [], "errors": []}, "The sections share no group and no exact copy. See the warnings."),
        ({"leaks": [], "errors": [], "warnings": []}, "The sections share no group and no exact copy."),
    ],
)
def test_the_page_begins_with_the_verdict(write, changes, verdict):
    _, outline = write(**changes)
    assert outline.text.split("Verdict")[1].strip().startswith(verdict)
