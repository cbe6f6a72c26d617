"""Images one after the other, each of its size; what cannot be read is told, not met with."""

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged

from medssl_monai.data import ImageDataset, ReadableImages
from medssl_monai.readers import ClinicalReader


def transform(item):
    assert not item.keys() & {"label", "labeled", "group"}
    if item["size"] < 0:
        raise ValueError(f"{item['image']} is bad")
    return {**item, "image": np.zeros((1, item["size"]))}


def items(*sizes):
    return [{"image": f"/p/{k}.png", "id": f"s{k}", "size": size, "label": 1} for k, size in enumerate(sizes)]


def test_sizes_may_differ_and_bad_files_are_passed_over():
    data = ReadableImages(items(3, -1, 5), transform)
    for _ in range(2):
        assert [(item["index"], item["image"].shape) for item in data] == [(0, (1, 3)), (2, (1, 5))]
        assert data.unreadable == {1: "ValueError: s1 is bad"}


def test_nothing_at_all():
    with pytest.raises(ValueError, match="none of 2 images can be read:\n  s0: ValueError: s0 is bad\n  s1"):
        list(ReadableImages(items(-1, -1), transform))
    assert list(ReadableImages([], transform)) == []


def test_what_was_found_unusable_before_is_not_read(tmp_path):
    data = items(3, 4)
    data[0]["problem"] = "it holds a segmentation, not an image"
    readable = ReadableImages(data, transform)
    assert [item["index"] for item in readable] == [1]
    assert readable.unreadable == {0: "it holds a segmentation, not an image"}
    dataset = ImageDataset(data, lambda item: {"image": torch.zeros(1, 2, 2)}, on_bad_file="skip")
    assert dataset.unreadable == {0: "it holds a segmentation, not an image"}


@pytest.mark.parametrize("nan", ["refuse", "background"])
def test_nan_is_an_error_of_the_row_or_background_with_a_word(tmp_path, caplog, nan):
    voxels = np.ones((4, 5, 6), np.float32)
    voxels[0] = np.nan
    data = []
    for name, value in (("whole", 0), ("around", np.nan), ("inside", np.nan), ("infinite", np.inf)):
        own = voxels.copy() if name != "whole" else np.nan_to_num(voxels)
        own[(2, 2, 2) if name == "inside" else (0, 0, 0)] = value
        nibabel.save(nibabel.Nifti1Image(own, np.eye(4)), tmp_path / f"{name}.nii")
        data.append({"image": str(tmp_path / f"{name}.nii"), "id": name})
    load = LoadImaged("image", reader=ClinicalReader(nan=nan), image_only=True, ensure_channel_first=True)
    readable = ReadableImages(data, load)
    read = [data[item["index"]]["id"] for item in readable]
    assert read == (["whole"] if nan == "refuse" else ["whole", "around"])
    assert all("NaN or infinite voxels" in reason for reason in readable.unreadable.values())
    said = "around: NaN at its border, 25.0% of its voxels, is read as its smallest value"
    assert (said in caplog.text) == (nan == "background")
    dataset = ImageDataset(data, load, dtype="float32", on_bad_file="skip")
    assert set(dataset.unreadable) == set(readable.unreadable)
