"""Predictions as a table."""

import csv

import pytest
import torch
from ignite.engine import Engine

from medssl_monai.data import ImageDataset
from medssl_monai.handlers import ProbabilityTable
from medssl_monai.kinds import Classes, Findings
from medssl_monai.tables import Table

LOW_HIGH = Classes(("low", "high"))
PROBS = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]])


@pytest.fixture
def dataset():
    """Three images, of which the second cannot be read."""

    def read(item):
        if item["image"] == "broken":
            raise OSError("no decoder, really")
        return {"image": torch.zeros(1, 2, 2)}

    data = [{"image": name, "id": f'study "{name}", 1'} for name in ("a", "broken", "c")]
    dataset = ImageDataset(data, read, on_bad_file="skip")
    assert dataset.images.shape == (3, 1, 2, 2)
    return dataset


def predict(table, order=((2,), (0, 1)), probs=PROBS, key="pred"):
    """An evaluator that sees the images in this order, decollated."""

    def step(engine, batch):
        engine.state.batch = [{"index": torch.tensor(i)} for i in batch]
        return [{"other": torch.zeros(2), key: probs[i]} for i in batch]

    engine = Engine(step)
    table.attach(engine)
    engine.run(list(order))
    with table.path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_rows_are_in_the_order_of_the_datalist_and_name_samples_by_id(dataset, tmp_path):
    head, first, _, third = predict(ProbabilityTable(tmp_path / "p.csv", dataset, LOW_HIGH))
    assert head == ["id", "low", "high", "predicted", "error"]
    assert first == ['study "a", 1', "0.250000", "0.750000", "high", ""]
    assert third == ['study "c", 1', "0.900000", "0.100000", "low", ""]


def test_an_unreadable_file_has_its_reason_and_no_figures(dataset, tmp_path):
    rows = predict(ProbabilityTable(tmp_path / "p.csv", dataset, LOW_HIGH))
    assert rows[2] == ['study "broken", 1', "", "", "", "OSError: no decoder, really"]


def test_weights_from_phantoms_say_so_in_every_row(dataset, tmp_path):
    head, *rows = predict(ProbabilityTable(tmp_path / "p.csv", dataset, LOW_HIGH, synthetic=True))
    assert head[-1] == "model"
    assert {row[-1] for row in rows} == {"trained on SYNTHETIC data"}
    assert {len(row) for row in rows} == {len(head)}


def test_no_cell_is_a_formula_and_all_are_read_back(dataset, tmp_path):
    names = ["-", "=1+1"]
    for item, name in zip(dataset.data, ("-1", "+1+1", "@x"), strict=True):
        item["id"] = name
    table = ProbabilityTable(tmp_path / "p.csv", dataset, Classes(tuple(names)))
    head, *rows = predict(table)
    assert not [cell for row in (head, *rows) for cell in row if cell[:1] in "=+-@" and cell]
    read = Table.read(tmp_path / "p.csv")
    assert read.header == ["id", *names, "predicted", "error"]
    assert [row["id"] for _, row in read.rows] == ["-1", "+1+1", "@x"]
    assert [row["predicted"] for _, row in read.rows] == ["=1+1", "", "-"]


def test_a_second_pass_starts_anew(dataset, tmp_path):
    table = ProbabilityTable(tmp_path / "p.csv", dataset, LOW_HIGH)
    assert predict(table) == predict(table)
    assert len(table.rows) == 3


def test_of_findings_all_that_are_more_probable_than_not_are_predicted(dataset, tmp_path):
    table = ProbabilityTable(tmp_path / "p.csv", dataset, Findings(("effusion", "mass")))
    present = torch.tensor([[0.75, 0.625], [0.5, 0.5], [0.5, 0.25]])
    rows = predict(table, probs=torch.stack([1 - present, present], dim=-1))
    assert [row[1:3] for row in rows[1::2]] == [["0.750000", "0.625000"], ["0.500000", "0.250000"]]
    assert [row[3] for row in rows] == ["predicted", "effusion; mass", "", "none"]


def test_probabilities_may_stand_beside_a_mask(dataset, tmp_path):
    table = ProbabilityTable(tmp_path / "p.csv", dataset, LOW_HIGH, key="classes")
    assert [row[1] for row in predict(table, key="classes")] == ["low", "0.250000", "", "0.900000"]
