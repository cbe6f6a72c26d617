"""Radiographs of two sources."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, Resized
from PIL import Image
from support_phantoms import FEW, items_of

from medssl_monai.data import LoadMaskd, Masks
from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.phantoms import KINDS, chest_joint, make_phantom
from medssl_monai.phantoms import chest as chest_kind
from medssl_monai.pool import Labels, MultiStreamLoader, pool_loader
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("joint"), "chest_joint", FEW)


def test_one_source_has_classes_and_the_other_masks(joint):
    for section in SECTIONS:
        data = load_datalist(joint, section)
        assert (data.classes, data.mask_classes) == (("normal", "pneumonia"), ("background", "lung"))
        assert {item.get("label") for item in data} == {0, 1, None}
        for item in data:
            assert ("mask" in item) != ("label" in item)
            assert item["group"][0] == ("M" if "mask" in item else "C")
            if "label" in item:
                assert item["meta"]["diagnosis"] == data.classes[item["label"]]
            else:
                assert item["mask"] == str(joint.parent / item["meta"]["masks"]["lungs"])
    patients = {section: {item["group"] for item in load_datalist(joint, section)} for section in SECTIONS}
    assert [len(groups) for groups in patients.values()] == list(FEW.values())
    assert sum(name.startswith("M") for name in patients["training"]) == 8


def test_the_far_scanner_has_other_patients_and_no_training_section(joint, tmp_path):
    assert set(KINDS["chest_joint_far"].patients) == {"validation", "testing"}
    far = make_phantom(tmp_path, "chest_joint_far", {"testing": 10})
    assert not {item["group"] for item in items_of(far)} & {item["group"] for item in items_of(joint)}
    assert {"mask", "label"} <= {key for item in items_of(far) for key in item}
    lungs = [
        np.mean([np.asarray(Image.open(path.parent / i["meta"]["masks"]["lungs"])) > 0 for i in items_of(path)])
        for path in (joint, far)
    ]
    assert lungs[1] < 0.85 * lungs[0], "its field of view is wider"


def joint_image(seed, sick, scanner, view="PA"):
    return chest_joint._image(np.random.default_rng(seed), sick, view, scanner)


def test_grey_scales_of_the_two_sources_differ_a_little_and_of_the_far_scanner_more():
    scanners = [*chest_joint.NEAR, *chest_joint.FAR]
    images = [np.stack([joint_image(seed, False, scanner)[0] for seed in range(6)]) for scanner in scanners]
    contrast = [image.std() for image in images]
    assert 0.01 < contrast[0] - contrast[1] < 0.06
    assert max(contrast[2:]) < min(contrast[:2]) - 0.02
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)


def test_pneumonia_hides_the_border_of_a_lung_whose_mask_stays(monkeypatch):
    monkeypatch.setattr(chest_joint, "expose", lambda rng, image: image)  # noise and exposure are drawn after it
    near, hidden, deep = chest_joint.NEAR[0], [], []
    for seed in range(12):
        well, mask = joint_image(seed, False, near)
        sick, same = joint_image(seed, True, near)
        lung = chest_kind.draw_thorax(np.random.default_rng(seed), "PA").lung
        np.testing.assert_array_equal(mask, lung > 0)
        np.testing.assert_array_equal(mask, same)
        change = sick - well
        assert np.abs(change[lung < -0.05]).max() < 1e-6, "outside of the lungs there is nothing"
        hidden.append(change[(lung > 0.02) & (lung < 0.07)].mean())
        deep.append(change[lung > 0.15].mean())
    assert min(hidden) > 0.005
    assert np.mean(hidden) > max(0.02, np.mean(deep))


def test_the_table_of_classes_and_masks_makes_the_same_datalist(joint, tmp_path):
    table = joint.parent / "labels.csv"
    assert table.read_text().splitlines()[0] == "image,slice,patient,label,mask"
    options = {"masks": "mask", "mask_classes": ["background", "lung"], "ignore": ["*_unused.png"], "split": (1, 0, 0)}
    # masks that the table does not name are images to `prepare`
    for item in items_of(joint):
        if "mask" not in item:
            options["ignore"].append(item["meta"]["masks"]["lungs"])
    again = load_datalist(prepare(joint.parent, tmp_path, table=table, **options))
    assert again.synthetic and again.mask_classes == ("background", "lung")
    kinds = Counter((item.get("label"), Path(item.get("mask", "")).name) for item in again)
    assert kinds == Counter((item.get("label"), Path(item.get("mask", "")).name) for item in items_of(joint))


def test_four_streams_are_read_from_two_pools_of_one_datalist(joint):
    data, reader = load_datalist(joint), ClinicalReader()
    chain = Compose([LoadMaskd("label", reader, len(data.mask_classes)), Resized("label", (28, 28), mode="nearest")])
    classes, masks = Labels(data, 6), Labels(data, 4, "mask", read=Masks(data, chain))
    sides = {"labeled": (classes, "labeled"), "unlabeled": (classes, "unlabeled")}
    sides |= {"segmented": (masks, "labeled"), "unsegmented": (masks, "unlabeled")}
    images = [{"index": index} for index in range(len(data))]
    loader = MultiStreamLoader({name: pool_loader(images, pool, side, 2, 3) for name, (pool, side) in sides.items()})
    batches = list(loader)
    assert len(batches) == 3
    for batch in batches:
        index = {name: stream["index"] for name, stream in batch.items()}
        assert (classes.targets(index["labeled"]) >= 0).all() and (classes.targets(index["unlabeled"]) == -1).all()
        lungs = masks.targets(index["segmented"])
        assert lungs.shape == (2, 28, 28) and set(lungs.unique().tolist()) == {0, 1}
        assert (masks.targets(index["unsegmented"]) == -1).all()
        for position, lung in zip(index["segmented"].tolist(), lungs, strict=True):
            whole = np.asarray(Image.open(data[position]["mask"])).T[1::4, 1::4] > 0  # of 112 pixels
            assert (lung.numpy() == whole).mean() > 0.95
