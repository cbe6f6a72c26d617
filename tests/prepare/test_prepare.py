import csv
import io
import itertools
import json
import os
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.layouts.listing import list_images
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader

DATA = Path(os.environ.get("MEDSSL_DATA", Path(__file__).parents[3] / "shared/data"))


def real(name):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in {DATA}; set MEDSSL_DATA to the folder of real images")
    return DATA / name


def sample(name):
    return Path(get_testdata_file(name, download=False))


def report(path):
    return json.loads((path.parent / "prepare_report.json").read_text())


def found(path, kind):
    return {why: entry["items"] for why, entry in report(path)[kind].items()}


def section(path, name="training"):
    return {item["id"]: item for item in load_datalist(path, name)}


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Sixteen images of eight patients, and a table: patients 0 to 3 are normal, the others ill."""
    rows = ["image,diagnosis,patient"]
    for k in range(16):
        paint(tmp_path / "cxr" / "sub" / f"im{k}.png", 10 * k)
        rows.append(f"sub/im{k}.png,{'normal' if k < 8 else 'ill'},p{k // 2}")
    (tmp_path / "cxr" / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "cxr"


COLUMNS = {"label_column": "diagnosis", "group_column": "patient", "clear_names": True}


# a folder with a table


def test_folder_images_stay_where_they_are(folder, tmp_path):
    path = prepare(folder, tmp_path / "out", **COLUMNS)
    assert path == tmp_path / "out" / "datalist.json"
    assert sorted(file.name for file in path.parent.iterdir()) == ["datalist.json", "prepare_report.json"]
    items = section(path) | section(path, "validation")
    assert all(Path(item["image"]).samefile(folder / name) for name, item in items.items())
    assert load_datalist(path).classes == ("ill", "normal")
    assert items["sub/im0.png"] == {**items["sub/im0.png"], "group": "p0", "label": 1}


def test_datalist_does_not_depend_on_where_the_data_lie(folder, tmp_path):
    here = load_datalist(prepare(folder, tmp_path / "out", **COLUMNS))
    shutil.copytree(folder, tmp_path / "elsewhere" / "cxr")
    there = load_datalist(prepare(tmp_path / "elsewhere" / "cxr", tmp_path / "elsewhere" / "out", **COLUMNS))
    assert here.sha256 == there.sha256


@pytest.mark.parametrize("split", [(0.5, 0.25, 0.25), (0.75, 0.25, 0), (0.75, 0, 0.25), (1, 0, 0)])
def test_split_keeps_patients_together_and_spreads_classes(folder, tmp_path, split):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=split)
    sections = {name: s["classes"] for name, s in report(path)["sections"].items()}
    shares = dict(zip(("training", "validation", "testing"), split, strict=True))
    assert sections == {name: {"ill": 8 * x, "normal": 8 * x} for name, x in shares.items() if x}


def test_a_set_to_measure_on_has_no_training_section(folder, tmp_path):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0, 0, 1))
    content = json.loads(path.read_text())
    assert [name for name in ("training", "validation", "testing") if name in content] == ["testing"]
    assert content["modality"] == {"0": "image"}
    with pytest.raises(ValueError, match="are for the training section, and this split has none"):
        prepare(folder, tmp_path / "other", **COLUMNS, split=(0, 0, 1), labels=2)


def test_seed_decides_the_split(folder, tmp_path):
    ids = [
        set(section(prepare(folder, tmp_path / str(k), **COLUMNS, seed=seed), "validation"))
        for k, seed in enumerate([0, 0, 1, 2, 3])
    ]
    assert ids[0] == ids[1]
    assert len({frozenset(s) for s in ids}) > 1


@pytest.mark.parametrize(("labels", "count"), [(4, 4), (0.5, 6), (1.0, 12), (0, 0)])
def test_hidden_labels_are_a_balanced_draw_of_the_training_section(folder, tmp_path, labels, count):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0.75, 0.25, 0), labels=labels)
    shown = [item["label"] for item in section(path).values() if item.get("labeled", True)]
    assert Counter(shown) == Counter({0: count // 2, 1: count // 2}) - Counter()
    assert not any("labeled" in item for item in section(path, "validation").values())
    assert report(path)["sections"]["training"]["labeled"] == count


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


def test_bad_rows_cost_themselves_only_and_are_listed(folder, tmp_path):
    (folder / "labels.csv").write_text(
        "image,diagnosis,patient\n"
        "sub/im0.png,normal,p0\n"
        "sub/im1.png,normal\n"  # a cell is missing
        'sub/im2.png,"normal,p1\n'  # a quote that is never closed must not swallow the rest
        "sub/gone.png,ill,p9\n"
        "im4.png,ill,p2\n"  # the end of the path is enough
        "sub\\im5.png,,p2\n"
        "sub/im6.png,unclear,p3\n"
        "sub/im7.png,ill,\n"
        "sub/im8.png,ill,p4\n"
        "sub/im8.png,normal,p4\n"
        "\n"
        'sub/im9.png,"ill",p5\n'
    )
    path = prepare(folder, tmp_path / "out", **COLUMNS, classes=("normal", "ill"), split=(1, 0, 0))
    items = section(path)
    assert {name: item["label"] for name, item in items.items() if "label" in item} == {
        "sub/im0.png": 0,
        "sub/im4.png": 1,
        "sub/im9.png": 1,
    }
    assert found(path, "dropped") == {
        "row with another number of cells than the header, or an open quote": ["row 3", "row 4"],
        "row whose file is missing": ["row 5"],
        "no group in its row; fill it in": ["row 9"],
    }
    assert found(path, "noted") == {
        "rows of one file that contradict in label": ["rows 10 and 11"],
        "file without a row": [f"sub/im{k}.png" for k in (1, 2, 3, 10, 11, 12, 13, 14, 15)],
        "no label": ["row 7"],
        "label that is no class": ["row 8"],
    }
    assert len(items) == 15


def test_report_and_log_show_no_cell_of_the_table(folder, tmp_path, caplog):
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("im3.png,normal", "im3.png,Susan Secret"))
    path = prepare(folder, tmp_path / "out", **COLUMNS, classes=("normal", "ill"))
    assert "Susan" not in (path.parent / "prepare_report.json").read_text() + path.read_text() + caplog.text
    assert "1 x label that is no class" in caplog.text


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (["1.0", "0.0", ""], ("0", "1"), [1, 0, None]),  # a number column with gaps
        (["2", "10", "1"], ("1", "2", "10"), [1, 2, 0]),
        (["1", "0", "zero"], ("0", "1"), [1, 0, None]),  # a slip among numbers is no third class
        (["b", "a", "NaN"], ("a", "b"), [1, 0, None]),
    ],
)
def test_classes_are_the_values_of_the_column(tmp_path, labels, classes, indices):
    for k in range(len(labels)):
        paint(tmp_path / "in" / f"{k}.png", k)
    rows = [f"{k},{label}" for k, label in enumerate(labels)]  # names without suffix
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,label", *rows]))
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0))
    assert load_datalist(path).classes == classes
    assert [item.get("label") for item in section(path).values()] == indices


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


def test_copies_are_dropped_and_contradicting_copies_altogether(folder, tmp_path):
    shutil.copy(folder / "sub/im0.png", folder / "sub/im1.png")
    shutil.copy(folder / "sub/im2.png", folder / "sub/im15.png")
    path = prepare(folder, tmp_path / "out", **COLUMNS)
    assert found(path, "dropped") == {
        "exact copy of another image": ["sub/im1.png"],
        "exact copies with different labels": ["sub/im2.png", "sub/im15.png"],
    }
    path = prepare(folder, tmp_path / "out", **COLUMNS, keep_duplicates=True)
    assert len(section(path)) + len(section(path, "validation")) == 16


def test_volumes_become_slices_of_one_group(tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), tmp_path / "in" / "v.nii.gz")
    shutil.copy(sample("MR_small.dcm"), tmp_path / "in" / "slice")
    (tmp_path / "in" / "t.csv").write_text("image,label\nv.nii.gz,ill\nslice,normal\n")
    items = section(prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), clear_names=True))
    assert list(items) == ["slice", "v.nii.gz#0", "v.nii.gz#1", "v.nii.gz#2", "v.nii.gz#3"]
    assert len({item["group"] for item in items.values()}) == 2
    assert "4MR1" not in items["slice"]["group"]  # the patient of a DICOM file is a pseudonym in any case
    assert [item.get("slice") for item in items.values()] == [None, 0, 1, 2, 3]
    assert items["v.nii.gz#2"]["label"] == 0


def test_folder_without_table_is_a_pool_without_labels(folder, tmp_path):
    (folder / "labels.csv").unlink()
    path = prepare(folder, tmp_path / "out")
    assert len(section(path)) == 16
    assert list(report(path)["sections"]) == ["training"]
    assert "every file its own" in report(path)["groups"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_column": "label"}, r"no column 'label', only \['image', 'diagnosis', 'patient'\]"),
        ({**COLUMNS, "group_column": "who"}, "no column 'who'"),
        ({**COLUMNS, "split": (0.5, 0.5)}, "three shares"),
        ({**COLUMNS, "split": (0.9, 0.2, 0)}, "add up to 1"),
        ({**COLUMNS, "split": (0.9, 0.1, 0), "split_column": "x"}, "either `split`"),
        ({**COLUMNS, "labels": 13, "split": (0.75, 0.25, 0)}, "asks for 13 items"),
        ({**COLUMNS, "labels": 1.5}, "a fraction up to 1.0, got 1.5"),
        ({**COLUMNS, "id_column": "patient"}, "column 'patient' has 'p0' for several images"),
    ],
)
def test_errors_say_what_to_mend_and_leave_no_datalist(folder, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "out", **arguments)
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_too_few_groups_for_the_sections(tmp_path):
    paint(tmp_path / "in" / "a.png", 1)
    (tmp_path / "in" / "t.csv").write_text("image,label\na.png,1\n")
    with pytest.raises(ValueError, match="1 groups cannot fill 2 sections"):
        prepare(tmp_path / "in", tmp_path / "out")


def test_unknown_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no known layout; known are: .*MedMNIST"):
        prepare(tmp_path / "x.tar", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no usable image; dropped: nothing"):
        prepare(tmp_path / "empty", tmp_path / "out")


# cross-validation


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


# labels by patient


def shown(path):
    return {item["group"] for item in section(path).values() if item.get("labeled", True) and "label" in item}


@pytest.mark.parametrize(("labels", "count"), [(0.5, 3), (2, 2), (1.0, 6), (0, 0)])
def test_of_a_patient_all_labels_are_shown_or_none(folder, tmp_path, labels, count):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0.75, 0.25, 0), labels=labels, labels_by="group")
    hidden = {item["group"] for item in section(path).values() if not item.get("labeled", True)}
    assert len(shown(path)) == count
    assert not hidden & shown(path)
    assert report(path)["sections"]["training"]["labeled"] == 2 * count
    assert not any("labeled" in item for item in section(path, "validation").values())


def test_more_patients_with_labels_include_the_fewer(folder, tmp_path):
    options = {**COLUMNS, "split": (1, 0, 0), "labels_by": "group"}
    draws = [shown(prepare(folder, tmp_path / str(count), labels=count, **options)) for count in range(9)]
    assert all(fewer < more for fewer, more in itertools.pairwise(draws))
    others = [shown(prepare(folder, tmp_path / f"s{seed}", labels=3, seed=seed, **options)) for seed in range(4)]
    assert draws[3] == others[0]
    assert len({frozenset(chosen) for chosen in others}) > 1


def test_every_number_of_patients_holds_each_finding_in_about_its_share(tmp_path):
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 100, 200)
    of_patient = rng.random((100, 3)) < (0.5, 0.2, 0.08)
    np.savez(
        tmp_path / "set.npz",
        images=radiographs(200, side=16),
        labels=of_patient[patients].astype(np.int8),
        ids=np.array([f"i{k}" for k in range(200)]),
        patients=np.array([f"p{patient}" for patient in patients]),
    )
    total = of_patient[np.unique(patients)].sum(axis=0)
    for fraction in (0.1, 0.2, 0.5):
        options = {"split": (1, 0, 0), "labels": fraction, "labels_by": "group"}
        path = prepare(tmp_path / "set.npz", tmp_path / str(fraction), **options)
        groups = [int(name[1:]) for name in shown(path)]
        assert np.abs(of_patient[groups].sum(axis=0) - fraction * total).max() < 1.5


# a second source without labels


def radiographs(count, seed=0, side=40):
    """Distinct pictures with detail."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, side // 4, side // 4))
    return np.kron(coarse, np.ones((1, 4, 4))).astype(np.uint8)


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


# masks beside labels


LUNGS = {"mask_classes": ["background", "lung"]}


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def lungs(size=40):
    return np.pad(np.full((size // 2, size // 2), 255, dtype=np.uint8), size // 4)


@pytest.fixture
def both(folder):
    """As `folder`; images 0, 1, 4, 5, 8, 9, 12 and 13 have masks, which are those of every other patient."""
    for k in range(16):
        if k % 4 < 2:
            draw(folder / "masks" / f"im{k}.png", lungs(4))
    return folder


def test_masks_beside_classes_are_spread_over_the_sections(both, tmp_path):
    options = {**COLUMNS, "masks": "masks", "split": (0.5, 0.5, 0)}
    path = prepare(both, tmp_path / "out", **options, **LUNGS)
    data = load_datalist(path)
    assert (data.classes, data.mask_classes) == (("ill", "normal"), ("background", "lung"))
    for name in ("training", "validation"):
        items = section(path, name).values()
        assert len(items) == 8
        assert Counter(item["label"] for item in items) == {0: 4, 1: 4}
        masks = {Path(item["image"]).name: Path(item["mask"]) for item in items if "mask" in item}
        assert len(masks) == 4
        assert all(mask.name == image and mask.is_file() for image, mask in masks.items())
        assert report(path)["sections"][name]["masked"] == 4
    assert report(path)["mask_classes"] == ["background", "lung"]
    instead = load_datalist(prepare(both, tmp_path / "instead", **options))
    assert instead.classes == ("background", "foreground") and instead.mask_classes == ()
    assert all(isinstance(item.get("label", ""), str) for item in instead), "a class is no label beside masks as labels"


def test_what_has_only_a_mask_is_of_use_for_validation(both, tmp_path):
    table = both / "labels.csv"
    header, *rows = re.sub("(im[02].png),normal", r"\1,", table.read_text()).split()
    rows = [f"{row},{'val' if k < 4 else 'train'}" for k, row in enumerate(rows)]
    table.write_text("\n".join([f"{header},split", *rows]))
    path = prepare(both, tmp_path / "out", **COLUMNS, masks="masks", **LUNGS)
    items = section(path, "validation")
    assert list(items) == ["sub/im0.png", "sub/im1.png", "sub/im3.png"]
    assert "label" not in items["sub/im0.png"] and "mask" in items["sub/im0.png"]
    assert found(path, "dropped") == {"no label, and its group is not in the training section": ["sub/im2.png"]}


def test_classes_and_masks_have_budgets_of_their_own(both, tmp_path):
    options = {**COLUMNS, **LUNGS, "masks": "masks", "split": (1, 0, 0)}
    path = prepare(both, tmp_path / "out", **options, labels=6, mask_labels=3)
    items = section(path).values()
    assert sum(item.get("labeled", True) for item in items) == 6
    assert sum(item.get("masked", True) for item in items if "mask" in item) == 3
    assert not any("masked" in item for item in items if "mask" not in item)
    assert [report(path)["sections"]["training"][kind] for kind in ("labeled", "masked")] == [6, 3]
    path = prepare(both, tmp_path / "by_group", **options, labels=0.5, mask_labels=2, labels_by="group")
    shown = {item["group"] for item in section(path).values() if "mask" in item and item.get("masked", True)}
    hidden = {item["group"] for item in section(path).values() if not item.get("masked", True)}
    assert (len(shown), len(hidden)) == (2, 2) and not shown & hidden
    assert report(path)["sections"]["training"]["masked"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_labels": 3}, "`mask_labels` and `masked` are for masks beside labels; name their classes"),
        ({"masked": "elsewhere"}, "`mask_labels` and `masked` are for masks beside labels; name their classes"),
        ({"mask_classes": ["lung"], "masks": "masks"}, r"the background and at least one other class, got \['lung'\]"),
        (LUNGS, "`mask_classes` are given, and no masks; say where they are with `masks`, or `masked`"),
        (
            {**LUNGS, "masks": "masks", "mask_labels": 9},
            "`mask_labels` asks for 9 items; the training section has 8",
        ),
        (
            {**LUNGS, "masks": "masks", "mask_labels": 1.5},
            "`mask_labels` must be a whole number of items or a fraction",
        ),
        ({**LUNGS, "masks": "_lungs"}, "`masks` '_lungs' is no column of the table, no folder"),
    ],
)
def test_errors_of_masks_beside_labels(both, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(both, tmp_path / "out", **COLUMNS, split=(1, 0, 0), **options)
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_masks_that_do_not_fit_are_no_masks(both, tmp_path):
    for mask in (both / "masks").iterdir():
        draw(mask, lungs(8))
    with pytest.raises(ValueError, match="holds no usable mask; noted: 8 x mask of another shape"):
        prepare(both, tmp_path / "out", **COLUMNS, masks="masks", **LUNGS)


def test_a_column_of_paths_is_none_of_classes(both, tmp_path):
    (both / "labels.csv").write_text("image,label\nsub/im0.png,masks/im0.png\n")
    with pytest.raises(
        ValueError, match="the column 'label' holds names of files, and with `mask_classes` the classes"
    ):
        prepare(both, tmp_path / "out", masks="masks", **LUNGS)


def test_masks_beside_the_folders_of_classes(tmp_path):
    for k in range(4):
        paint(tmp_path / "in" / "ab"[k % 2] / f"{k}.png", 50 * k)
        draw(tmp_path / "in" / "masks" / f"{k}.png", lungs(4))
    options = {"class_folders": True, "masks": "masks", "split": (1, 0, 0), "clear_names": True}
    data = load_datalist(prepare(tmp_path / "in", tmp_path / "out", **options, **LUNGS))
    assert data.classes == ("a", "b")
    assert [(item["label"], Path(item["mask"]).name) for item in data] == [
        (0, "0.png"),
        (0, "2.png"),
        (1, "1.png"),
        (1, "3.png"),
    ]


# masks of a second source


@pytest.fixture
def films(tmp_path):
    """Eight films of four patients, each with its lungs beside it, and a table."""
    rows = ["image,patient"]
    for k, pixels in enumerate(radiographs(8, seed=2)):
        draw(tmp_path / "films" / f"f{k}.png", pixels)
        draw(tmp_path / "films" / f"f{k}_lungs.png", lungs())
        rows.append(f"f{k}.png,q{k // 2}")
    (tmp_path / "films" / "t.csv").write_text("\n".join(rows))
    return tmp_path / "films"


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


def test_a_copy_hands_its_mask_to_the_image_with_the_class(films, tmp_path):
    draw(films / "f0.png", radiographs(12)[5])
    for k, pixels in enumerate(radiographs(12)):
        draw(tmp_path / "classes" / f"a{k}.png", pixels)
    table = "\n".join(["image,label", *(f"a{k}.png,{k % 2}" for k in range(12))])
    (tmp_path / "classes" / "t.csv").write_text(table)
    options = {"split": (1, 0, 0), "clear_names": True, "masks": "_lungs", **LUNGS}
    path = prepare(tmp_path / "classes", tmp_path / "files", masked=films, **options)
    assert found(path, "dropped") == {"exact copy of another image": ["masked/f0.png"]}
    item = section(path)["a5.png"]
    assert item["label"] == 1
    assert Path(item["mask"]).samefile(films / "f0_lungs.png")


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


# archives made here


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


def test_a_zip_cannot_write_outside_the_output_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("manifest.csv", "image,label\n../evil.png,0\n")
        file.writestr("../evil.png", b"\x89PNG")
    with pytest.raises(ValueError, match="would be written outside"):
        prepare(tmp_path / "evil.zip", tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


# real data


def test_pneumoniamnist_is_split_anew_by_patient(tmp_path):
    path = prepare(real("pneumoniamnist_28_trainval.npz"), tmp_path)
    items = section(path) | section(path, "validation")
    with zipfile.ZipFile(real("kermany_cxr_224_trainval.zip")) as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file.open("manifest.csv"), encoding="utf-8")))
    patients = {row["id"]: row["patient"] for row in rows}
    assert all(item["group"] == patients[name] for name, item in items.items())
    dropped = found(path, "dropped")
    assert len(dropped["no id, hence no group"]) == 7
    assert len(items) + len(dropped["exact copy of another image"]) == 5232 - 7
    assert "since the source's" in report(path)["split"]


def test_nih_findings_keep_the_publishers_split(tmp_path):
    path = prepare(real("nih_cxr14_64_trainval.npz"), tmp_path)
    assert (len(section(path)), len(section(path, "validation"))) == (725, 94)
    assert report(path)["split"] == "as given by the source"
    assert found(path, "noted") == {"classes that the validation section lacks": ["Hernia"]}


@pytest.mark.slow
def test_nih_in_five_folds_with_the_unlabelled_images(tmp_path):
    source, more = real("nih_cxr14_64_trainval.npz"), real("nih_cxr_64_unlabelled.npz")
    paths = [prepare(source, tmp_path / str(k), folds=5, fold=k) for k in range(5)]
    assert sorted(name for path in paths for name in section(path, "validation")) == sorted(np.load(source)["ids"])
    assert all(140 <= len(section(path, "validation")) <= 180 for path in paths), "the largest patient has 66 images"
    for finding in (0, 2, 3):  # atelectasis, effusion, infiltration
        items = [section(path, "validation").values() for path in paths]
        assert min(len({item["group"] for item in fold if item["label"][finding]}) for fold in items) >= 7
    path = prepare(source, tmp_path / "joined", folds=5, fold=0, unlabeled=more)
    left_out = found(path, "dropped")["unlabeled: near copy of an image that is not in the training section"]
    archive = np.load(more)
    matches = {f"unlabeled/{name}" for name in archive["ids"][archive["matches_labelled_train"]]}
    assert left_out
    assert set(left_out) <= matches, "nothing but what the packager found as well"
    assert section(path, "validation").keys() == section(paths[0], "validation").keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ham10000_28_trainval.npz", "ham10000_200x150_trainval.zip"])
def test_ham10000_keeps_lesions_together(tmp_path, name):
    path = prepare(real(name), tmp_path)
    sections = [section(path), section(path, "validation")]
    assert sum(map(len, sections)) + len(found(path, "dropped")["exact copy of another image"]) == 8005
    assert load_datalist(path).classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert sections[0]["ISIC_0024306"]["group"] == "HAM_0000550"
    assert all(Path(item["image"]).is_file() for items in sections for item in items.values())


@pytest.mark.slow
def test_ham10000_has_classes_and_masks(tmp_path):
    options = {"masks": "mask", "mask_classes": ["background", "lesion"], "split": (0.8, 0.2, 0)}
    path = prepare(real("ham10000_200x150_trainval.zip"), tmp_path / "out", **options, labels=100, mask_labels=10)
    assert load_datalist(path).classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    sections = report(path)["sections"]
    assert [sections["training"][kind] for kind in ("labeled", "masked")] == [100, 10]
    assert sections["validation"]["masked"] == sections["validation"]["items"] > 1500


@pytest.mark.slow
def test_kermany_by_subtype(tmp_path):
    path = prepare(real("kermany_cxr_224_trainval.zip"), tmp_path, label_column="subtype")
    assert load_datalist(path).classes == ("bacteria", "normal", "virus")
    assert report(path)["groups"] == "column 'patient'"


# a folder for inference


def test_list_images_tells_images_from_the_rest(tmp_path):
    paint(tmp_path / "im10.png", 1)
    paint(tmp_path / "im9.png", 2)
    paint(tmp_path / ".hidden.png", 3)
    paint(tmp_path / ".cache" / "x.png", 3)
    (tmp_path / "notes.txt").write_text("no image")
    shutil.copy(sample("DICOMDIR"), tmp_path / "DICOMDIR")
    shutil.copy(sample("MR_small.dcm"), tmp_path / "MR0001")
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(sample("examples_ybr_color.dcm"), study / "us.dcm")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 3), dtype=np.int16), np.eye(4)), study / "v.nii")
    items, unusable, _ = list_images(tmp_path)
    places = [(Path(item["image"]).relative_to(tmp_path).as_posix(), item.get("slice")) for item in items]
    assert places == [
        *(("MR0001", None), ("im9.png", None), ("im10.png", None)),
        *(("study/us.dcm", k) for k in range(30)),
        *(("study/v.nii", k) for k in range(3)),
    ]
    assert unusable == []
    assert not any(name in json.dumps([i["id"] + i["group"] for i in items]) for name in ("MR0001", "im9", "study"))
    assert len({item["id"] for item in items}) == len(items)
    assert items[-1]["id"] == items[-1]["group"] + "#2"
    assert list_images(tmp_path)[0] == items


@pytest.mark.parametrize("cut", [10, 1000])
def test_list_images_gives_the_reason_for_files_that_cannot_be_used(tmp_path, cut):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise).save(tmp_path / "b.jpg")
    for name in ("c.nii", "d.nii.gz"):
        nib.save(nib.Nifti1Image(noise[..., None].repeat(3, axis=2), np.eye(4)), tmp_path / name)
    shutil.copy(sample("CT_small.dcm"), tmp_path / "e.dcm")
    assert not list_images(tmp_path)[1]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-cut])
    shutil.copy(sample("MR_truncated.dcm"), tmp_path / "f.dcm")
    shutil.copy(sample("liver_1frame.dcm"), tmp_path / "g.dcm")
    shutil.copy(sample("reportsi.dcm"), tmp_path / "h.dcm")
    (tmp_path / "i.png").write_bytes(b"")
    items, unusable, _ = list_images(tmp_path)
    left = {Path(item["image"]).name for item in items}
    assert left <= ({"e.dcm"} if cut == 10 else set())  # ten bytes of padding are no loss
    unusable = {Path(bad["image"]).name: bad["reason"] for bad in unusable}
    assert {name[0] for name in unusable} >= set("abcdfghi")
    assert not any(str(tmp_path) in reason for reason in unusable.values())
    assert all("cut short" in unusable[name] for name in ("a.png", "b.jpg", "c.nii", "d.nii.gz", "f.dcm"))
    assert "segmentation" in unusable["g.dcm"]
    assert "a report" in unusable["h.dcm"]


def test_list_images_of_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list_images(tmp_path / "none")


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


@pytest.fixture
def holes(tmp_path):
    """Volumes with NaN around them, NaN inside, infinity, and none of these, with a mask each."""
    (tmp_path / "in").mkdir()
    for name in ("around", "inside", "infinite", "whole"):
        voxels = np.arange(210, dtype=np.float32).reshape(5, 6, 7) + len(name)
        place, value = {"around": (0, np.nan), "inside": ((2, 2, 2), np.nan), "infinite": (0, np.inf)}.get(name, (0, 1))
        voxels[place] = value
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
        mask = (voxels > 100).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "in" / f"{name}_seg.nii.gz")
    return tmp_path / "in"


def test_images_with_values_that_are_no_numbers_are_left_out_and_listed(holes, tmp_path):
    options = {"masks": "_seg", "split": (1, 0, 0), "clear_names": True, "volumes": True}
    path = prepare(holes, tmp_path / "out", **options)
    assert list(section(path)) == ["whole.nii.gz"]
    aside = {bad["id"]: bad["reason"] for bad in json.loads(path.read_text())["quarantine"]}
    assert set(aside) == {"around.nii.gz", "inside.nii.gz", "infinite.nii.gz"}
    assert "42 NaN" in aside["around.nii.gz"] and "nan: background" in aside["around.nii.gz"]
    path = prepare(holes, tmp_path / "again", **options, nan="background")
    assert {name: bool(item["label"]) for name, item in section(path).items()} == {
        "around.nii.gz": True,
        "whole.nii.gz": True,
    }
    noted = json.loads((path.parent / "prepare_report.json").read_text())["noted"]
    assert noted["NaN around an image, read as background"]["items"] == ["around.nii.gz: 20.00% of its voxels"]
