"""Images that are written, and their channels."""

from pathlib import Path

import numpy as np
from support_prepare import report, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader


def test_multi_hot_labels_and_names_that_are_no_file_names(tmp_path):
    np.savez(
        tmp_path / "set.npz",
        images=np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3),
        labels=np.array([[1, 0], [0, 0], [1, 1], [0, -1]], dtype=np.int8),
        ids=np.array(["a/b.png", "a_b", "c:d", "e"]),
        label_names=np.array(["mass", "nodule"]),
    )
    path = prepare(tmp_path / "set.npz", tmp_path / "out", split=(1, 0, 0))
    items = section(path)
    assert [item["label"] for item in items.values()] == [[1, 0], [0, 0], [1, 1], [0, -1]]
    counted = report(path)["sections"]["training"]["classes"]
    assert counted == {"mass": 2, "nodule": 1, "no finding": 1}  # of the last image, one finding is unknown
    assert len({item["image"] for item in items.values()}) == 4
    pixels, _ = ClinicalReader().get_data([Path(items["c:d"]["image"])])
    assert (pixels[0] == np.arange(18, 27).reshape(3, 3).T).all()


def test_colour_images_have_three_channels_and_grey_ones_one(tmp_path):
    """A datalist without it would train on the luminance of dermoscopy, in silence."""
    rng = np.random.default_rng(0)
    for name, shape in (("colour", (12, 8, 8, 3)), ("grey", (12, 8, 8))):
        images = rng.integers(0, 255, shape, dtype=np.uint8)
        ids = np.array([f"{name}{n}" for n in range(12)])
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(12) % 2, ids=ids, patients=ids)
    found = {
        name: load_datalist(prepare(tmp_path / f"{name}.npz", tmp_path / name)).modality for name in ("colour", "grey")
    }
    assert found == {"colour": ("red", "green", "blue"), "grey": ("image",)}
