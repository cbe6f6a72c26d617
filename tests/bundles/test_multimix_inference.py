"""Classes, masks and saliency out of `inference.json` of MultiMix, for files of all kinds in one folder."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.inferers import SimpleInferer, SlidingWindowInferer
from PIL import Image
from support import BUNDLES, listed_files
from torch import nn

from medssl_monai.data import write_datalist
from medssl_monai.files import save_tensors
from medssl_monai.handlers.saliency_writer import OUTLINE
from medssl_monai.networks import Joint, MultiMixNetwork, describe
from medssl_monai.phantoms.files import write_dicom

CONFIG = BUNDLES / "multimix" / "configs" / "inference.json"
SECRETS = ("Mustermann", "Erika")


class Known(nn.Module):
    """Its mask is what is brighter than a half, its saliency what is darker than a fifth.

    Its class logits are the means over the left and the right half; the saliency is the gradient of a score.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def joint(self, images):
        half = images.shape[2] // 2
        with torch.enable_grad():  # as `MultiMixNetwork`
            exact = images.detach().requires_grad_()
            score = self.scale.detach() * (0.2 - exact).relu().sum()
            (saliency,) = torch.autograd.grad(score, exact)
        sides = torch.stack([images[:, :, :half].flatten(1).mean(1), images[:, :, half:].flatten(1).mean(1)], dim=1)
        masks = self.scale * torch.cat([0.5 - images[:, :1], images[:, :1] - 0.5], dim=1)
        return Joint(10 * (sides - 0.5), masks, saliency.abs())

    def forward(self, images):
        return self.joint(images).mask_logits


@pytest.fixture
def infer(tmp_path):
    """Runs the bundle, by default with `Known`; returns the rows of the tables by id."""

    def _infer(source, image_size=(32, 32), network=None, out="out", **overrides):
        network = network or Known()
        about = {"classes": ["left", "right"], "mask_classes": ["background", "bright"], "synthetic": False}
        about |= {key: overrides.pop(key) for key in list(overrides) if key in ("synthetic", "learned", "kind")}
        weights = tmp_path / "models" / "model.pt"
        save_tensors(weights, describe(network, {"learned": ["label", "mask"], "spacing": None, **about}))
        known = {"network_def": {"_target_": f"{__name__}.Known"}} if isinstance(network, Known) else {}
        run = ConfigWorkflow(
            str(CONFIG),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(CONFIG.parents[1]),
            weights=str(weights),
            output_dir=str(tmp_path / out),
            device="cpu",
            image_size=list(image_size),
            channels=1,
            **{"datalist" if Path(source).is_file() else "dataset_dir": str(source)},
            **known,
            **overrides,
        )
        run.initialize()
        assert run.check_properties() == []
        run.run()
        run.finalize()
        tables = {}
        for path in (tmp_path / out).glob("*.csv"):
            tables[path.stem] = {row["id"]: row for row in csv.DictReader(path.read_text().splitlines())}
        return tables

    return _infer


def half(shape=(53, 37)):
    """Grey values (x, y) of 8 bits: a left half of 250, 100 at the right, and 0 in the lower quarter of that."""
    pixels = np.full(shape, 100, np.uint8)
    pixels[: shape[0] // 2] = 250
    pixels[shape[0] // 2 :, 3 * shape[1] // 4 :] = 0
    return pixels


@pytest.fixture
def folder(tmp_path):
    """A picture, the same as a radiograph in which more is darker, and a damaged file; of a patient with a name."""
    folder = tmp_path / "in" / "Mustermann_Erika"
    folder.mkdir(parents=True)
    Image.fromarray(half().T).save(folder / "Erika_1.png")
    header = {"InstanceNumber": 1, "SeriesDescription": "Erika"}
    stored = 4095 - 16 * half().astype(np.uint16).T
    write_dicom(folder / "Erika_2.dcm", stored, "CR", "MONOCHROME1", header, "Mustermann", "x")
    (folder / "Erika_3.png").write_bytes((folder / "Erika_1.png").read_bytes()[:60])
    return folder


def files_of(tmp_path, out="out"):
    """Name of the source by id, as the run has noted it for the user."""
    return {name: Path(image).name for name, image in listed_files(tmp_path / out / "images.json").items()}


def read(path):
    """A mask or picture as (x, y[, 3])."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).swapaxes(0, 1)
    return np.asarray(nibabel.load(path).dataobj)[..., 0]


def test_picture_radiograph_and_damaged_file_in_one_folder(infer, folder, tmp_path):
    assert pydicom.dcmread(folder / "Erika_2.dcm").PhotometricInterpretation == "MONOCHROME1"
    tables, out = infer(folder), tmp_path / "out"
    files = files_of(tmp_path)
    assert sorted(files.values()) == ["Erika_1.png", "Erika_2.dcm", "Erika_3.png"]
    for name, file in files.items():
        classes, masks = tables["probabilities"][name], tables["predictions"][name]
        picture = out / "saliency" / f"{name}.png"
        if file == "Erika_3.png":
            assert classes["error"] == masks["error"] != ""
            assert not classes["left"] and not masks["file"] and not picture.exists()
            continue
        assert classes["error"] == masks["error"] == ""
        assert classes["predicted"] == "left"
        left, right = float(classes["left"]), float(classes["right"])
        assert left + right == pytest.approx(1, abs=1e-5) and left > 0.95
        mask, drawn = read(out / masks["file"]), read(picture).astype(int)
        assert mask.shape == (53, 37) and drawn.shape == (53, 37, 3)
        np.testing.assert_array_equal(mask[:25] > 0, True)
        np.testing.assert_array_equal(mask[28:] > 0, False)
        assert (drawn[24:27, 3:-3] == OUTLINE).all(axis=-1).any(axis=0).all()  # where the mask ends
        coloured = np.ptp(drawn, axis=-1) > 40
        assert coloured[29:, 30:].all()  # what is dark is what the class rests on
        assert not coloured[:22].any() and not coloured[29:, :24].any()
        assert (drawn[:22] == 255).all() and abs(drawn[29:, :24] - 102).max() <= 1  # the image as it is
    assert len(list((out / "saliency").iterdir())) == 2


def test_two_runs_write_the_same_bytes(infer, folder, tmp_path):
    for out in ("one", "two"):
        infer(folder, out=out)
    first, second = (
        {path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
        for out in ("one", "two")
    )
    assert first == second and len(first) == 7  # two masks, two pictures, two tables, one list


def test_nothing_says_whose_the_images_are(infer, folder, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    infer(folder)
    for path in (tmp_path / "out").rglob("*"):
        if path.name != "images.json":  # the user's own
            content = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
            assert not [secret for secret in SECRETS if secret.lower().encode() in content.lower()], path
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_phantoms_are_named_in_every_output(infer, folder, tmp_path):
    tables = infer(folder, synthetic=True)
    assert {row["model"] for table in tables.values() for row in table.values()} == {"trained on SYNTHETIC data"}
    pictures = list((tmp_path / "out" / "saliency").iterdir())
    assert len(pictures) == 2
    for path in pictures:
        with Image.open(path) as image:
            assert image.info["Comment"] == "model trained on SYNTHETIC data"


def test_findings(infer, folder):
    """Each has a probability of its own."""
    for row in infer(folder, kind="findings")["probabilities"].values():
        if not row["error"]:
            logits = torch.logit(torch.tensor([float(row["left"]), float(row["right"])]))
            assert logits[0] > 4.5 and logits[1] < -1.5 and logits.sum().abs() > 1  # no softmax
            assert row["predicted"] == "left"


@pytest.mark.parametrize("learned", ["label", "mask"])
def test_what_was_not_learned_is_not_written(infer, folder, tmp_path, learned):
    tables = infer(folder, learned=[learned])
    pictures = sorted((tmp_path / "out").glob("saliency/*.png"))
    if learned == "mask":
        assert tables.keys() == {"predictions"} and not pictures
    else:
        assert tables.keys() == {"probabilities"} and len(pictures) == 2
        assert not (tmp_path / "out" / "masks").exists()
        assert not any((read(path) == OUTLINE).all(axis=-1).any() for path in pictures)


def test_a_network_without_a_bridge(infer, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    network = MultiMixNetwork(channels=(8, 16, 32, 64), bridge="none")
    tables = infer(folder, network=network, bridge="none")
    assert tables.keys() == {"probabilities", "predictions"}
    assert not (tmp_path / "out" / "saliency").exists()
    assert caplog.text.count("no saliency (`bridge: none`)") == 1


def test_the_networks_saliency_is_drawn_where_it_is(infer, folder, tmp_path):
    """The shipped network, whose own `joint` says what is to be in the tables."""
    torch.manual_seed(0)
    network = MultiMixNetwork(channels=(8, 16, 32, 64)).eval()
    tables, files = infer(folder, network=network), files_of(tmp_path)
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.read_meta(CONFIG.parent / "metadata.json")
    parser.update({"image_size": [32, 32], "channels": 1})
    before = parser.get_parsed_content("preprocessing")
    for name, file in files.items():
        if file != "Erika_3.png":
            image = before({"image": str(folder / file)})["image"].as_tensor()
            found = network.joint(image[None])
            probs = found.class_logits.softmax(dim=1)[0].tolist()
            row = tables["probabilities"][name]
            assert [float(row["left"]), float(row["right"])] == pytest.approx(probs, abs=2e-6)
            drawn = read(tmp_path / "out" / "saliency" / f"{name}.png").astype(float)
            drawn[(drawn == OUTLINE).all(axis=-1)] = np.nan
            tint = torch.from_numpy(np.nan_to_num(np.ptp(drawn, axis=-1)))[None, None]  # none: grey
            tint = torch.nn.functional.interpolate(tint, size=(32, 32), mode="area").flatten()
            pair = torch.stack([tint.float(), found.saliency.detach().flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.7


def test_slices_of_a_volume(infer, tmp_path):
    """Each slice has a picture of its own; their masks are one volume."""
    array = np.stack([half((30, 24)), half((30, 24))[::-1], half((30, 24))], axis=-1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 3.0, 1.0])), tmp_path / "case.nii.gz")
    items = [{"image": "case.nii.gz", "slice": k, "id": f"case#{k}"} for k in range(3)]
    write_datalist(tmp_path / "list.json", {"testing": items})
    tables = infer(tmp_path / "list.json")
    assert [row["predicted"] for row in tables["probabilities"].values()] == ["left", "right", "left"]
    assert nibabel.load(tmp_path / "out" / tables["predictions"]["case"]["file"]).shape == (30, 24, 3)
    pictures = sorted((tmp_path / "out" / "saliency").iterdir())
    assert len(pictures) == 3
    for picture, bright_on_the_left in zip(pictures, (True, False, True), strict=True):
        drawn = read(picture)
        assert drawn.shape == (30, 24, 3)
        assert (drawn[5] == 255).all() == bright_on_the_left


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PSR"])
def test_volumes(infer, tmp_path, axes):
    """A volume has its saliency as a file of its own geometry, in the axes of the file."""
    shape = {"PSR": (34, 9, 28)}.get(axes, (34, 28, 9))
    array = np.full(shape, 500.0, np.float32)
    array[: shape[0] // 2] = 1000.0
    array[20:30, : shape[1] // 3, 2:7] = 0.0
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (to, sign) in enumerate(nibabel.orientations.axcodes2ornt(axes)):
        affine[int(to), axis] = sign * (1.0, 1.2, 2.0)[axis]
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "case.nii.gz")
    write_datalist(tmp_path / "list.json", {"testing": [{"image": "case.nii.gz", "id": "case"}]})
    tables = infer(tmp_path / "list.json", image_size=(40, 40, 24), spacing=[1.0, 1.2, 2.0])
    assert tables["probabilities"]["case"]["error"] == ""
    saliency = nibabel.load(tmp_path / "out" / "saliency" / "case.nii.gz")
    np.testing.assert_allclose(saliency.affine, affine)
    values = np.asarray(saliency.dataobj)
    assert values.shape == shape
    assert (values[22:28, : shape[1] // 3 - 1, 3:6] == 255).all() and (values[:16] == 0).all()


@pytest.mark.parametrize(("patch_size", "inferer"), [(None, SimpleInferer), ([16, 16], SlidingWindowInferer)])
def test_masks_of_a_network_that_was_trained_on_patches_are_made_of_windows(tmp_path, patch_size, inferer):
    save_tensors(tmp_path / "model.pt", describe(Known(), {"patch_size": patch_size}))
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.read_meta(CONFIG.parent / "metadata.json")
    parser.update({"weights": str(tmp_path / "model.pt")})
    found = parser.get_parsed_content("inferer")
    assert type(found) is inferer and getattr(found, "roi_size", None) == patch_size


def test_other_tools_take_the_masks(folder):
    """MONAI Label reads the file, and runs four parts of it, of which each must do without the others."""
    parser = ConfigParser()
    parser.read_config(CONFIG)
    parser.read_meta(CONFIG.parent / "metadata.json")
    parser.update({"image_size": [32, 32], "channels": 1, "device": "cpu"})
    parts = ("preprocessing", "inferer", "network_def", "postprocessing")
    before, inferer, network, after = (parser.get_parsed_content(part) for part in parts)
    data = before({"image": str(folder / "Erika_1.png")})
    data["pred"] = inferer(data["image"][None], network.eval())[0]
    assert after(data)["pred"].shape == (1, 53, 37)
