"""Files of real data sets."""

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support_prepare import found, report, section

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare

DATA = Path(os.environ.get("MEDSSL_DATA", Path(__file__).parents[3] / "shared/data"))


def real(name):
    if not (DATA / name).is_file():
        pytest.skip(f"{name} is not in {DATA}; set MEDSSL_DATA to the folder of real images")
    return DATA / name


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
