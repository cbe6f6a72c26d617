"""Bundles that are shipped, and copies of them."""

from pathlib import Path

import pytest

from medssl_monai.bundle.shipped import copy_bundle, shipped_bundles


def test_shipped_bundles_are_found():
    assert shipped_bundles().resolve() == (Path(__file__).parents[2] / "bundles").resolve()


def test_a_copy_has_everything_but_results(tmp_path, monkeypatch):
    source = tmp_path / "bundles" / "mine"
    for name in ("configs/train.yaml", "docs/README.md", "LICENSE", "models/model.pt", "eval/report.html"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (tmp_path / "bundles" / "_shared").mkdir()
    monkeypatch.setattr("medssl_monai.bundle.shipped.shipped_bundles", lambda: tmp_path / "bundles")
    target = copy_bundle("mine", tmp_path / "a" / "copy")
    assert target == tmp_path / "a" / "copy"
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert copied == ["LICENSE", "configs/train.yaml", "docs/README.md"]


def test_an_empty_folder_may_become_a_bundle(tmp_path):
    assert (copy_bundle("boostmis", tmp_path) / "configs" / "train.yaml").is_file()


def test_a_folder_in_use_is_not_copied_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; name a new folder"):
        copy_bundle("boostmis", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["boostmiss", "_shared", "", "..", "boostmis/configs"])
def test_a_bundle_that_is_not_shipped(tmp_path, name):
    with pytest.raises(ValueError, match=r"there is no bundle .*; there are \[.*'boostmis'"):
        copy_bundle(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
