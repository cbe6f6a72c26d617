"""Whether a method's estimate of the loss, and the targets made of it, agree with labels that it has not seen."""

from __future__ import annotations

import json

import pytest
import torch
from ignite.engine import Engine
from support import assert_same_state, outputs_of
from torch import Tensor, nn

from medssl_monai.data import Datalist, ImageDataset
from medssl_monai.engines import SSLTrainer
from medssl_monai.handlers import EstimatorReport, RoundReport, TrainingCheckpoint
from medssl_monai.kinds import Findings
from medssl_monai.methods import TEAR, AdaPL, FixMatch, Targets
from medssl_monai.networks import EmbeddingClassifier
from medssl_monai.pool import LabelPool, Labels, MultiStreamLoader, pool_loader
from medssl_monai.transforms import GaussianNoise, Views

PAIR = Findings(("low", "high"))


class Estimates(FixMatch):
    """FixMatch on a network with dropout, batch norm and a part that is frozen; estimates that are too careful."""

    def __init__(self, previous="ema", kind=None):
        frozen = nn.BatchNorm1d(16).eval()
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), frozen, nn.Dropout(), nn.Linear(16, 2))
        super().__init__(network, 0.6, kind=kind)
        self.previous = previous
        self.asked: list[Tensor] = []

    def targets(self, images, index):
        torch.rand(3)
        self.asked.append(index)
        probs = self.network(images).softmax(dim=1)
        confidence, pseudo_label = probs.max(dim=1)
        soft = torch.full_like(probs, 0.25).scatter(1, pseudo_label.unsqueeze(1), 0.75)
        return Targets(probs, pseudo_label, soft, confidence >= 0.6, -confidence.log())


class FindingEstimates(Estimates):
    """The same for two findings."""

    def targets(self, images, index):
        outcomes = self.kind.outcomes(self.network(images))
        confidence, pseudo_label = outcomes.max(dim=-1)
        soft = torch.full_like(outcomes, 0.25).scatter(-1, pseudo_label.unsqueeze(-1), 0.75)
        return Targets(outcomes, pseudo_label, soft, confidence >= 0.6, -confidence.log())


def tear(previous):
    """TEAR on a network with batch norm and dropout; with gamma, estimates are not all tiny after a few steps."""

    def _tear():
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout())
        adapl = AdaPL(24, (2,), previous=previous, gamma=3.0, minimum_weight=0.75)
        return TEAR(EmbeddingClassifier(backbone, 16, 2), threshold=0.6, adapl=adapl, decay=0.9)

    return _tear


def make_data(count, hidden=True, labeled=3, findings=False):
    """Images that are brighter in class 1; one of so many is labeled. Of two findings the second is often unknown."""
    items = [{"image": "x", "id": f"image{i}", "label": i % 2, "labeled": i % labeled == 0} for i in range(count)]
    items = [{**item, "label": [i % 2, -1 if i % 4 else 1]} if findings else item for i, item in enumerate(items)]
    items = [item if hidden or item["labeled"] else {**item, "label": None} for item in items]
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(count))
    images[1::2] += 1
    data = Datalist(items, classes=["low", "high"], synthetic=True, name="toy")
    return data, ImageDataset(data, lambda item: {"image": images[int(item["id"][5:])] / 2}, dtype="float32")


@pytest.fixture
def run(tmp_path):
    """Two rounds of one epoch of three steps; returns the folder and the method."""

    def _run(folder="run", judged=True, make=Estimates):
        torch.manual_seed(0)
        data, dataset = make_data(24)
        validation_data, validation = make_data(10, labeled=1)
        pool, validation_pool, method = LabelPool(Labels(data)), LabelPool(Labels(validation_data)), make()
        streams = {name: pool_loader(dataset, pool.first, name, 4, epoch_length=3) for name in ("labeled", "unlabeled")}
        optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
        out = tmp_path / folder
        handlers = [RoundReport(out, pool, dataset, method, validation, validation_pool, every=1)]
        if judged:
            handlers.append(EstimatorReport(method, dataset, pool, validation, validation_pool, 1, out, batch_size=7))
        trainer = SSLTrainer(
            "cpu", 2, MultiStreamLoader(streams), method, optimizer, pool,
            Views(GaussianNoise(0.1), GaussianNoise(0.3)), train_handlers=handlers,
        )  # fmt: skip
        TrainingCheckpoint(out / "state.pt", {"method": method, "optimizer": optimizer}).attach(trainer)
        trainer.run()
        return out, method

    return _run


def record(folder, number=1):
    return json.loads((folder / "rounds" / f"round_{number:02d}.json").read_text())


def test_held_out_and_hidden_labels_judge_each_round(run):
    folder, _ = run()
    for number in (0, 1):
        found = record(folder, number)["estimator"]
        assert {name: section["n"] for name, section in found.items()} == {"validation": 10, "unlabeled": 16}
        for section in found.values():
            assert -1 <= section["loss_correlation"] <= 1
            counts = [entry["n"] for entry in section["accepted"].get("per_class", {}).values()]
            assert sum(counts) == section["accepted"]["n"]


def test_the_figures_are_those_of_the_weights_at_the_end_of_the_round(run):
    folder, method = run()
    _, validation = make_data(10, labeled=1)
    method.eval()
    with torch.no_grad():
        found = method.targets(validation.images, torch.full((10,), -1))
    right = (found.pseudo_label == torch.arange(10) % 2).double()
    section, accepted = record(folder)["estimator"]["validation"], found.mask > 0
    assert section["hard_ece"] == pytest.approx(1 - float(right.mean()))
    assert section["target_ece"] == pytest.approx(abs(float(right.mean()) - 0.75))
    assert section["accepted"]["n"] == int(accepted.sum()) > 0
    assert section["accepted"]["accuracy"] == pytest.approx(float(right[accepted].mean()))


EVERY = {"stub": Estimates, **{previous: tear(previous) for previous in ("ema", "snapshot", "bank")}}


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY.keys())
def test_a_run_with_it_equals_one_without(run, make):
    with_it, method = run(make=make)
    random_with_it = torch.get_rng_state()
    without, other = run("without", judged=False, make=make)
    assert torch.equal(random_with_it, torch.get_rng_state())
    assert_same_state(method.state_dict(), other.state_dict())
    assert_same_state(*(torch.load(folder / "state.pt", weights_only=True) for folder in (with_it, without)))
    files = outputs_of(without)
    for number in (0, 1):
        expected = json.loads(files.pop(f"rounds/round_{number:02d}.json"))
        assert {name: value for name, value in record(with_it, number).items() if name != "estimator"} == expected
    assert files.items() <= outputs_of(with_it).items()


@pytest.mark.parametrize("previous", ["ema", "snapshot", "bank"])
def test_tear_is_judged(run, previous):
    folder, method = run(make=tear(previous))
    found = record(folder)["estimator"]
    assert set(found) == ({"unlabeled"} if previous == "bank" else {"validation", "unlabeled"})
    for section in found.values():
        assert -1 <= section["loss_correlation"] <= 1
        assert section["accepted"]["n"] > 0
        assert section["target_ece"] != section["hard_ece"]
    data, dataset = make_data(24)
    index = Labels(data).indices("unlabeled")
    estimated = method.eval().targets(dataset.images[index], index).estimated_loss
    assert found["unlabeled"]["n"] == len(index) and bool((estimated > 0).any())


@pytest.fixture
def measure(tmp_path):
    """A report that is asked once, at the end of epoch 1, after the given record."""

    def _measure(method, before='{"epoch": 1}', findings=False, **data):
        pairs = make_data(24, findings=findings, **data), make_data(10, labeled=1, findings=findings)
        pools = [LabelPool(Labels(pair[0])) for pair in pairs]
        engine = Engine(lambda engine, batch: None)
        engine.state.device = "cpu"
        EstimatorReport(method, pairs[0][1], pools[0], pairs[1][1], pools[1], 1, tmp_path).attach(engine)
        path = tmp_path / "rounds" / "round_00.json"
        path.parent.mkdir()
        if before:
            path.write_text(before)
        engine.run([0], max_epochs=1)
        return json.loads(path.read_text())["estimator"]

    return _measure


def test_modes_of_all_modules_stay_as_they_were(measure):
    method = Estimates()
    method.network[3].train()
    modes = [module.training for module in method.modules()]
    assert len(set(modes)) == 2
    measure(method)
    assert [module.training for module in method.modules()] == modes


def test_modes_are_restored_after_an_error(measure):
    method = Estimates()
    modes = [module.training for module in method.modules()]
    method.network[1] = nn.Linear(3, 16)
    with pytest.raises(RuntimeError, match="shapes"):
        measure(method)
    assert [module.training for module in method.modules()] == modes


def test_validation_images_are_no_training_samples(measure):
    method = Estimates()
    measure(method)
    validation, unlabeled = method.asked
    assert validation.tolist() == [-1] * 10
    assert unlabeled.tolist() == [i for i in range(24) if i % 3]


def test_what_is_stored_for_each_training_sample_is_judged_by_hidden_labels_only(measure):
    method = Estimates(previous="bank")
    assert set(measure(method)) == {"unlabeled"}
    assert all(bool((index >= 0).all()) for index in method.asked)


def test_without_hidden_labels_validation_judges_alone(measure):
    assert set(measure(Estimates(), hidden=False)) == {"validation"}


def test_a_bank_without_hidden_labels_cannot_be_judged(measure):
    assert measure(Estimates(previous="bank"), hidden=False) == {}


class Broken(Estimates):
    """Estimates that say nothing, and no confident image."""

    def targets(self, images, index):
        found = super().targets(images, index)
        return found._replace(estimated_loss=torch.zeros(len(images)), mask=torch.zeros(len(images), dtype=torch.bool))


def test_undefined_figures_are_left_out(measure):
    section = measure(Broken())["validation"]
    assert section.keys() == {"n", "target_ece", "hard_ece", "accepted"}
    assert section["accepted"] == {"n": 0}


def test_a_diverged_network_still_gives_a_record(measure):
    method = Estimates()
    method.network[4].bias.data.fill_(torch.nan)
    assert "loss_correlation" not in measure(method)["validation"]


def test_known_pairs_of_image_and_finding_are_judged(measure):
    method = FindingEstimates(kind=PAIR)
    found = measure(method, findings=True)
    assert {name: section["n"] for name, section in found.items()} == {"validation": 10 + 3, "unlabeled": 16 + 4}
    per_finding = found["validation"]["per_finding"]
    assert {name: section["n"] for name, section in per_finding.items()} == {"low": 10, "high": 3}
    _, validation = make_data(10, labeled=1)
    with torch.no_grad():
        made = method.eval().targets(validation.images, torch.full((10,), -1))
    right = made.pseudo_label[:, 0] == torch.arange(10) % 2
    accepted = made.mask[:, 0]
    assert per_finding["low"]["hard_ece"] == pytest.approx(1 - float(right.double().mean()))
    assert per_finding["low"]["accepted"]["n"] == int(accepted.sum()) > 0
    assert per_finding["low"]["accepted"]["accuracy"] == pytest.approx(float(right[accepted].double().mean()))
    present = (made.pseudo_label[::4, 1] == 1).double()  # where it is known, the second finding is there
    assert per_finding["high"]["hard_ece"] == pytest.approx(1 - float(present.mean()))


@pytest.mark.parametrize("previous", ["ema", "bank"])
def test_tear_of_findings_is_judged(measure, previous):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 16))
    adapl = AdaPL(24, (2, 2), previous=previous, minimum_weight=0.75)
    method = TEAR(EmbeddingClassifier(backbone, 16, 2), threshold=0.5, adapl=adapl, kind=PAIR)
    found = measure(method, findings=True)
    assert set(found) == ({"unlabeled"} if previous == "bank" else {"validation", "unlabeled"})
    for section in found.values():
        assert section["accepted"]["n"] == section["n"] > 0
        assert set(section["accepted"]["per_class"]) == {"absent", "present"}


def test_a_method_without_targets_is_refused_at_once(tmp_path):
    data, dataset = make_data(6)
    pool, method = LabelPool(Labels(data)), FixMatch(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"FixMatch has no `targets\(images, index\)`"):
        EstimatorReport(method, dataset, pool, dataset, pool, every=1, output_dir=tmp_path)


@pytest.mark.parametrize("before", ["", '{"epoch": 5}'])
def test_it_must_come_after_the_report_of_the_round(measure, before):
    with pytest.raises(
        ValueError, match=r"no record .*round_00.json of epoch 1 .* list EstimatorReport after RoundRep"
    ):
        measure(Estimates(), before)


def test_only_the_first_process_judges(measure, monkeypatch):
    monkeypatch.setattr("medssl_monai.handlers.estimator.is_first", lambda: False)
    method = Estimates()
    with pytest.raises(KeyError):  # nothing was added
        measure(method)
    assert method.asked == []


def test_the_record_names_no_image(measure):
    assert "image" not in json.dumps(measure(Estimates()))
