"""Answers between two rounds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from medssl_monai.asking.answers import Oracle, give_answers, hand_over
from medssl_monai.asking.record import query_record, read_query, write_query
from medssl_monai.data import Datalist
from medssl_monai.kinds import Findings
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.query import PoolOutputs, Query

FINDINGS = ["effusion", "mass"]


LABELS = [[1, -1], [0, 0], [-1, -1]]


@pytest.fixture
def asked(tmp_path):
    """A round that has asked for three images; the datalist knows of the first two, of the third nothing."""
    items = [{"image": "x", "id": name, "label": label} for name, label in zip("abc", LABELS, strict=True)]
    pool = LabelPool(Labels(Datalist(items, classes=FINDINGS), 0))
    nothing = torch.zeros(3, dtype=torch.bool)
    outputs = PoolOutputs(torch.arange(3), nothing, torch.rand(3, 2, 2), Findings(tuple(FINDINGS)))
    record = query_record(Query(torch.arange(3), ["random"] * 3), outputs, pool, strategy="random")
    write_query(tmp_path / "query.json", record)
    return pool, items, tmp_path / "query.json", tmp_path / "labels.json"


def test_an_oracle_gives_the_findings_that_it_knows(asked):
    pool, items, query, labels = asked
    assert hand_over(query, labels, pool, "oracle")
    assert json.loads(labels.read_text())["labels"] == {"a": [1, -1], "b": [0, 0]}
    assert Labels(Datalist(items, classes=FINDINGS), labels).kind == Findings(tuple(FINDINGS))


def test_a_person_gives_findings_by_name_or_number_and_bad_rows_are_named(asked, caplog):
    pool, _, query, labels = asked
    with caplog.at_level("INFO", logger="medssl_monai.asking.answers"):
        assert not hand_over(query, labels, pool, "person")  # nothing was filled in, so it waits
    assert "with what is there, separated by semicolons, with '?' before what is unknown, or 'none'" in caplog.text
    table = query.with_suffix(".csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["choices"] for row in rows} == {"none; effusion; mass"}
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row, answer in zip(rows, ["mass; ?effusion", "0 1", "efusion"], strict=True):
            writer.writerow({**row, "label": answer})
    assert hand_over(query, labels, pool, "person")
    assert json.loads(labels.read_text())["labels"] == {"a": [-1, 1], "b": [0, 1]}
    assert "the label of 'c' is 'efusion'; write what is there, separated by ';', out of ['effusion'" in caplog.text


def test_a_table_from_a_spreadsheet_keeps_its_good_rows(asked, caplog):
    pool, _, query, labels = asked
    rows = ["ID;Label", "a;MASS", "b;0.0 1.0", "b;1 1", "c;none;what", '"c;none']
    query.with_suffix(".csv").write_bytes("\r\n".join(rows).encode("utf-16"))
    assert hand_over(query, labels, pool, "person")
    assert json.loads(labels.read_text())["labels"] == {"a": [0, 1]}
    for line in ("lines 3 and 4: 'b' has different labels", "line 5 cannot be read", "line 6 cannot be read"):
        assert line in caplog.text


def test_labels_that_somebody_put_where_the_next_round_starts_are_kept(asked, caplog):
    pool, items, query, labels = asked
    other = LabelPool(Labels(Datalist(items, classes=FINDINGS), 0))
    other.first.annotate([2], [[1, 1]])
    other.save(labels)
    before = labels.read_bytes()
    assert hand_over(query, labels, pool, "oracle")
    assert labels.with_name("labels.previous1.json").read_bytes() == before
    assert "it is labels.previous1.json now" in caplog.text


def test_a_query_of_another_datalist_is_refused(asked):
    _, items, query, labels = asked
    with pytest.raises(ValueError, match="the query asks for 'a', and the datalist lacks it"):
        hand_over(query, labels, LabelPool(Labels(Datalist(items[1:], classes=FINDINGS), 0)), "oracle")
    assert not labels.exists()


# ---- who knows -------------------------------------------------------------------------------------------------------


def test_the_oracle_answers_what_the_datalist_hides_and_nothing_else():
    items = [{"id": "a", "label": 1, "mask": "a.png", "masked": False}, {"id": "b", "label": 0, "labeled": False}]
    oracle = Oracle(LabelPool([Labels([*items, {"id": "c"}]), Labels([*items, {"id": "c"}], key="mask")]))
    assert oracle(["a", "b", "c", "elsewhere"]) == {"b": 0}
    assert oracle("abc", "mask") == {"a": "a.png"}


def test_the_oracle_leaves_unknown_what_is_unknown_and_gives_no_label_that_says_nothing():
    items = [{"id": "a", "label": [1, -1]}, {"id": "b", "label": [-1, -1]}, {"id": "c", "label": [0, 0]}]
    assert Oracle(LabelPool(Labels(items, 0)))("abc") == {"a": [1, -1], "c": [0, 0]}


def test_the_labels_of_a_part_are_all_taken_or_none(both):
    pool, _, query, _ = both
    record = read_query(query)
    with pytest.raises(ValueError, match="the label of 'c' is 7, and must be a class index from 0 to 1"):
        give_answers(pool, record, lambda ids, key="label": {"a": 1, "c": 7})
    assert not pool.first.mask.any()


def test_a_query_that_cannot_be_answered_as_a_whole_changes_nothing(both):
    pool, _, query, _ = both
    alone = pool.of(["label"])
    with pytest.raises(ValueError, match="the query asks for masks, and this run has none"):
        give_answers(alone, read_query(query), Oracle(alone))
    assert not pool.first.mask.any()


# ---- classes and masks, from one round to the next ------------------------------------------------------------------


@pytest.fixture
def both(tmp_path):
    """A round that has asked for a class, a mask, and a class; the datalist knows of the first two."""
    items = [
        {"image": "x", "id": "a", "label": 1},
        {"image": "x", "id": "b", "mask": "b.png"},
        {"image": "x", "id": "c"},
    ]
    data = Datalist(items, classes=["low", "high"], mask_classes=["background", "lung"])
    pool = LabelPool([Labels(data, 0), Labels(data, 0, key="mask")])
    index, nothing = torch.arange(3), torch.zeros(3, dtype=torch.bool)
    masks = PoolOutputs(index, nothing, torch.rand(3, 2), pool["mask"].kind, key="mask")
    outputs = PoolOutputs(index, nothing, torch.rand(3, 2), pool.first.kind, others={"mask": masks})
    query = Query(index, ["joint"] * 3, part=["label", "mask", "label"])
    write_query(tmp_path / "query.json", query_record(query, outputs, pool))
    return pool, data, tmp_path / "query.json", tmp_path / "labels.json"


def known_of(labels: Path, data: Datalist) -> tuple[dict[str, object], dict[str, object]]:
    """The classes and the masks that the next round starts with."""
    parts = (Labels(data, labels), Labels(data, labels, key="mask"))
    return tuple({own.ids[i]: own.label(i) for i in own.indices("labeled").tolist()} for own in parts)


def test_an_oracle_hands_over_classes_and_masks(both):
    pool, data, query, labels = both
    assert hand_over(query, labels, pool, "oracle")
    assert known_of(labels, data) == ({"a": 1}, {"b": "b.png"})


def test_a_person_gives_classes_and_masks_and_bad_rows_are_named(both, tmp_path, caplog):
    pool, data, query, labels = both
    with caplog.at_level("INFO", logger="medssl_monai.asking.answers"):
        assert not hand_over(query, labels, pool, "person")  # nothing was filled in, so it waits
    wanted = "labels with the name of one class; masks with paths of masks, from the folder of that table"
    assert f"query.csv that 'ask' names: {wanted}" in caplog.text
    assert not labels.exists()
    (tmp_path / "drawn.png").write_bytes(b"")
    table = query.with_suffix(".csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    answers = [{"label": "high"}, {"mask": "drawn.png", "label": "low"}, {"label": "middle", "mask": "lost.png"}]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row, answer in zip(rows, answers, strict=True):
            writer.writerow({**row, **answer})
    with caplog.at_level("INFO", logger="medssl_monai.asking.answers"):
        assert hand_over(query, labels, pool, "person")
    assert known_of(labels, data) == ({"a": 1, "b": 0}, {"b": str(tmp_path / "drawn.png")})
    assert "the label of 'c' is 'middle', which is none of the classes" in caplog.text
    assert "the mask of 'c' is" in caplog.text and "there is no such file" in caplog.text
    assert "2 of 3 queries were answered" in caplog.text


# ---- masks, from a cold start ---------------------------------------------------------------------------------------
