"""Dermoscopic images of lesions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_phantoms import FEW, files_below, items_of

from medssl_monai.data.datalist import load_datalist
from medssl_monai.phantoms import lesion, make_phantom
from medssl_monai.readers.reader import ClinicalReader


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
