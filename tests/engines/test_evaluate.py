"""Figures of one network on one list of images."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.data.mask_store import Masks
from medssl_monai.engines.evaluate import (
    JoinLabels,
    check_pseudo_labels,
    evaluate,
    hidden_targets,
    write_evaluation,
)
from medssl_monai.kinds import Classes, Findings
from medssl_monai.kinds import Masks as MaskKind
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.tables import Table

SURE = Classes().threshold(0.95)


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
    pool = LabelPool(Labels(dataset.data, known=0))
    pool.first.annotate([0], [1])
    found = check_pseudo_labels(Reads(), dataset, pool.first, "cpu", SURE)
    per_class = {"a": {"n": 0}, "b": {"n": 2, "accuracy": 0.5}}
    assert found == {"threshold": 0.95, "unlabeled": 3, "accepted": 2, "accuracy": 0.5, "per_class": per_class}
    certain = check_pseudo_labels(Reads(), dataset, pool.first, "cpu", Classes().threshold(1.0))
    assert certain == {"threshold": 1.0, "unlabeled": 3, "accepted": 0}


def test_without_hidden_labels_there_is_nothing_to_check():
    items = [{"image": "x", "id": str(i), "group": str(i)} for i in range(2)]
    dataset = ImageDataset(Datalist(items, classes=["a", "b"]), lambda item: {"image": torch.zeros(1, 2, 2)})
    assert check_pseudo_labels(Reads(), dataset, Labels(dataset.data), "cpu", SURE) == {}


# ---- findings -------------------------------------------------------------------------------------------------------

FINDINGS = ["effusion", "mass", "hernia"]


class ReadsFindings(nn.Module):
    """The first pixels are the logits."""

    def forward(self, images):
        return (images[:, 0, 0] * 2 - 1) * 10


def make_findings(labels, shown):
    """Images that the network reads as `shown`, in [0, 1] by finding: 0 is surely absent, 0.5 unclear, 1 present."""
    items = [{"image": "x", "id": str(i), "group": str(i), "label": label} for i, label in enumerate(labels)]
    pixels = torch.tensor(shown).unsqueeze(1).expand(-1, 3, -1).unsqueeze(1)
    data = Datalist(items, classes=FINDINGS)
    return ImageDataset(data, lambda item: {"image": pixels[int(item["id"])]}, dtype="float32")


@pytest.fixture
def findings():
    """The first image is labeled; of the last nobody knows anything."""
    labels = [[1, 1, 1], [1, 0, -1], [0, 0, 0], [1, 1, 0], [-1, -1, -1]]
    shown = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.5, 0.0], [0.5, 0.0, 0.0], [1.0, 1.0, 1.0]]
    dataset = make_findings(labels, shown)
    pool = LabelPool(Labels(dataset.data, known=0))
    pool.first.annotate([0], [[1, 1, 1]])
    return dataset, pool


def test_hidden_labels_of_findings_are_those_of_which_any_is_known(findings):
    index, truth = hidden_targets(findings[1].first)
    assert index.tolist() == [1, 2, 3]
    assert truth.tolist() == [[1, 0, -1], [0, 0, 0], [1, 1, 0]]


def test_pairs_of_an_image_and_a_finding_are_accepted_as_present_or_absent(findings):
    dataset, pool = findings
    found = check_pseudo_labels(ReadsFindings(), dataset, pool.first, "cpu", SURE)
    assert found == {
        "threshold": 0.95,
        "unlabeled": 3,
        "pairs": 8,  # of the ninth nobody knows the truth
        "accepted": 6,
        "accuracy": 4 / 6,
        "present": {"n": 2, "accuracy": 0.5},
        "absent": {"n": 4, "accuracy": 0.75},
        "per_class": {
            "effusion": {"present": {"n": 2, "accuracy": 0.5}, "absent": {"n": 0}},
            "mass": {"present": {"n": 0}, "absent": {"n": 2, "accuracy": 0.5}},
            "hernia": {"present": {"n": 0}, "absent": {"n": 2, "accuracy": 1.0}},
        },
    }


def test_every_finding_may_have_a_threshold_of_its_own(findings):
    dataset, pool = findings
    kind = Findings(tuple(FINDINGS))
    found = check_pseudo_labels(ReadsFindings(), dataset, pool.first, "cpu", kind.threshold([0.95, 1.0, 0.5]))
    assert found["threshold"] == [[0.95], [1.0], [0.5]]
    assert [sum(said["n"] for said in found["per_class"][name].values()) for name in FINDINGS] == [2, 0, 2]
    nothing = check_pseudo_labels(ReadsFindings(), dataset, pool.first, "cpu", kind.threshold(1.0))
    assert nothing == {"threshold": 1.0, "unlabeled": 3, "pairs": 8, "accepted": 0}
    json.dumps([found, nothing], allow_nan=False)


def test_findings_are_measured_by_their_own_probabilities(findings):
    """Softmax would give the three findings of the first image a third each."""
    dataset, _ = findings
    figures = evaluate(ReadsFindings(), dataset, LabelPool(Labels(dataset.data)), "cpu")
    assert (figures["kind"], figures["n"], figures["unlabeled"]) == ("findings", 4, 1)
    assert figures["per_class"]["effusion"]["recall"] == 2 / 3  # of three with an effusion, one is unclear
    assert figures["per_class"]["hernia"] == {
        "n": 1, "absent": 2, "unknown": 1, "auroc": 1.0, "ap": 1.0, "recall": 1.0, "specificity": 1.0,
    }  # fmt: skip
    json.dumps(figures, allow_nan=False)


def test_labels_of_findings_join_by_index(findings):
    dataset, pool = findings
    batch = {"image": dataset.images[:2], "index": torch.tensor([1, 0])}
    assert JoinLabels(pool)(batch)[1]["label"].tolist() == [[-1, -1, -1], [1, 1, 1]]


# ---- masks ----------------------------------------------------------------------------------------------------------


class ReadsMasks(nn.Module):
    """Bright voxels are of the class 1; keeps book of how many images it saw at once."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return torch.cat([0.5 - images, images - 0.5], dim=1)


SHOWN = torch.zeros(4, 4, 6)
SHOWN[:, 1:3, 1:3] = 1.0
SHOWN[3] = 0.0
TRUE = torch.zeros(4, 4, 6, dtype=torch.uint8)
TRUE[:, 1:3, 1:3] = 1
TRUE[1, :, 3:] = 1  # half of which is not found


def make_masks(**kwargs):
    """Four images of two patients; the third has no label, and nothing is found in the last."""
    items = [{"image": "x", "id": str(i), "group": "ab"[i // 2], "label": f"mask_{i}.png"} for i in range(4)]
    del items[2]["label"]
    data = Datalist(items, classes=["background", "lesion"])
    dataset = ImageDataset(data, lambda item: {"image": SHOWN[int(item["id"])][None]}, dtype="float32", **kwargs)
    masks = Masks(data, lambda item: {"label": TRUE[int(item["label"][-5])][None]})
    return dataset, LabelPool(Labels(data, read=masks))


def test_masks_are_scored_by_case_and_those_without_a_label_left_out():
    figures = evaluate(ReadsMasks(), *make_masks(spacing=(2.0, 1.0)), "cpu")
    assert (figures["kind"], figures["unit"], figures["n"], figures["groups"]) == ("masks", "mm", 3, 2)
    assert figures["unlabeled"] == 1
    # 4 of 4 found; 4 of 16 found; none of 4 found
    assert figures["metrics"]["dice"]["value"] == pytest.approx((1 + 2 * 4 / (4 + 16) + 0) / 3)
    assert figures["per_class"]["lesion"]["missed"] == 1
    assert figures["metrics"]["hd95"]["value"] > 0
    json.dumps(figures, allow_nan=False)


def test_each_case_has_its_row_in_a_table(tmp_path):
    dataset, pool = make_masks(spacing=(2.0, 1.0))
    figures = write_evaluation(tmp_path / "metrics.json", ReadsMasks(), dataset, pool, "cpu")
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures
    rows = list(csv.DictReader((tmp_path / "cases.csv").read_text().splitlines()))
    assert [(row["id"], row["class"], row["labeled"], row["predicted"]) for row in rows] == [
        ("0", "lesion", "1", "1"), ("1", "lesion", "1", "1"), ("3", "lesion", "1", "0")
    ]  # fmt: skip
    assert [float(row["dice"]) for row in rows] == pytest.approx([1, 0.4, 0])
    assert [row["hd95_mm"] for row in rows][::2] == ["0", ""]  # a surface that is not there is no distance
    assert np.mean([float(row["asd_mm"]) for row in rows[:2]]) == pytest.approx(
        figures["metrics"]["asd"]["value"], rel=1e-5
    )


def test_no_cell_of_that_table_is_a_formula(tmp_path):
    dataset, pool = make_masks()
    pool.ids[0], pool.first.kind = "-1", pool.first.kind.renamed(["background", "+"])
    write_evaluation(tmp_path / "metrics.json", ReadsMasks(), dataset, pool, "cpu")
    assert (tmp_path / "cases.csv").read_text().splitlines()[1].startswith("'-1,'+,1,1,1,")
    assert next((row["id"], row["class"]) for _, row in Table.read(tmp_path / "cases.csv").rows) == ("-1", "+")


def test_distances_are_in_pixels_without_a_spacing():
    in_mm = evaluate(ReadsMasks(), *make_masks(spacing=(3.0, 3.0)), "cpu")
    in_pixels = evaluate(ReadsMasks(), *make_masks(), "cpu")
    assert (in_mm["unit"], in_pixels["unit"]) == ("mm", "pixels")
    assert in_mm["metrics"]["asd"]["value"] == pytest.approx(3 * in_pixels["metrics"]["asd"]["value"])
    assert in_mm["metrics"]["dice"] == in_pixels["metrics"]["dice"]


def test_large_images_with_masks_are_predicted_few_at_a_time(monkeypatch):
    dataset, pool = make_masks()
    whole, network = evaluate(ReadsMasks(), dataset, pool, "cpu"), ReadsMasks()
    monkeypatch.setattr(sys.modules["medssl_monai.engines.predict"], "VOXELS", 2 * 4 * 6)
    network.eval()
    few = evaluate(network, dataset, pool, "cpu")
    assert network.seen == [2, 1]
    assert not network.training
    assert few["metrics"] == whole["metrics"]


def test_hidden_masks_are_not_read():
    dataset, _ = make_masks()
    labels = Labels(dataset.data, known=1, read=None)
    assert len(hidden_targets(labels)[0]) == 0
    assert check_pseudo_labels(ReadsMasks(), dataset, labels, "cpu", MaskKind().threshold(0.9)) == {}


# ---- classes and masks ----------------------------------------------------------------------------------------------


class ReadsBoth(nn.Module):
    """The first pixel is the logit of class 1; bright pixels are foreground."""

    def __init__(self):
        super().__init__()
        self.classifier = Reads()

    def network_of(self, part):
        return self.classifier if part == "label" else self

    def by_part(self, images):
        return {"label": self.classifier(images), "mask": self(images)}

    def forward(self, images):
        return torch.cat([torch.full_like(images, 0.5), images], dim=1)


@pytest.fixture
def joint_case():
    """Four images, of which three have a class and two have a mask."""
    rows = [[0.0, 1, 1, 0], [0.0, 0, 1, 1], [1.0, 1, 0, 0], [1.0, 0, 0, 0]]
    pixels = [torch.tensor(row).view(1, 2, 2) for row in rows]
    items = [{"image": "x", "id": str(i), "group": str(i)} for i in range(4)]
    items[0] |= {"label": 0, "mask": "0.png"}
    items[1] |= {"label": 0}
    items[2] |= {"label": 1, "mask": "2.png"}
    data = Datalist(items, classes=["well", "ill"], mask_classes=["background", "spot"], synthetic=True)
    dataset = ImageDataset(data, lambda item: {"image": pixels[int(item["id"])]})
    masks = {"0.png": torch.tensor([[[0, 1], [1, 0]]]), "2.png": torch.tensor([[[0, 1], [0, 0]]])}
    reader = Masks(data, lambda item: {"label": masks[item["label"]]})
    return dataset, LabelPool([Labels(data), Labels(data, key="mask", read=reader)])


def test_classes_and_masks_are_measured_together(joint_case, tmp_path):
    dataset, pool = joint_case
    figures = write_evaluation(tmp_path / "metrics.json", ReadsBoth(), dataset, pool, "cpu")
    assert (figures["kind"], figures["n"], figures["unlabeled"]) == ("classes", 3, 1)
    assert (figures["masks"]["kind"], figures["masks"]["n"], figures["masks"]["unlabeled"]) == ("masks", 2, 2)
    assert figures["metrics"]["accuracy"]["value"] == 1.0
    assert figures["metrics"]["dice"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    rows = list(csv.DictReader((tmp_path / "cases.csv").read_text().splitlines()))
    assert [(row["id"], row["class"], row["data"]) for row in rows] == [
        ("0", "spot", "SYNTHETIC"),
        ("2", "spot", "SYNTHETIC"),
    ]


def test_what_is_not_learned_is_not_measured(joint_case):
    dataset, pool = joint_case
    assert "dice" not in evaluate(ReadsBoth(), dataset, pool.of(["label"]), "cpu")["metrics"]
    masks = evaluate(ReadsBoth(), dataset, pool.of(["mask"]), "cpu")
    assert masks["kind"] == "masks"
    assert "accuracy" not in masks["metrics"]


def test_labels_of_both_parts_join_by_their_keys(joint_case):
    _, pool = joint_case
    images, targets = JoinLabels(pool)({"image": torch.rand(2, 1, 2, 2), "index": torch.tensor([0, 1])})
    assert images.shape == (2, 1, 2, 2)
    assert targets["label"].tolist() == [0, 0]
    assert targets["mask"].tolist() == [[[0, 1], [1, 0]], [[-1, -1], [-1, -1]]]
