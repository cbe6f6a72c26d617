"""From a folder or an archive to a datalist."""

import json
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from support_prepare import COLUMNS, LUNGS, draw, found, lungs, paint, report, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


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


def test_the_order_of_grades_is_never_guessed(folder, tmp_path):
    with pytest.raises(ValueError, match=r"grades have an order, .* \['ill', 'normal'\]; name them all in `classes`"):
        prepare(folder, tmp_path / "out", **COLUMNS, label_kind="grades")
    named = load_datalist(prepare(folder, tmp_path / "out", **COLUMNS, label_kind="grades", classes=["normal", "ill"]))
    assert (named.label_kind, named.classes, named[0]["label"]) == ("grades", ("normal", "ill"), 0)
    table = (folder / "labels.csv").read_text().replace("normal", "10").replace("ill", "9")
    (folder / "labels.csv").write_text(table)
    assert load_datalist(prepare(folder, tmp_path / "out", **COLUMNS, label_kind="grades")).classes == ("9", "10")


def test_a_set_to_measure_on_has_no_training_section(folder, tmp_path):
    path = prepare(folder, tmp_path / "out", **COLUMNS, split=(0, 0, 1))
    content = json.loads(path.read_text())
    assert [name for name in ("training", "validation", "testing") if name in content] == ["testing"]
    assert content["modality"] == {"0": "image"}
    with pytest.raises(ValueError, match="are for the training section, and this split has none"):
        prepare(folder, tmp_path / "other", **COLUMNS, split=(0, 0, 1), labels=2)


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


def test_a_zip_cannot_write_outside_the_output_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("manifest.csv", "image,label\n../evil.png,0\n")
        file.writestr("../evil.png", b"\x89PNG")
    with pytest.raises(ValueError, match="would be written outside"):
        prepare(tmp_path / "evil.zip", tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


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
