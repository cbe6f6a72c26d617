"""The images that configurations name."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from medssl_monai.bundle.data import load_data, load_images


def test_images_to_predict_must_be_named():
    with pytest.raises(ValueError, match="name the images to predict: `--dataset_dir FOLDER` or `--datalist FILE`"):
        load_images(None)


def test_a_folder_without_images_says_what_is_there(tmp_path):
    with pytest.raises(ValueError, match="holds no PNG, JPEG, NIfTI or DICOM image; it is empty"):
        load_images(None, dataset_dir=tmp_path)
    for name in ("a.tif", "b.tif", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"there are 1 x .png: hidden .*; 2 x .tif: not a format that is read"):
        load_images(None, dataset_dir=tmp_path)


def test_what_cannot_be_used_is_in_the_list_with_its_reason(tmp_path, caplog):
    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:-9])
    (tmp_path / "notes.txt").write_text("x")
    data = load_images(None, dataset_dir=tmp_path, list_to=tmp_path / "out" / "images.json")
    assert [Path(item["image"]).name for item in data] == ["good.png", "bad.png"]
    assert ["problem" in item for item in data] == [False, True] and "cut short" in data[1]["problem"]
    assert "Not predicted: 1 x .txt: not a format that is read (notes.txt)" in caplog.text
    written = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [Path(item["image"]).name for item in written["testing"]] == ["good.png"]
    assert [Path(item["image"]).name for item in written["quarantine"]] == ["bad.png"]
    assert len(load_images(tmp_path / "out" / "images.json")) == 1


def test_patients_or_copies_in_two_sections_stop_a_training(toy_datalist, tmp_path):
    content = json.loads(toy_datalist.read_text())
    for section in ("training", "validation", "testing"):
        for item in content[section]:
            item["image"] = str(toy_datalist.parent / item["image"])
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(content))
    assert len(load_data(path, "training")) == 40
    copy = tmp_path / "copy.png"
    shutil.copy(content["training"][0]["image"], copy)
    content["validation"][0]["image"] = str(copy)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="exact copies in training"):
        load_data(path, "training")
    assert len(load_data(path, "training", allow_leaks=True)) == 40
