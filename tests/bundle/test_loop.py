"""The loop, round by round."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from support import outputs_of

from medssl_monai.bundle.loop import run_loop
from medssl_monai.networks import small_unet, weights_metadata

pytestmark = pytest.mark.slow  # whole loops


@pytest.fixture
def loop(own_bundle, tiny, tmp_path):
    """Starts a loop of three tiny rounds in a folder."""
    values = {key: value for key, value in tiny().items() if key not in ("output_dir", "ckpt_dir", "rounds")}

    def _loop(folder: str = "loop", **arguments):
        overrides = {**values, **arguments.pop("overrides", {})}
        return run_loop(own_bundle("boostmis"), tmp_path / folder, **{"rounds": 3, **arguments}, overrides=overrides)

    return _loop


def labels_of(path: Path) -> set[str]:
    return set(json.loads(path.read_text())["labels"])


@pytest.mark.parametrize("weights", ["fresh", "continued"])
def test_an_oracle_answers_every_query_of_the_loop(loop, tmp_path, weights):
    assert loop(weights=weights)
    folder = tmp_path / "loop"
    known = labels_of(folder / "round_00" / "pool.json")
    assert len(known) == 6
    for number in (1, 2):
        asked = json.loads((folder / f"round_{number - 1:02d}" / "queries" / "round_00.json").read_text())["items"]
        known |= {item["id"] for item in asked}
        assert labels_of(folder / f"round_{number:02d}" / "labels.json") == known
    table = list(csv.DictReader((folder / "rounds.csv").read_text().splitlines()))
    assert sorted({row["round"] for row in table}) == ["0", "1", "2"]
    assert {row["data"] for row in table} == {"SYNTHETIC"}
    assert "SYNTHETIC" in (folder / "report.html").read_text()


def test_the_size_of_a_query_reaches_the_threshold_of_the_next_round(loop, tmp_path):
    loop(rounds=2)
    asked = json.loads((tmp_path / "loop" / "round_00" / "queries" / "round_00.json").read_text())
    state = torch.load(tmp_path / "loop" / "round_01" / "state.pt", weights_only=True)
    returned, possible = asked["query_size"]
    assert float(state["method"]["threshold.share"]) == pytest.approx(returned / possible)


def test_a_loop_that_was_broken_off_ends_like_one_that_was_not(loop, tmp_path):
    loop("whole")
    loop("parts", rounds=1)
    (tmp_path / "parts" / "round_01").mkdir()  # killed before the labels were written
    loop("parts")
    for number in range(3):
        name = f"round_{number:02d}"
        assert outputs_of(tmp_path / "whole" / name) == outputs_of(tmp_path / "parts" / name)


def test_a_person_fills_in_the_table_and_bad_rows_are_named(loop, tmp_path, capsys):
    assert not loop(annotator="person")
    assert not loop(annotator="person")  # nothing was filled in, so it waits
    table = tmp_path / "loop" / "round_00" / "queries" / "round_00.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    answers = ["left", "1", "7"]  # a name, an index, a class that there is not
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row, answer in zip(rows, answers, strict=False):
            writer.writerow({**row, "label": answer})
        writer.writerow({**rows[0], "id": "nobody", "label": "left"})
    assert not loop(annotator="person", rounds=3)  # round 1 has run, and its query waits
    labels = json.loads((tmp_path / "loop" / "round_01" / "labels.json").read_text())["labels"]
    assert labels[rows[0]["id"]] == 0 and labels[rows[1]["id"]] == 1 and rows[2]["id"] not in labels
    log = capsys.readouterr().out  # the bundle's logging.conf writes to standard output
    assert f"the label of '{rows[2]['id']}' is 7, and must be a class index from 0 to 1" in log
    assert "'nobody' is not in the datalist" in log
    assert not loop(annotator="person")  # started again: the filled table is still there
    assert next(csv.DictReader(table.read_text().splitlines()))["label"] == "left"


def test_a_datalist_may_become_longer_between_rounds(loop, toy_datalist, tmp_path):
    """Samples are matched by id, whatever their place; a finished round is not run again."""
    loop(rounds=1)
    content = json.loads(toy_datalist.read_text())
    new = {**content["training"][0], "id": "new", "group": "new", "labeled": False}
    longer = tmp_path / "longer.json"
    longer.write_text(json.dumps({**content, "training": [new, *content["training"]]}))
    where = {"datalist": str(longer), "dataset_dir": str(toy_datalist.parent)}
    assert loop(rounds=2, overrides=where)
    first = labels_of(tmp_path / "loop" / "round_00" / "pool.json")
    asked = json.loads((tmp_path / "loop" / "round_00" / "queries" / "round_00.json").read_text())["items"]
    assert labels_of(tmp_path / "loop" / "round_01" / "pool.json") == first | {item["id"] for item in asked}
    state = torch.load(tmp_path / "loop" / "round_01" / "state.pt", weights_only=True)
    assert state["pool"]["parts"]["label"]["ids"][0] == "new"


def test_a_loop_that_asks_for_nothing_is_refused(loop):
    with pytest.raises(ValueError, match="`query::budget` is 0"):
        loop(overrides={"query::budget": 0})


def test_a_person_is_not_waited_for_when_nothing_was_asked(loop, tmp_path):
    assert loop(annotator="person", rounds=2, overrides={"labels": 40})  # all of them


def test_continued_weights_start_from_the_model_of_the_round_before(loop, tmp_path, capsys):
    loop(rounds=2, weights="continued")
    assert f"tensors from {tmp_path / 'loop' / 'round_00' / 'models' / 'model.pt'}" in capsys.readouterr().out
    assert weights_metadata(tmp_path / "loop" / "round_01" / "models" / "model.pt")["synthetic"]


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"annotator": "nobody"}, {"weights": "old"}])
def test_arguments_out_of_range_are_refused(loop, bad):
    with pytest.raises(ValueError, match="got"):
        loop(**bad)


# ---- findings, from one round to the next ---------------------------------------------------------------------------


@pytest.fixture
def masks_loop(own_bundle, tiny, toy_masks, tmp_path):
    """Starts a loop of SSAL for a person, on images of which no training mask is known to the datalist."""
    content = json.loads(toy_masks.read_text())
    for item in content["training"]:
        del item["label"]
    (tmp_path / "unlabeled.json").write_text(json.dumps(content))
    torch.save(small_unet(num_classes=1, in_channels=1, spatial_dims=2, width=4).state_dict(), tmp_path / "stage_1.pt")
    own = {"datalist": str(tmp_path / "unlabeled.json"), "dataset_dir": str(toy_masks.parent), "labels": 0}
    own["pretrained"] = str(tmp_path / "stage_1.pt")
    values = {**tiny(name="ssal", **own), "networks::small_unet::width": 4}
    values = {key: value for key, value in values.items() if key not in ("output_dir", "ckpt_dir", "rounds")}
    cold = {"query::cold_start": 4, "strategies::clusters::num_clusters": 2}

    def _loop(folder="loop", **overrides):
        arguments = {"rounds": 2, "annotator": "person", "weights": "continued"}
        return run_loop(own_bundle("ssal"), tmp_path / folder, **arguments, overrides={**values, **cold, **overrides})

    return _loop


def answer(table: Path, folder: Path) -> list[str]:
    """Fill in a table of queried images with the paths of their masks, from the table's folder."""
    rows = list(csv.DictReader(table.read_text().splitlines()))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "label": os.path.relpath(folder / f"{row['id']}_mask.png", table.parent)})
    return ids_of(table)


def ids_of(table: Path) -> list[str]:
    return [row["id"] for row in csv.DictReader(table.read_text().splitlines())]


def test_a_person_answers_a_cold_start_with_masks(masks_loop, toy_masks, tmp_path, capsys):
    folder = tmp_path / "loop"
    assert not masks_loop()
    assert not masks_loop()  # nothing was filled in, so it waits, and asks nothing else
    assert "with paths of masks, from the folder of that table" in capsys.readouterr().out
    first = answer(folder / "round_00" / "queries" / "cold_start.csv", toy_masks.parent)
    assert len(first) == 4
    assert not masks_loop()  # round 0 has run, and its query waits
    assert labels_of(folder / "round_00" / "labels.json") == set(first)
    second = answer(folder / "round_00" / "queries" / "round_00.csv", toy_masks.parent)
    assert masks_loop()
    assert labels_of(folder / "round_01" / "labels.json") == {*first, *second}
    assert f"tensors from {folder / 'round_00' / 'models' / 'model.pt'}" in capsys.readouterr().out
    assert labels_of(folder / "round_01" / "pool.json") == {*first, *second}
    third = ids_of(folder / "round_01" / "queries" / "round_00.csv")
    assert not masks_loop("one", **{"query::cold_start": 10})  # clusters do not move with the weights of the rounds
    assert {*first, *second, *third} == {*ids_of(tmp_path / "one" / "round_00" / "queries" / "cold_start.csv")}
