"""Sections by group: shares, folds, and those of the publisher."""

import numpy as np
import pytest
from support_prepare import COLUMNS, found, paint, report, section

from medssl_monai.prepare.prepare import prepare


@pytest.mark.parametrize("split", [(0.5, 0.25, 0.25), (0.75, 0.25, 0), (0.75, 0, 0.25), (1, 0, 0)])
def test_split_keeps_patients_together_and_spreads_classes(folder, tmp_path, split):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=split)
    sections = {name: s["classes"] for name, s in report(path)["sections"].items()}
    shares = dict(zip(("training", "validation", "testing"), split, strict=True))
    assert sections == {name: {"ill": 8 * x, "normal": 8 * x} for name, x in shares.items() if x}


def test_seed_decides_the_split(folder, tmp_path):
    ids = [
        set(section(prepare(folder, tmp_path / str(k), **COLUMNS, seed=seed), "validation"))
        for k, seed in enumerate([0, 0, 1, 2, 3])
    ]
    assert ids[0] == ids[1]
    assert len({frozenset(s) for s in ids}) > 1


def test_column_with_the_split(folder, tmp_path):
    table = folder / "labels.csv"
    lines = table.read_text().splitlines()
    names = ["Train"] * 12 + ["val"] * 2 + ["TEST"] * 2
    table.write_text("\n".join([lines[0] + ",fold"] + [f"{a},{b}" for a, b in zip(lines[1:], names, strict=True)]))
    path = prepare(folder, tmp_path / "out", **COLUMNS, split_column="fold")
    assert [len(section(path, name)) for name in ("training", "validation", "testing")] == [12, 2, 2]
    table.write_text(table.read_text().replace("im1.png,normal,p0,Train", "im1.png,normal,p0,val"))
    with pytest.raises(ValueError, match="puts 1 groups into several sections, for example 'p0'"):
        prepare(folder, tmp_path / "out", **COLUMNS, split_column="fold")
    table.write_text(table.read_text().replace("p0,val", "p0,maybe"))
    path = prepare(folder, tmp_path / "out", **COLUMNS, split_column="fold")
    assert found(path, "dropped") == {"split that is neither train, val nor test": ["row 3"]}


def test_unlabeled_images_of_validation_patients_are_left_out(folder, tmp_path):
    text = (folder / "labels.csv").read_text()
    for k in range(0, 16, 2):
        text = text.replace(f"im{k}.png,normal", f"im{k}.png,").replace(f"im{k}.png,ill", f"im{k}.png,")
    (folder / "labels.csv").write_text(text)
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0.75, 0.25, 0))
    training, validation = section(path), section(path, "validation")
    assert (len(training), len(validation)) == (12, 2)
    assert all("label" in item for item in validation.values())
    assert len(found(path, "dropped")["no label, and its group is not in the training section"]) == 2


def test_too_few_groups_for_the_sections(tmp_path):
    paint(tmp_path / "in" / "a.png", 1)
    (tmp_path / "in" / "t.csv").write_text("image,label\na.png,1\n")
    with pytest.raises(ValueError, match="1 groups cannot fill 2 sections"):
        prepare(tmp_path / "in", tmp_path / "out")


def folds_of(folder, out, number=4, **options):
    paths = [prepare(folder, out / str(k), **COLUMNS, folds=number, fold=k, **options) for k in range(number)]
    return [set(section(path, "validation")) for path in paths], paths


def test_every_image_is_in_one_fold_and_patients_are_in_one(folder, tmp_path):
    folds, paths = folds_of(folder, tmp_path)
    assert sorted(name for fold in folds for name in fold) == sorted(f"sub/im{k}.png" for k in range(16))
    for fold, path in zip(folds, paths, strict=True):
        assert fold | set(section(path)) == set().union(*folds)
        groups = [{item["group"] for item in section(path, name).values()} for name in ("training", "validation")]
        assert not groups[0] & groups[1]
        assert report(path)["sections"]["validation"]["classes"] == {"ill": 2, "normal": 2}
        assert report(path)["split"].startswith("fold ")
    assert folds_of(folder, tmp_path / "again")[0] == folds
    assert folds_of(folder, tmp_path / "other", seed=1)[0] != folds


def test_many_images_of_a_patient_are_little_more_than_one(folder, tmp_path):
    table = folder / "labels.csv"
    text = table.read_text().replace("p1", "p0").replace("p2", "p0")  # six images; the other five patients have two
    table.write_text(text.replace(",ill", ",normal"))
    for seed in range(4):
        _, paths = folds_of(folder, tmp_path / str(seed), 2, seed=seed)
        assert [len({item["group"] for item in section(path, "validation").values()}) for path in paths] == [3, 3]


def test_the_publishers_test_images_stay_out_of_the_folds(tmp_path):
    names = [f"p{k}_{n}" for k in range(6) for n in range(2)]
    np.savez(
        tmp_path / "set.npz",
        images=np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4),
        labels=np.arange(12) % 2,
        ids=np.array(names),
        patients=np.array([name[:2] for name in names]),
        split=np.array(["train"] * 4 + ["val"] * 4 + ["test"] * 4),
    )
    paths = [prepare(tmp_path / "set.npz", tmp_path / str(k), folds=4, fold=k) for k in range(4)]
    assert {frozenset(section(path, "testing")) for path in paths} == {frozenset(names[8:])}
    assert sorted(name for path in paths for name in section(path, "validation")) == names[:8]
    assert [len(section(path)) for path in paths] == [6, 6, 6, 6]


def test_a_patient_on_both_sides_of_the_publishers_test_images_is_refused(tmp_path):
    np.savez(
        tmp_path / "set.npz",
        images=np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4),
        labels=np.arange(4) % 2,
        ids=np.array(list("abcd")),
        patients=np.array(["p0", "p1", "p2", "p2"]),
        split=np.array(["train", "train", "train", "test"]),
    )
    with pytest.raises(ValueError, match="1 groups in its testing section and elsewhere, for example 'p2'"):
        prepare(tmp_path / "set.npz", tmp_path / "out", folds=2, fold=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 3}, "give `folds` .* and `fold` .* together"),
        ({"fold": 0}, "give `folds` .* and `fold` .* together"),
        ({"folds": 3, "fold": 3}, "from 0 to one less, got fold 3 of 3"),
        ({"folds": 1, "fold": 0}, "at least 2, .* got fold 0 of 1"),
        ({"folds": 3, "fold": 0, "split": (0.8, 0.2, 0)}, "either `folds` or a split"),
        ({"folds": 3, "fold": 0, "split_column": "x"}, "either `folds` or a split"),
        ({"folds": 9, "fold": 0}, "8 groups with a label cannot fill 9 folds"),
        ({"labels": 13, "labels_by": "group"}, "asks for 13 groups; the training section has 6"),
        ({"labels": 2, "labels_by": "patient"}, "`labels_by` must be one of .* got 'patient'"),
    ],
)
def test_errors_of_folds_and_patients(folder, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "out", **COLUMNS, **arguments)
    assert not (tmp_path / "out" / "datalist.json").exists()
