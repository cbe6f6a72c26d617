"""Copies, near copies, and labels of theirs that contradict each other."""

import json
import logging
import re

import numpy as np
import pytest
from PIL import Image
from support_audit import clean, pixels

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks


def ids(entry):
    return [item["id"] for item in entry["items"]]


def test_exact_copies_are_counted_as_distinct_images_and_copies(folder):
    training = [{"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 2}, {"seed": 2}, {"seed": 3}]
    validation = [{"seed": 0}, {"seed": 1}, {"seed": 1}, {"seed": 10}]
    path = folder(training=training, validation=validation)
    result = audit(path)
    (recurring,) = result["recurring"]
    assert recurring["exact"] == {"images": 3, "copies": 3}
    assert recurring["list"][0] == {"id": "validation-0", "exact": ["training-0", "training-1"], "near": []}
    assert result["exact_copies"]["repeats"] == {"training": 2, "validation": 1}
    assert [ids(entry) for entry in result["exact_copies"]["list"]] == [
        ["training-0", "training-1", "validation-0"],
        ["training-2", "validation-1", "validation-2"],
        ["training-3", "training-4"],
    ]
    assert result["leaks"] == ["exact copies in training of validation images: 3 of 4 images, 3 copies."]
    assert "training images that repeat another one exactly: 2." in result["warnings"]
    with pytest.raises(ValueError, match=re.escape(result["leaks"][0])):
        check_leaks(path)


def test_equal_pixels_in_files_of_other_bytes(folder, tmp_path):
    path = folder(training=clean(), validation=[{"image": "again.png"}, {"image": "rgb.png"}, {"seed": 10}])
    Image.fromarray(pixels(0)).save(tmp_path / "again.png", compress_level=0)
    Image.fromarray(pixels(1)).convert("RGB").save(tmp_path / "rgb.png")
    result = audit(path)
    assert result["recurring"][0]["exact"] == {"images": 2, "copies": 2}
    check_leaks(path)  # bytes differ; only the audit decodes
    audit(path, path.parent)
    with pytest.raises(ValueError, match="exact copies in training of validation images: 2 of 3"):
        check_leaks(path)  # what an audit beside the datalist said counts


def test_near_copies_warn(folder, tmp_path, caplog):
    path = folder(training=clean(12), validation=[{"image": "near.jpg"}, *clean(3, 20)])
    Image.fromarray(pixels(5)).resize((60, 60)).save(tmp_path / "near.jpg", quality=50)
    result = audit(path, tmp_path)
    assert result["leaks"] == []
    assert result["warnings"][0] == "near copies in training of validation images: 1 of 4 images, 1 copies."
    (pair,) = result["near_copies"]["list"]
    assert ids(pair) == ["training-5", "validation-0"]
    assert (pair["crossing"], pair["same_group"]) == (True, False)
    assert 0.9 < pair["score"] < 1
    assert result["recurring"][0]["list"] == [{"id": "validation-0", "exact": [], "near": ["training-5"]}]
    with caplog.at_level(logging.WARNING):
        check_leaks(path)
    assert "audit of the data: near copies in training of validation images: 1 of 4 images" in caplog.text


def test_near_copies_of_exact_copies_name_the_pair_that_crosses(folder, tmp_path):
    training = [{"seed": 5}, {"image": "near.jpg", "label": 0}, *clean(3, 20)]
    path = folder(training=training, validation=[{"seed": 5, "label": 1}, *clean(3, 30)])
    Image.fromarray(pixels(5)).resize((60, 60)).save(tmp_path / "near.jpg", quality=50)
    (pair,) = audit(path)["near_copies"]["list"]
    assert sorted(ids(pair)) == ["training-1", "validation-0"]
    assert pair["crossing"] and pair["conflict"]


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [(0, 1, True), (0, 0, False), (0, None, False), ([1, -1], [1, 0], False), ([1, 0], [0, -1], True)],
)
def test_contradicting_labels(folder, tmp_path, first, second, conflict):
    training = [{"seed": 0, "label": first}, {"seed": 1, "label": first}]
    training += [{"seed": 0, "label": second}, {"image": "near.jpg", "label": second}]
    path = folder(training=training)
    Image.fromarray(pixels(1)).resize((60, 60)).save(tmp_path / "near.jpg", quality=50)
    result = audit(path)
    assert result["exact_copies"]["conflict"] == result["near_copies"]["conflict"] == conflict
    assert result["errors"] == ["sets of exact copies with labels that contradict each other: 1."] * conflict
    assert ("pairs of near copies with labels that contradict each other: 1." in result["warnings"]) == conflict
    check_leaks(path)  # within a section nothing leaks


@pytest.mark.parametrize("same", [True, False])
def test_masks_of_exact_copies_are_compared_by_their_pixels(folder, tmp_path, same):
    for name, level in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(pixels(50 if same else 50 + level) > 120).save(tmp_path / name, compress_level=level)
    path = folder(training=[{"seed": 0, "label": "a.png"}, {"seed": 0, "label": "b.png"}])
    result = audit(path)
    assert result["exact_copies"]["conflict"] == (not same)
    assert result["exact_copies"]["list"][0]["items"][0]["label"] == "mask"
    assert "a.png" not in json.dumps(result)


@pytest.mark.parametrize("same", [True, False])
def test_classes_and_masks_beside_them_are_counted_and_compared(folder, tmp_path, same):
    for name, level in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(pixels(50 if same else 50 + level) > 120).save(tmp_path / name, compress_level=level)
    training = [
        {"seed": 0, "mask": "a.png"},
        {"seed": 0, "label": None, "mask": "b.png"},
        {"seed": 1, "label": 1, "labeled": False},
        {"seed": 2, "label": 1, "mask": "a.png", "masked": False},
    ]
    validation = [{"seed": 3}, {"seed": 0, "label": None, "mask": "a.png"}]
    path = folder(training=training, validation=validation, mask_classes=["skin", "lesion"])
    result = audit(path, tmp_path)
    summary = result["sections"]["training"]
    assert {kind: summary[kind] for kind in ("items", "labeled", "masked")} == {"items": 4, "labeled": 2, "masked": 2}
    assert summary["labels"] == {"malignant": 2, "benign": 1, "no label": 1}
    assert result["sections"]["validation"]["masked"] == 1
    assert "<th>labeled</th><th>masked</th>" in re.sub(r"<th[^>]*>", "<th>", (tmp_path / "audit.html").read_text())
    assert result["exact_copies"]["conflict"] == (not same)
    assert [item["label"] for item in result["exact_copies"]["list"][0]["items"]] == ["benign, mask", "mask", "mask"]
    assert result["leaks"] == ["exact copies in training of validation images: 1 of 2 images, 2 copies."]
    with pytest.raises(ValueError, match="exact copies in training of validation images"):
        check_leaks(path)


def test_images_of_one_grey_value_are_no_copies(folder, tmp_path):
    Image.new("L", (40, 40), 0).save(tmp_path / "black.png")
    Image.new("L", (40, 40), 0).save(tmp_path / "also.png")
    blank = [{"image": "black.png", "id": f"black {k}", "label": k % 2} for k in range(300)]
    path = folder(training=[*clean(), *blank], validation=[{"image": "also.png", "id": "also"}])
    result = audit(path)
    assert result["leaks"] == result["errors"] == []
    assert len(result["blank"]) == 301
    assert result["exact_copies"]["count"] == result["near_copies"]["count"] == 0
    check_leaks(path)


def test_large_sets_of_copies_are_sets_and_no_pairs(folder):
    result = audit(folder(training=[{"seed": 0}] * 60 + clean(4, 10)))
    (only,) = result["exact_copies"]["list"]
    assert len(only["items"]) == 60
    assert result["near_copies"]["count"] == 0


def test_rows_of_a_feature_table_are_images_of_their_own(folder, tmp_path):
    table = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    table[5] = table[1]
    np.save(tmp_path / "t-features.npy", table)
    rows = [{"image": "t-features.npy", "slice": k, "id": f"row {k}"} for k in range(6)]
    result = audit(folder(training=rows[:4], validation=rows[4:]), tmp_path)
    assert result["leaks"] == ["exact copies in training of validation images: 1 of 2 images, 1 copies."]
    assert ids(result["exact_copies"]["list"][0]) == ["row 1", "row 5"]
