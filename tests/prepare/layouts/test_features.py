import json

import numpy as np
import pytest

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


def write(folder, stem, rows, targets=None, items=None, width=4):
    folder.mkdir(exist_ok=True)
    features = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    np.save(folder / f"{stem}-features.npy", features)
    if targets is not None:
        np.save(folder / f"{stem}-targets.npy", np.array(targets))
    if items:
        (folder / f"{stem}-items.csv").write_text("\n".join(["id,group", *items]))
    return features


def test_tables_as_published_keep_their_sections(tmp_path):
    write(tmp_path / "in", "train", 6, [0, 1, 2, 0, 1, -1])
    write(tmp_path / "in", "val", 3, [0, 1, 2])
    path = prepare(tmp_path / "in", tmp_path / "out")
    training, validation = load_datalist(path), load_datalist(path, "validation")
    assert [item.get("label") for item in training] == [0, 1, 2, 0, 1, None]
    assert [(item["id"], item["slice"]) for item in validation] == [(f"val_{k:06d}", k) for k in range(3)]
    assert training.classes == ("0", "1", "2")
    assert training.modality == ("feature",)


def test_one_hot_targets_and_a_split_by_group(tmp_path):
    items = [f"im{k},p{k // 2}" for k in range(12)]
    write(tmp_path / "in", "all", 12, np.eye(2, dtype=int)[[k // 2 % 2 for k in range(12)]], items)
    path = prepare(tmp_path / "in", tmp_path / "out", split=(0.5, 0.5, 0))
    groups = [{item["group"] for item in load_datalist(path, name)} for name in ("training", "validation")]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 6
    assert {item["id"]: item["label"] for item in load_datalist(path)}.items() <= {
        f"im{k}": k // 2 % 2 for k in range(12)
    }.items()


def test_rows_that_are_not_finite_are_left_out(tmp_path):
    features = write(tmp_path / "in", "train", 3, [0, 1, 0])
    features[1, 2] = np.nan
    np.save(tmp_path / "in" / "train-features.npy", features)
    path = prepare(tmp_path / "in", tmp_path / "out")
    assert [item["slice"] for item in load_datalist(path)] == [0, 2]
    report = json.loads((path.parent / "prepare_report.json").read_text())
    assert report["dropped"]["row with values that are not finite"]["items"] == ["train_000001"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: np.save(folder / "train-targets.npy", np.zeros(2)), "2 targets for 3 rows"),
        (lambda folder: np.save(folder / "train-targets.npy", np.full(3, 0.5)), "must hold class indices"),
        (lambda folder: np.save(folder / "train-targets.npy", np.array([[0, 3], [1, 1], [0, 0]])), "not one-hot"),
        (lambda folder: np.save(folder / "train-features.npy", np.zeros(3)), r"numbers in 2 dimensions, got .* \(3,\)"),
        (lambda folder: np.save(folder / "train-features.npy", np.array([["a"]])), "must hold numbers"),
        (lambda folder: np.save(folder / "train-features.npy", np.array([[{}]])), "cannot be read as an array"),
        (lambda folder: np.save(folder / "train-features.npy", np.ones((3, 4), complex)), "cannot be read as an array"),
        (lambda folder: cut(folder / "train-features.npy"), r"train-features\.npy is damaged"),
        (lambda folder: cut(folder / "train-targets.npy"), r"train-targets\.npy is damaged"),
        (lambda folder: np.save(folder / "train-targets.npy", np.array([0, np.nan, 1])), "must hold class indices"),
        (lambda folder: np.save(folder / "train-targets.npy", np.array([0, np.inf, 1])), "must hold class indices"),
        (lambda folder: np.save(folder / "train-targets.npy", np.array([0, 1e300, 1])), "must hold class indices"),
        (lambda folder: np.save(folder / "train-targets.npy", np.array([0, -2, 1])), "must hold class indices"),
        (lambda folder: np.save(folder / "train-targets.npy", np.zeros((3, 1, 1))), "1 or 2 dimensions"),
        (lambda folder: (folder / "train-items.csv").write_text("id,group\na,b\na,c\nd,e\n"), "2 rows of the id 'a'"),
        (lambda folder: (folder / "train-items.csv").write_text("id,group\na,b\n,c\nd,e\n"), "line 3: there is no id"),
        (lambda folder: (folder / "features.json").write_text("[]"), r"features\.json must hold a JSON object"),
        (lambda folder: (folder / "features.json").write_text("["), r"features\.json is not valid JSON"),
        (lambda folder: (folder / "features.json").write_text('{"classes": "ab"}'), "a list of texts as `classes`"),
        (lambda folder: (folder / "features.json").write_text('{"classes": [1, 2]}'), "a list of texts as `classes`"),
        (lambda folder: (folder / "features.json").write_text('{"classes": ["a"]}'), "none of the 1 classes"),
        (lambda folder: (folder / "train-features.npy").write_bytes(b"x"), "cannot be read as an array"),
        (lambda folder: (folder / "train-items.csv").write_text("id,group\na,b\n"), "3 rows"),
        (lambda folder: write(folder, "val", 2, width=5), r"differ in width: \[4, 5\]"),
    ],
)
def test_tables_that_do_not_fit_together(tmp_path, change, message):
    write(tmp_path / "in", "train", 3, [0, 1, 0])
    change(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("classes", [["a", "$open('EXECUTED', 'w')"], ["a", "A"], ["a", 5], ["a", "=1+1"], {"a": 1}])
def test_names_of_classes_beside_features_are_checked(tmp_path, classes):
    write(tmp_path / "in", "train", 6, [0, 1] * 3)
    (tmp_path / "in" / "features.json").write_text(json.dumps({"classes": classes}))
    with pytest.raises(ValueError, match="class"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "datalist.json").exists()


@pytest.mark.parametrize("row", ["=1+1,p", "a,@p", "-2+3,p"])
def test_ids_and_groups_beside_features_are_checked(tmp_path, row):
    write(tmp_path / "in", "train", 2, [0, 1], ["im0,p0", row])
    with pytest.raises(ValueError, match="rename it"):
        prepare(tmp_path / "in", tmp_path / "out")
