"""Answers between two rounds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from medssl_monai.asking.answers import hand_over
from medssl_monai.asking.record import query_record, write_query
from medssl_monai.data import Datalist
from medssl_monai.pool import LabelPool
from medssl_monai.query import PoolOutputs, Query

FINDINGS = ["effusion", "mass"]


LABELS = [[1, -1], [0, 0], [-1, -1]]


@pytest.fixture
def asked(tmp_path):
    """A round that has asked for three images; the datalist knows of the first two, of the third nothing."""
    items = [{"image": "x", "id": name, "label": label} for name, label in zip("abc", LABELS, strict=True)]
    pool = LabelPool(Datalist(items, classes=FINDINGS), labels=0)
    outputs = PoolOutputs(torch.arange(3), torch.zeros(3, dtype=torch.bool), torch.rand(3, 2), task="multilabel")
    record = query_record(Query(torch.arange(3), ["random"] * 3), outputs, pool, strategy="random")
    write_query(tmp_path / "query.json", record)
    return pool, items, tmp_path / "query.json", tmp_path / "labels.json"


def test_an_oracle_gives_the_findings_that_it_knows(asked):
    pool, items, query, labels = asked
    assert hand_over(query, labels, pool, items, "oracle")
    assert json.loads(labels.read_text())["labels"] == {"a": [1, -1], "b": [0, 0]}
    assert LabelPool(Datalist(items, classes=FINDINGS), labels=labels).task == "multilabel"


def test_a_person_gives_findings_by_name_or_number_and_bad_rows_are_named(asked, caplog):
    pool, items, query, labels = asked
    with caplog.at_level("INFO", logger="medssl_monai.asking.answers"):
        assert not hand_over(query, labels, pool, items, "person")  # nothing was filled in, so it waits
    assert "with what is there, separated by semicolons, with '?' before what is unknown, or 'none'" in caplog.text
    table = query.with_suffix(".csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["choices"] for row in rows} == {"none; effusion; mass"}
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row, answer in zip(rows, ["mass; ?effusion", "0 1", "efusion"], strict=True):
            writer.writerow({**row, "label": answer})
    assert hand_over(query, labels, pool, items, "person")
    assert json.loads(labels.read_text())["labels"] == {"a": [-1, 1], "b": [0, 1]}
    assert "the label of 'c' is 'efusion'; write what is there, separated by ';', out of ['effusion'" in caplog.text


def test_a_table_from_a_spreadsheet_keeps_its_good_rows(asked, caplog):
    pool, items, query, labels = asked
    rows = ["ID;Label", "a;MASS", "b;0.0 1.0", "b;1 1", "c;none;what", '"c;none']
    query.with_suffix(".csv").write_bytes("\r\n".join(rows).encode("utf-16"))
    assert hand_over(query, labels, pool, items, "person")
    assert json.loads(labels.read_text())["labels"] == {"a": [0, 1]}
    for line in ("lines 3 and 4: 'b' has different labels", "line 5 cannot be read", "line 6 cannot be read"):
        assert line in caplog.text


def test_labels_that_somebody_put_where_the_next_round_starts_are_kept(asked, caplog):
    pool, items, query, labels = asked
    other = LabelPool(Datalist(items, classes=FINDINGS), labels=0)
    other.annotate([2], [[1, 1]])
    other.save(labels)
    before = labels.read_bytes()
    assert hand_over(query, labels, pool, items, "oracle")
    assert labels.with_name("labels.previous1.json").read_bytes() == before
    assert "it is labels.previous1.json now" in caplog.text


def test_a_query_of_another_datalist_is_refused(asked):
    _, items, query, labels = asked
    with pytest.raises(ValueError, match="the query asks for 'a', and the datalist lacks it"):
        hand_over(query, labels, LabelPool(Datalist(items[1:], classes=FINDINGS), labels=0), items, "oracle")
    assert not labels.exists()


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
    pool = LabelPool(data, labels=0, beside=LabelPool(data, labels=0, key="mask"))
    index, nothing = torch.arange(3), torch.zeros(3, dtype=torch.bool)
    masks = PoolOutputs(index, nothing, torch.rand(3, 2), task="segmentation")
    query = Query(index, ["joint"] * 3, kind=["label", "mask", "label"])
    write_query(
        tmp_path / "query.json", query_record(query, PoolOutputs(index, nothing, torch.rand(3, 2), beside=masks), pool)
    )
    return pool, data, tmp_path / "query.json", tmp_path / "labels.json"


def known_of(labels: Path, data: Datalist) -> tuple[dict[str, object], dict[str, object]]:
    """The classes and the masks that the next round starts with."""
    pool = LabelPool(data, labels=labels, beside=LabelPool(data, labels=0, key="mask"))
    return tuple({own.ids[i]: own.label(i) for i in own.indices("labeled").tolist()} for own in (pool, pool.beside))


def test_an_oracle_hands_over_classes_and_masks(both):
    pool, data, query, labels = both
    assert hand_over(query, labels, pool, data, "oracle")
    assert known_of(labels, data) == ({"a": 1}, {"b": "b.png"})


def test_a_person_gives_classes_and_masks_and_bad_rows_are_named(both, tmp_path, caplog):
    pool, data, query, labels = both
    with caplog.at_level("INFO", logger="medssl_monai.asking.answers"):
        assert not hand_over(query, labels, pool, data, "person")  # nothing was filled in, so it waits
    assert "query.csv that 'ask' names: masks with paths of masks, from the folder of that table" in caplog.text
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
        assert hand_over(query, labels, pool, data, "person")
    assert known_of(labels, data) == ({"a": 1, "b": 0}, {"b": str(tmp_path / "drawn.png")})
    assert "the label of 'c' is 'middle', which is none of the classes" in caplog.text
    assert "the mask of 'c' is" in caplog.text and "there is no such file" in caplog.text
    assert "2 of 3 queries were answered" in caplog.text


# ---- masks, from a cold start ---------------------------------------------------------------------------------------
