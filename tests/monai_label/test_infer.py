"""Predictions as MONAI Label's viewers get them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigParser
from PIL import Image
from pydicom.uid import UID, generate_uid
from torch import nn

from medssl_monai.files import save_tensors
from medssl_monai.monai_label.studies import read_studies
from medssl_monai.networks import describe
from medssl_monai.phantoms.files import write_dicom


class Brightness(nn.Module):
    """Finds what is brighter than a half, so that its masks are known beforehand."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images):
        return self.scale * torch.cat([0.5 - images, images - 0.5], dim=1)


@pytest.fixture
def bright(untrained, serve):
    """Serves `Brightness` in the place of SSAL's network."""

    def _bright(name, folder, scale=20.0, **about):
        bundle, network = untrained(name), Brightness()
        network.scale.data.fill_(scale)
        save_tensors(bundle / "models" / "model.pt", describe(network, {"spacing": None, **about}))
        return serve([bundle], folder, {"network_def": {"_target_": f"{__name__}.Brightness"}})

    return _bright


def directly(bundle, image):
    """What the bundle's own configuration gives for a file, and the network that it is from."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu"})
    network = parser.get_parsed_content("network").eval()
    return network, parser.get_parsed_content("preprocessing")({"image": str(image)})["image"][None]


def scores(answer):
    return {one["label"]: one["score"] for one in answer["params"]["prediction"]}


def overlap(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


class TestClasses:
    def test_every_class_has_its_name(self, serve, studies, trained):
        folder, _ = studies("boostmis")
        server = serve(["boostmis"], folder)
        model = server.app.info()["models"]["boostmis"]
        assert (model["type"], model["labels"], model["dimension"]) == ("classification", {"left": 0, "right": 1}, 2)
        for name in ("training_0", "training_1"):
            answer = server.infer("boostmis", name)
            network, pixels = directly(trained("boostmis"), folder / f"{name}.png")
            wanted = network(pixels).softmax(dim=1)[0].tolist()
            assert list(scores(answer).values()) == pytest.approx(wanted, abs=1e-5)
            assert [one["idx"] for one in answer["params"]["prediction"]] == [0, 1]
            assert answer["params"]["label"] == max(scores(answer), key=scores(answer).get)
            assert answer["params"]["weights"] == model["weights"]
            assert answer["file"] is None and answer["label"] is None

    def test_every_finding_has_a_probability_of_its_own(self, serve, studies, trained):
        folder, _ = studies("findings")
        answer = serve(["findings"], folder).infer("findings", "training_2")
        network, pixels = directly(trained("findings"), folder / "training_2.png")
        wanted = dict(zip(["effusion", "mass"], network(pixels).sigmoid()[0].tolist(), strict=True))
        assert scores(answer) == pytest.approx(wanted, abs=1e-5)
        present = [name for name, score in wanted.items() if score > 0.5]
        assert answer["params"]["label"] == ("; ".join(present) or "none")

    def test_grades_are_decided_by_their_median(self, serve, studies, trained):
        folder, _ = studies("grades")
        server = serve(["grades"], folder)
        answer = server.infer("grades", "training_2")
        network, pixels = directly(trained("grades"), folder / "training_2.png")
        higher = network(pixels).detach().sigmoid()
        assert higher.shape == (1, 1)  # of two grades there is one question
        assert scores(answer) == pytest.approx({"left": 1 - float(higher), "right": float(higher)}, abs=1e-5)
        assert answer["params"]["label"] == ("right" if higher > 0.5 else "left")

    def test_a_dicom_slice(self, serve, studies, trained):
        folder, _ = studies("boostmis", 0)
        write_slice(folder / "mr.dcm", np.tile(np.arange(20), (24, 1)) * 100)
        answer = serve(["boostmis"], folder).infer("boostmis", "mr")
        network, pixels = directly(trained("boostmis"), folder / "mr.dcm")
        assert list(scores(answer).values()) == pytest.approx(network(pixels).softmax(dim=1)[0].tolist(), abs=1e-5)

    def test_a_prediction_is_stored_beside_the_labels(self, serve, studies):
        folder, _ = studies("boostmis", 3)
        server = serve(["boostmis"], folder)
        answer = server.infer("boostmis", "training_0", save_label=True)
        stored = json.loads((folder / "labels" / "original" / "training_0.json").read_text())
        assert stored == {key: answer["params"][key] for key in ("prediction", "label", "weights")}
        assert not Path(answer["file"]).is_relative_to(folder)
        assert server.app.info()["datastore"]["completed"] == 0

    def test_a_batch(self, serve, studies, caplog):
        folder, _ = studies("boostmis", 3)
        server = serve(["boostmis"], folder)
        (folder / "broken.png").write_bytes(b"no image")
        server.app.datastore().refresh()
        answers = server.app.batch_infer({"model": "boostmis", "device": "cpu"})
        assert answers.keys() == {"broken", "training_0", "training_1", "training_2"}
        assert server.labels() == {f"original/{name}.json" for name in answers if name != "broken"}
        assert "no prediction: broken: " in caplog.text


def test_new_weights_count_from_the_next_request(serve, studies):
    folder, _ = studies("boostmis")
    server = serve(["boostmis"], folder)
    before = server.infer("boostmis", "training_0")
    weights = Path(server.app.app_dir, "model", "boostmis", "models", "model.pt")
    state = torch.load(weights, weights_only=True)
    state["head.bias"] = torch.tensor([9.0, -9.0])
    save_tensors(weights, state)
    after = server.infer("boostmis", "training_0")
    assert scores(after)["left"] > 0.99 > scores(before)["left"]
    assert after["params"]["weights"] != before["params"]["weights"]
    assert server.app.info()["models"]["boostmis"]["weights"] == after["params"]["weights"]


def test_other_files_beside_the_weights_are_not_taken(serve, studies):
    """MONAI Label would take the shortest name."""
    folder, _ = studies("boostmis", 1)
    server = serve(["boostmis"], folder)
    models = Path(server.app.app_dir, "model", "boostmis", "models")
    (models / "a.pt").write_bytes(b"")
    again = serve([], folder)
    assert "model_filename" not in again.app.info()["models"]["boostmis"]["config"]
    assert scores(again.infer("boostmis", "training_0")) == scores(server.infer("boostmis", "training_0"))


def write_slice(path, pixels):
    """A slanted MR slice."""
    header = {
        **{"InstanceNumber": 1, "SeriesDescription": "T2", "PixelSpacing": [0.8, 0.6], "SliceThickness": 4.0},
        "ImagePositionPatient": [-20.0, 30.0, 5.0],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.6, -0.8],
    }
    write_dicom(path, pixels.astype(np.uint16), "MR", "MONOCHROME2", header, "somebody", "x")


def same_place(path, other):
    a, b = (SimpleITK.ReadImage(str(file)) for file in (path, other))
    assert a.GetSize() == b.GetSize()
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(a, name)(), getattr(b, name)(), atol=1e-4)


class TestMasks:
    def test_a_picture(self, bright, studies):
        folder, _ = studies("ssal", 0)
        inside = np.zeros((30, 22), bool)  # rows, columns
        inside[4:15, 12:20] = True
        Image.fromarray((200 * inside).astype(np.uint8)).save(folder / "picture.png")
        server = bright("ssal", folder, synthetic=True)
        model = server.app.info()["models"]["ssal"]
        assert (model["type"], model["labels"]) == ("segmentation", {"disk": 1})
        answer = server.infer("ssal", "picture")
        with Image.open(answer["file"]) as mask:
            assert mask.info["Comment"] == "model trained on SYNTHETIC data"
            assert overlap(np.asarray(mask) > 0, inside) > 0.9
            assert answer["params"]["shares"]["disk"] == pytest.approx(np.mean(np.asarray(mask) > 0))
        assert answer["params"]["label_names"] == {"disk": 1}
        assert answer["params"]["weights"] == model["weights"]

    def test_a_dicom_slice(self, bright, studies):
        folder, _ = studies("ssal", 0)
        pixels = np.zeros((30, 22))
        pixels[4:15, 12:20] = 2000
        write_slice(folder / "mr.dcm", pixels)
        answer = bright("ssal", folder).infer("ssal", "mr")
        same_place(answer["file"], folder / "mr.dcm")
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(answer["file"]))[0]
        assert overlap(mask > 0, pixels > 0) > 0.9

    @pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR"])
    def test_a_network_of_two_dimensions_goes_over_the_slices_of_a_volume(self, bright, studies, axes):
        folder, _ = studies("ssal", 0)
        array = np.zeros({"PSR": (26, 4, 22)}.get(axes, (22, 26, 4)), np.float32)
        start = 2
        for part in np.moveaxis(array, 1 if axes == "PSR" else 2, 0):
            part[start : start + 9, 5:18] = 100.0
            start += 3
        turn = nibabel.orientations.axcodes2ornt(axes)
        affine = np.zeros((4, 4))
        affine[turn[:, 0].astype(int), range(3)] = turn[:, 1] * (0.7, 0.8, 3.0)
        affine[:, 3] = 5, -6, 7, 1
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / "spine.nii.gz")
        answer = bright("ssal", folder).infer("ssal", "spine")
        mask = nibabel.load(answer["file"])
        np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
        assert mask.shape == array.shape and overlap(np.asarray(mask.dataobj) > 0, array > 0) > 0.85
        assert answer["params"]["shares"].keys() == {"background", "disk"}
        assert answer["params"]["label_names"] == {"disk": 1}

    def test_a_network_of_three(self, bright, studies):
        folder, items = studies("volumes", 2)
        server = bright("volumes", folder, spacing=[1.0, 1.0, 3.0])
        for name, item in items.items():
            answer = server.infer("volumes", name)
            same_place(answer["file"], item["label"])
            drawn, found = (np.asarray(nibabel.load(file).dataobj) > 0 for file in (item["label"], answer["file"]))
            assert overlap(drawn, found) > 0.9

    @pytest.mark.parametrize("wanted", [".nrrd", ".nii.gz"])
    def test_a_viewer_names_the_format(self, bright, studies, wanted):
        folder, items = studies("volumes", 1)
        (name,) = items
        server = bright("volumes", folder, spacing=[1.0, 1.0, 3.0])
        file = server.infer("volumes", name, result_extension=wanted)["file"]
        assert file.endswith(wanted)
        same_place(file, items[name]["label"])

    def test_no_other_file_is_left_behind(self, bright, studies, tmp_path, monkeypatch):
        """MONAI Label removes the file that it has sent."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()
        folder, items = studies("volumes", 1)
        (name,) = items
        server = bright("volumes", folder, spacing=[1.0, 1.0, 3.0])
        for wanted in ("", ".nrrd"):
            Path(server.infer("volumes", name, result_extension=wanted)["file"]).unlink()
        assert not list((tmp_path / "tmp").iterdir())

    def test_a_mask_is_stored_beside_the_labels(self, bright, studies):
        folder, _ = studies("ssal", 1)
        server = bright("ssal", folder)
        answer = server.infer("ssal", "training_0", save_label=True, label_tag="original")
        assert server.labels() == {"original/training_0.png"} and Path(answer["file"]).suffix == ".png"
        assert server.app.info()["datastore"]["completed"] == 0


def test_classes_and_masks_of_one_network(serve, studies, trained):
    folder, _ = studies("multimix")
    server = serve(["multimix"], folder)
    models = server.app.info()["models"]
    assert {name: model["labels"] for name, model in models.items()} == {
        "multimix": {"disk": 1},
        "multimix_classes": {"left": 0, "right": 1},
    }
    network, pixels = directly(trained("multimix"), folder / "training_0.png")
    found = network.joint(pixels)
    classes = server.infer("multimix_classes", "training_0")
    assert list(scores(classes).values()) == pytest.approx(found.class_logits.softmax(dim=1)[0].tolist(), abs=1e-5)
    with Image.open(server.infer("multimix", "training_0")["file"]) as mask:
        np.testing.assert_array_equal(np.asarray(mask).T > 0, found.mask_logits.argmax(dim=1)[0].numpy() > 0)


class TestUnreadable:
    @pytest.mark.parametrize(("model", "kind"), [("boostmis", "boostmis"), ("ssal", "ssal"), ("volumes", "volumes")])
    def test_the_answer_says_why(self, serve, studies, label, model, kind):
        folder, items = studies(kind, 2)
        good, name = items
        file = next(folder.glob(f"{name}.*"))
        file.write_bytes(file.read_bytes()[:60])
        server = serve([model], folder)
        with pytest.raises(label.app.HTTPException) as found:
            server.infer(model, name)
        assert found.value.status_code == 422
        assert found.value.detail.startswith(f"{name}: ") and str(folder) not in found.value.detail
        assert server.infer(model, good)["params"]["weights"]

    def test_volumes_and_single_images(self, serve, studies, label):
        volumes, _ = studies("volumes", 1)
        (volumes / "training_0.nii.gz").rename(volumes / "volume.nii.gz")
        folder, _ = studies("boostmis", 1)
        server = serve(["volumes", "boostmis"], folder)
        for model, name, told in (
            ("volumes", "training_0", "has 1 slice(s), and volumes takes volumes"),
            ("boostmis", "volume", "has 6 slice(s), and boostmis takes single images"),
        ):
            with pytest.raises(label.app.HTTPException) as found:
                server.infer(model, name)
            assert found.value.status_code == 422 and told in found.value.detail

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, serve, studies, refused, value):
        folder, _ = studies("volumes", 1)
        image = nibabel.load(folder / "training_0.nii.gz")
        voxels = np.asarray(image.dataobj).copy()
        voxels[3, 3, 3] = value
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), folder / "odd.nii.gz")
        code, detail = refused(serve(["volumes"], folder).infer, "volumes", "odd")
        assert code == 422 and detail.startswith("odd: ") and "NaN or infinite voxels" in detail

    @pytest.mark.parametrize("model", ["boostmis", "ssal", "volumes"])
    def test_dicom_that_is_no_image(self, serve, studies, refused, model):
        folder, _ = studies("boostmis", 0)
        write_slice(folder / "mr.dcm", np.zeros((20, 20)))
        kinds = {"seg": "1.2.840.10008.5.1.4.1.1.66.4", "state": "1.2.840.10008.5.1.4.1.1.11.1"}
        for name, kind in kinds.items():
            ds = pydicom.dcmread(folder / "mr.dcm")
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = UID(kind)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            if name == "state":
                del ds.Rows, ds.Columns, ds.PixelData
            ds.save_as(folder / f"{name}.dcm")
        server = serve([model], folder)
        for name, told in (("seg", "segmentation"), ("state", "presentation state")):
            code, detail = refused(server.infer, model, name)
            assert code == 422 and detail.startswith(f"{name}: ") and told in detail.lower()
        assert read_studies(server.store, server.app.served[model], 0).refused.keys() >= kinds.keys()

    def test_a_series_that_lies_in_several_studies(self, serve, studies, refused):
        """Each alone would be read as if it were the whole."""
        folder, _ = studies("volumes", 0)
        for number in range(8):
            where = folder / ("first.dcm" if number < 4 else "second.dcm")
            where.mkdir(exist_ok=True)
            header = {"InstanceNumber": number, "SeriesDescription": "T2", "PixelSpacing": [1.0, 1.0]}
            header |= {"ImagePositionPatient": [0.0, 0.0, 3.0 * number]}
            header |= {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]}
            pixels = np.full((16, 14), number, np.uint16)
            write_dicom(where / f"{number}.dcm", pixels, "MR", "MONOCHROME2", header, "somebody", "x")
        server = serve(["volumes"], folder)
        for name in ("first", "second"):
            code, detail = refused(server.infer, "volumes", name)
            assert code == 422 and "a part of a series of 8 slices that lies in 2 studies" in detail
        shutil.move(folder / "second.dcm" / "4.dcm", folder)
        for file in (folder / "second.dcm").iterdir():
            shutil.move(file, folder / "first.dcm")
        shutil.move(folder / "4.dcm", folder / "first.dcm")
        (folder / "second.dcm").rmdir()
        server.store.refresh()
        assert server.infer("volumes", "first")["file"]
        shutil.move(folder / "first.dcm" / "3.dcm", folder / "single.dcm")
        server.store.refresh()
        assert refused(server.infer, "volumes", "first")[0] == refused(server.infer, "volumes", "single")[0] == 422

    def test_a_file_that_is_gone(self, serve, studies, label):
        folder, _ = studies("boostmis", 2)
        server = serve(["boostmis"], folder)
        (folder / "training_1.png").unlink()
        with pytest.raises(label.app.HTTPException) as found:
            server.infer("boostmis", "training_1")
        assert found.value.status_code == 422 and str(folder) not in found.value.detail
