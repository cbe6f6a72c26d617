"""What each round achieved, and the page that shows it."""

import csv
import json

import pytest
import torch
from ignite.engine import Engine

from medssl_monai.asking import Oracle
from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.handlers import QueryHandler, RoundReport
from medssl_monai.kinds import Findings
from medssl_monai.methods import FixMatch
from medssl_monai.networks import small_resnet
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, entropy, random
from medssl_monai.report.write import quarantine_lines, rounds_table, write_report


def make_data(count, synthetic, spatial=(12, 12), broken=()):
    """Images of noise, of which those at the positions `broken` cannot be read."""
    items = [{"image": f"{i}.png", "id": f"id{i}", "group": f"g{i // 2}", "label": i % 2} for i in range(count)]
    images = torch.rand(count, 1, *spatial, generator=torch.Generator().manual_seed(count))
    data = Datalist(items, classes=["low", "high"], synthetic=synthetic, name="toy")

    def read(item):
        if int(item["id"][2:]) in broken:
            raise OSError(f"{item['image']} is damaged")
        return {"image": images[int(item["id"][2:])]}

    return data, ImageDataset(data, read, on_bad_file="skip")


@pytest.fixture
def report(tmp_path):
    """A report after two rounds of one epoch each, with a query in between; nothing is trained."""

    def _report(synthetic=True, spatial=(12, 12), broken=(), broken_validation=(), strategy=random, budget=2):
        torch.manual_seed(0)
        data, dataset = make_data(12, synthetic, spatial, broken)
        validation_data, validation = make_data(16, synthetic, spatial, broken_validation)
        method = FixMatch(small_resnet(2, spatial_dims=len(spatial), width=2))
        pool = LabelPool(Labels(data, known=4))
        engine = Engine(lambda engine, batch: None)
        engine.state.device = "cpu"
        QueryHandler(pool, dataset, method, strategy, budget, every=1, folder=tmp_path / "queries",
                     annotator=lambda ids, part="label": dict.fromkeys(ids, 1)).attach(engine)  # fmt: skip
        RoundReport(
            tmp_path,
            pool,
            dataset,
            method,
            validation,
            LabelPool(Labels(validation_data)),
            every=1,
            title="Toy",
            notes=["Hm."],
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


BOOSTMIS = BoostMISQuery(Instability(), DensityEntropy())


@pytest.mark.parametrize("strategy", [random, entropy, BOOSTMIS])
def test_images_that_cannot_be_read_are_not_queried_and_not_measured(report, strategy):
    folder = report(broken=(0, 5, 11), broken_validation=(3, 4), strategy=strategy, budget=12)
    bad = {"id0", "id5", "id11"}
    records = [json.loads((folder / "rounds" / f"round_0{i}.json").read_text()) for i in (0, 1)]
    queries = [json.loads((folder / "queries" / f"round_0{i}.json").read_text()) for i in (0, 1)]
    asked = {item["id"] for item in queries[0]["items"]}
    known = set(json.loads((folder / "pool.json").read_text())["labels"])
    assert not asked & bad
    assert asked | known == {f"id{i}" for i in range(12)} - (bad - known)  # everything else there is
    assert queries[1]["items"] == []
    assert [record["evaluation"]["n"] for record in records] == [14, 14]
    assert records[1]["labels"] == len(known - bad) == 9


def test_a_label_of_an_image_in_quarantine_is_kept(report):
    drawn = LabelPool(Labels(make_data(12, synthetic=True)[0], known=4)).first.indices("labeled").tolist()
    folder = report(broken=drawn[:2])
    assert {f"id{i}" for i in drawn} <= json.loads((folder / "pool.json").read_text())["labels"].keys()
    assert json.loads((folder / "rounds" / "round_00.json").read_text())["labels"] == 2


@pytest.mark.parametrize("synthetic", [True, False])
def test_file_table_and_page_list_the_quarantine_by_id_with_reasons(report, caplog, synthetic):
    with caplog.at_level("INFO", logger="medssl_monai.report.write"):
        folder = report(synthetic, broken=(5,), broken_validation=(3,))
    expected = [
        {"section": "training", "id": "id5", "reason": "OSError: id5 is damaged"},
        {"section": "validation", "id": "id3", "reason": "OSError: id3 is damaged"},
    ]
    assert json.loads((folder / "rounds" / "round_01.json").read_text())["quarantine"] == expected
    for text in (caplog.text, (folder / "report.html").read_text()):
        assert "Quarantine: 2 files cannot be read" in text
        assert "training, id5: OSError: id5 is damaged" in text
        assert "validation, id3: OSError: id3 is damaged" in text
        assert "5.png" not in text


def test_images_of_one_reason_share_a_line():
    pairs = [("training", "a"), ("validation", "b"), ("training", "c")]
    lines = quarantine_lines([{"section": section, "id": name, "reason": "empty"} for section, name in pairs])
    assert lines[1:] == ["training, a, c: empty", "validation, b: empty"]


def test_a_run_without_bad_files_says_nothing_of_a_quarantine(report, caplog):
    with caplog.at_level("INFO", logger="medssl_monai.report.write"):
        folder = report()
    assert "uarantine" not in caplog.text + (folder / "report.html").read_text()
    assert json.loads((folder / "rounds" / "round_00.json").read_text())["quarantine"] == []


def test_a_validation_list_of_which_nothing_labeled_can_be_read_stops_the_run(tmp_path):
    data, dataset = make_data(4, synthetic=True)
    validation_data, validation = make_data(4, synthetic=True, broken=(0, 1))
    pool = LabelPool(Labels(validation_data, known=0))
    pool.first.annotate([0, 1], [0, 1])
    engine = Engine(lambda engine, batch: None)
    method = FixMatch(small_resnet(2, width=2))
    RoundReport(tmp_path, LabelPool(Labels(data)), dataset, method, validation, pool, every=1).attach(engine)
    with pytest.raises(ValueError, match=r"no validation image that can be read \(2 cannot\) has a label; split the"):
        engine.run([0], max_epochs=1)


def test_bad_files_of_both_lists_are_named_at_once(tmp_path):
    data, dataset = make_data(4, synthetic=True, broken=(1,))
    validation_data, validation = make_data(4, synthetic=True, broken=(2,))
    dataset.on_bad_file = validation.on_bad_file = "stop"
    engine = Engine(lambda engine, batch: None)
    method = FixMatch(small_resnet(2, width=2))
    pools = LabelPool(Labels(data)), LabelPool(Labels(validation_data))
    RoundReport(tmp_path, pools[0], dataset, method, validation, pools[1], every=1).attach(engine)
    with pytest.raises(ValueError, match=r"(?s)1 of 4 images cannot be read.*id1: .*1 of 4 images cannot be.*id2: "):
        engine.run([0], max_epochs=1)


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


# ---- findings -------------------------------------------------------------------------------------------------------

FINDINGS = ["effusion", "mass", "hernia"]


@pytest.fixture
def report_findings(tmp_path):
    """A report on findings after two rounds; hernia is in no validation image, and the oracle knows some labels."""

    def make(count, no_hernia):
        labels = [[i % 2, (-1, 0, 1)[i % 3], int(i % 5 == 0 and not no_hernia)] for i in range(count)]
        items = [{"image": "x", "id": f"id{i}", "group": f"g{i // 2}", "label": row} for i, row in enumerate(labels)]
        images = torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(count))
        data = Datalist(items, classes=FINDINGS, name="toy")
        return data, ImageDataset(data, lambda item: {"image": images[int(item["id"][2:])]})

    torch.manual_seed(0)
    data, dataset = make(12, no_hernia=False)
    validation_data, validation = make(16, no_hernia=True)
    method = FixMatch(small_resnet(3, width=2), threshold=[0.4, 0.4, 0.9], kind=Findings(tuple(FINDINGS)))
    pool, engine = LabelPool(Labels(data, known=4)), Engine(lambda engine, batch: None)
    engine.state.device = "cpu"
    known = Oracle(pool)
    QueryHandler(pool, dataset, method, BOOSTMIS, 2, 1, tmp_path / "queries", annotator=known).attach(engine)
    RoundReport(
        tmp_path, pool, dataset, method, validation, LabelPool(Labels(validation_data)), every=1, title="Toy"
    ).attach(engine)
    engine.run([0], max_epochs=2)
    return tmp_path


def test_a_run_on_findings_leaves_every_file_and_no_nan(report_findings):
    record = json.loads((report_findings / "rounds" / "round_01.json").read_text(), parse_constant=pytest.fail)
    checked = record["pseudo_labels"]
    assert checked["threshold"] == [[0.4], [0.4], [0.9]]
    assert checked["accepted"] == checked["present"]["n"] + checked["absent"]["n"] > 0
    assert checked["pairs"] < 3 * checked["unlabeled"]
    assert record["evaluation"]["undefined"]["auroc of hernia"] == "no positive sample"
    assert 0 <= record["evaluation"]["metrics"]["auroc"]["value"] <= 1


def test_the_log_names_the_findings_that_are_left_out(report_findings, caplog):
    record = json.loads((report_findings / "rounds" / "round_01.json").read_text())
    with caplog.at_level("INFO", logger="medssl_monai.report.write"):
        pool = LabelPool(Labels(make_data(2, synthetic=False)[0]))
        write_report(report_findings, [record], [], pool, make_data(2, synthetic=False)[1], title="Toy")
    assert "AUROC leaves out hernia (no positive sample)" in caplog.text


def test_the_table_of_rounds_lists_every_finding_with_a_value_or_a_reason(report_findings):
    with (report_findings / "rounds.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["round"] == "1"]
    by_name = {row["metric"]: row for row in rows}
    for metric in ("auroc", "ap"):
        for name in [*FINDINGS, "any finding"]:
            row = by_name[f"{metric} of {name}"]
            assert bool(row["value"]) != bool(row["undefined"])
    assert by_name["auroc of hernia"]["undefined"] == "no positive sample"
    assert by_name["auroc"]["value"] and not by_name["auroc"]["undefined"]


def test_the_page_shows_the_findings_of_queried_images(report_findings):
    page = (report_findings / "report.html").read_text()
    (first, *_) = json.loads((report_findings / "queries" / "round_00.json").read_text())["items"]
    label = json.loads((report_findings / "pool.json").read_text())["labels"][first["id"]]
    assert f"annotated {Findings(tuple(FINDINGS)).shown(label)}" in page
    assert "By finding" in page
    assert "AUROC leaves out hernia (no positive sample)" in page


def test_a_run_that_ends_within_its_first_round_reports_nothing(tmp_path):
    data, dataset = make_data(4, synthetic=True)
    engine = Engine(lambda engine, batch: None)
    engine.state.device = "cpu"
    method = FixMatch(small_resnet(2, width=2))
    RoundReport(tmp_path, LabelPool(Labels(data)), dataset, method, dataset, LabelPool(Labels(data)), every=5).attach(
        engine
    )
    engine.run([0], max_epochs=2)
    assert list(tmp_path.iterdir()) == []


def test_pseudo_labels_are_checked_with_the_labels_that_the_datalist_hides(report):
    record = json.loads((report() / "rounds" / "round_01.json").read_text())
    assert record["pseudo_labels"] == {"threshold": 0.95, "unlabeled": 6, "accepted": 0}
    assert record["training"] == {}


def test_no_cell_of_the_figures_is_a_formula():
    """Numbers stay numbers, of whatever sign; reasons and findings are texts."""
    record = {
        "round": 0,
        "epoch": 1,
        "labels": 2,
        "evaluation": {
            "kind": "findings",
            "metrics": {"accuracy": {"value": -0.5}},
            "undefined": {"auroc": "=1+1", "ap": "-"},
            "per_class": {"-": {"n": 0, "absent": 0}},
            "per_class_intervals": {},
        },
    }
    rows = list(csv.DictReader(rounds_table([record]).splitlines()))
    assert rows[0]["value"] == "-0.5"
    assert {row["undefined"] for row in rows if row["metric"] == "auroc"} == {"'=1+1"}


def test_findings_with_names_that_labels_cannot_carry_stop_a_run_before_it_trains(tmp_path):
    """A pool may know its task only from labels that are not in the datalist."""
    data, dataset = make_data(4, synthetic=True)
    for item in data:
        del item["label"]
    for kind, refused in (("classes", False), ("findings", True)):
        pool = LabelPool(Labels(data, kind=kind, names=["mass", "none"]))
        validation, images = make_data(4, synthetic=True)
        method = FixMatch(small_resnet(2, width=2))
        report = RoundReport(tmp_path, pool, dataset, method, images, LabelPool(Labels(validation)), every=1)
        if not refused:
            report.start(Engine(lambda engine, batch: None))
            continue
        with pytest.raises(ValueError, match="the finding 'none' would mean that nothing is there"):
            report.start(Engine(lambda engine, batch: None))
