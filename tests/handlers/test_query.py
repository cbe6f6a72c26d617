"""Ask, get labels, train on: by hand, with a tiny pool and no training."""

import csv
import logging
from functools import partial

import pytest
import torch
from ignite.engine import Engine

from medssl_monai.asking import Oracle
from medssl_monai.asking.record import read_query
from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.handlers import QueryHandler
from medssl_monai.kinds import Findings
from medssl_monai.methods import AdaptiveThreshold, BoostMIS, FixMatch, MultiMix
from medssl_monai.networks import MultiMixNetwork, small_resnet
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, JointQuery, entropy, random

N = 10


@pytest.fixture
def data():
    """Ten items; two are labeled, and of the last nobody knows the label."""
    items = [{"image": f"{i}.png", "id": f"id{i}", "label": i % 2, "labeled": i < 2} for i in range(N)]
    del items[-1]["label"]
    return Datalist(items, classes=["low", "high"], synthetic=True)


@pytest.fixture
def dataset(data):
    images = torch.rand(N, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return ImageDataset(data, lambda item: {"image": images[int(item["id"][2:])]})


@pytest.fixture
def method():
    torch.manual_seed(0)
    threshold = AdaptiveThreshold(N, (2,), alpha=0.9, beta=0.1)
    return BoostMIS(small_resnet(2, width=2), threshold)


@pytest.fixture
def handler(data, dataset, method, tmp_path):
    """Rounds of two epochs, three samples per selector."""

    def _handler(strategy=random, known=None, **kwargs):
        pool = LabelPool(Labels(data, known))
        arguments = {"budget": 3, "every": 2, "annotator": Oracle(pool), **kwargs}
        return QueryHandler(pool, dataset, method, strategy, folder=tmp_path / "queries", **arguments)

    return _handler


def engine_at(epoch):
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch, engine.state.device = epoch, "cpu"
    return engine


def asked(handler, number=0):
    return [item["id"] for item in read_query(handler.path(number))["items"]]


def test_the_query_of_a_round_is_written_when_it_ends_and_labels_nothing_yet(handler, tmp_path, caplog):
    query = handler()
    with caplog.at_level(logging.INFO):
        query.ask(engine_at(2))
    record = read_query(tmp_path / "queries" / "round_00.json")
    assert (record["round"], record["epoch"], record["strategy"]) == (0, 2, "random")
    assert record["query_size"] == [3, 3]
    assert record["synthetic"] is True
    assert len(record["model_sha256"]) == 64
    assert not {"id0", "id1"} & set(asked(query))
    assert int(query.pool.first.mask.sum()) == 2
    assert "Round 0: asks for 3 labels" in caplog.text
    with (tmp_path / "queries" / "round_00.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == asked(query)
    assert ".png" not in (tmp_path / "queries" / "round_00.csv").read_text()
    assert {row["label"] for row in rows} == {""}


def test_the_next_round_begins_with_its_labels(handler, method):
    query = handler()
    query.ask(engine_at(2))
    names = asked(query)
    method.threshold.confidence.fill_(0.5)
    query.annotate(engine_at(3))
    known = [name for name in names if name != "id9"]
    assert {query.pool.ids[i] for i in query.pool.first.indices("labeled").tolist()} == {"id0", "id1", *known}
    for name in known:
        assert query.pool.first.label(query.pool.position[name]) == int(name[2:]) % 2
    assert query.pool.query_size == (3, 3)
    forgotten = method.threshold.confidence.isnan().nonzero().squeeze(1).tolist()
    assert sorted(forgotten) == sorted(query.pool.position[name] for name in known)


@pytest.mark.parametrize("epoch", [1, 2, 4, 6])
def test_labels_come_with_the_first_epoch_of_a_later_round_only(handler, epoch):
    query = handler()
    query.annotate(engine_at(epoch))  # there is no query file, so reading one would fail
    assert int(query.pool.first.mask.sum()) == 2


def test_a_label_that_the_oracle_lacks_is_left_open(handler, data):
    query = handler(budget=8)
    query.ask(engine_at(2))
    assert "id9" in asked(query)
    query.annotate(engine_at(3))
    assert int(query.pool.first.mask.sum()) == 9
    assert query.pool.first.label(9) is None
    query.ask(engine_at(4))
    assert asked(query, 1) == ["id9"]  # asked again, as long as nobody answers
    query.annotate(engine_at(5))
    assert int(query.pool.first.mask.sum()) == 9


def test_nobody_to_answer_leaves_the_pool_alone(handler):
    query = handler(annotator=None)
    query.ask(engine_at(2))
    query.annotate(engine_at(3))
    assert int(query.pool.first.mask.sum()) == 2


def test_everything_labeled_writes_an_empty_query(handler, data, dataset):
    query = handler()
    query.pool.first.annotate(range(2, N), [0] * (N - 2))
    query.ask(engine_at(2))
    assert asked(query) == []
    query.annotate(engine_at(3))


def test_a_budget_of_zero(handler):
    query = handler(budget=0)
    query.ask(engine_at(2))
    assert asked(query) == []


def test_the_same_seed_and_epoch_ask_for_the_same(handler):
    first, second, other = handler(), handler(), handler(seed=1)
    chosen = []
    for query, epoch in ((first, 2), (second, 2), (other, 2), (first, 4)):
        torch.rand(5)  # the global generator does not matter
        query.ask(engine_at(epoch))
        chosen.append(asked(query, epoch // 2 - 1))
    assert chosen[0] == chosen[1]
    assert len({tuple(ids) for ids in chosen}) == 3


def test_a_second_process_neither_asks_nor_writes(handler, monkeypatch):
    monkeypatch.setattr("medssl_monai.handlers.query.is_first", lambda: False)
    query = handler()
    query.ask(engine_at(2))
    assert not query.folder.exists()


def test_overlap_of_the_selectors_is_fed_back(handler, method):
    strategy = BoostMISQuery(Instability(), DensityEntropy(neighbors=3), pool="all")
    query = handler(strategy, budget=7)
    query.ask(engine_at(2))
    record = read_query(query.path(0))
    assert (record["strategy"], record["query_size"]) == ("BoostMISQuery", [8, 14])  # eight are left
    assert "both" in {item["reason"] for item in record["items"]}
    query.annotate(engine_at(3))
    assert query.pool.query_size == (8, 14)
    assert float(method.threshold.share) == pytest.approx(8 / 14)


@pytest.mark.parametrize("decay", [0.9, None])
def test_asking_moves_no_weights_and_no_statistics(data, dataset, tmp_path, decay):
    """A method without an averaged copy is asked while it is in training mode."""
    torch.manual_seed(0)
    method = FixMatch(small_resnet(2, width=2), decay=decay).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    strategy = BoostMISQuery(Instability(level="image"), pool="all")
    query = QueryHandler(LabelPool(Labels(data)), dataset, method, strategy, budget=3, every=1, folder=tmp_path)
    query.ask(engine_at(1))
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert method.training
    assert method.network.training


def test_attached_it_asks_at_the_end_of_each_round_and_annotates_in_between(handler):
    query = handler()
    engine = engine_at(0)
    query.attach(engine)
    engine.run([0], max_epochs=4)
    assert query.path(0).exists()
    assert query.path(1).exists()  # waits for a person
    assert int(query.pool.first.mask.sum()) == 2 + len([name for name in asked(query) if name != "id9"])


@pytest.mark.parametrize("arguments", [{"budget": -1}, {"every": 0}, {"cold_start": -1}])
def test_budget_and_rounds_are_checked(handler, arguments):
    with pytest.raises(ValueError, match="`budget` and `cold_start` must be at least 0 and `every` at least 1, got"):
        handler(**arguments)


def test_a_bound_argument_of_a_strategy_is_in_the_record(handler):
    query = handler(partial(entropy, reduction="max"))
    query.ask(engine_at(2))
    assert read_query(query.path(0))["strategy"] == "entropy (reduction=max)"


def test_findings_are_asked_for_and_answered(data, dataset, tmp_path):
    findings = Datalist([{**item, "label": [i % 2, -1]} for i, item in enumerate(data)], classes=data.classes)
    pool = LabelPool(Labels(findings, 2))
    torch.manual_seed(0)
    method = FixMatch(small_resnet(2, width=2), kind=Findings(("low", "high")))
    query = QueryHandler(pool, dataset, method, entropy, 3, 2, tmp_path, annotator=Oracle(pool))
    query.ask(engine_at(2))
    said = read_query(query.path(0))["parts"]["label"]
    assert (said["kind"], said["names"]) == ("findings", ["low", "high"])
    query.annotate(engine_at(3))
    assert len(pool.first.indices("labeled")) == 5
    for name in asked(query):
        assert pool.first.label(pool.position[name]) == [int(name[2:]) % 2, -1]


def test_a_cold_start_asks_before_training_and_is_answered_at_once(handler, data, tmp_path):
    query = handler(cold_start=4, known=0)
    query.begin(engine_at(0))
    record = read_query(tmp_path / "queries" / "cold_start.json")
    known = {item["id"] for item in record["items"]} - {"id9"}
    assert len(record["items"]) == 4
    assert {query.pool.ids[i] for i in query.pool.first.indices("labeled").tolist()} == known
    before = query.pool.state_dict()
    query.begin(engine_at(0))  # as at a resume
    assert query.pool.state_dict() == before


def test_a_cold_start_is_skipped_where_labels_are_known(handler, tmp_path):
    query = handler(cold_start=4)
    query.begin(engine_at(0))
    assert int(query.pool.first.mask.sum()) == 2
    assert not (tmp_path / "queries").exists()


def test_a_cold_start_that_nobody_answers_says_what_to_do(handler, data, tmp_path):
    query = handler(cold_start=4, known=0, annotator=None)
    with pytest.raises(ValueError, match=r"fill in .*cold_start\.csv and name it with `labels`"):
        query.begin(engine_at(0))
    assert (tmp_path / "queries" / "cold_start.csv").exists()


def test_without_a_budget_only_the_cold_start_asks(handler):
    query, engine = handler(budget=0, cold_start=2), engine_at(0)
    query.attach(engine)
    assert engine.has_event_handler(query.begin)
    assert not engine.has_event_handler(query.annotate)


# ---- classes and masks ----------------------------------------------------------------------------------------------


@pytest.fixture
def joint(data, dataset, tmp_path):
    """Rounds of two epochs of a method for both; two classes and one mask are known, and of the last image nothing."""
    items = [{**item, "mask": f"m/{i}.png", "masked": i == 1} for i, item in enumerate(data[:-1])] + data[-1:]
    both = Datalist(items, classes=data.classes, mask_classes=["background", "lung"])

    def _joint(costs, budget=20, **kwargs):
        torch.manual_seed(0)
        method = MultiMix(MultiMixNetwork(channels=(2, 4, 4)))
        pool = LabelPool([Labels(both), Labels(both, key="mask")])
        arguments = {"annotator": Oracle(pool), "folder": tmp_path / "queries", **kwargs}
        return QueryHandler(pool, dataset, method, JointQuery(costs), budget, 2, **arguments)

    return _joint


CHEAP, DEAR = {"label": 1, "mask": 0.01}, {"label": 0.01, "mask": 1}


def test_masks_and_classes_are_asked_for_and_answered(joint, caplog):
    query = joint({"label": 1, "mask": 3}, budget=7)
    query.ask(engine_at(2))
    record = read_query(query.path(0))
    kinds = {item["id"]: item["ask"] for item in record["items"]}
    assert sum({"label": 1, "mask": 3}[kind] for kind in kinds.values()) <= 7
    given = {"label": set(), "mask": set()}
    for name, kind in kinds.items():
        given[kind] |= {name} - {"id9"}
    with caplog.at_level(logging.INFO):
        query.annotate(engine_at(3))
    labels, masks = query.pool.parts.values()
    assert {labels.ids[i] for i in labels.indices("labeled").tolist()} == {"id0", "id1"} | given["label"]
    assert {masks.ids[i] for i in masks.indices("labeled").tolist()} == {"id1"} | given["mask"]
    answered = len(given["label"]) + len(given["mask"])
    assert f"Round 1: {answered} of {len(kinds)} answered; of 10 samples {len(labels.indices('labeled'))} are" in (
        caplog.text
    )
    assert query.pool.query_size == tuple(record["query_size"])


@pytest.mark.parametrize(("costs", "part"), [(CHEAP, "mask"), (DEAR, "label")])
def test_the_costs_decide_what_is_asked_for_and_the_method_is_told_of_classes(joint, costs, part, monkeypatch):
    query, told = joint(costs, budget=1), []
    monkeypatch.setattr(query.method, "on_query", lambda index, size: told.append(sorted(index.tolist())))
    query.ask(engine_at(2))
    items = read_query(query.path(0))["items"]
    assert {item["ask"] for item in items} == {part}
    query.annotate(engine_at(3))
    known = sorted(query.pool.position[item["id"]] for item in items if item["id"] != "id9")
    assert told == [known if part == "label" else []]
    assert set(known) < set(query.pool[part].indices("labeled").tolist())


def test_nothing_labeled_everything_labeled_and_no_budget(joint):
    query = joint(CHEAP)
    query.pool.first.annotate(range(2, N), [0] * (N - 2))
    query.pool["mask"].annotate([0, *range(2, N)], ["m.png"] * (N - 1))
    query.ask(engine_at(2))
    assert asked(query) == []
    none = joint(CHEAP, budget=0)
    none.ask(engine_at(2))
    assert asked(none) == []


def test_an_image_in_quarantine_is_asked_neither_for_its_class_nor_for_its_mask(joint):
    for costs in (CHEAP, DEAR):
        query = joint(costs)
        query.pool.quarantine([4])
        query.ask(engine_at(2))
        assert "id4" not in asked(query)
        assert len(asked(query)) > 5


def test_a_resumed_run_answers_the_query_that_it_finds(joint):
    first = joint({"label": 1, "mask": 2}, budget=9)
    first.ask(engine_at(2))
    before = first.pool.state_dict()
    first.annotate(engine_at(3))
    second = joint({"label": 1, "mask": 2}, budget=9)
    second.pool.load_state_dict(before)
    second.annotate(engine_at(3))
    assert second.pool.state_dict() == first.pool.state_dict() != before


def test_a_method_that_learns_classes_alone_asks_for_no_masks(joint, dataset):
    query = joint(CHEAP)
    query.method = FixMatch(small_resnet(2, width=2))
    query.ask(engine_at(2))
    assert not any("ask" in item for item in read_query(query.path(0))["items"])
    query.annotate(engine_at(3))
    assert len(query.pool.first.indices("labeled")) == 9


def test_an_annotator_may_know_labels_alone(joint):
    query = joint({"label": 0.01, "mask": 100}, annotator=lambda ids: dict.fromkeys(ids, 1))
    query.ask(engine_at(2))
    query.annotate(engine_at(3))
    assert len(query.pool.first.indices("labeled")) == N


def test_masks_where_labels_have_none_are_refused(joint):
    query = joint(CHEAP)
    query.ask(engine_at(2))
    query.pool = query.pool.of(["label"])
    with pytest.raises(ValueError, match="the query asks for masks, and this run has none"):
        query.annotate(engine_at(3))
