"""Radiographs with any of 14 findings."""

import numpy as np
import pytest
from support_phantoms import FEW, files_below, items_of

from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.phantoms import chest14, make_phantom
from medssl_monai.prepare.layouts.chest import CHESTXRAY14
from medssl_monai.prepare.prepare import prepare


def test_findings_are_those_of_chestxray14_in_their_order(findings):
    assert load_datalist(findings).classes == CHESTXRAY14 == tuple(chest14.FINDINGS)
    labels = np.array([item["label"] for item in items_of(findings)])
    assert set(np.unique(labels)) == {0, 1}
    assert (labels.sum(axis=1) > 1).any()
    assert (labels.sum(axis=1) == 0).any()


@pytest.mark.parametrize("count", [60, 140, 360])
def test_findings_have_the_shares_of_chestxray14_with_enough_of_the_rare(count):
    ill = chest14._diseases(np.random.default_rng(count), count)
    shares = [finding.images / chest14.IMAGES for finding in chest14.FINDINGS.values()]
    np.testing.assert_allclose(ill.mean(axis=0), np.maximum(shares, 0.05), atol=0.5 / count)
    assert 0.35 < (ill.sum(axis=1) == 0).mean() < 0.65, "about half of the images have no finding"


def test_findings_come_together_as_in_the_field():
    ill = chest14._diseases(np.random.default_rng(0), 5000)
    lift = (ill.T.astype(float) @ ill / len(ill)) / np.outer(ill.mean(axis=0), ill.mean(axis=0))
    together = dict.fromkeys(chest14.FINDINGS)
    for k, name in enumerate(chest14.FINDINGS):
        together[name] = dict(zip(chest14.FINDINGS, lift[k], strict=True))
    assert together["Effusion"]["Atelectasis"] > 1.5
    assert together["Edema"]["Cardiomegaly"] > 2.5
    assert together["Pneumonia"]["Infiltration"] > 1.7
    assert together["Mass"]["Nodule"] > 1.7
    assert together["Hernia"]["Edema"] < 1.5


def test_every_section_holds_every_finding_and_its_absence(findings):
    for section in SECTIONS:
        labels = np.array([item["label"] for item in load_datalist(findings, section)])
        assert labels.max(axis=0).all(), section
        assert not labels.min(axis=0).any(), section


def test_unknown_findings_are_in_the_training_section_of_the_same_images(findings, tmp_path):
    partly = make_phantom(tmp_path, "chest14_unknown", FEW)
    assert files_below(partly.parent / "training") == files_below(findings.parent / "training")
    for section in SECTIONS:
        pairs = zip(load_datalist(partly, section), load_datalist(findings, section), strict=True)
        shown, true = (np.array(labels) for labels in zip(*((a["label"], b["label"]) for a, b in pairs), strict=True))
        assert (shown == true)[shown >= 0].all()
        unknown = (shown < 0).mean()
        assert 0.2 < unknown < 0.4 if section == "training" else unknown == 0


def test_the_first_image_of_a_patient_shows_all_that_later_ones_do(findings):
    by_patient = {}
    for item in items_of(findings):
        by_patient.setdefault(item["group"], []).append(item["label"])
    assert any(len(labels) > 1 for labels in by_patient.values())
    for first, *later in by_patient.values():
        assert all(a >= b for label in later for a, b in zip(first, label, strict=True))


def test_the_table_of_findings_has_a_column_each(findings, tmp_path):
    columns = ",".join(CHESTXRAY14)
    table = findings.parent / "labels.csv"
    assert table.read_text().splitlines()[0] == f"image,slice,patient,{columns}"
    options = {"label_column": columns, "ignore": ["*_lungs.png"], "split": (1, 0, 0), "keep_duplicates": True}
    again = prepare(findings.parent, tmp_path, table=table, **options)
    labels = sorted(item["label"] for item in load_datalist(again))
    assert labels == sorted(item["label"] for item in items_of(findings))


SIGNS = {  # where the picture must change, in rows and columns of the image; and whether it becomes brighter
    "Effusion": (slice(74, 84), slice(20, 92), True),
    "Edema": (slice(44, 68), slice(30, 82), True),
    "Emphysema": (slice(30, 70), slice(20, 92), False),
    "Cardiomegaly": (slice(60, 80), slice(70, 90), True),
    "Consolidation": (slice(20, 84), slice(20, 92), True),
    "Pleural_Thickening": (slice(20, 60), slice(12, 100), True),
    "Pneumothorax": (slice(10, 60), slice(12, 100), False),
}


@pytest.mark.parametrize("name", SIGNS)
def test_a_finding_shows_where_it_belongs(name, monkeypatch):
    monkeypatch.setattr(chest14, "expose", lambda rng, image: image)  # noise and exposure are drawn after it
    rows, columns, brighter = SIGNS[name]
    change = []
    for seed in range(8):
        with_it, without = (
            chest14._image(np.random.default_rng(seed), findings, "PA")[0][rows, columns].mean()
            for findings in ({name}, set())
        )
        change.append(with_it - without)
    assert np.mean(change) > 0.004 if brighter else np.mean(change) < -0.004


@pytest.mark.parametrize("name", chest14.FINDINGS)
def test_every_finding_changes_the_picture(name, monkeypatch):
    monkeypatch.setattr(chest14, "expose", lambda rng, image: image)
    plain, _ = chest14._image(np.random.default_rng(3), set(), "PA")
    shown, _ = chest14._image(np.random.default_rng(3), {name}, "PA")
    assert (np.abs(shown - plain) > 0.02).mean() > 0.001
