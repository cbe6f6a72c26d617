"""Training from the viewer, on images with and without labels."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from ignite.engine import Events
from PIL import Image

from medssl_monai.bundle.run import workflow
from medssl_monai.data import write_datalist
from medssl_monai.files import sha256
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.studies import read_studies
from medssl_monai.networks import pretrained, weights_metadata
from medssl_monai.networks.pretrained import load_weights


@pytest.fixture
def runs(monkeypatch):
    """The workflow of each training."""
    found, run = [], ServedBundle.run

    def spied(*arguments, **values):
        found.append(run(*arguments, **values))
        return found[-1]

    monkeypatch.setattr(ServedBundle, "run", spied)
    return found


@pytest.fixture
def logged(caplog):
    """What is logged."""
    caplog.set_level(logging.INFO)
    return caplog


def with_labels(server, items, count):
    """Save the labels of the first images."""
    for name, item in list(items.items())[:count]:
        for key in ("label", "mask"):
            if key in item:
                server.save(name, item[key] if hasattr(item[key], "suffix") else {"label": item[key]})


def part(run, name):
    return run.parser.get_parsed_content(name)


def test_boostmis_learns_from_images_without_a_label(serve, studies, runs, logged):
    folder, items = studies("boostmis", 20)
    server = serve(["boostmis"], folder)
    served = server.app.served["boostmis"]
    before = sha256(served.weights)
    with_labels(server, items, 10)
    result = server.train("boostmis", max_epochs=2, device="cpu")
    (run,) = runs

    data = run.parser["train::dataset::data"]["items"]
    assert {item["labeled"] for item in data} == {True, False}
    assert all(("label" in item) == item["labeled"] for item in data)
    measured = part(run, "validate::dataset::data")
    assert not {item["id"] for item in data} & {item["id"] for item in measured}
    known = {name: item["label"] for name, item in list(items.items())[:10]}
    assert {item["id"]: item["label"] for item in [*data, *measured] if "label" in item} == known
    counts = {"labeled": sum(item["labeled"] for item in data), "unlabeled": sum(not item["labeled"] for item in data)}
    assert result.items() >= (counts | {"validation": len(measured)}).items()
    assert counts["labeled"] + len(measured) == 10
    told = f"{counts['labeled']} labeled, {counts['unlabeled']} unlabeled, {len(measured)} validation images"
    assert f"boostmis: BoostMIS on {told}; it learns from those without a label as well." in logged.text

    method, trainer = part(run, "method"), part(run, "train::trainer")
    assert method.steps_done == 6 and trainer.state.epoch == 2
    assert "unlabeled" in method.streams and sha256(served.weights) != before
    assert result["weights"] == served.version == sha256(served.weights)[:12] and "auroc" in result
    (kept,) = (served.folder / "eval").iterdir()
    assert (kept / "report.html").exists() and sha256(kept / "models" / "model.pt") == sha256(served.weights)
    assert weights_metadata(served.weights)["synthetic"] is True
    assert server.app.info()["train_stats"]["boostmis"]["best_metric"] == result["auroc"]
    assert server.infer("boostmis", "training_0")["params"]["weights"] == result["weights"]


def test_ssal_learns_from_images_without_a_mask(serve, studies, runs, logged):
    folder, items = studies("ssal", 14)
    server = serve(["ssal"], folder)
    with_labels(server, items, 8)
    result = server.train("ssal", max_epochs=1)
    assert "ssal: MeanTeacher on " in logged.text and "as well" in logged.text
    assert result["labeled"] + result["validation"] == 8 and result["unlabeled"] > 0
    assert {"labeled", "unlabeled"} == set(part(runs[0], "method").streams)


def test_multimix_learns_from_what_each_image_has(serve, studies, runs):
    folder, items = studies("multimix", 16)
    server = serve(["multimix"], folder)
    for number, (name, item) in enumerate(items.items()):
        if number % 4 < 3:
            server.save(name, {"label": item["label"]})
        if number % 2:
            server.save(name, item["mask"])
    result = server.train("multimix", max_epochs=1)
    data = runs[0].parser["train::dataset::data"]["items"]
    assert {(item["labeled"], item["masked"]) for item in data} == {(True, False), (True, True), (False, True)}
    assert result["masked"] == sum(item["masked"] for item in data)


class TestOptions:
    def test_what_a_viewer_offers(self, serve, studies):
        folder, _ = studies("boostmis", 1)
        trainer = serve(["boostmis"], folder).app.info()["trainers"]["boostmis"]
        assert trainer["config"].keys() == {"device", "pretrained", "max_epochs"}
        assert trainer["config"]["max_epochs"] == 4  # four rounds of one epoch

    def test_without_a_choice_it_trains_as_offered(self, serve, studies, runs):
        folder, items = studies("boostmis", 12)
        server = serve(["boostmis"], folder)
        with_labels(server, items, 6)
        server.train("boostmis")
        assert part(runs[0], "train::trainer").state.epoch == 4

    @pytest.mark.parametrize("wrong", [0, -1, "many"])
    def test_epochs_that_are_none(self, serve, studies, wrong):
        folder, items = studies("boostmis", 12)
        server = serve(["boostmis"], folder)
        with_labels(server, items, 6)
        with pytest.raises(ValueError, match="max_epochs"):
            server.train("boostmis", max_epochs=wrong)

    @pytest.mark.parametrize("name", ["boostmis", "ssal"])
    def test_where_it_starts_and_what_it_leaves(self, serve, studies, monkeypatch, name):
        folder, items = studies(name, 12)
        server, loaded = serve([name], folder), []
        served = server.app.served[name]
        with_labels(server, items, 6)

        def spied(network, path, part):
            loaded.append((path, part))
            load_weights(network, path, part)

        monkeypatch.setattr(pretrained, "load_weights", spied)
        for continued, wanted in ((False, []), (True, [(str(served.weights), "continue")])):
            loaded.clear()
            server.train(name, max_epochs=1, pretrained=continued)
            assert [(path, part) for path, part in loaded if part == "continue"] == wanted
        trainings = [sha256(folder / "models" / "model.pt") for folder in sorted((served.folder / "eval").iterdir())]
        assert len(set(trainings)) == 2 and trainings[1] == sha256(served.weights)

    def test_a_device_by_the_name_that_the_server_gave_it(self, serve, studies, runs, label, monkeypatch):
        """MONAI Label offers GPUs by the name of the product."""
        for module in (label.train, label.scoring):
            monkeypatch.setattr(module, "name_to_device", {"Product Name": "cpu"}.get)
        folder, items = studies("boostmis", 12)
        server = serve(["boostmis"], folder, strategies="entropy")
        with_labels(server, items, 6)
        server.train("boostmis", max_epochs=1, device="Product Name")
        server.score("boostmis", device="Product Name")
        assert [str(part(run, "device")) for run in runs] == ["cpu", "cpu"]


class TestRefused:
    def test_no_label(self, serve, studies):
        folder, _ = studies("boostmis", 6)
        server = serve(["boostmis"], folder)
        with pytest.raises(ValueError, match="boostmis has no label to learn from"):
            server.train("boostmis")

    def test_labels_of_one_patient(self, serve, studies):
        folder, items = studies("boostmis", 6)
        server = serve(["boostmis"], folder)
        with_labels(server, dict(list(items.items())[1:]), 1)
        with pytest.raises(ValueError, match="labels of one patient alone"):
            server.train("boostmis")

    def test_it_leaves_the_weights_as_they_were(self, serve, studies, monkeypatch):
        folder, items = studies("boostmis", 12)
        server = serve(["boostmis"], folder)
        weights = server.app.served["boostmis"].weights
        before = sha256(weights)
        with_labels(server, items, 6)

        def stop(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr("medssl_monai.monai_label.train.shutil.copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            server.train("boostmis", max_epochs=1)
        assert sha256(weights) == before

    def test_no_share_and_no_images_of_its_own_to_measure_on(self, serve, studies):
        folder, items = studies("boostmis", 6)
        server = serve(["boostmis"], folder, validation=0)
        with_labels(server, items, 3)
        with pytest.raises(ValueError, match="no images to measure on"):
            server.train("boostmis")


def test_images_of_its_own_to_measure_on(serve, studies, runs, toy_datalist):
    folder, items = studies("boostmis", 12)
    server = serve(["boostmis"], folder, {"datalist": str(toy_datalist)}, validation=0)
    with_labels(server, items, 6)
    assert server.train("boostmis", max_epochs=1).items() >= {"labeled": 6, "unlabeled": 6, "validation": 16}.items()
    wanted = {item["id"] for item in json.loads(toy_datalist.read_text())["validation"]}
    assert {item["id"] for item in part(runs[0], "validate::dataset::data")} == wanted


@pytest.mark.parametrize("name", ["boostmis", "ssal"])
def test_all_images_are_labeled(serve, studies, logged, name):
    folder, items = studies(name, 10)
    server = serve([name], folder)
    with_labels(server, items, 10)
    result = server.train(name, max_epochs=1)
    assert result["unlabeled"] == 0 and result["labeled"] + result["validation"] == 10


@pytest.mark.parametrize("name", ["boostmis", "ssal", "multimix"])
def test_a_first_training(serve, studies, untrained, name):
    folder, items = studies(name, 12)
    server = serve([untrained(name)], folder)
    assert server.app.info()["models"] == server.app.info()["train_stats"][name] == {}
    with_labels(server, items, 8)
    result = server.train(name, max_epochs=1)
    assert server.app.info()["models"][name]["weights"] == result["weights"]
    assert server.infer(name, "training_0")["params"]["weights"] == result["weights"]


def test_images_and_labels_that_cannot_be_read_are_left_out(serve, studies, logged):
    folder, items = studies("boostmis", 12)
    server = serve(["boostmis"], folder)
    with_labels(server, items, 6)
    for name in ("training_7", "training_8"):
        file = folder / f"{name}.png"
        file.write_bytes(file.read_bytes()[:60])
    (folder / "labels" / "final" / "training_1.json").write_text("{}")
    result = server.train("boostmis", max_epochs=1)
    assert sum(result[kind] for kind in ("labeled", "validation")) == 5 and result["unlabeled"] < 6
    assert "training_1 (label)" in logged.text


def test_a_figure_that_is_undefined_is_left_out(serve, studies):
    """3D Slicer calculates with it."""
    folder, items = studies("boostmis", 8)
    server = serve(["boostmis"], folder)
    for name in items:
        server.save(name, {"label": "left"})
    assert server.train("boostmis", max_epochs=1)["auroc"] is None
    assert server.app.info()["train_stats"]["boostmis"].keys() == {"metric", "epoch", "total_time"}


def test_classes_in_files_of_other_sizes(serve, studies):
    """Images are brought to the size of the network's."""
    folder, items = studies("boostmis", 8)
    pixels = np.zeros((40, 30), np.uint8)
    pixels[:, 15:] = 200
    Image.fromarray(pixels).save(folder / "large.png")
    server = serve(["boostmis"], folder)
    with_labels(server, items, 5)
    server.save("large", {"label": "right"})
    assert server.train("boostmis", max_epochs=1)["weights"]


@pytest.mark.parametrize("name", ["boostmis", "ssal"])
def test_a_run_begun_by_monai_bundle_goes_on(serve, studies, untrained, tmp_path, logged, name):
    """With the same images, labels and choices: what the app adds makes no other experiment of it."""
    folder, items = studies(name, 12)
    server = serve([untrained(name)], folder)
    with_labels(server, items, 8)
    served = server.app.served[name]
    found = read_studies(server.store, served, 0.2, folder)
    sections = {"training": found.train, "validation": found.validation}
    write_datalist(tmp_path / "list.json", sections, served.classes or served.mask_classes, synthetic=found.synthetic)
    places = {"output_dir": str(tmp_path / "run"), "ckpt_dir": str(tmp_path / "run" / "models"), "device": "cpu"}
    chosen = {"labels": None, "rounds": 1, "epochs_per_round": 2, "on_bad_file": "skip", "query::budget": 0}
    chosen |= {"query::cold_start": 0, "query::annotator": "@annotators::nobody", "bundle_root": str(served.folder)}
    values = {**served.overrides, **places, **chosen}
    begun = workflow(served.files, logging_file=False, datalist=str(tmp_path / "list.json"), **values)
    begun.initialize()

    def stop(engine):
        raise KeyboardInterrupt

    part(begun, "train::trainer").add_event_handler(Events.ITERATION_STARTED(once=4), stop)
    with pytest.raises(KeyboardInterrupt):
        begun.run()
    run = served.run(found.train, found.validation, found.synthetic, epochs_per_round=2, **places)
    run.run()
    assert "Continuing" in logged.text and "after epoch 1" in logged.text
    assert part(run, "train::trainer").state.epoch == 2 and part(run, "method").steps_done == 6
