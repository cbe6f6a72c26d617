"""Figures of one network on one list of images."""

from __future__ import annotations

import torch
from torch import nn

from medssl_monai.data import Datalist, ImageDataset, LabelPool
from medssl_monai.engines.evaluate import check_pseudo_labels


class Reads(nn.Module):
    """Two classes; the first pixel is the logit of class 1."""

    def forward(self, images):
        logit = images[:, 0, 0, 0]
        return torch.stack([torch.zeros_like(logit), logit], dim=1) * 10


def test_pseudo_labels_that_would_be_accepted_are_compared_with_the_hidden_labels():
    items = [{"image": "x", "id": str(i), "group": str(i), "label": 1} for i in range(5)]
    del items[3]["label"]
    items[4]["label"] = 0
    pixels = [1.0, 1.0, 0.1, 1.0, 1.0]  # 0 is labeled; 2 is not confident; 3 has no label; 4 is wrong
    dataset = ImageDataset(
        Datalist(items, classes=["a", "b"]), lambda item: {"image": torch.full((1, 2, 2), pixels[int(item["id"])])}
    )
    pool = LabelPool(dataset.data, labels=0)
    pool.annotate([0], [1])
    found = check_pseudo_labels(Reads(), dataset, pool, "cpu", 0.95)
    per_class = {"a": {"n": 0}, "b": {"n": 2, "accuracy": 0.5}}
    assert found == {"threshold": 0.95, "unlabeled": 3, "accepted": 2, "accuracy": 0.5, "per_class": per_class}
    assert check_pseudo_labels(Reads(), dataset, pool, "cpu", 1.0) == {"threshold": 1.0, "unlabeled": 3, "accepted": 0}


def test_without_hidden_labels_there_is_nothing_to_check():
    items = [{"image": "x", "id": str(i), "group": str(i)} for i in range(2)]
    dataset = ImageDataset(Datalist(items, classes=["a", "b"]), lambda item: {"image": torch.zeros(1, 2, 2)})
    assert check_pseudo_labels(Reads(), dataset, LabelPool(dataset.data), "cpu", 0.95) == {}
