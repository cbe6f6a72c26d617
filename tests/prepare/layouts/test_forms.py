"""Tables that say something else than a label in a row for an image."""

import json

import numpy as np
import pytest
from PIL import Image

from medssl_monai.data.datalist import load_datalist
from medssl_monai.phantoms.files import write_dicom
from medssl_monai.prepare.prepare import prepare

KNOWN = {"split": (1, 0, 0), "clear_names": True}


@pytest.fixture
def make(tmp_path):
    """Writes images ``0.png`` ... and a table; returns what `prepare` makes of them, and the report."""

    def _make(lines, images=40, **options):
        (tmp_path / "in").mkdir(exist_ok=True)
        for k in range(images):
            pixels = np.full((4, 4), k, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / f"{k}.png")
        (tmp_path / "in" / "t.csv").write_text("\n".join(lines), encoding="utf-8")
        path = prepare(tmp_path / "in", tmp_path / "out", **{**KNOWN, **options})
        return load_datalist(path), json.loads((path.parent / "prepare_report.json").read_text())

    return _make


def rows(cell, count=40):
    return [f"{k}.png,{cell(k)}" for k in range(count)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            rows(lambda k: "ab"[k % 2]) + rows(lambda k: "ba"[k % 2], 3),
            r"3 of 40 images have several rows with different",
        ),
        (rows(lambda k: "a|b" if k == 7 else "a"), r"several values per image, such as 'a\|b' with '\|' between"),
        (rows(lambda k: ["a", "b", '"a, b"'][k % 3]), r"several values per image, such as 'a, b' with ','"),
        (rows(lambda k: f"0.{k}7"), r"holds numbers such as '0\.07': probabilities"),
        (rows(lambda k: f"{k + 5}%"), r"holds numbers such as '5%': probabilities"),
        (rows(lambda k: ["a", "b", "a b"][k % 3]), r"several values per image, such as 'a b' with ' '"),
        (rows(lambda k: ["a", "b", "b and a"][k % 3]), r"several values per image, such as 'b and a' with 'and'"),
        (
            rows(lambda k: "a" if k % 9 else "b, left"),
            r"5 of 40 rows have another number of cells .* the first is row 2",
        ),
        (rows(lambda k: f"0,{k}"), r"40 of 40 rows have another number of cells than the header"),
        (rows(lambda k: "['a']"), r"several values per image, such as \"\['a'\]\""),
        (rows(lambda k: ["1", "01", "0"][k % 3]), r"holds '0?1' and '0?1', which are one number"),
        (rows(lambda k: f"1.{k}e-3"), r"holds numbers such as '1\.0e-3': probabilities"),
        (rows(lambda k: f"text {k}"), r"holds 40 different texts in 40 rows, such as 'text 0', and classes are few"),
        (rows(lambda k: "one" if k % 9 == 0 else k % 2), r"of 40 labels .* 5 are no numbers and the others are"),
        (rows(lambda k: ["ill", "Ill"][k % 2]), r"the class 'ill' is there as 'Ill' already"),
        (rows(lambda k: ["ill", "$HOME"][k % 2]), r"the class '\$HOME' begins with '\$'"),
        (
            [f"other/{k}.png,a" for k in range(3)],
            r"none of the 3 rows names a file below .*'image' holds 'other/0\.png'",
        ),
    ],
)
def test_what_is_no_label_of_an_image_stops_and_is_shown(make, lines, message):
    with pytest.raises(ValueError, match=message):
        make(["image,label", *lines])


def test_a_name_with_a_sign_is_a_class_like_any_other(make):
    data, _ = make(["image,label", *rows(lambda k: ['"nevus, benign"', "a/b", "+", "-"][k % 4])])
    assert data.classes == ("+", "-", "a/b", "nevus, benign")


def test_classes_that_are_named_are_classes_whatever_they_look_like(make):
    data, _ = make(["image,label", *rows(lambda k: ["0.5", "a|b"][k % 2])], classes=("0.5", "a|b"))
    assert [item["label"] for item in data][:2] == [0, 1]


def test_one_slip_costs_its_row_alone(make):
    lines = [*rows(lambda k: "odd" if k == 3 else k % 2), "4.png,1"]
    data, report = make(["image,label", *lines])
    assert [item.get("label") for item in data][2:6] == [0, None, None, 1]
    assert report["noted"]["label that is no class"]["items"] == ["row 5"]
    assert report["noted"]["rows of one file that contradict in label"]["items"] == ["rows 6 and 42"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (lambda k: "0.9,0", r"'mass' holds numbers such as '0\.9': probabilities"),
        (
            lambda k: "yes,0",
            r"40 cells of the findings are neither 1, 0, -1 nor empty, such as 'yes' in the column 'mass'",
        ),
    ],
)
def test_findings_are_1_0_minus_1_or_nothing(make, cells, message):
    with pytest.raises(ValueError, match=message):
        make(["image,mass,edema", *rows(cells)], label_column="mass,edema")


def test_columns_that_exclude_each_other_are_said(make):
    one_hot = [["1.0", "0.0"], ["0.0", "1.0"]]
    data, report = make(["image,mass,edema", *rows(lambda k: ",".join(one_hot[k % 2]))], label_column="mass,edema")
    assert [item["label"] for item in data][:2] == [[1, 0], [0, 1]]
    [said] = [what for what in report["noted"] if "exactly one is 1 in each row" in what]
    assert report["noted"][said]["items"] == ["mass", "edema"]
    _, report = make(["image,mass,edema", *rows(lambda k: ["1,0", "1,1", "0,1"][k % 3])], label_column="mass,edema")
    assert not any("exactly one" in what for what in report["noted"])


@pytest.mark.parametrize(("column", "cell"), [("PatientID", "p0{}"), ("SeriesInstanceUID", "1.2.{}"), ("pid", "P0{}")])
def test_a_table_by_patient_or_uid_is_known_as_such(tmp_path, column, cell):
    (tmp_path / "in").mkdir()
    for k in range(3):
        header = {
            "InstanceNumber": 1,
            "SeriesDescription": "x",
            "PixelSpacing": [1, 1],
            "SeriesInstanceUID": f"1.2.{k}",
        }
        write_dicom(
            tmp_path / "in" / f"{k}.dcm", np.ones((4, 6), np.uint16), "CR", "MONOCHROME2", header, f"P0{k}", "s"
        )
    lines = [f"{column},label", *(f"{cell.format(k)},{'ab'[k % 2]}" for k in range(3))]
    (tmp_path / "in" / "t.csv").write_text("\n".join(lines))
    told = "PatientID" if column == "pid" else column
    with pytest.raises(
        ValueError, match=rf"the column '{column}' holds .* the {told} of a DICOM file; it must hold the path"
    ):
        prepare(tmp_path / "in", tmp_path / "out", image_column=column, **KNOWN)
    assert not (tmp_path / "out" / "datalist.json").exists()


# columns that happen to be called so


def test_a_column_id_that_repeats_is_none_of_ids(make):
    data, report = make(["image,label,id", *rows(lambda k: f"{k % 2},{k % 5}")])
    assert [item["id"] for item in data][:2] == ["0.png", "1.png"] and data[3]["meta"] == {"id": "3"}
    [said] = [what for what in report["noted"] if "--id_column" in what]
    assert report["noted"][said]["items"] == ["id"]


def test_a_column_split_that_names_no_sections_is_no_split(make):
    data, report = make(["image,label,split", *rows(lambda k: f"{k % 2},{k % 5}")])
    assert len(data) == 40 and data[3]["meta"] == {"split": "3"}
    assert any("--split_column" in what for what in report["noted"])


def test_a_column_split_with_a_slip_stops(make):
    lines = rows(lambda k: f"{k % 2},{'trian' if k == 5 else 'train' if k < 30 else 'val'}")
    with pytest.raises(ValueError, match=r"the column 'split' names sections, and in row 7 holds 'trian'"):
        make(["image,label,split", *lines], split=None)
    data, report = make(["image,label,split", *lines], split=None, split_column="split")
    assert len(data) == 29 and report["dropped"]["split that is neither train, val nor test"]["items"] == ["row 7"]


def test_a_column_slice_beside_images_is_a_remark(make):
    data, _ = make(["image,label,slice", *rows(lambda k: f"{k % 2},{k + 10}")])
    assert [item["label"] for item in data][:3] == [0, 1, 0]


# rows


def test_rows_with_names_alone_label_nothing_if_others_have_the_name_too(tmp_path):
    (tmp_path / "in" / "P1").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(np.full((4, 4), k, dtype=np.uint8)).save(tmp_path / "in" / "P1" / f"{k}.png")
    (tmp_path / "in" / "t.csv").write_text("image,label\n0.png,a\n0.png,b\n1.png,a\n2.png,b\n2.png,b\n")
    path = prepare(tmp_path / "in", tmp_path / "out", **KNOWN)
    assert [item.get("label") for item in load_datalist(path)] == [None, 0, 1]
    dropped = json.loads((path.parent / "prepare_report.json").read_text())["dropped"]
    assert dropped["row with a file name alone, which others have too"]["items"] == ["row 2", "row 3"]


def test_spellings_of_a_patient_are_one_group_and_are_listed(make):
    lines = rows(lambda k: f"{k % 2},{[f'{k // 3}', f'{k // 3}.0', f'0{k // 3}'][k % 3]}", 12)
    data, report = make(["image,label,patient", *lines], images=12)
    assert [item["group"] for item in data] == [str(k // 3) for k in range(12)]
    assert report["merged_groups"] == [f"'{k}' = '0{k}' (3 images)" for k in range(4)]
    data, report = make(["image,label,patient", *lines], images=12, groups_as_written=True)
    assert [item["group"] for item in data][:3] == ["0", "0", "00"] and report["merged_groups"] == []


def test_groups_that_look_like_dates_are_named(make):
    _, report = make(["image,label,patient", *rows(lambda k: f"{k % 2},{'1-Mar' if k == 4 else f'p{k}'}")])
    assert report["noted"]["group that looks like a date, as spreadsheets make of numbers"]["items"] == ["row 6"]


@pytest.mark.parametrize("texts", [["T2", "T2 FLAIR", "T1"], ["left", "right", "left/lower"], ["00", "01"], ["+", "-"]])
def test_classes_that_are_no_lists(make, texts):
    data, report = make(["image,label", *rows(lambda k: texts[k % len(texts)])])
    assert set(data.classes) == set(texts)
    assert report["noted"] == {}


def test_texts_that_may_mean_nothing_are_named(make):
    data, report = make(["image,label", *rows(lambda k: ["ill", "well", "unknown", "None"][k % 4])])
    assert data.classes == ("ill", "unknown", "well")
    (odd,) = [entry["items"] for why, entry in report["noted"].items() if "may stand for no label" in why]
    assert odd == ["'unknown' in 10 rows"]
    (none,) = [entry["count"] for why, entry in report["noted"].items() if why.startswith("'None', which is read as")]
    assert none == 10


@pytest.mark.parametrize(
    "header", ["image,Label,label", "image,label,LABEL ", "Image,image,label", "image,label,ID,id"]
)
def test_two_columns_that_differ_in_case_alone(make, header):
    with pytest.raises(ValueError, match="may both be"):
        make([header, *rows(lambda k: f"{'ab'[k % 2]},{k},x" if header.endswith("id") else f"{'ab'[k % 2]},x")])


def test_columns_are_known_however_their_names_are_written(make):
    data, _ = make(["Image,Label,Patient ID", *rows(lambda k: f"{'ab'[k % 2]},P{k // 2}")])
    assert data.classes == ("a", "b")
    assert len({item["group"] for item in data}) == 20


def test_names_of_classes_that_contradict_each_other_are_not_used(make):
    data, report = make(["image,label,label_name", *rows(lambda k: f"{k % 2},{['ill', 'well', 'odd'][k % 3]}")])
    assert data.classes == ("0", "1")
    assert report["noted"]["column that has not one name for each label, and is not used; rename or mend it"]
    data, report = make(["image,label,label_name", *rows(lambda k: f"{k % 2},{['ill', 'well'][k % 2]}")])
    assert data.classes == ("ill", "well") and report["noted"] == {}


def test_an_index_beyond_all_classes_takes_no_memory(make):
    with pytest.raises(ValueError, match="max_classes"):
        make(["image,label,label_name", "0.png,0,a", f"1.png,{10**15},b"])


def test_rows_of_patients_that_have_slipped_are_noted(tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(4):
        header = {"InstanceNumber": 1, "SeriesDescription": "x"}
        pixels = np.full((4, 4), k, np.uint16)
        write_dicom(tmp_path / "in" / f"{k}.dcm", pixels, "CR", "MONOCHROME2", header, f"P{k}", f"s{k}")
    lines = ["image,patient,label", "0.dcm,p1,a", "1.dcm,P0,b", "2.dcm,P02,a", "3.dcm,other,b"]
    (tmp_path / "in" / "t.csv").write_text("\n".join(lines))
    path = prepare(tmp_path / "in", tmp_path / "out", **KNOWN)
    noted = json.loads((path.parent / "prepare_report.json").read_text())["noted"]
    reason = "row whose patient is not the PatientID of its DICOM file, which other rows have"
    assert noted[reason]["items"] == ["row 2", "row 3"]
