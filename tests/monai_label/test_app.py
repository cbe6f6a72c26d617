"""The app, as the server of MONAI Label asks it."""

from __future__ import annotations

import json
import os
import sys

import nibabel
import numpy as np
import pytest

import medssl_monai.monai_label
from medssl_monai.monai_label import write_app
from medssl_monai.monai_label.studies import read_studies


def kinds(server, model, image):
    """What training reads of an image: flags and labels."""
    server.app.writes.read()
    found = read_studies(server.store, server.app.served[model], 0, "")
    (item,) = (item for item in found.train if item["id"] == image)
    return {key: item[key] for key in ("labeled", "masked", "label", "mask") if key in item}


class TestWrongRequests:
    def test_names_that_are_not_there(self, serve, studies, refused):
        folder, _ = studies("boostmis", 2)
        server = serve(["boostmis"], folder)
        for call, name, arguments in (
            (server.infer, "spleen", ("spleen", "training_0")),
            (server.infer, "nobody", ("boostmis", "nobody")),
            (server.train, "spleen", ("spleen",)),
            (server.next, "best", ("best",)),
            (server.save, "nobody", ("nobody", {"label": "left"})),
            (server.save, "../nobody", ("../nobody", {"label": "left"})),
        ):
            code, detail = refused(call, *arguments)
            assert code == 404 and repr(name) in detail
        assert server.labels() == set()
        assert server.infer("boostmis", "training_0") and server.next("random")

    @pytest.mark.parametrize(
        ("content", "suffix", "told"),
        [
            ({"label": "medium"}, ".json", "'medium'"),
            ({"class": "left"}, ".json", "no 'label'"),
            (b"left", ".json", "no JSON"),
            ({"label": ["left"]}, ".json", "['left']"),
            (b"mask", ".nii.gz", "no bundle of this app learns masks"),
            (b"mask", ".bin", "no bundle of this app learns masks"),
        ],
    )
    def test_a_label_that_fits_no_bundle_is_not_stored(self, serve, studies, refused, content, suffix, told):
        folder, _ = studies("boostmis", 2)
        server = serve(["boostmis"], folder)
        server.save("training_0", {"label": "left"})
        for image in ("training_0", "training_1"):
            code, detail = refused(server.save, image, content, suffix)
            assert code == 400 and detail.startswith("the label was not saved: ") and told in detail
        assert server.labels() == {"final/training_0.json"}
        assert kinds(server, "boostmis", "training_0") == {"labeled": True, "label": 0}
        server.app.writes.read()
        assert not server.store.get_label_uri("training_1", "final")

    def test_a_mask_that_does_not_fit(self, serve, studies, refused):
        folder, items = studies("volumes", 2)
        server = serve(["volumes"], folder)
        name = "training_0"
        server.save(name, items[name]["label"])
        other = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)).to_bytes()
        drawn = items[name]["label"].read_bytes()
        for content, params, told in (
            (other, {}, "3"),
            (b"no image", {}, ""),
            (drawn, {"label_info": [{"name": "spleen", "idx": 1}]}, "'spleen'"),
        ):
            code, detail = refused(server.save, name, content, ".nii" if content is other else ".nii.gz", **params)
            assert code == 400 and told in detail and str(folder) not in detail
        assert (folder / "labels" / "final" / f"{name}.nii.gz").read_bytes() == drawn

    def test_a_file_that_is_no_nrrd(self, serve, studies, refused):
        folder, _ = studies("volumes", 1)
        code, detail = refused(serve(["volumes"], folder).save, "training_0", b"NRRD0004", ".seg.nrrd")
        assert code == 400 and "the label was not saved" in detail and str(folder.parent) not in detail


class TestLabels:
    def test_segments_are_numbered_as_the_classes(self, serve, studies):
        folder, items = studies("volumes", 1)
        server = serve(["volumes"], folder)
        (name,) = items
        mask = nibabel.load(items[name]["label"])
        seven = nibabel.Nifti1Image(7 * np.asarray(mask.dataobj), mask.affine).to_bytes()
        server.save(name, seven, ".nii", label_info=[{"name": "Ball", "idx": 7}])
        stored = nibabel.load(folder / "labels" / "final" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(stored.dataobj), np.asarray(mask.dataobj))

    def test_classes_and_masks_lie_side_by_side(self, serve, studies):
        folder, items = studies("multimix", 2)
        server = serve(["multimix"], folder)
        (name, item), (other, _) = items.items()
        server.save(name, {"label": "left"})
        server.save(name, item["mask"])
        assert server.labels() == {f"final/{name}.json", f"mask/{name}.png"}
        server.save(other, item["mask"])
        server.save(other, {"label": 0})
        assert server.labels() >= {f"final/{other}.png", f"class/{other}.json"}
        for image in items:
            assert kinds(server, "multimix", image).items() >= {"labeled": True, "label": 0, "masked": True}.items()
        server.save(name, {"label": "right"})  # corrected
        server.save(other, {"label": "right"})
        assert [kinds(server, "multimix", image)["label"] for image in items] == [1, 1]
        assert len(server.labels()) == 4

    def test_predictions_are_no_labels(self, serve, studies):
        folder, _ = studies("boostmis", 1)
        server = serve(["boostmis"], folder)
        server.save("training_0", {"prediction": []}, tag="original")
        assert server.labels() == {"original/training_0.json"}
        assert kinds(server, "boostmis", "training_0") == {"labeled": False}

    def test_nothing_is_lost_when_the_server_is_started_again(self, serve, studies):
        folder, _ = studies("boostmis", 4)
        server = serve(["boostmis"], folder, validation=0)
        server.save("training_0", {"label": "left"})
        server.score("boostmis")
        first, kept = server.next("entropy")["id"], server.kept()
        again = serve([], folder, validation=0)
        assert again.kept() == kept and again.app.info()["datastore"]["completed"] == 1
        assert again.next("entropy")["id"] not in {first, "training_0"}

    def test_what_a_training_says_is_there_at_once(self, serve, studies):
        """Each process has a copy of the datastore in memory."""
        folder, _ = studies("boostmis", 4)
        server = serve(["boostmis"], folder, validation=0)
        other = server.start()
        server.save("training_0", {"label": "left"})
        other.datastore().update_image_info("training_1", {"note": "of another process"})
        server.save("training_2", {"label": "left"})
        assert server.store.get_image_info("training_1")["note"] == "of another process"
        assert server.app.info()["datastore"]["completed"] == 2


class TestInfo:
    def test_what_a_viewer_sees(self, serve, studies):
        folder, _ = studies("boostmis", 3)
        info = serve(["boostmis"], folder).app.info()
        assert "boostmis" in info["description"] and "not a medical device" in info["description"]
        assert info["labels"] == ["left", "right"] and info["datastore"]["total"] == 3
        assert info["strategies"].keys() == {"random", "boostmis", "entropy"}
        assert info["strategies"]["random"]["config"] == {"strategy": ["random", "boostmis", "entropy"]}
        assert info["scoring"].keys() == info["trainers"].keys() == {"boostmis"}
        json.dumps(info)

    def test_several_bundles(self, serve, studies):
        folder, _ = studies("boostmis", 2)
        info = serve(["boostmis", "ssal", "multimix"], folder).app.info()
        assert info["models"].keys() == {"boostmis", "ssal", "multimix", "multimix_classes"}
        assert info["trainers"].keys() == {"boostmis", "ssal", "multimix"}
        assert info["strategies"].keys() == {
            *("random", "boostmis_boostmis", "boostmis_entropy", "ssal_clusters", "ssal_entropy"),
            *("multimix_joint", "multimix_entropy"),
        }

    def test_files_that_monai_label_passes_over_by_default(self, serve, studies):
        folder, _ = studies("boostmis", 1)
        for name in ("slice.dcm", "photograph.jpeg"):
            (folder / name).write_bytes(b"")
        assert set(serve(["boostmis"], folder).store.list_images()) == {"training_0", "slice", "photograph"}


class TestConf:
    def test_models(self, serve, studies):
        folder, _ = studies("boostmis", 1)
        serve(["boostmis", "ssal"], folder)
        assert serve([], folder, models="ssal").app.info()["models"].keys() == {"ssal"}
        assert list(serve([], folder, models="ssal, boostmis").app.served) == ["ssal", "boostmis"]
        with pytest.raises(FileNotFoundError, match=r"'spleen', and .* has \['boostmis', 'ssal'\]"):
            serve([], folder, models="ssal,spleen")

    def test_no_bundle(self, serve, studies, tmp_path):
        folder, _ = studies("boostmis", 1)
        write_app(tmp_path / "app")
        with pytest.raises(FileNotFoundError, match="medssl label-app BUNDLE"):
            serve([], folder)

    def test_strategies(self, serve, studies):
        folder, _ = studies("boostmis", 1)
        assert serve(["boostmis"], folder, strategies="margin, entropy").app.info()["strategies"].keys() == {
            "random",
            "entropy",
            "margin",
        }
        assert serve([], folder, strategies="all").app.info()["strategies"].keys() >= {"boostmis", "margin", "random"}
        assert serve([], folder, strategies="random").app.info()["strategies"].keys() == {"random"}
        with pytest.raises(ValueError, match="`strategies` names 'best'"):
            serve([], folder, strategies="entropy,best")

    @pytest.mark.parametrize(
        "wrong", [{"validation": 1.0}, {"validation": -0.1}, {"validation": "nan"}, {"batch": 0}, {"batch": "many"}]
    )
    def test_numbers(self, serve, studies, wrong):
        folder, _ = studies("boostmis", 1)
        (name,) = wrong
        with pytest.raises(ValueError, match=f"`{name}`"):
            serve(["boostmis"], folder, **wrong)

    def test_the_size_of_a_batch(self, serve, studies):
        folder, _ = studies("boostmis", 8)
        assert serve(["boostmis"], folder, batch=4, strategies="entropy", validation=0).score("boostmis") == {
            "entropy": 4
        }


class TestScoringInTheBackground:
    @pytest.fixture
    def tasks(self, label, monkeypatch):
        """Requests that were started, and what is running."""
        started, running = [], []

        def run(method, request=None, params=None, **named):
            assert method == "scoring"
            started.append(request["method"])
            return {"request": request}, None

        def status(method, all=False, **named):  # noqa: A002
            return (running, None) if running else (None, "No Scoring Tasks Found")

        monkeypatch.setattr(label.app.AsyncTask, "run", staticmethod(run))
        monkeypatch.setattr(label.app.AsyncTask, "status", staticmethod(status))
        return started, running

    def test_what_is_due_is_started_and_nothing_twice(self, serve, studies, tasks):
        folder, _ = studies("boostmis", 4)
        server, (started, running) = serve(["boostmis", "ssal"], folder, batch=2, strategies="entropy"), tasks
        assert server.app.async_scoring(None).keys() == {"boostmis", "ssal"}
        assert started == ["boostmis", "ssal"]
        running += [{"status": "RUNNING", "request": {"method": "boostmis"}}]
        assert server.app.async_scoring(None).keys() == {"ssal"}
        running[0]["status"] = "DONE"
        running += [{"status": "SUBMITTED", "request": {"method": "ssal"}}]
        assert server.app.async_scoring(None).keys() == {"boostmis"}
        running.clear()
        server.score("boostmis")  # in another process
        assert server.app.async_scoring(None).keys() == {"ssal"}

    def test_it_is_started_when_asked_for(self, serve, studies, tasks):
        folder, _ = studies("boostmis", 2)
        server = serve(["boostmis"], folder)
        server.score("boostmis")
        assert server.app.async_scoring("boostmis")["request"] == {"method": "boostmis"}
        assert server.app.async_scoring(None) == {}

    def test_the_next_image_starts_it(self, serve, studies, tasks, monkeypatch):
        folder, _ = studies("boostmis", 2)
        server = serve(["boostmis"], folder)
        server.app._auto_update_scoring = True
        server.next("random")
        assert tasks[0] == ["boostmis"]


def test_the_stand_ins_are_gone():
    """No other test sees them; `label` is not asked for here."""
    assert not hasattr(medssl_monai.monai_label, "app") and "medssl_monai.monai_label.app" not in sys.modules
    assert os.environ.get("MEDSSL_MONAILABEL") == "real" or "monailabel" not in sys.modules
