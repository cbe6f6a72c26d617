import json
import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from monai.transforms import Compose, Resized
from PIL import Image

from medssl_monai import phantoms as phantom
from medssl_monai.data import Masks
from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.phantoms import KINDS, chest14, chest_joint, lesion, make_phantom
from medssl_monai.phantoms import chest as chest_kind
from medssl_monai.phantoms import spine as spine_kind
from medssl_monai.phantoms.spine import GRADE_COUNTS
from medssl_monai.pool import LabelPool, MultiStreamLoader, pool_loader
from medssl_monai.prepare.layouts.chest import CHESTXRAY14
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers import LoadMaskd
from medssl_monai.readers.reader import ClinicalReader

FEW = {"training": 24, "validation": 6, "testing": 10}


@pytest.fixture(scope="module")
def spine(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("spine"), "spine6", FEW)


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("chest"), "chest", FEW)


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("findings"), "chest14", FEW)


@pytest.fixture(scope="module")
def skin(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("skin"), "lesion7", FEW)


def items_of(path):
    sections = [section for section in SECTIONS if section in json.loads(path.read_text())]
    return [item for section in sections for item in load_datalist(path, section)]


def read(item):
    reader = ClinicalReader()
    pixels = reader.get_data(reader.read(item["image"]))[0][0]
    return pixels[..., item["slice"]] if "slice" in item else pixels


def headers_of(path):
    return [pydicom.dcmread(item["image"]) for item in items_of(path) if item["image"].endswith(".dcm")]


def files_below(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


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


def test_two_and_six_grades_are_labels_of_the_same_images(spine, tmp_path):
    two = make_phantom(tmp_path, "spine2", FEW)
    assert files_below(two.parent / "training") == files_below(spine.parent / "training")
    assert [i["label"] for i in items_of(two)] == [int(i["label"] >= 3) for i in items_of(spine)]
    assert load_datalist(two).classes == ("low", "high")


@pytest.mark.parametrize("data", ["spine", "chest", "findings", "skin"])
def test_datalist_says_synthetic_and_patients_stay_in_one_section(data, request):
    path = request.getfixturevalue(data)
    sections = [load_datalist(path, section) for section in SECTIONS]  # refuses leaks by itself
    assert all(section.synthetic for section in sections)
    assert [len({item["group"] for item in section}) for section in sections] == list(FEW.values())
    assert max(Counter(item["group"] for section in sections for item in section).values()) > 1


@pytest.mark.parametrize("count", [24, 240, 400])
def test_grades_have_the_shares_of_the_table_in_every_section(count):
    rng = np.random.default_rng(count)
    plan = spine_kind._spine_grades(rng, [int(n) for n in rng.integers(5, 8, count)])
    grades = np.concatenate([grade for grade, _ in plan])
    shares = np.bincount(grades, minlength=6) / len(grades)
    np.testing.assert_allclose(shares, np.array(GRADE_COUNTS) / sum(GRADE_COUNTS), atol=0.015)
    assert (shares > 0).all()
    within_patients = np.mean([grade.var() for grade, _ in plan])
    assert within_patients < 0.7 * grades.var(), "slices of a patient must be alike"


def test_both_classes_in_every_section_of_the_chest(chest):
    for section in SECTIONS:
        share = np.mean([item["label"] for item in load_datalist(chest, section)])
        assert 0.15 < share < 0.65


def test_nifti_and_dicom_share_their_axes(spine):
    formats = Counter(Path(item["image"]).suffix for item in items_of(spine))
    assert set(formats) == {".gz", ".dcm"}
    pictures = {".gz": [], ".dcm": []}
    for item in items_of(spine):
        assert ("slice" in item) == item["image"].endswith(".gz")
        pixels = read(item)
        assert pixels.shape == (64, 64)
        pictures[Path(item["image"]).suffix].append(pixels / pixels.mean())
    nifti, dicom = (np.mean(pictures[suffix], axis=0) for suffix in pictures)  # the anatomy that all share
    assert np.corrcoef(nifti.ravel(), dicom.ravel())[0, 1] > 0.8 > np.corrcoef(nifti.ravel(), dicom.T.ravel())[0, 1]


def test_series_and_masks_are_in_the_same_place(spine):
    series = [item for item in items_of(spine) if item["image"].endswith(".dcm")]
    headers = [pydicom.dcmread(item["image"]) for item in series if item["group"] == series[0]["group"]]
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    step = np.diff([header.ImagePositionPatient for header in headers], axis=0)
    np.testing.assert_allclose(step[:, 2], float(headers[0].SpacingBetweenSlices))
    affine = nibabel.load(spine.parent / series[0]["meta"]["masks"]["cord"]).affine
    np.testing.assert_allclose(affine[:3, 3] * (-1, -1, 1), headers[0].ImagePositionPatient, atol=1e-4)
    np.testing.assert_allclose(-affine[0, 0], headers[0].PixelSpacing[0], rtol=1e-6)


def test_the_deeper_the_mass_the_smaller_canal_and_cord():
    canal, cord = np.zeros((2, 6, 30))
    images = []
    for grade in range(6):
        for patient in range(30):  # same patient, same scanner, other grade
            rng = np.random.default_rng(patient)
            severity = np.full(5, 0.5, dtype=np.float32)
            image, canal_mask, cord_mask = spine_kind._spine_volume(rng, np.full(5, grade), severity, 0.6)
            canal[grade, patient], cord[grade, patient] = canal_mask.sum(), cord_mask.sum()
            assert (canal_mask >= cord_mask).all(), "the cord lies in the canal"
        images.append(image)
    assert (np.diff(canal, axis=0) < 0).all()
    np.testing.assert_array_equal(cord[:3], cord[[0, 0, 0]])  # b0 to b1b do not touch it
    assert (cord[3] >= 0.95 * cord[0]).all(), "abutment is no compression"
    assert (cord[4] < cord[3]).all(), "compression"
    assert cord[5].mean() < cord[4].mean()
    np.testing.assert_array_equal(canal[5], cord[5])  # in b3 the mass leaves no fluid
    assert (canal[4] > 1.5 * cord[4]).all(), "in b2 there is fluid"
    edge = np.abs(images[5] - images[0])[:, -8:]
    assert edge.mean() < 0.02 * images[0].mean(), "far from the canal the grade shows nothing"


def test_masks_follow_the_slices(spine):
    for item in items_of(spine):
        masks = [nibabel.load(spine.parent / item["meta"]["masks"][name]) for name in ("canal", "cord")]
        canal, cord = (np.asarray(mask.dataobj)[..., item["meta"]["slice"]] for mask in masks)
        assert (canal.sum() == cord.sum()) == (item["meta"]["grade"] == "b3")


def test_lung_masks_are_where_the_picture_is_dark(chest):
    for item in items_of(chest):
        lungs = np.asarray(Image.open(chest.parent / item["meta"]["masks"]["lungs"])).T > 0
        assert 0.1 < lungs.mean() < 0.45
        pixels = read(item)
        assert pixels[lungs].mean() < pixels[40:72, 40:].mean()  # MONOCHROME1 must be inverted for this


def test_chest_comes_as_png_cr_and_dx_with_the_traps_of_a_clinic(chest):
    assert {Path(item["image"]).suffix for item in items_of(chest)} == {".png", ".dcm"}
    headers = headers_of(chest)
    assert {header.Modality for header in headers} == {"CR", "DX"}
    inverted = np.mean([header.PhotometricInterpretation == "MONOCHROME1" for header in headers])
    assert 0.2 < inverted < 0.6
    spacing = {tuple(header.get("PixelSpacing", ())) for header in headers}
    assert () in spacing
    assert (0, 0) in spacing
    assert any(values and values[0] > 0 for values in spacing)


@pytest.mark.parametrize("data", ["spine", "chest", "findings"])
def test_every_dicom_file_is_complete_and_says_that_it_is_synthetic(data, request):
    for header in headers_of(request.getfixturevalue(data)):
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        assert pydicom.uid.UID(header.SOPInstanceUID).is_valid
        assert header.PatientID.startswith("P")
        for text in (header.PatientName, header.SeriesDescription, header.ImageComments):
            assert "SYNTHETIC" in str(text)
        assert header.pixel_array.max() < 2**header.BitsStored


def test_format_and_photometric_interpretation_do_not_tell_the_label(tmp_path):
    items = items_of(make_phantom(tmp_path, "chest", {"training": 140}))
    share = {True: [], False: []}
    for item in items:
        share[item["image"].endswith(".png")].append(item["label"])
    assert abs(np.mean(share[True]) - np.mean(share[False])) < 0.2


def test_the_chest_is_the_same_as_before_there_were_findings():
    image, lung = chest_kind._chest_image(np.random.default_rng(0), True, "PA")
    assert lung.sum() == 4093
    column = [0.672945, 0.819261, 0.841656, 0.850549, 0.890785, 0.87529, 0.859232]
    assert image[::16, 56].tolist() == pytest.approx(column, abs=1e-5)


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


def colour_of(item):
    reader = ClinicalReader()
    return reader.get_data(reader.read(item["image"]))[0]


def test_lesions_are_colour_images_with_the_classes_of_isic(skin):
    data = load_datalist(skin)
    assert data.classes == ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    assert data.modality == ("red", "green", "blue")
    assert {colour_of(item).shape for item in data} == {(3, 112, 112)}
    assert {Path(item["image"]).suffix for item in data} == {".png", ".jpg"}


def test_every_photograph_says_that_it_is_synthetic(skin):
    for item in items_of(skin):
        with Image.open(item["image"]) as image:
            said = image.info.get("Comment") or image.info["comment"].decode()
        assert said == "SYNTHETIC, not a patient"


@pytest.mark.parametrize("count", [60, 300, 800])
def test_lesions_have_the_shares_of_isic_with_enough_of_the_rare(count):
    counts = np.bincount(lesion._labels(np.random.default_rng(count), count), minlength=7)
    real = np.array(lesion.LESION_COUNTS) / sum(lesion.LESION_COUNTS)
    np.testing.assert_allclose(counts / count, real, atol=0.035)
    assert (counts >= int(0.028 * count)).all()
    assert counts[1] > 0.6 * count


def test_order_and_format_do_not_tell_the_class_of_a_lesion():
    labels = lesion._labels(np.random.default_rng(0), 800)  # by number; even ones are PNG
    naevus = labels == 1
    assert abs(naevus[::2].mean() - naevus[1::2].mean()) < 0.05
    assert abs(naevus[:400].mean() - naevus[400:].mean()) < 0.05


def test_the_table_of_lesions_groups_by_lesion(skin):
    header, *rows = (skin.parent / "labels.csv").read_text().splitlines()
    assert header == "image,slice,lesion_id,label"
    several = [item for item in items_of(skin) if item["id"].endswith("-2")]
    assert several
    for item in several:  # another picture of the same lesion
        first = next(other for other in items_of(skin) if other["id"] == item["group"] + "-1")
        assert first["label"] == item["label"]
        assert np.abs(colour_of(first).astype(float) - colour_of(item)).mean() > 3
    assert len(rows) == len(items_of(skin))


def test_a_lesion_differs_from_the_skin_around_it(skin):
    differences = []
    for item in items_of(skin):
        mask = np.asarray(Image.open(skin.parent / item["meta"]["masks"]["lesion"])).T
        assert set(np.unique(mask)) == {0, 255}
        assert 0.05 < (mask > 0).mean() < 0.75
        pixels = colour_of(item).astype(float)
        light = pixels.sum(axis=0) > 60  # without the dark rim of the lens
        inside, outside = (np.median(pixels[1][light & ((mask > 0) == side)]) for side in (True, False))
        differences.append(outside - inside)
    assert np.mean(np.array(differences) > 0) > 0.9, "melanin and blood absorb green light"


def test_masks_of_lesions_are_labels_of_the_same_images(skin, tmp_path):
    masks = make_phantom(tmp_path, "lesion_mask", FEW)
    assert files_below(masks.parent / "training") == files_below(skin.parent / "training")
    assert load_datalist(masks).classes == ("background", "lesion")
    for item, same in zip(items_of(masks), items_of(skin), strict=True):
        assert item["label"] == str(masks.parent / same["meta"]["masks"]["lesion"])
        assert item["meta"]["diagnosis"] == lesion.LESIONS[same["label"]]


def test_masks_of_the_spine_combine_those_of_its_parts(spine, tmp_path):
    path = make_phantom(tmp_path, "spine_cord", FEW)
    assert load_datalist(path).classes == ("background", "canal", "cord")
    items = items_of(path)
    assert len(items) == sum(FEW.values()), "an item is a volume"
    assert {Path(item["image"]).name for item in items} == {"image.nii.gz", "series"}
    slices = Counter(item["group"] for item in items_of(spine))
    for item in items:
        image, meta = ClinicalReader().get_data([Path(item["image"])])
        mask, place = ClinicalReader().get_data([Path(item["label"])])
        assert image.shape == mask.shape == (1, 64, 64, slices[item["group"]])
        np.testing.assert_allclose(place["affine"], meta["affine"], atol=1e-4)
        canal, cord = (
            np.asarray(nibabel.load(path.parent / item["meta"]["masks"][part]).dataobj) for part in ("canal", "cord")
        )
        combined = np.asarray(nibabel.load(item["label"]).dataobj)
        np.testing.assert_array_equal(combined == 2, cord == 1)
        np.testing.assert_array_equal(combined > 0, canal == 1)


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


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_field_is_a_sum_of_plane_waves_from_wherever_it_is_seen(angle):
    field = lesion.Field(np.random.default_rng(0), 2.0, 6.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    view = lesion.View((1.2 * turn).astype(np.float32), np.array([0.3, -0.1], dtype=np.float32))
    x, y = (axis.astype(float) for axis in view.coordinates())
    expected = sum(np.cos(a * x + b * y + phase) for (a, b), phase in zip(field.waves, field.phase, strict=True))
    np.testing.assert_allclose(field(view), expected * np.sqrt(2 / len(field.phase)), atol=1e-4)
    across = np.hypot(np.diff(x[0])[0], np.diff(y[0])[0]) * lesion.LESION_SIZE
    assert across == pytest.approx(2.4, rel=1e-4), "2 is the width of a picture, seen from 1.2 times as far"


def draw(label, seed):
    """The same lesion, but for its class, in the same picture; only what its class says, without another's share."""
    one = lesion.Lesion(np.random.default_rng(seed), label)
    one.signs = {name: profile[label] for name, profile in lesion.SIGNS.items()}
    return one.draw(np.random.default_rng(seed))


def test_signs_are_where_a_dermatologist_expects_them():
    mel, nv, _, _, bkl, df, vasc = range(7)
    centre, red, fine, ragged = np.zeros((4, 10, 7))
    for seed in range(10):
        pictures, masks = zip(*(draw(label, seed) for label in range(7)), strict=True)
        inside = np.logical_and.reduce(masks)
        row, column = (int(where.mean()) for where in np.nonzero(masks[df]))
        for label, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            centre[seed, label] = picture[:, row - 3 : row + 4, column - 3 : column + 4].mean()
            red[seed, label] = np.log(picture[0] / picture[1].clip(0.01))[inside].std()
            fine[seed, label] = np.abs(np.diff(picture[1], 2, axis=0)[inside[1:-1]]).mean()
            ragged[seed, label] = np.abs(np.diff(mask.astype(int), axis=0)).sum() ** 2 / mask.sum()
    assert (centre[:, df] > centre[:, nv]).all(), "a dermatofibroma is white in its centre"
    assert red[:, vasc].mean() > 1.3 * red[:, nv].mean(), "lakes of blood"
    assert (fine[:, bkl] > fine[:, df]).all(), "cysts and pores are small dots"
    assert ragged[:, mel].mean() > 1.02 * ragged[:, df].mean(), "the outline of a melanoma is ragged"


def test_the_mean_colour_says_little_about_the_class():
    means = np.zeros((7, 30, 3))
    for label in range(7):
        for seed in range(30):
            rng = np.random.default_rng([label, seed])
            means[label, seed] = lesion.Lesion(rng, label).draw(rng)[0].mean(axis=(1, 2))
    between, within = means.mean(axis=1).std(axis=0), means.std(axis=1).mean(axis=0)
    assert (between < 0.5 * within).all()
    assert (means.std(axis=(0, 1)) > 0.04).all(), "skin and light differ"


def test_a_lesion_is_mostly_of_its_own_class():
    for label in range(7):
        own, profiles = 0, np.array(list(lesion.SIGNS.values())).T
        for seed in range(50):
            signs = np.array(list(lesion.Lesion(np.random.default_rng(seed), label).signs.values()))
            own += int(np.linalg.norm(profiles - signs, axis=1).argmin() == label)
        assert own >= 40, "the nearest profile is usually that of the class"


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


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("joint"), "chest_joint", FEW)


def test_one_source_has_classes_and_the_other_masks(joint):
    for section in SECTIONS:
        data = load_datalist(joint, section)
        assert (data.classes, data.mask_classes) == (("normal", "pneumonia"), ("background", "lung"))
        assert {item.get("label") for item in data} == {0, 1, None}
        for item in data:
            assert ("mask" in item) != ("label" in item)
            assert item["group"][0] == ("M" if "mask" in item else "C")
            if "label" in item:
                assert item["meta"]["diagnosis"] == data.classes[item["label"]]
            else:
                assert item["mask"] == str(joint.parent / item["meta"]["masks"]["lungs"])
    patients = {section: {item["group"] for item in load_datalist(joint, section)} for section in SECTIONS}
    assert [len(groups) for groups in patients.values()] == list(FEW.values())
    assert sum(name.startswith("M") for name in patients["training"]) == 8


def test_the_far_scanner_has_other_patients_and_no_training_section(joint, tmp_path):
    assert set(KINDS["chest_joint_far"].patients) == {"validation", "testing"}
    far = make_phantom(tmp_path, "chest_joint_far", {"testing": 10})
    assert not {item["group"] for item in items_of(far)} & {item["group"] for item in items_of(joint)}
    assert {"mask", "label"} <= {key for item in items_of(far) for key in item}
    lungs = [
        np.mean([np.asarray(Image.open(path.parent / i["meta"]["masks"]["lungs"])) > 0 for i in items_of(path)])
        for path in (joint, far)
    ]
    assert lungs[1] < 0.85 * lungs[0], "its field of view is wider"


def joint_image(seed, sick, scanner, view="PA"):
    return chest_joint._image(np.random.default_rng(seed), sick, view, scanner)


def test_grey_scales_of_the_two_sources_differ_a_little_and_of_the_far_scanner_more():
    scanners = [*chest_joint.NEAR, *chest_joint.FAR]
    images = [np.stack([joint_image(seed, False, scanner)[0] for seed in range(6)]) for scanner in scanners]
    contrast = [image.std() for image in images]
    assert 0.01 < contrast[0] - contrast[1] < 0.06
    assert max(contrast[2:]) < min(contrast[:2]) - 0.02
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)


def test_pneumonia_hides_the_border_of_a_lung_whose_mask_stays(monkeypatch):
    monkeypatch.setattr(chest_joint, "expose", lambda rng, image: image)  # noise and exposure are drawn after it
    near, hidden, deep = chest_joint.NEAR[0], [], []
    for seed in range(12):
        well, mask = joint_image(seed, False, near)
        sick, same = joint_image(seed, True, near)
        lung = chest_kind.draw_thorax(np.random.default_rng(seed), "PA").lung
        np.testing.assert_array_equal(mask, lung > 0)
        np.testing.assert_array_equal(mask, same)
        change = sick - well
        assert np.abs(change[lung < -0.05]).max() < 1e-6, "outside of the lungs there is nothing"
        hidden.append(change[(lung > 0.02) & (lung < 0.07)].mean())
        deep.append(change[lung > 0.15].mean())
    assert min(hidden) > 0.005
    assert np.mean(hidden) > max(0.02, np.mean(deep))


def test_the_table_of_classes_and_masks_makes_the_same_datalist(joint, tmp_path):
    table = joint.parent / "labels.csv"
    assert table.read_text().splitlines()[0] == "image,slice,patient,label,mask"
    options = {"masks": "mask", "mask_classes": ["background", "lung"], "ignore": ["*_unused.png"], "split": (1, 0, 0)}
    # masks that the table does not name are images to `prepare`
    for item in items_of(joint):
        if "mask" not in item:
            options["ignore"].append(item["meta"]["masks"]["lungs"])
    again = load_datalist(prepare(joint.parent, tmp_path, table=table, **options))
    assert again.synthetic and again.mask_classes == ("background", "lung")
    kinds = Counter((item.get("label"), Path(item.get("mask", "")).name) for item in again)
    assert kinds == Counter((item.get("label"), Path(item.get("mask", "")).name) for item in items_of(joint))


def test_four_streams_are_read_from_two_pools_of_one_datalist(joint):
    data, reader = load_datalist(joint), ClinicalReader()
    chain = Compose([LoadMaskd("label", reader, len(data.mask_classes)), Resized("label", (28, 28), mode="nearest")])
    classes, masks = LabelPool(data, labels=6), LabelPool(data, labels=4, key="mask", masks=Masks(data, chain))
    sides = {"labeled": (classes, "labeled"), "unlabeled": (classes, "unlabeled")}
    sides |= {"masked": (masks, "labeled"), "unmasked": (masks, "unlabeled")}
    images = [{"index": index} for index in range(len(data))]
    loader = MultiStreamLoader({name: pool_loader(images, pool, side, 2, 3) for name, (pool, side) in sides.items()})
    batches = list(loader)
    assert len(batches) == 3
    for batch in batches:
        index = {name: stream["index"] for name, stream in batch.items()}
        assert (classes.targets(index["labeled"]) >= 0).all() and (classes.targets(index["unlabeled"]) == -1).all()
        lungs = masks.targets(index["masked"])
        assert lungs.shape == (2, 28, 28) and set(lungs.unique().tolist()) == {0, 1}
        assert (masks.targets(index["unmasked"]) == -1).all()
        for position, lung in zip(index["masked"].tolist(), lungs, strict=True):
            whole = np.asarray(Image.open(data[position]["mask"])).T[1::4, 1::4] > 0  # of 112 pixels
            assert (lung.numpy() == whole).mean() > 0.95
