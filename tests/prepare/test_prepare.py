"""From a folder or an archive to a datalist."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from support_prepare import COLUMNS, paint, report, section

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
