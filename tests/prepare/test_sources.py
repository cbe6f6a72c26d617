"""Sources whose images or masks join the first."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support_prepare import LUNGS, found, radiographs, report, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader


def test_unknown_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no known layout; known are: .*MedMNIST"):
        prepare(tmp_path / "x.tar", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no usable image; dropped: nothing"):
        prepare(tmp_path / "empty", tmp_path / "out")


@pytest.fixture
def first(tmp_path):
    """Twelve images of six patients."""
    np.savez(
        tmp_path / "first.npz",
        images=radiographs(12),
        labels=np.array([[k % 2, k % 3 == 0] for k in range(12)], dtype=np.int8),
        label_names=np.array(["mass", "nodule"]),
        ids=np.array([f"a{k}" for k in range(12)]),
        patients=np.array([f"p{k // 2}" for k in range(12)]),
    )
    return tmp_path / "first.npz"


def test_images_of_a_second_source_join_training_without_a_label(first, tmp_path):
    new, ids = radiographs(5, seed=1), np.array([f"a{k}" for k in range(5)])  # names of the first source as well
    np.savez(tmp_path / "second.npz", images=new, ids=ids, labels=np.ones(5, dtype=int), split=np.array(["test"] * 5))
    path = prepare(first, tmp_path / "out", unlabeled=tmp_path / "second.npz", folds=3, fold=1)
    joined = {name: item for name, item in section(path).items() if name.startswith("unlabeled/")}
    assert list(joined) == [f"unlabeled/a{k}" for k in range(5)]
    assert not any("label" in item for item in joined.values())
    assert not {item["group"] for item in joined.values()} & {f"a{k}" for k in range(12)}
    assert load_datalist(path).classes == ("mass", "nodule")
    for k, item in enumerate(joined.values()):
        pixels, _ = ClinicalReader().get_data([Path(item["image"])])
        assert (pixels[0] == new[k].T).all()
    alone = prepare(first, tmp_path / "alone", folds=3, fold=1)
    assert section(path, "validation").keys() == section(alone, "validation").keys()
    assert [name for name in section(path) if name not in joined] == list(section(alone))
    assert report(path)["sections"]["training"]["labeled"] == 8
    assert report(path)["unlabeled_sha256"] != report(path)["source_sha256"]


def test_what_would_leak_from_a_second_source_is_left_out(first, tmp_path):
    plan = prepare(first, tmp_path / "plan", folds=3, fold=0)
    at = {where: [int(name[1:]) for name in section(plan, where)] for where in ("training", "validation")}
    images, old = radiographs(6, seed=1), radiographs(12)
    images[0] = old[at["validation"][0]]  # exact copies
    images[1] = old[at["training"][0]]
    images[2] = (0.92 * old[at["validation"][1]] + 8).astype(np.uint8)  # near copies
    images[3] = (0.92 * old[at["training"][1]] + 8).astype(np.uint8)
    patient = section(plan, "validation")[f"a{at['validation'][0]}"]["group"]
    np.savez(
        tmp_path / "second.npz",
        images=images,
        ids=np.array([f"u{k}" for k in range(6)]),
        patients=np.array([*(f"u{k}" for k in range(4)), patient, "another"]),
    )
    path = prepare(first, tmp_path / "out", unlabeled=tmp_path / "second.npz", folds=3, fold=0)
    assert [name for name in section(path) if name.startswith("unlabeled/")] == ["unlabeled/u3", "unlabeled/u5"]
    assert {why: sorted(what) for why, what in found(path, "dropped").items()} == {
        "exact copy of another image": ["unlabeled/u0", "unlabeled/u1"],
        "no label, and its group is not in the training section": ["unlabeled/u4"],
        "unlabeled: near copy of an image that is not in the training section": ["unlabeled/u2"],
    }


@pytest.mark.parametrize("options", [{}, {"folds": 2, "fold": 0}, {"split": (0.5, 0.25, 0.25)}])
def test_patients_of_the_publishers_test_images_stay_out_of_a_second_source(tmp_path, options):
    arrays = {"ids": np.array(list("abcdefghijkl")), "patients": np.array([f"p{k % 6}" for k in range(12)])}
    split = np.array([*["train"] * 5, "test"] * 2)
    np.savez(tmp_path / "first.npz", images=radiographs(12), labels=np.arange(12) % 2, split=split, **arrays)
    np.savez(tmp_path / "second.npz", images=radiographs(12, seed=1), **arrays)
    path = prepare(tmp_path / "first.npz", tmp_path / "out", unlabeled=tmp_path / "second.npz", **options)
    joined = [item["group"] for name, item in section(path).items() if name.startswith("unlabeled/")]
    own = {item["group"] for name, item in section(path).items() if not name.startswith("unlabeled/")}
    assert set(section(path, "testing")) | set(section(path, "validation"))
    assert set(joined) == own
    assert len(joined) == 2 * len(own) < 12


def test_a_folder_joins_where_it_lies_whatever_table_is_in_it(folder, first, tmp_path):
    path = prepare(first, tmp_path / "out", unlabeled=folder, folds=2, fold=0, clear_names=True)
    joined = [item for name, item in section(path).items() if name.startswith("unlabeled/")]
    patients = {f"p{k}" for k in range(8)} - {item["group"] for item in section(path, "validation").values()}
    assert len(patients) == 5
    assert Counter(item["group"] for item in joined) == Counter([*patients, *patients])


def test_the_second_source_must_be_there_and_of_the_same_kind(first, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare(first, tmp_path / "out", unlabeled=tmp_path / "nowhere")
    features = tmp_path / "features"
    features.mkdir()
    np.save(features / "train-features.npy", np.zeros((3, 4), dtype=np.float32))
    np.save(features / "train-targets.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="holds images, the other features"):
        prepare(first, tmp_path / "out", unlabeled=features)
    assert not (tmp_path / "out" / "datalist.json").exists()


def from_films(path, name="training"):
    return {name: item for name, item in section(path, name).items() if name.startswith("masked/")}


def test_masks_of_a_second_source_are_split_by_themselves(first, films, tmp_path):
    options = {"split": (0.5, 0.25, 0.25), "clear_names": True}
    path = prepare(first, tmp_path / "out", masked=films, masks="_lungs", **LUNGS, **options, labels=4, mask_labels=2)
    data = load_datalist(path)
    assert (data.classes, data.mask_classes) == (("mass", "nodule"), ("background", "lung"))
    alone = prepare(first, tmp_path / "alone", **options)
    for name, count in (("training", 4), ("validation", 2), ("testing", 2)):
        second = from_films(path, name)
        assert len(second) == count
        for item in second.values():
            assert "label" not in item
            assert Path(item["mask"]).samefile(str(item["image"]).replace(".png", "_lungs.png"))
        rest = [item for key, item in section(path, name).items() if key not in second]
        assert [item["id"] for item in rest] == list(section(alone, name))
        assert not any("mask" in item for item in rest)
    assert sum(item.get("masked", True) for item in from_films(path).values()) == 2
    assert sum("label" in item and item.get("labeled", True) for item in data) == 4
    assert report(path)["masked_sha256"]
    assert "of the masked source: column 'patient'" in report(path)["groups"]
    assert "of the masked source: new, by group" in report(path)["split"]


@pytest.mark.parametrize("name", ["training", "validation"])
def test_patients_of_both_sources_are_where_the_first_has_them(first, films, tmp_path, name):
    own = next(iter(section(prepare(first, tmp_path / "alone"), name).values()))["group"]
    table = films / "t.csv"
    table.write_text(re.sub("q[012]", own, table.read_text()))
    path = prepare(first, tmp_path / "out", masked=films, masks="_lungs", clear_names=True, **LUNGS)
    assert sum(item["group"] == own for item in from_films(path, name).values()) == 6


def test_each_source_keeps_its_publishers_split(films, tmp_path):
    arrays = {"ids": np.array(list("abcdef")), "labels": np.arange(6) % 2}
    split = np.array(["train", "train", "val", "val", "test", "test"])
    np.savez(tmp_path / "a.npz", images=radiographs(6), split=split, **arrays)
    path = prepare(tmp_path / "a.npz", tmp_path / "out", masked=films, masks="_lungs", split=None, **LUNGS)
    assert [len(from_films(path, name)) for name in ("training", "validation", "testing")] == [6, 2, 0]
    assert [len(section(path, name)) for name in ("training", "validation", "testing")] == [8, 4, 2]
    rows = (films / "t.csv").read_text().splitlines()
    sections = ["split", *["train"] * 4, *["val"] * 2, *["test"] * 2]
    (films / "t.csv").write_text("\n".join(f"{row},{name}" for row, name in zip(rows, sections, strict=True)))
    path = prepare(tmp_path / "a.npz", tmp_path / "out", masked=films, masks="_lungs", **LUNGS)
    assert [len(from_films(path, name)) for name in ("training", "validation", "testing")] == [4, 2, 2]


def test_each_source_is_dealt_to_the_folds(first, films, tmp_path):
    paths = [
        prepare(first, tmp_path / str(k), masked=films, masks="_lungs", folds=2, fold=k, **LUNGS) for k in range(2)
    ]
    held_out = [set(section(path, "validation")) for path in paths]
    assert not held_out[0] & held_out[1]
    assert len(held_out[0] | held_out[1]) == 20
    assert [len(from_films(path, "validation")) for path in paths] == [4, 4]


def test_three_sources(first, films, tmp_path):
    np.savez(tmp_path / "more.npz", images=radiographs(4, seed=5), ids=np.array(list("uvwx")))
    options = {"masks": "_lungs", "clear_names": True, "split": (0.5, 0.5, 0), **LUNGS}
    path = prepare(first, tmp_path / "out", masked=films, unlabeled=tmp_path / "more.npz", **options)
    kinds = Counter(name.partition("/")[0] for name in section(path) if "/" in name)
    assert kinds == {"masked": 4, "unlabeled": 4}
    assert len(section(path, "validation")) == 6 + 4


def test_a_second_source_without_masks(first, films, tmp_path):
    for file in films.glob("*_lungs.png"):
        file.unlink()
    with pytest.raises(ValueError, match="`masks` '_lungs' is no column of the table, no folder"):
        prepare(first, tmp_path / "out", masked=films, masks="_lungs", **LUNGS)
    (films / "t.csv").write_text("image,label\nf0.png,1\nf1.png,0\n")
    with pytest.raises(ValueError, match="films holds no usable mask; noted: "):
        prepare(first, tmp_path / "out", masked=films, **LUNGS)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare(first, tmp_path / "out", masked=tmp_path / "nowhere", masks="_lungs", **LUNGS)


def test_a_first_source_whose_labels_are_masks(both, films, tmp_path):
    (both / "labels.csv").write_text("image,label\nsub/im0.png,masks/im0.png\n")
    with pytest.raises(ValueError, match="cxr are masks, and classes are wanted; leave `mask_classes` out"):
        prepare(both, tmp_path / "out", masked=films, masks="_lungs", **LUNGS)
