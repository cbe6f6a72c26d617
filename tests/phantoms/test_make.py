"""Synthetic data sets of every kind: the same from one seed, complete, and said to be synthetic."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from support_phantoms import FEW, files_below, headers_of, items_of, read

from medssl_monai import phantoms as phantom
from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.phantoms import KINDS, make_phantom
from medssl_monai.prepare.prepare import prepare


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes_and_other_seed_other_images(kind, tmp_path):
    few = {"training": 3, "testing": 2}
    first, second, other = (make_phantom(tmp_path / n, kind, few, seed=s) for n, s in [("a", 5), ("b", 5), ("c", 6)])
    assert files_below(first.parent) == files_below(second.parent)
    pixels = [np.mean([read(item).mean() for item in items_of(path)]) for path in (first, other)]
    assert pixels[0] != pixels[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_section_does_not_change_with_the_size_of_another(kind, tmp_path):
    alone = make_phantom(tmp_path / "a", kind, {"testing": 3})
    among = make_phantom(tmp_path / "b", kind, {"training": 2, "testing": 3})
    assert files_below(alone.parent / "testing") == files_below(among.parent / "testing")
    assert load_datalist(alone, "testing").sha256 == load_datalist(among, "testing").sha256


@pytest.mark.parametrize("data", ["spine", "chest", "findings", "skin"])
def test_datalist_says_synthetic_and_patients_stay_in_one_section(data, request):
    path = request.getfixturevalue(data)
    sections = [load_datalist(path, section) for section in SECTIONS]  # refuses leaks by itself
    assert all(section.synthetic for section in sections)
    assert [len({item["group"] for item in section}) for section in sections] == list(FEW.values())
    assert max(Counter(item["group"] for section in sections for item in section).values()) > 1


@pytest.mark.parametrize("data", ["spine", "chest", "findings"])
def test_every_dicom_file_is_complete_and_says_that_it_is_synthetic(data, request):
    for header in headers_of(request.getfixturevalue(data)):
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert pydicom.uid.UID(header.SOPInstanceUID).is_valid
        assert header.PatientID.startswith("P")
        for text in (header.PatientName, header.SeriesDescription, header.ImageComments):
            assert "SYNTHETIC" in str(text)
        assert header.pixel_array.max() < 2**header.BitsStored


@pytest.mark.parametrize("kind", ["lesion_mask", "spine_cord"])
def test_the_table_of_masks_is_one_that_prepare_reads(kind, tmp_path):
    path = make_phantom(tmp_path / "in", kind, {"training": 4})
    again = prepare(path.parent, tmp_path / "out", volumes=True, split=(1, 0, 0), ignore=["*canal*", "*cord.nii*"])
    there, same = ({Path(i["label"]).resolve(): Path(i["image"]).resolve() for i in items_of(p)} for p in (path, again))
    assert there == same


@pytest.mark.parametrize("lost", ["training/P10001/structures.nii.gz", "training/P10002/series"])
def test_a_half_written_folder_of_volumes_is_repaired(tmp_path, lost):
    make_phantom(tmp_path, "spine_cord", {"training": 2})
    whole = files_below(tmp_path)
    path = tmp_path / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    make_phantom(tmp_path, "spine_cord", {"training": 2})
    assert files_below(tmp_path) == whole


def test_a_complete_folder_is_left_alone(tmp_path):
    path = make_phantom(tmp_path, "chest", {"training": 2})
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert make_phantom(tmp_path, "chest", {"training": 2}) == path
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("lost", ["datalist.json", "training/P10001/image.nii.gz", "training/P10002/cord.nii.gz"])
def test_a_half_written_folder_is_repaired(tmp_path, lost):
    make_phantom(tmp_path, patients={"training": 2})
    whole = files_below(tmp_path)
    (tmp_path / lost).unlink()
    (tmp_path / "training/P10002/series/001.dcm").write_bytes(b"DICM cut sho")
    if lost != "datalist.json":  # with all files there and a datalist, a folder counts as complete
        (tmp_path / "training/P10001/canal.nii.gz").unlink()
    make_phantom(tmp_path, patients={"training": 2})
    assert files_below(tmp_path) == whole


def test_a_set_of_an_older_version_is_written_anew(tmp_path):
    path = make_phantom(tmp_path, "chest", {"training": 1})
    content = json.loads(path.read_text())
    content["phantom"]["version"] = 0
    path.write_text(json.dumps(content))
    make_phantom(tmp_path, "chest", {"training": 1})
    assert json.loads(path.read_text())["phantom"]["version"] == phantom.VERSION


@pytest.mark.parametrize("content", ['{"training": []}', "[]", "half of a fi"])
def test_the_datalist_of_someone_else_is_not_overwritten(tmp_path, content):
    (tmp_path / "datalist.json").write_text(content)
    with pytest.raises(FileExistsError, match="choose another folder"):
        make_phantom(tmp_path, "chest", {"training": 1})
    assert (tmp_path / "datalist.json").read_text() == content


def test_another_recipe_needs_another_folder(tmp_path):
    make_phantom(tmp_path, "chest", {"training": 1})
    with pytest.raises(FileExistsError, match=r"'seed': 0.*'seed': 1"):
        make_phantom(tmp_path, "chest", {"training": 1}, seed=1)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no phantom 'liver'; known are \['chest', .*'spine6', 'spine_cord'\]"):
        make_phantom(tmp_path, "liver")
    with pytest.raises(ValueError, match="got 'test': 3"):
        make_phantom(tmp_path, patients={"test": 3})
    with pytest.raises(ValueError, match="got 'testing': -1"):
        make_phantom(tmp_path, patients={"testing": -1})
    with pytest.raises(ValueError, match="`seed` must be 0 or more, got -1"):
        make_phantom(tmp_path, seed=-1)
    assert not list(tmp_path.iterdir())


def test_a_section_may_be_empty(tmp_path):
    path = make_phantom(tmp_path, patients={"training": 1, "testing": 0})
    assert load_datalist(path, "testing") == []


def test_a_new_kind_is_a_function_and_an_entry(tmp_path, monkeypatch):
    def write(folder, section, count, seed):
        (folder / section).mkdir(parents=True)
        for number in range(count):
            file = f"{section}/{number}.png"
            Image.fromarray(np.full((8, 8, 3), seed, np.uint8)).save(folder / file)
            yield [{"image": file, "group": f"L{number}", "id": file, "label": 0, "meta": {"masks": {}}}]

    monkeypatch.setitem(KINDS, "lesions", phantom.Phantom(write, ("naevus",), ("R", "G", "B"), {"training": 2}))
    data = load_datalist(make_phantom(tmp_path, "lesions"))
    assert len(data) == 2
    assert data.modality == ("R", "G", "B")
