import csv
import io

import numpy as np
import pytest
from PIL import Image

from medssl_monai.prepare.layouts import chest
from medssl_monai.prepare.layouts.request import Request

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


def request(folder, **options):
    return Request(folder, folder.parent / "out", **options)


def labels_of(found):
    return {item["id"]: item.get("label") for item in found.items}


# CheXpert


def chexpert_table(rows):
    """Rows of path, observations that are not blank, and metadata, as the publisher writes them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["Path", *chest.CHEXPERT_META, *chest.CHEXPERT], restval="", lineterminator="\n")
    writer.writeheader()
    meta = {"Sex": "Female", "Age": 68, "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    writer.writerows({"Path": f"CheXpert-v1.0-small/{path}", **meta, **labels} for path, labels in rows)
    return text.getvalue()


@pytest.fixture
def chexpert(tmp_path):
    """Two studies of patient 1, one of patient 2, and patient 64541 to validate on."""
    root = tmp_path / "CheXpert-v1.0-small"
    tables = {
        "train.csv": [
            ("train/patient00001/study1/view1_frontal.jpg", {"No Finding": "1.0", "Support Devices": "1.0"}),
            ("train/patient00001/study2/view1_frontal.jpg", {"Edema": "-1.0", "Pneumonia": "0.0", "Fracture": "1.0"}),
            ("train/patient00002/study1/view2_lateral.jpg", {}),
        ],
        "valid.csv": [("valid/patient64541/study1/view1_frontal.jpg", dict.fromkeys(chest.CHEXPERT, "0.0"))],
    }
    for k, (name, rows) in enumerate(tables.items()):
        for m, (path, _) in enumerate(rows):
            paint(root / path, 50 * k + 10 * m)
        (root / name).write_text(chexpert_table(rows))
    return root


def of(label, *names):
    return [label[chest.CHEXPERT.index(name)] for name in names]


def test_chexpert_patient_section_and_findings(chexpert):
    assert chest.fits_chexpert(chexpert)
    assert not chest.fits_chestxray14(chexpert)
    found = chest.read_chexpert(request(chexpert))
    first, second, third, valid = found.items
    assert [item["id"] for item in found.items] == [
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00001/study2/view1_frontal.jpg",
        "train/patient00002/study1/view2_lateral.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ]
    assert [item["group"] for item in found.items] == ["patient00001", "patient00001", "patient00002", "patient64541"]
    assert [found.sections[item["id"]] for item in found.items] == ["training"] * 3 + ["validation"]
    assert found.classes == chest.CHEXPERT
    assert len(found.classes) == 14
    assert of(first["label"], "No Finding", "Support Devices", "Edema") == [1, 1, -1]
    assert of(second["label"], "Edema", "Pneumonia", "Fracture", "Cardiomegaly") == [-1, 0, 1, -1]
    assert "label" not in third  # nothing is known of it
    assert valid["label"] == [0] * 14
    assert first["meta"] == {"Sex": "Female", "Age": "68", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    assert (chexpert.parent / "out" / first["image"]).resolve() == chexpert / first["id"]
    assert found.noted == {"no label": ["train/patient00002/study1/view2_lateral.jpg"]}
    assert found.dropped == {}
    assert found.grouping == "patient, read from the path"


@pytest.mark.parametrize(
    ("uncertain", "blank", "label", "empty"),
    [
        ("ignore", "ignore", [-1, 0, 1, -1], None),
        ("zero", "ignore", [0, 0, 1, -1], None),
        ("one", "ignore", [1, 0, 1, -1], None),
        ("ignore", "zero", [-1, 0, 1, 0], [0] * 14),
        ("one", "zero", [1, 0, 1, 0], [0] * 14),
        ("zero", "one", [0, 0, 1, 1], [1] * 14),
    ],
)
def test_policies_for_uncertain_and_blank(chexpert, uncertain, blank, label, empty):
    _, second, third, _ = chest.read_chexpert(request(chexpert, uncertain=uncertain, blank=blank)).items
    assert of(second["label"], "Edema", "Pneumonia", "Fracture", "Cardiomegaly") == label
    assert third.get("label") == empty


def test_some_findings_in_an_order_of_ones_own(chexpert):
    found = chest.read_chexpert(request(chexpert, classes=("Fracture", "Edema")))
    assert found.classes == ("Fracture", "Edema")
    assert labels_of(found)["train/patient00001/study2/view1_frontal.jpg"] == [1, -1]
    with pytest.raises(ValueError, match="'Hernia' is no finding of this set; it has"):
        chest.read_chexpert(request(chexpert, classes=("Hernia", "Edema")))
    with pytest.raises(ValueError, match="for 'Edema' against the rest, name it as `positive`"):
        chest.read_chexpert(request(chexpert, classes=("Edema",)))


def test_bad_rows_are_named_by_table_row_and_column(chexpert):
    rows = [
        ("train/patient00001/study1/view1_frontal.jpg", {"Edema": "maybe", "Fracture": "1.0"}),
        ("train/gone/study1/view1_frontal.jpg", {"Edema": "1.0"}),
        ("train/patient00009/study1/view1_frontal.jpg", {"Edema": "1.0"}),
    ]
    (chexpert / "train.csv").write_text(chexpert_table(rows) + "short,row\n")
    found = chest.read_chexpert(request(chexpert))
    assert of(found.items[0]["label"], "Edema", "Fracture") == [-1, 1]
    assert found.noted == {"Edema: neither 1, 0, -1 nor blank": ["train.csv, row 2"]}
    assert found.dropped == {
        "Path: not .../train/patient00001/study1/view1_frontal.jpg": ["train.csv, row 3"],
        "row whose file is missing": ["train.csv, row 4"],
        "row with another number of cells than the header, or an open quote": ["train.csv, row 5"],
        "file without a row": [
            "train/patient00001/study2/view1_frontal.jpg",
            "train/patient00002/study1/view2_lateral.jpg",
        ],
    }


def test_odd_value_stays_unknown_whatever_blank_counts_as(chexpert):
    rows = [("train/patient00001/study1/view1_frontal.jpg", {"Edema": "2", "Fracture": "1.0"})]
    (chexpert / "train.csv").write_text(chexpert_table(rows))
    found = chest.read_chexpert(request(chexpert, uncertain="one", blank="zero"))
    assert of(found.items[0]["label"], "Edema", "Fracture", "Cardiomegaly") == [-1, 1, 0]


def test_table_of_ones_own_choice_takes_the_place_of_both(chexpert):
    table = chexpert.parent / "few.csv"
    table.write_text(chexpert_table([("train/patient00002/study1/view2_lateral.jpg", {"Edema": "1.0"})]))
    found = chest.read_chexpert(request(chexpert, table=table))
    assert [item["group"] for item in found.items] == ["patient00002"]
    assert len(found.dropped["file without a row"]) == 3
    table.write_text("Path,Edema\nx,1\n")
    with pytest.raises(ValueError, match=r"few\.csv has no column 'No Finding', only \['Path', 'Edema'\]"):
        chest.read_chexpert(request(chexpert, table=table))


@pytest.mark.parametrize(
    "options", [{"label_column": "Edema"}, {"group_column": "Sex"}, {"id_column": "Path"}, {"image_column": "Path"}]
)
def test_columns_are_not_for_the_caller_to_name(chexpert, options):
    with pytest.raises(ValueError, match="name findings as `classes`, and no columns"):
        chest.read_chexpert(request(chexpert, **options))


def test_empty_tables_hold_nothing(chexpert):
    for name in chest.CHEXPERT_TABLES:
        (chexpert / name).write_text(chexpert_table([]))
    found = chest.read_chexpert(request(chexpert))
    assert found.items == []
    assert len(found.dropped["file without a row"]) == 4


# ChestX-ray14


@pytest.fixture
def nih(tmp_path):
    """Three patients in two of NIH's folders; the third is theirs to test on."""
    root = tmp_path / "nih"
    rows = [
        "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,",
        "00000002_000.png,No Finding,0,2,80,M,PA,2500,2048,0.171,0.171,",
        "00000013_000.png,Pleural_Thickening|Hernia,0,13,60,F,AP,2500,2048,0.168,0.168,",
    ]
    root.mkdir()
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([NIH_HEADER, *rows]) + "\n")
    names = [row.split(",")[0] for row in rows]
    for k, name in enumerate(names):
        paint(root / f"images_{1 + k // 2:03d}" / "images" / name, 20 * k)
    (root / "train_val_list.txt").write_text("\n".join(names[:3]) + "\n")
    (root / "test_list.txt").write_text(names[3] + "\n")
    return root


def test_chestxray14_findings_patients_and_published_test(nih):
    assert chest.fits_chestxray14(nih)
    assert not chest.fits_chexpert(nih)
    found = chest.read_chestxray14(request(nih))
    assert found.classes == chest.CHESTXRAY14
    present = {
        name: [found.classes[k] for k, value in enumerate(label) if value] for name, label in labels_of(found).items()
    }
    assert present == {
        "00000001_000.png": ["Cardiomegaly"],
        "00000001_001.png": ["Cardiomegaly", "Emphysema"],
        "00000002_000.png": [],
        "00000013_000.png": ["Pleural_Thickening", "Hernia"],
    }
    assert all(set(label) <= {0, 1} for label in labels_of(found).values())
    assert [item["group"] for item in found.items] == ["1", "1", "2", "13"]
    assert list(found.sections.values()) == ["training"] * 3 + ["testing"]
    assert found.items[0]["meta"] == {
        **{"Follow-up #": "0", "Patient Age": "57", "Patient Gender": "M", "View Position": "PA"},
    }
    assert found.noted == found.dropped == {}
    assert found.grouping == "column 'Patient ID'"


def test_patients_of_many_digits_stay_apart(nih):
    text = (nih / "Data_Entry_2017_v2020.csv").read_text()
    changed = text.replace("png,No Finding,0,2,", f"png,No Finding,0,{'9' * 5000},").replace(",0,13,", ",0,0000,")
    (nih / "Data_Entry_2017_v2020.csv").write_text(changed)
    assert [item["group"] for item in chest.read_chestxray14(request(nih)).items] == ["1", "1", "9" * 5000, "0000"]


def test_lists_of_the_split_in_other_encodings(nih):
    text = (nih / "test_list.txt").read_text()
    (nih / "test_list.txt").write_text(text, encoding="utf-16")
    assert list(chest.read_chestxray14(request(nih)).sections.values()) == ["training"] * 3 + ["testing"]
    (nih / "test_list.txt").write_bytes(b"\x81\0\x8d")
    with pytest.raises(ValueError, match=r"test_list\.txt is no text"):
        chest.read_chestxray14(request(nih))


def test_order_of_the_findings_is_that_of_the_packaged_images(real_data):
    path = real_data / "nih_cxr14_64_trainval.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {real_data}")
    with np.load(path) as file:
        assert tuple(file["label_names"].tolist()) == chest.CHESTXRAY14


def test_without_the_lists_there_is_no_split_of_the_publishers(nih):
    for name in chest.NIH_LISTS:
        (nih / name).unlink()
    found = chest.read_chestxray14(request(nih))
    assert found.sections == {}
    assert len(found.items) == 4


def test_lists_must_agree(nih):
    (nih / "test_list.txt").write_text("00000001_000.png\n00000013_000.png\n")
    with pytest.raises(ValueError, match=r"1 images are in both train_val_list\.txt and test_list\.txt"):
        chest.read_chestxray14(request(nih))
    (nih / "test_list.txt").unlink()
    with pytest.raises(ValueError, match=r"there is only train_val_list\.txt of"):
        chest.read_chestxray14(request(nih))


def test_bad_rows_of_chestxray14(nih):
    path = nih / "Data_Entry_2017_v2020.csv"
    text = path.read_text().replace("No Finding", "Covid|Mass").replace("Cardiomegaly|Emphysema", "")
    text = text.replace("Hernia,0,13,", "Hernia,0,,")
    path.write_text(text + "00000099_000.png,Mass,0,99,1,M,PA,1,1,1,1,\n")
    with (nih / "train_val_list.txt").open("a") as file:
        file.write("00000007_000.png\n")
    paint(nih / "images_001" / "images" / "00000007_000.png", 200)
    found = chest.read_chestxray14(request(nih))
    assert labels_of(found)["00000002_000.png"] is labels_of(found)["00000001_001.png"] is None
    assert found.noted == {
        "Finding Labels: none of the 14 findings": ["Data_Entry_2017_v2020.csv, row 4"],
        "no label": ["00000001_001.png", "00000002_000.png"],
    }
    assert found.dropped == {
        "Image Index: in neither list of the split": ["Data_Entry_2017_v2020.csv, row 6"],
        "no group in its row; fill it in": ["Data_Entry_2017_v2020.csv, row 5"],
        "file without a row": ["images_001/images/00000007_000.png"],
    }


def test_two_releases_of_the_labels_are_a_choice(nih):
    text = (nih / "Data_Entry_2017_v2020.csv").read_text()
    (nih / "Data_Entry_2017.csv").write_text(text.replace("|Emphysema", "").replace(",1,57", ",00000001,57"))
    with pytest.raises(ValueError, match=r"several tables.*name one as `table`"):
        chest.read_chestxray14(request(nih))
    found = chest.read_chestxray14(request(nih, table=nih / "Data_Entry_2017.csv"))
    assert sum(labels_of(found)["00000001_001.png"]) == 1
    assert found.items[0]["group"] == "1"  # however many zeros a release writes


def test_missing_column_is_named(nih):
    path = nih / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace("Patient ID", "Patient"))
    with pytest.raises(ValueError, match=r"Data_Entry_2017_v2020\.csv has no column 'Patient ID'"):
        chest.read_chestxray14(request(nih))


def test_other_folders_do_not_fit(tmp_path):
    (tmp_path / "train.csv").write_text("image,label\n")
    (tmp_path / "valid.csv").write_text("")
    assert not chest.fits_chexpert(tmp_path)
    assert not chest.fits_chestxray14(tmp_path)
