"""The study folder of a server as items to learn from, and several processes that write to its datastore."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medssl_monai.kinds import Classes
from medssl_monai.monai_label.studies import incomplete, label_files, read_studies
from medssl_monai.phantoms.files import write_dicom


class Store:
    """What `read_studies` asks of MONAI Label's datastores."""

    def __init__(self, images=None):
        self.images, self.labels, self.infos = dict(images or {}), {}, {}

    def list_images(self):
        return list(self.images)

    def get_image_uri(self, image_id):
        return str(self.images.get(image_id, ""))

    def get_label_uri(self, label_id, label_tag):
        return str(self.labels.get((label_id, label_tag), ""))

    def get_image_info(self, image_id):
        return dict(self.infos.get(image_id, {}))

    def update_image_info(self, image_id, info):
        if image_id not in self.images:
            raise LookupError(image_id)
        self.infos.setdefault(image_id, {}).update(info)


@pytest.fixture
def store(tmp_path):
    """With PNG files ``a`` to ``h``."""
    for name in "abcdefgh":
        save_png(tmp_path / f"{name}.png")
    return Store({name: tmp_path / f"{name}.png" for name in "abcdefgh"})


@pytest.fixture
def add(store, tmp_path):
    """Labels an image with a class, or a file of any content."""

    def _add(name, label=None, tag="final", content=None):
        path = tmp_path / f"{name}_{tag}.json"
        path.write_text(content or json.dumps({"label": label}))
        store.labels[name, tag] = path

    return _add


def served(kind="class", **other):
    """A bundle as far as `read_studies` asks for it."""
    classes, mask_classes = ["left", "right"], ["background", "disk"]
    own = {
        "class": {"classes": classes, "mask_classes": [], "joint": False, "known_kind": Classes(tuple(classes))},
        "mask": {"classes": [], "mask_classes": mask_classes, "joint": False, "known_kind": None},
        "both": {"classes": classes, "mask_classes": mask_classes, "joint": True, "known_kind": None},
    }
    return SimpleNamespace(**{"name": "mine", "dimensions": 2, **own[kind], **other})


def save_png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


def save_slice(path, patient, number=1, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"InstanceNumber": number, "SeriesDescription": "", "PatientID": patient, **header}
    write_dicom(path, np.zeros((4, 4), np.uint16), "MR", "MONOCHROME2", plain, "P", "s")
    return path


def by_id(items):
    return {item["id"]: item for item in items}


class TestWhichLabelsCount:
    def test_the_tags_in_their_order(self, store):
        store.labels = {
            **{("a", "final"): "a.json", ("a", "class"): "other.json", ("a", "mask"): "a.nii.gz"},
            **{("b", "original"): "b.json", ("b", "predicted"): "b.nii.gz"},
            **{("c", "final"): "c.nii.gz", ("c", "class"): "c.json", ("c", "mask"): "other.nii.gz"},
        }
        assert label_files(store, "a") == {"class": Path("a.json"), "mask": Path("a.nii.gz")}
        assert label_files(store, "b") == {}  # predictions
        assert label_files(store, "c") == {"class": Path("c.json"), "mask": Path("c.nii.gz")}

    def test_a_bundle_of_classes(self, store, add):
        add("a", "right")
        store.labels["b", "final"] = Path("b.nii.gz")
        items = by_id(read_studies(store, served(), 0.0).train)
        assert list(items) == list("abcdefgh")
        assert items["a"] == {
            **{"image": str(store.images["a"]), "id": "a", "group": items["a"]["group"]},
            **{"labeled": True, "label": 1},
        }
        assert [item["labeled"] for item in items.values()] == [True] + 7 * [False]
        assert not any("label" in items[name] for name in "bcdefgh")

    def test_a_bundle_of_masks(self, store, add):
        add("a", "right")
        store.labels["b", "final"] = Path("/labels/b.nii.gz")
        items = by_id(read_studies(store, served("mask"), 0.0).train)
        assert [name for name in items if items[name]["labeled"]] == ["b"]
        assert items["b"]["label"] == "/labels/b.nii.gz"

    def test_a_bundle_of_both(self, store, add):
        add("a", "right")
        add("b", "left", tag="class")
        store.labels |= {("b", "final"): Path("/b.png"), ("c", "mask"): Path("/c.png")}
        items = by_id(read_studies(store, served("both"), 0.0).train)
        known = {name: {key: items[name].get(key) for key in ("labeled", "label", "masked", "mask")} for name in "abcd"}
        assert known == {
            "a": {"labeled": True, "label": 1, "masked": False, "mask": None},
            "b": {"labeled": True, "label": 0, "masked": True, "mask": "/b.png"},
            "c": {"labeled": False, "label": None, "masked": True, "mask": "/c.png"},
            "d": {"labeled": False, "label": None, "masked": False, "mask": None},
        }

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("{", "the file is no JSON"),
            ('{"label": "up"}', "the label is 'up', which is none of the classes ['left', 'right']"),
        ],
    )
    def test_one_that_cannot_be_used_is_reported_and_its_image_stays(self, store, add, caplog, content, reason):
        add("a", "left")
        add("b", content=content)
        with caplog.at_level(logging.WARNING):
            studies = read_studies(store, served(), 0.0)
        assert reason in studies.refused["b (label)"] and len(studies.refused) == 1
        assert f"mine leaves 1 images or labels out: b (label): {reason}" in caplog.text
        assert by_id(studies.train)["b"]["labeled"] is False
        assert store.labels["b", "final"].read_text() == content

    def test_one_whose_file_is_gone(self, store, tmp_path):
        store.labels["b", "final"] = tmp_path / "gone.json"
        studies = read_studies(store, served(), 0.0)
        assert studies.refused == {"b (label)": "No such file or directory"}
        assert len(studies.train) == 8

    def test_a_long_list_of_reasons_is_cut_in_the_log(self, caplog, tmp_path):
        (tmp_path / "x.txt").write_text("no image")
        store = Store({f"i{n}": tmp_path / "x.txt" for n in range(30)})
        studies = read_studies(store, served(), 0.0)
        assert len(studies.refused) == 30
        assert caplog.text.count("is neither PNG") == 20 and "leaves 30 images or labels out" in caplog.text


class TestImages:
    def test_what_is_no_image_is_reported_by_id(self, store, tmp_path):
        (tmp_path / "notes.txt").write_text("no image")
        (tmp_path / "broken.nii.gz").write_text("no image")
        (tmp_path / "empty").mkdir()
        store.images |= {"notes": tmp_path / "notes.txt", "gone": tmp_path / "gone.png", "empty": tmp_path / "empty"}
        store.images |= {"broken": tmp_path / "broken.nii.gz"}
        studies = read_studies(store, served("mask"), 0.0)
        assert [item["id"] for item in studies.train] == list("abcdefgh")
        assert set(studies.refused) == {"notes", "gone", "empty", "broken"}
        assert studies.refused["gone"].startswith("there is no file gone; mend its path")
        assert "cannot be read as NIfTI" in studies.refused["broken"]
        assert not any(str(tmp_path) in reason for reason in studies.refused.values())

    def test_none(self):
        studies = read_studies(Store(), served(), 0.2)
        assert (studies.train, studies.validation, studies.held_out, studies.refused) == ([], [], set(), {})

    def test_ids_stay_what_clients_know(self, tmp_path):
        names = ["_$a", "d#1", "g h", "1.10", "-3"]
        store = Store({name: save_png(tmp_path / "one.png") for name in names})
        studies = read_studies(store, served(), 0.0)
        assert studies.image_of == {name: name for name in names}

    def test_ids_that_a_configuration_would_evaluate_are_left_out(self, tmp_path):
        names = ["$a", "@b", "%c", "e@::f", "=d", "\uff04e", "f\ng", "-h"]
        store = Store({name: save_png(tmp_path / "one.png") for name in [*names, "good"]})
        studies = read_studies(store, served(), 0.0)
        assert studies.image_of == {"good": "good"} and set(studies.refused) == set(names)
        assert "begins with '$', which a configuration would evaluate; rename the file" in studies.refused["$a"]

    @pytest.mark.parametrize("synthetic", [True, False])
    def test_phantoms(self, store, tmp_path, synthetic):
        (tmp_path / "datalist.json").write_text(json.dumps({"synthetic": synthetic}))
        assert read_studies(store, served(), 0.0, tmp_path).synthetic is synthetic
        assert read_studies(store, served(), 0.0, "http://127.0.0.1:8042/dicom-web").synthetic is False
        assert read_studies(store, served(), 0.0).synthetic is False


class TestSlices:
    @pytest.fixture
    def store(self, tmp_path):
        """A volume, one of a single slice, and a picture."""
        for name, depth in (("v", 3), ("w", 1)):
            nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, depth), np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
        paths = [tmp_path / "v.nii.gz", tmp_path / "w.nii.gz", save_png(tmp_path / "p.png")]
        store = Store(dict(zip("vwp", paths, strict=True)))
        store.labels = {("v", "final"): Path("/v.nii.gz")}
        return store

    def test_a_network_of_two_dimensions_learns_from_slices(self, store):
        studies = read_studies(store, served("mask"), 0.0)
        items = by_id(studies.train)
        assert list(items) == ["p", "v/0", "v/1", "v/2", "w"]
        assert [items[f"v/{n}"]["slice"] for n in range(3)] == [0, 1, 2]
        assert {items[f"v/{n}"]["label"] for n in range(3)} == {"/v.nii.gz"}
        assert len({items[f"v/{n}"]["group"] for n in range(3)}) == 1
        assert not any("slice" in items[name] for name in "pw")
        assert studies.image_of == {"p": "p", "v/0": "v", "v/1": "v", "v/2": "v", "w": "w"}

    @pytest.mark.parametrize("bundle", [served("mask", dimensions=3), served("class")])
    def test_others_take_the_volume_as_it_is(self, store, bundle):
        assert list(by_id(read_studies(store, bundle, 0.0).train)) == ["p", "v", "w"]


class TestSeries:
    @pytest.fixture
    def paths(self, tmp_path):
        """A series of six slices as single files, and one of four in two folders."""
        found = {}
        for number in range(10):
            folder = tmp_path if number < 6 else tmp_path / f"half{number % 2}"
            place = {"ImagePositionPatient": [0, 0, 2 * number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            header = {"SeriesDescription": "one" if number < 6 else "two", "PixelSpacing": [1, 1], **place}
            file = save_slice(folder / f"{number}.dcm", "P", number, **header)
            found |= {str(number): file} if number < 6 else {folder.name: folder}
        return found | {"picture": save_png(tmp_path / "picture.png")}

    def test_single_slices_are_no_volumes(self, paths):
        assert incomplete(paths, True).keys() == paths.keys() - {"picture"}
        assert "a part of a series of 6 slices that lies in 6 studies" in incomplete(paths, True)["0"]

    def test_single_slices_are_images(self, paths):
        assert incomplete(paths, False).keys() == {"half0", "half1"}

    def test_it_is_looked_up_anew_when_files_change(self, paths, tmp_path):
        assert "half0" in incomplete(paths, False)
        for file in (tmp_path / "half1").iterdir():
            file.rename(tmp_path / "half0" / file.name)
        assert incomplete(paths, False) == {}

    def test_they_are_left_out_by_name(self, paths):
        studies = read_studies(Store(paths), served("mask", dimensions=3), 0.0)
        assert [item["id"] for item in studies.train] == ["picture"]
        assert studies.refused.keys() == paths.keys() - {"picture"}


class TestHeldOut:
    @pytest.fixture
    def twelve(self, tmp_path):
        """Two slices of each of six patients, one of them as the folder of a series; and pictures."""
        store = Store()
        for patient in range(6):
            for number in (1, 2):
                path = save_slice(tmp_path / f"{patient}{number}.dcm", f"P{patient}", number)
                store.images[f"{patient}{number}"] = path
        save_slice(tmp_path / "series" / "a.dcm", "P0", 3)
        store.images["series"] = tmp_path / "series"
        store.images |= {name: save_png(tmp_path / f"{name}.png") for name in "ab"}
        return store

    def groups(self, store):
        return {name: item["group"] for name, item in by_id(read_studies(store, served(), 0.0).train).items()}

    def test_images_of_one_dicom_patient_belong_together(self, twelve):
        groups = self.groups(twelve)
        assert len(set(groups.values())) == 6 + 2
        assert all(groups[f"{patient}1"] == groups[f"{patient}2"] for patient in range(6))
        assert groups["series"] == groups["01"]
        assert not any(f"P{patient}" in group for patient in range(6) for group in groups.values())

    def test_a_copy_of_a_file_is_of_the_same_patient(self, twelve, tmp_path):
        (tmp_path / "copy.dcm").write_bytes((tmp_path / "01.dcm").read_bytes())
        cut = (tmp_path / "02.dcm").read_bytes()[:-9]
        (tmp_path / "cut.dcm").write_bytes(cut)
        twelve.images |= {name: tmp_path / f"{name}.dcm" for name in ("copy", "cut")}
        groups = self.groups(twelve)
        assert groups["copy"] == groups["cut"] == groups["01"]

    def test_a_dicomweb_server_tells_the_patient(self, store):
        store.infos = {"a": {"PatientID": "P1"}, "b": {"PatientID": "P1"}, "c": {"PatientID": ""}, "d": {}}
        groups = self.groups(store)
        assert groups["a"] == groups["b"]
        assert len({groups[name] for name in "abcdefgh"}) == 7

    def test_spellings_of_one_patient(self, store):
        spellings = ("007", "7", "7.0", " 7^", "1.10", "1.1")
        store.infos = {name: {"PatientID": text} for name, text in zip("abcdef", spellings, strict=True)}
        groups = self.groups(store)
        assert len({groups[name] for name in "abcd"}) == 1 and len({groups[name] for name in "aef"}) == 3

    def test_a_file_without_a_patient_is_its_own(self, twelve, tmp_path):
        for number in (1, 2):
            twelve.images[f"x{number}"] = save_slice(tmp_path / f"x{number}.dcm", "", number)
        groups = self.groups(twelve)
        assert groups["x1"] != groups["x2"]

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
    def test_no_patient_is_on_both_sides(self, twelve, share):
        groups = self.groups(twelve)
        studies = read_studies(twelve, served(), share)
        held_out = {groups[name] for name in studies.held_out}
        assert not held_out & {item["group"] for item in studies.train}
        assert {item["id"] for item in studies.train} == set(twelve.images) - studies.held_out
        assert studies.validation == []  # none is labeled
        assert set(studies.image_of) == set(twelve.images)

    def test_about_the_share_is_held_out(self, tmp_path):
        store = Store({f"i{n}": save_png(tmp_path / "one.png") for n in range(400)})
        for share in (0.2, 0.5):
            assert len(read_studies(store, served(), share).held_out) == pytest.approx(400 * share, abs=50)

    def test_a_share_of_0_holds_nothing_out(self, store, add):
        for name in "abcdefgh":
            add(name, 1)
        studies = read_studies(store, served(), 0.0)
        assert len(studies.train) == 8 and not studies.validation and not studies.held_out

    def test_labels_of_one_patient_are_all_to_learn_from(self, store, add):
        store.infos = {name: {"PatientID": "P1"} for name in "abcdefgh"}
        add("a", 0)
        add("b", 1)
        studies = read_studies(store, served(), 1e-9)
        assert len(studies.train) == 8 and not studies.validation and not studies.held_out

    def test_of_two_labeled_patients_one_is_held_out_with_all_images(self, store, add):
        store.infos = {name: {"PatientID": "P" + name} for name in "abcd"} | {"e": {"PatientID": "Pa"}}
        for name in "ab":
            add(name, 0)
        studies = read_studies(store, served(), 1e-9)
        assert studies.held_out in ({"a", "e"}, {"b"})
        assert {item["id"] for item in studies.validation} == studies.held_out - {"e"}
        assert {item["id"] for item in studies.train} == set("abcdefgh") - studies.held_out

    def test_masks_count_like_classes(self, store, add):
        add("a", 0)
        store.labels["b", "final"] = Path("/b.png")
        assert len(read_studies(store, served("both"), 1e-9).validation) == 1
        assert not read_studies(store, served("class"), 1e-9).validation

    @settings(deadline=None, max_examples=60)
    @given(
        patients=st.lists(st.integers(0, 6), min_size=1, max_size=12),
        share=st.sampled_from([1e-9, 0.1, 0.2, 0.5, 0.9]),
        data=st.data(),
    )
    def test_later_labels(self, tmp_path_factory, patients, share, data):
        """They move nothing that was learned from with its label, and nobody but who is labeled for the first time."""
        folder = tmp_path_factory.mktemp("h")
        image, label = save_png(folder / "one.png"), folder / "label.json"
        label.write_text('{"label": 0}')
        store = Store({str(n): image for n in range(len(patients))})
        store.infos = {str(n): {"PatientID": f"{folder}{patient}"} for n, patient in enumerate(patients)}
        always = read_studies(store, served(), share).held_out
        taught, labeled, before = set(), set(), None
        for name in data.draw(st.permutations(sorted(store.images))):
            store.labels[name, "final"] = label
            studies = read_studies(store, served(), share)
            learned, measured = ({item["group"] for item in own} for own in (studies.train, studies.validation))
            assert not learned & measured
            assert always <= studies.held_out
            own = patients[int(name)]
            more = {patients[int(other)] for other in studies.held_out - always}
            assert len(more) <= 1 and (not more or not always & set(labeled | {name}))
            if before is not None and (moved := {patients[int(other)] for other in studies.held_out - before}):
                assert moved == {own} and own not in {patients[int(other)] for other in labeled}
            if measured:
                assert not taught & measured
                taught |= {item["group"] for item in studies.train if item["labeled"]}
                before = studies.held_out
            labeled.add(name)


def test_an_image_that_cannot_be_fetched_leaves_the_others(store, add, monkeypatch, caplog):
    def fetch(image_id):
        if image_id == "c":
            raise ConnectionError("http://archive/patient")
        return str(store.images[image_id])

    monkeypatch.setattr(store, "get_image_uri", fetch)
    add("a", "left")
    studies = read_studies(store, served(), share=0)
    assert {item["id"] for item in studies.train} == set("abdefgh")
    assert studies.refused == {"c": "cannot be fetched (ConnectionError)"}
    assert "archive" not in caplog.text
