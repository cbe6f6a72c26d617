"""Sections and their files, readable or not."""

import pytest
from PIL import Image
from support_audit import clean, pixels

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks


def test_any_sections_will_do(folder):
    assert list(audit(folder(testing=clean()))["sections"]) == ["testing"]
    assert audit(folder(training=[], validation=clean()))["leaks"] == []


def test_bad_files_are_listed_and_stop_nothing(folder, tmp_path):
    bad = [
        {"image": "cut.png"},
        {"image": "absent.png"},
        {"image": "note.txt"},
        {"image": "training-0.png", "slice": 3},
    ]
    path = folder(training=clean(), validation=[*bad, {"seed": 0, "id": "copy"}])
    Image.fromarray(pixels(3)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    (tmp_path / "note.txt").write_text("no image")
    result = audit(path, tmp_path)
    reasons = {entry["id"]: entry["reason"] for entry in result["unreadable"]}
    assert list(reasons) == ["validation-0", "validation-1", "validation-2", "validation-3"]
    for reason, words in zip(reasons.values(), ("truncated", "not there", "neither PNG", "no slice 3"), strict=True):
        assert words in reason
    assert "images that cannot be read: 4." in result["warnings"]
    assert result["recurring"][0]["exact"]["images"] == 1  # the others are compared
    with pytest.raises(ValueError, match="exact copies"):
        check_leaks(path)


def test_paths_start_from_dataset_dir(folder, tmp_path):
    path = folder(training=clean(), validation=[{"seed": 0}])
    moved = tmp_path / "elsewhere" / "datalist.json"
    moved.parent.mkdir()
    path.rename(moved)
    assert audit(moved, dataset_dir=tmp_path)["recurring"][0]["exact"]["images"] == 1
    with pytest.raises(ValueError, match="exact copies"):
        check_leaks(moved, dataset_dir=tmp_path)


def test_no_datalist(tmp_path):
    for function in (audit, check_leaks):
        with pytest.raises(FileNotFoundError, match="there is no datalist"):
            function(tmp_path / "none.json")
