import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.layouts.listing import list_images
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader


def slices(folder, series, patient, positions=range(4), value=0):
    """A DICOM series whose file names are in no useful order; slice z holds the grey value ``value + 10 z``."""
    folder.mkdir(parents=True, exist_ok=True)
    for z in positions:
        ds = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
        ds.PatientID, ds.PatientName = patient, f"Name of {patient}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", f"1.2.3.{series}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{z + 1}"
        ds.InstanceNumber = 100 - z
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * z]
        ds.PixelData = np.full((64, 64), value + 10 * z, dtype=np.int16).tobytes()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.save_as(folder / f"IM{(7 * z + 3) % 10}_{series}")


def paint(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


def run(source, out, **options):
    path = prepare(source, out, **{"split": (1, 0, 0), **options})
    report = json.loads((path.parent / "prepare_report.json").read_text())
    return load_datalist(path), report


def greys(items):
    """Grey value of each item, read as training reads it."""
    values = []
    for item in items:
        pixels, _ = ClinicalReader().get_data([Path(item["image"])])
        values.append(float(pixels[..., item["slice"]].mean() if "slice" in item else pixels.mean()))
    return values


def test_a_series_is_a_volume_sorted_by_geometry(tmp_path):
    slices(tmp_path / "in" / "Doe" / "t2", 1, "Doe-1")
    slices(tmp_path / "in" / "Roe" / "t2", 2, "Roe-2", value=100)
    data, report = run(tmp_path / "in", tmp_path / "out")
    assert greys(data) == [0, 10, 20, 30, 100, 110, 120, 130]
    assert [item["slice"] for item in data] == [0, 1, 2, 3] * 2
    assert len({item["group"] for item in data}) == 2
    assert not (tmp_path / "out" / "series").exists()
    assert "PatientID" in report["groups"]


def test_volumes_can_stay_whole(tmp_path):
    slices(tmp_path / "in" / "a", 1, "A")
    data, _ = run(tmp_path / "in", tmp_path / "out", volumes=True)
    assert [("slice" in item, Path(item["image"]).name) for item in data] == [(False, "a")]
    assert ClinicalReader().get_data([Path(data[0]["image"])])[0].shape == (1, 64, 64, 4)


def test_series_that_share_a_folder_get_folders_of_their_own(tmp_path):
    slices(tmp_path / "in", 1, "A")
    slices(tmp_path / "in", 2, "A", value=100)
    paint(tmp_path / "in" / "photo.png", 7)
    data, _ = run(tmp_path / "in", tmp_path / "out")
    assert sorted(greys(data)) == [0, 7, 10, 20, 30, 100, 110, 120, 130]
    assert len(list((tmp_path / "out" / "series").iterdir())) == 2
    assert len({item["group"] for item in data}) == 2  # the patient, and the photo
    first = {item["id"] for item in data}
    assert {item["id"] for item in run(tmp_path / "in", tmp_path / "out")[0]} == first


def test_the_same_files_elsewhere_have_the_same_names(tmp_path):
    slices(tmp_path / "in" / "a", 1, "A")
    ids = [item["id"] for item in run(tmp_path / "in", tmp_path / "out")[0]]
    shutil.copytree(tmp_path / "in", tmp_path / "there" / "deeper")
    assert [item["id"] for item in run(tmp_path / "there", tmp_path / "out2")[0]] == ids
    other = run(tmp_path / "in", tmp_path / "out3", key_file=tmp_path / "key")[0]
    assert not set(ids) & {item["id"] for item in other}


def test_a_series_with_a_gap_is_refused_and_the_gap_named(tmp_path):
    slices(tmp_path / "in" / "Doe", 1, "Doe", positions=[0, 1, 2, 4, 5])
    slices(tmp_path / "in" / "b", 2, "B")
    (tmp_path / "in" / "t.csv").write_text("image,label\nDoe,ill\nb,ill\n")
    data, report = run(tmp_path / "in", tmp_path / "out")
    assert len(data) == 4
    (bad,) = report["dropped"]["file that cannot be used"]["items"]
    assert "6.0 and 12.0 mm" in bad and "Doe" not in bad
    assert report["dropped"]["row whose file cannot be used"]["items"] == ["row 2"]
    quarantine = json.loads((tmp_path / "out" / "datalist.json").read_text())["quarantine"]
    assert [Path(entry["image"]).name for entry in quarantine] == ["Doe"]


@pytest.mark.parametrize("row", ["{folder}", "{folder}/IM3_1", "IM3_1"])
def test_a_row_names_a_series_by_its_folder_or_by_any_of_its_files(tmp_path, row):
    slices(tmp_path / "in" / "a", 1, "A")
    slices(tmp_path / "in" / "b", 2, "B", value=100)
    (tmp_path / "in" / "t.csv").write_text(f"image,label\n{row.format(folder='a')},ill\nb,well\n")
    data, report = run(tmp_path / "in", tmp_path / "out")
    assert [item["label"] for item in data] == [0] * 4 + [1] * 4
    one_of_its_files = "row that names one file of a series or a copy, and stands for the image itself"
    assert (one_of_its_files in report["noted"]) == ("IM" in row)


def test_a_table_may_label_every_slice(tmp_path):
    slices(tmp_path / "in" / "a", 1, "A")
    rows = [f"a/IM{(7 * z + 3) % 10}_1,{'high' if z == 2 else 'low'}" for z in range(3)]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,label", *rows]))
    data, report = run(tmp_path / "in", tmp_path / "out")
    labels = dict(zip(greys(data), [item.get("label") for item in data], strict=True))
    assert labels == {0: 1, 10: 1, 20: 0, 30: None}
    assert len({item["group"] for item in data}) == 1  # the patient
    assert report["noted"]["file without a row"]["count"] == 1


def test_images_of_one_patient_stay_in_one_section(tmp_path):
    for k in range(8):
        slices(tmp_path / "in" / f"s{k}", k + 1, f"P{k // 2}", positions=range(2), value=k)
    rows = [f"s{k},{'ab'[k // 4]}" for k in range(8)]
    (tmp_path / "in" / "t.csv").write_text("\n".join(["image,label", *rows]))
    path = prepare(tmp_path / "in", tmp_path / "out", split=(0.5, 0.5, 0))
    training, validation = load_datalist(path), load_datalist(path, "validation")
    assert len(training) == len(validation) == 8
    assert not {item["group"] for item in training} & {item["group"] for item in validation}


def test_classes_and_sections_by_folder(tmp_path):
    grey = iter(range(256))
    for part, count in (("train", 5), ("test", 1)):
        for label in ("NORMAL", "PNEUMONIA"):
            for k in range(count):
                paint(tmp_path / "in" / part / label / f"{label}{k}.png", next(grey))
    training, report = run(tmp_path / "in", tmp_path / "out", class_folders=True, clear_names=True, split=None)
    parts = [training, *(load_datalist(tmp_path / "out" / "datalist.json", name) for name in ("validation", "testing"))]
    assert training.classes == ("NORMAL", "PNEUMONIA")
    assert [[item["label"] for item in part] for part in parts] == [[0] * 4 + [1] * 4, [0, 1], [0, 1]]
    assert all(item["id"].startswith("test/") for item in parts[2])
    assert "validation taken from its training section" in report["split"]


def test_files_to_pass_over(tmp_path):
    for name in ("a/1.png", "a/1_overlay.png", "thumbs/1.png"):
        paint(tmp_path / "in" / name, len(name))
    data, _ = run(tmp_path / "in", tmp_path / "out", clear_names=True, ignore=["*_overlay.png", "thumbs/*"])
    assert [item["id"] for item in data] == ["a/1.png"]


def test_what_is_made_of_phantoms_says_so(tmp_path):
    paint(tmp_path / "in" / "1.png", 1)
    (tmp_path / "in" / "datalist.json").write_text('{"synthetic": true, "training": []}')
    assert run(tmp_path / "in", tmp_path / "out")[0].synthetic


def test_kermany_files_bring_their_patients(tmp_path):
    for name in ("ill/person1_virus_6.png", "ill/person1_virus_7.png", "well/IM-0115-0001.png"):
        paint(tmp_path / "in" / name, len(name))
    data, _ = run(tmp_path / "in", tmp_path / "out", class_folders=True, clear_names=True, keep_duplicates=True)
    assert [item["group"] for item in data] == ["person1", "person1", "IM-0115"]


def test_class_folders_need_folders(tmp_path):
    paint(tmp_path / "in" / "a.png", 1)
    with pytest.raises(ValueError, match="must lie in a folder that is named after its class"):
        run(tmp_path / "in", tmp_path / "out", class_folders=True)


def test_a_folder_to_predict_needs_no_table_and_writes_nothing(tmp_path):
    slices(tmp_path / "in", 1, "A")
    slices(tmp_path / "in", 2, "A", value=100)
    slices(tmp_path / "in" / "own", 3, "B", value=200)
    items, unusable, _ = list_images(tmp_path / "in")
    assert sorted(greys(items)) == [0, 10, 20, 30, 100, 110, 120, 130, 200, 210, 220, 230]
    assert unusable == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_copy_in_another_encoding_is_no_second_image_and_its_row_is_kept(tmp_path):
    for name in ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(get_testdata_file(name, download=False), tmp_path / "in" / name)
    (tmp_path / "in" / "t.csv").write_text("image,label\nMR_small_implicit.dcm,ill\n")
    data, report = run(tmp_path / "in", tmp_path / "out")
    assert [item["label"] for item in data] == [0]
    assert report["dropped"]["exact copy of another image"]["count"] == 2
    data, _ = run(tmp_path / "in", tmp_path / "out2", keep_duplicates=True)
    assert len({item["id"] for item in data}) == 3 and len({item["group"] for item in data}) == 1
    assert len(list_images(tmp_path / "in")[0]) == 3


def test_images_that_share_a_uid_by_careless_anonymising_are_told_apart(tmp_path):
    for k in range(3):
        slices(tmp_path / "in", 1, "A", positions=[k], value=k)
    for path in (tmp_path / "in").iterdir():
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        del ds.ImagePositionPatient
        ds.Modality, ds.SOPClassUID = "CR", "1.2.840.10008.5.1.4.1.1.1"
        ds.save_as(path)
    data, _ = run(tmp_path / "in", tmp_path / "out")
    assert len({item["id"] for item in data}) == len(data) == 3
