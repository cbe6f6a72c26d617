"""Masks as files, and the table of what they hold."""

import csv

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from medssl_monai.data import ReadableImages
from medssl_monai.handlers import MaskWriter
from medssl_monai.handlers.mask_writer import file_name

CLASSES = ["background", "lung"]


@pytest.fixture
def data(tmp_path):
    """A picture, and the three slices of a volume of 2 x 1 x 3 mm, by their ids."""
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 4, 3), np.uint8), np.diag([-2, -1, 3, 1])), tmp_path / "b.nii.gz")
    slices = [{"image": str(tmp_path / "b.nii.gz"), "id": f"b#{k}", "slice": k} for k in range(3)]
    return [{"image": str(tmp_path / "a.png"), "id": "a"}, *slices]


def write(folder, data, lost=(), **options):
    """Predict the right half as lung wherever an image can be read; return the rows of the table."""
    dataset = ReadableImages(data, lambda item: item)
    dataset.unreadable = dict.fromkeys(lost, "it is damaged")
    mask = torch.zeros(1, 6, 4)
    mask[:, 3:] = 1

    def step(engine, batch):
        engine.state.batch = [{"index": torch.tensor(batch)}]
        return [{"pred": mask}]

    engine = Engine(step)
    MaskWriter(folder, dataset, CLASSES, **options).attach(engine)
    engine.run([position for position in range(len(data)) if position not in lost])
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_slices_of_a_volume_become_one_mask_with_its_volume(data, tmp_path):
    picture, volume = write(tmp_path / "out", data)
    assert (picture["id"], picture["file"], picture["lung ml"]) == ("a", "masks/a.png", "")
    assert (volume["id"], volume["file"], volume["lung share"]) == ("b", "masks/b.nii.gz", "0.500000")
    assert float(volume["lung ml"]) == pytest.approx(36 * 6 / 1000)  # 36 voxels of 6 mm3
    assert picture["error"] == volume["error"] == ""
    written = nibabel.load(tmp_path / "out" / volume["file"])
    assert np.array_equal(written.affine, np.diag([-2, -1, 3, 1]))
    assert (np.asarray(written.dataobj)[3:] == 1).all() and not np.asarray(written.dataobj)[:3].any()
    with Image.open(tmp_path / "out" / picture["file"]) as image:
        assert (np.asarray(image)[:, 3:] == 255).all() and not np.asarray(image)[:, :3].any()


def test_a_slice_that_was_not_predicted_holds_no_class_and_is_told(data, tmp_path):
    _, volume = write(tmp_path, data, lost=[2])
    assert volume["error"] == "1 of 3 slices: it is damaged"
    values = np.asarray(nibabel.load(tmp_path / volume["file"]).dataobj)
    assert (values[..., 1] == len(CLASSES)).all() and set(np.unique(values[..., [0, 2]])) == {0, 1}
    assert float(volume["lung share"]) == 0.5


def test_an_image_without_a_mask_has_a_row_all_the_same(data, tmp_path):
    picture, _ = write(tmp_path, data, lost=[0])
    assert picture == {**dict.fromkeys(picture, ""), "id": "a", "error": "it is damaged"}


def test_files_and_rows_say_that_the_model_is_of_phantoms(data, tmp_path):
    rows = write(tmp_path, data, synthetic=True)
    assert [row["model"] for row in rows] == ["trained on SYNTHETIC data"] * 2
    with Image.open(tmp_path / "masks" / "a.png") as image:
        assert image.info == {"Comment": "model trained on SYNTHETIC data"}


def test_ids_that_a_file_name_cannot_hold_stay_apart():
    names = ["case1", "case.1~b-2_x", "Fälle", "a/b", "a_b", "a b", "a#b", "../x", "."]
    files = [file_name(name) for name in names]
    assert files[:3] == names[:3] and len(set(files)) == len(names)
    assert not any(set(file) & set("/# ") for file in files)
