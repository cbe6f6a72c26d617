"""A kind of another package through a whole round: no code but its own looks into its labels, which are sets."""

import json
from typing import ClassVar

import pytest
import torch
from kinds.laterality import SIDES, Laterality
from support import assert_same_state, read_csv
from torch import nn

from medssl_monai.asking import Oracle
from medssl_monai.asking.answers import hand_over
from medssl_monai.asking.ask import Learner
from medssl_monai.asking.record import read_query, write_query
from medssl_monai.data import ImageDataset, load_datalist
from medssl_monai.data.datalist import write_datalist
from medssl_monai.engines import SSLTrainer, evaluate
from medssl_monai.engines.evaluate import check_pseudo_labels
from medssl_monai.files import load_tensors
from medssl_monai.handlers import EpochSeed, QueryHandler, RoundReport, TrainingCheckpoint
from medssl_monai.kinds import KINDS, Masks, kind_named
from medssl_monai.methods import FixMatch, FlexMatch, MultiMix
from medssl_monai.networks import MultiMixNetwork
from medssl_monai.pool import LabelPool, Labels, MultiStreamLoader, pool_loader
from medssl_monai.query import JointQuery, entropy
from medssl_monai.tables import text_of
from medssl_monai.transforms import Affine, GaussianNoise, JointViews, MaskViews, Views

COUNT, LABELED = 24, 8


def number_of(item):
    return int(item["id"][1:])


def image_of(item):
    return {"image": torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(number_of(item)))}


class Drawn:
    """Reads masks that no file holds."""

    unreadable: ClassVar[dict] = {}

    def read(self, paths):
        pass

    def targets(self, paths, index):
        return torch.stack([image_of({"id": f"t{i}"})["image"][0].gt(0.5).long() for i in index])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of a datalist, written and read as any; its labels are texts, and no paths."""
    monkeypatch.setitem(KINDS, "laterality", Laterality)
    sections = {
        section: [
            {"image": f"{section}{i}.png", "id": f"{section[0]}{i}", "group": f"{section}{i // 2}",
             "label": ("left", "right", "left+right", "neither")[i % 4], "mask": f"{section}{i}.nii"}
            for i in range(COUNT)
        ]
        for section in ("training", "validation")
    }  # fmt: skip
    write_datalist(
        tmp_path / "data.json", sections, classes=SIDES, label_kind="laterality", mask_classes=("rest", "organ")
    )
    return tmp_path


class Run:
    """One round per epoch of two steps, with a query of four labels after each, which the datalist answers."""

    def __init__(self, folder, method="FixMatch", epochs=2, out="run", labels=LABELED):
        torch.manual_seed(0)
        self.out = folder / out
        sections = [load_datalist(folder / "data.json", section) for section in ("training", "validation")]
        self.dataset, self.validation = (ImageDataset(data, image_of) for data in sections)
        self.joint = method == "MultiMix"
        self.pool, self.validation_pool = (
            LabelPool([Labels(data, known), *([Labels(data, known, "mask", read=Drawn())] if self.joint else [])])
            for data, known in zip(sections, (labels, None), strict=True)
        )
        self.strategy = JointQuery({"label": 1, "mask": 1}) if self.joint else entropy
        self.method = self._method(method)
        self.optimizer = torch.optim.SGD(self.method.trainable_parameters(), lr=0.1)
        self.trainer = SSLTrainer(
            "cpu", epochs, self._loader(), self.method, self.optimizer, self.pool, self._views(), self._handlers()
        )

    def _method(self, name):
        kind, flat = kind_named("laterality", SIDES), nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
        if name == "FlexMatch":
            return FlexMatch(flat, len(self.pool), threshold=[0.5, 0.6], kind=kind)
        if name == "FixMatch":
            return FixMatch(flat, threshold={"absent": 0.5, "present": [0.5, 0.6]}, kind=kind)
        network = MultiMixNetwork(2, 2, 1, channels=(2, 4), bridge="none")
        return MultiMix(network, threshold=0.5, kind=kind, mask_kind=Masks(("rest", "organ")))

    def _loader(self):
        return MultiStreamLoader(
            {
                name: pool_loader(
                    self.dataset, self.pool[of.part], "labeled" if of.labeled else "unlabeled", 4, epoch_length=2
                )
                for name, of in self.method.streams.items()
            }
        )

    def _views(self):
        views = Views(GaussianNoise(0.1), GaussianNoise(0.3))
        return JointViews(views, MaskViews(Affine(rotate=5))) if self.joint else views

    def _handlers(self):
        state = {"method": self.method, "optimizer": self.optimizer, "pool": self.pool}
        asked = (self.dataset, self.method, self.strategy, 4, 1, self.out / "queries", Oracle(self.pool))
        measured = (self.dataset, self.method, self.validation, self.validation_pool, 1)
        return [
            TrainingCheckpoint(self.out / "state.pt", state),
            EpochSeed(0),
            QueryHandler(self.pool, *asked),
            RoundReport(self.out, self.pool, *measured),
        ]

    def __call__(self):
        self.trainer.run()
        return self


@pytest.mark.parametrize("method", ["FixMatch", "FlexMatch", "MultiMix"])
def test_a_kind_of_another_package_goes_through_a_whole_run(folder, method):
    run = Run(folder, method)()
    assert sum(len(labels.indices("labeled")) for labels in run.pool.parts.values()) == LABELED * (1 + run.joint) + 4
    query = read_query(run.out / "queries" / "round_00.json")
    assert query["parts"]["label"]["kind"] == "laterality" and query["parts"].keys() == run.pool.parts.keys()
    assert len(query["items"]) == 4 and "threshold" in query["parts"]["label"]
    record = json.loads((run.out / "rounds" / "round_01.json").read_text(), parse_constant=pytest.fail)
    assert record["evaluation"]["kind"] == "laterality" and "auroc" in record["evaluation"]["metrics"]
    assert ("dice" in record["evaluation"]["metrics"]) == run.joint
    assert record["pseudo_labels"]["accepted"] > 0 and record["pseudo_labels"]["per_class"].keys() == set(SIDES)
    asked = [item for item in query["items"] if item.get("ask", "label") == "label"]
    page, listed = (run.out / "report.html").read_text(), {item["id"]: item["label"] for item in run.dataset.data}
    assert all(f"annotated {listed[item['id']]}" in page for item in asked)
    known = json.loads((run.out / "pool.json").read_text())["labels"]
    assert known.items() <= listed.items() and known.keys() >= {item["id"] for item in asked}


@pytest.mark.parametrize("method", ["FlexMatch", "MultiMix"])
def test_a_run_that_was_stopped_goes_on_bit_by_bit(folder, method):
    Run(folder, method, epochs=1, out="stopped")()
    resumed, whole = Run(folder, method, out="stopped")(), Run(folder, method, out="whole")()
    assert resumed.method.steps_done == 4
    first, second = (load_tensors(run.out / "state.pt") for run in (resumed, whole))
    for part in ("method", "optimizer", "pool"):
        assert_same_state(first[part], second[part])
    rounds = [(run.out / "rounds" / "round_01.json").read_text() for run in (resumed, whole)]
    assert rounds[0] == rounds[1]


def test_people_fill_in_the_table_of_a_query_and_the_next_round_knows(folder):
    run = Run(folder)
    generator = torch.Generator().manual_seed(0)
    record = Learner.of(run.method).ask(run.dataset, run.pool, run.strategy, 4, generator, "cpu")
    write_query(run.out / "query.json", json.loads(json.dumps({**record, "epoch": 0})))
    rows = read_csv(run.out / "query.csv")
    answers = ["right", "left+right", "both", ""]  # the third is none, the fourth is left empty
    table = [list(rows[0]), *([*(row | {"label": text}).values()] for row, text in zip(rows, answers, strict=True))]
    (run.out / "query.csv").write_text(text_of(table))
    assert hand_over(run.out / "query.json", run.out / "labels.json", run.pool, "person")
    labels = Run(folder, labels=run.out / "labels.json").pool.first
    given = [labels.label(labels.position[row["id"]]) for row in rows]
    assert given == [frozenset(["right"]), frozenset(SIDES), None, None]
    assert len(labels.indices("labeled")) == LABELED + 2 and labels.query_size == tuple(record["query_size"])


def test_figures_and_pseudo_labels_of_another_kind_are_counted_as_they_are(folder):
    run = Run(folder)
    figures = evaluate(run.method.network, run.validation, run.validation_pool, "cpu")
    assert (figures["n"], figures["unlabeled"], figures["groups"]) == (COUNT, 0, COUNT // 2)
    assert [figures["per_class"][side]["n"] for side in SIDES] == [COUNT // 2] * 2
    every = run.method.kind.threshold(0.0)
    checked = check_pseudo_labels(run.method.network, run.dataset, run.pool.first, "cpu", every)
    hidden = COUNT - LABELED
    assert (checked["unlabeled"], checked["pairs"], checked["accepted"]) == (hidden, 2 * hidden, 2 * hidden)
    assert checked["present"]["n"] + checked["absent"]["n"] == 2 * hidden
