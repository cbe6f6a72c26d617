"""Who asks, of which samples, and a query outside of a run."""

from __future__ import annotations

import pytest
import torch

from medssl_monai.asking import Learner, write_one_query
from medssl_monai.asking.ask import check_cold_start
from medssl_monai.asking.record import read_query
from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.methods import FixMatch, MultiMix
from medssl_monai.networks import MultiMixNetwork, describe, small_resnet
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.query import JointQuery, entropy

N = 8


@pytest.fixture
def data():
    """Eight images of two sources; of the first two the class is known, of the first the mask."""
    items = [
        {"image": f"{i}.png", "id": f"id{i}", "label": i % 2, "labeled": i < 2, "mask": f"m{i}.png", "masked": i == 0}
        for i in range(N)
    ]
    for i, item in enumerate(items):
        item["source"] = "one" if i < 6 else "other"
    return Datalist(items, classes=["low", "high"], mask_classes=["background", "lung"])


@pytest.fixture
def dataset(data):
    images = torch.rand(N, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return ImageDataset(data, lambda item: {"image": images[int(item["id"][2:])]})


@pytest.fixture
def method():
    torch.manual_seed(0)
    return FixMatch(small_resnet(2, width=2), threshold=0.75)


def seeded():
    return torch.Generator().manual_seed(0)


def test_what_a_source_lacks_and_what_is_in_quarantine_cannot_be_chosen(data, dataset, method):
    pool = LabelPool([Labels(data), Labels(data, key="mask")])
    pool.quarantine([3])
    predicted = Learner.of(method).predict(dataset, pool, "cpu")
    assert predicted.outputs.index.tolist() == [0, 1, 2, 4, 5]
    assert predicted.outputs.others == {}  # the method learns labels alone
    assert list(predicted.pool.parts) == ["label"]
    assert predicted.outputs.threshold.plain() == 0.75


def test_several_strategies_choose_from_one_prediction(data, dataset, method):
    predicted = Learner.of(method).predict(dataset, LabelPool(Labels(data)), "cpu")
    record = predicted.choose(entropy, 3, seeded(), round=2)
    assert (record["strategy"], record["budget"], record["round"], len(record["items"])) == ("entropy", 3, 2, 3)
    assert record["parts"] == {"label": {"kind": "classes", "names": ["low", "high"], "threshold": 0.75}}


def test_every_part_that_the_method_learns_is_predicted(data, dataset):
    torch.manual_seed(0)
    method = MultiMix(MultiMixNetwork(channels=(2, 4, 4)))
    pool = LabelPool([Labels(data), Labels(data, key="mask")])
    record = Learner.of(method).ask(dataset, pool, JointQuery({"label": 1, "mask": 1}), 9, seeded(), "cpu")
    assert list(record["parts"]) == ["label", "mask"]
    asked = {(item["id"], item["ask"]) for item in record["items"]}
    assert not asked & {("id0", "label"), ("id1", "label"), ("id0", "mask")}
    assert {name for name, _ in asked} == {f"id{i}" for i in range(1, 6)}


def test_a_learner_knows_from_its_file_what_it_learned(method):
    saved = {"learned": ["mask"], "threshold": {"mask": [0.5, 0.75]}, "epoch": 7}
    learner = Learner.of(method, saved)
    assert (learner.parts, learner.epoch) == (("mask",), 7)
    assert {part: threshold.plain() for part, threshold in learner.thresholds.items()} == {"mask": [0.5, 0.75]}
    assert Learner.of(method, {"threshold": {}}).thresholds == {}  # it labeled nothing by itself
    untold = Learner.of(method)
    assert (untold.parts, untold.epoch) == (("label",), 0)
    assert untold.thresholds["label"].plain() == 0.75


def test_one_query_outside_of_a_run(data, dataset, method, tmp_path):
    weights = tmp_path / "model.pt"
    torch.save(describe(method.inference_network, {"threshold": {"label": 0.7}, "epoch": 4}), weights)
    pool = LabelPool(Labels(data))
    for name in ("a", "b"):
        write_one_query(tmp_path / f"{name}.json", method, dataset, pool, entropy, 4, 0, "cpu", weights)
    record = read_query(tmp_path / "a.json")
    assert (len(record["items"]), record["epoch"]) == (4, 4)
    assert record["parts"]["label"]["threshold"] == 0.7
    assert record == read_query(tmp_path / "b.json")


def test_a_cold_start_needs_a_label_of_every_further_part_that_is_learned(data, method):
    pool = LabelPool([Labels(data, 0), Labels(data, 0, key="mask")])
    both = MultiMix(MultiMixNetwork(channels=(2, 4, 4)))
    with pytest.raises(ValueError, match="no mask is known, and a cold start asks for labels first; set `mask_labels`"):
        check_cold_start(pool, both)
    check_cold_start(pool, method)  # which learns labels alone
    check_cold_start(LabelPool([Labels(data, 0), Labels(data, key="mask")]), both)
