"""Images one after the other, each of its size; what cannot be read is told, not met with."""

import numpy as np
import pytest

from medssl_monai.data import ReadableImages


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
