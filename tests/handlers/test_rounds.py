"""What each round achieved, and the page that shows it."""

import csv
import json

import pytest
import torch
from ignite.engine import Engine

from medssl_monai.data import Datalist, ImageDataset, LabelPool
from medssl_monai.handlers import QueryHandler, RoundReport
from medssl_monai.handlers.rounds import rounds_table
from medssl_monai.methods import FixMatch
from medssl_monai.networks import small_resnet
from medssl_monai.query import random


def make_data(count, synthetic, spatial=(12, 12)):
    items = [{"image": f"{i}.png", "id": f"id{i}", "group": f"g{i // 2}", "label": i % 2} for i in range(count)]
    images = torch.rand(count, 1, *spatial, generator=torch.Generator().manual_seed(count))
    data = Datalist(items, classes=["low", "high"], synthetic=synthetic, name="toy")
    return data, ImageDataset(data, lambda item: {"image": images[int(item["id"][2:])]})


@pytest.fixture
def report(tmp_path):
    """A report after two rounds of one epoch each, with a query in between; nothing is trained."""

    def _report(synthetic=True, spatial=(12, 12)):
        torch.manual_seed(0)
        data, dataset = make_data(12, synthetic, spatial)
        validation_data, validation = make_data(16, synthetic, spatial)
        method = FixMatch(small_resnet(2, spatial_dims=len(spatial), width=2))
        pool = LabelPool(data, labels=4)
        engine = Engine(lambda engine, batch: None)
        engine.state.device = "cpu"
        QueryHandler(pool, dataset, method, random, 2, every=1, folder=tmp_path / "queries",
                     annotator=lambda ids: dict.fromkeys(ids, 1)).attach(engine)  # fmt: skip
        RoundReport(
            tmp_path, pool, dataset, method, validation, LabelPool(validation_data), every=1, title="Toy", notes=["Hm."]
        ).attach(engine)
        engine.run([0], max_epochs=2)
        return tmp_path

    return _report


@pytest.fixture(params=[True, False], ids=["synthetic", "real"])
def written(request, report):
    return report(request.param), request.param


def test_figures_of_each_round_are_files(report):
    folder = report()
    first, second = (json.loads((folder / "rounds" / f"round_0{i}.json").read_text()) for i in (0, 1))
    assert [(r["round"], r["epoch"], r["labels"]) for r in (first, second)] == [(0, 1, 4), (1, 2, 6)]
    assert 0 <= first["evaluation"]["metrics"]["auroc"]["value"] <= 1
    assert first["evaluation"]["groups"] == 8
    assert len(json.loads((folder / "pool.json").read_text())["labels"]) == 6


def test_every_file_says_whether_the_images_are_synthetic(written):
    folder, synthetic = written
    for path in (*sorted(folder.glob("rounds/*.json")), folder / "rounds.csv", folder / "report.html"):
        assert ("SYNTHETIC" in path.read_text()) == synthetic, path.name
    for path in (folder / "pool.json", *sorted(folder.glob("queries/*.json"))):
        assert json.loads(path.read_text())["synthetic"] is synthetic, path.name


def test_the_table_has_a_row_per_round_and_metric(report):
    with (report() / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["round"], row["labels"]) for row in rows} == {("0", "4"), ("1", "6")}
    assert {"auroc", "accuracy", "f1_macro"} <= {row["metric"] for row in rows}
    assert {row["data"] for row in rows} == {"SYNTHETIC"}
    assert all(0 <= float(row["value"]) <= 1 for row in rows)


def test_a_metric_without_an_interval_leaves_its_bounds_empty():
    evaluation = {"metrics": {"auroc": {"value": 0.5}}}
    table = rounds_table([{"round": 0, "epoch": 1, "labels": 2, "evaluation": evaluation}])
    assert table.splitlines()[1] == "0,1,2,auroc,0.5,,,real"


def test_the_page_shows_queries_with_the_label_they_got(report):
    page = (report() / "report.html").read_text()
    asked = [item["id"] for item in json.loads((report() / "queries" / "round_00.json").read_text())["items"]]
    for text in ("Toy", "toy", "high", "Hm.", *asked):
        assert text in page


def test_volumes_show_their_middle_slice(report):
    assert "data:image" in (report(spatial=(12, 10, 6)) / "report.html").read_text()


def test_equal_runs_leave_equal_figures(report):
    def figures(folder):
        return {p.name: p.read_bytes() for p in [*folder.glob("rounds/*"), folder / "rounds.csv", folder / "pool.json"]}

    assert figures(report()) == figures(report())


def test_only_the_first_process_writes(report, monkeypatch):
    for module in ("rounds", "query"):
        monkeypatch.setattr(f"medssl_monai.handlers.{module}.is_first", lambda: False)
    monkeypatch.setattr("medssl_monai.handlers.query.from_first", lambda value: {"items": [], "query_size": [0, 0]})
    assert list(report().iterdir()) == []


def test_a_run_that_ends_within_its_first_round_reports_nothing(tmp_path):
    data, dataset = make_data(4, synthetic=True)
    engine = Engine(lambda engine, batch: None)
    engine.state.device = "cpu"
    method = FixMatch(small_resnet(2, width=2))
    RoundReport(tmp_path, LabelPool(data), dataset, method, dataset, LabelPool(data), every=5).attach(engine)
    engine.run([0], max_epochs=2)
    assert list(tmp_path.iterdir()) == []
