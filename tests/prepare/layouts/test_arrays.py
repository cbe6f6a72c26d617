import json

import numpy as np
import pytest

from medssl_monai.data.datalist import load_datalist
from medssl_monai.limits import raised
from medssl_monai.prepare.layouts.arrays import read_arrays, read_medmnist
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.prepare import prepare
from medssl_monai.readers.reader import ClinicalReader

COUNT = 6
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 5, 4), dtype=np.uint8)


def plain(tmp_path, read=read_arrays, **arrays):
    arrays = {"images": IMAGES, "ids": np.array(list("abcdef"))} | arrays
    np.savez(tmp_path / "set.npz", **{name: array for name, array in arrays.items() if array is not None})
    return read(Request(tmp_path / "set.npz", tmp_path))


def medmnist(tmp_path, **arrays):
    arrays = {"train_images": IMAGES, "train_labels": np.arange(COUNT)[:, None] % 2} | arrays
    return plain(tmp_path, read_medmnist, images=None, ids=None, **arrays)


def label_of(found):
    return [item.get("label") for item in found.items]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES[..., None], IMAGES),
        (np.stack([IMAGES] * 3, axis=-1), np.stack([IMAGES] * 3, axis=-1)),
        (IMAGES > 100, (IMAGES > 100) * np.uint8(255)),
        (IMAGES.astype(np.uint16) * 257, IMAGES.astype(np.uint16) * 257),
        (IMAGES.astype(">u2") * 256, IMAGES.astype(np.uint16) * 256),
        (np.asfortranarray(IMAGES), IMAGES),
    ],
)
def test_pixels_are_exactly_those_of_the_array(tmp_path, images, expected):
    found = plain(tmp_path, images=images)
    assert [item["id"] for item in found.items] == list("abcdef")
    for item, image in zip(found.items, expected, strict=True):
        assert found.pixels[item["id"]].dtype == expected.dtype
        assert np.array_equal(found.pixels[item["id"]], image)


def test_sixteen_bits_reach_the_reader(tmp_path):
    images = np.random.default_rng(0).integers(0, 2**16, (COUNT, 5, 4), dtype=np.uint16)
    np.savez(tmp_path / "set.npz", images=images, ids=np.arange(COUNT))
    items = load_datalist(prepare(tmp_path / "set.npz", tmp_path / "out", split=(1, 0, 0)))
    for item in items:
        pixels, _ = ClinicalReader().get_data([tmp_path / "out" / item["image"]])
        assert np.array_equal(pixels[0].T, images[int(item["id"])])


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (IMAGES.astype(np.float32) / 255, r"float32.*\(255 \* images\)"),
        (np.full((COUNT, 5, 4), np.nan), "float64"),
        (IMAGES.astype(np.int16), "int16"),
        (IMAGES.astype(np.int64), "int64"),
        (np.stack([IMAGES] * 3, axis=-1).astype(np.uint16), "uint16"),
        (IMAGES.astype(complex), "complex|array of numbers"),
        (IMAGES.astype(object), "objects or records"),
        (np.zeros((COUNT, 5, 4), "S2"), "S2"),
        (np.zeros((COUNT, 9, 8, 7), np.uint8), r"volumes.*\(6, 9, 8, 7\).*NIfTI.*--volumes"),
        (np.zeros((COUNT, 3, 5, 7), np.uint8), r"channels.*\(6, 3, 5, 7\)"),
        (np.zeros((COUNT, 5, 5, 5, 1), np.uint8), "volumes"),
        (np.zeros((COUNT, 5, 5, 4), np.uint8), r"must hold images.*\(6, 5, 5, 4\)"),
        (np.zeros((COUNT, 5), np.uint8), r"must hold images.*\(6, 5\)"),
        (np.zeros((COUNT, 0, 5), np.uint8), "must hold images"),
        (np.zeros((), np.uint8), "must hold images"),
    ],
)
def test_pixels_of_other_types_and_shapes_are_refused(tmp_path, images, match):
    for read, name in ((plain, "images"), (medmnist, "train_images")):
        with pytest.raises(ValueError, match=rf"set\.npz: the array '{name}' .*{match}"):
            read(tmp_path, **{name: images})


def test_labels_in_their_forms(tmp_path):
    assert label_of(plain(tmp_path, labels=np.array([0, 1, -1, 2, 0, 1], np.int8))) == [0, 1, None, 2, 0, 1]
    assert label_of(plain(tmp_path, labels=np.array([0, 1, 2, 0, 1, 2.0])[:, None])) == [0, 1, 2, 0, 1, 2]
    assert label_of(plain(tmp_path, labels=np.arange(COUNT) % 2 > 0)) == [0, 1, 0, 1, 0, 1]
    findings = np.array([[1, 0], [0, 0], [1, 1], [-1, 0], [0, 1], [1, 0]])
    assert label_of(plain(tmp_path, labels=findings)) == findings.tolist()


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.array([0, 1, 0.5, 0, 1, 0]), "whole numbers"),
        (np.array([0, 1, np.nan, 0, 1, 0]), "whole numbers"),
        (np.array([0, 1, np.inf, 0, 1, 0]), "whole numbers"),
        (np.array(list("aabbcc")), "whole numbers"),
        (np.array([0, 1, -2, 0, 1, 0]), "from -2 to 1"),
        (np.array([0, 1, 10**12, 0, 1, 0]), "classes, and 1,000"),
        (np.array([0, 1, 1e300, 0, 1, 0]), "classes, and 1,000"),
        (np.arange(12).reshape(6, 2), "its 2 findings must be 1, 0 or -1"),
        (np.zeros((6, 2, 2), int), "shape"),
        (np.zeros((6, 0), int), "shape"),
        (np.zeros(5, int), r"of 6 images, got the shape \(5,\)"),
        (np.zeros((), int), "shape"),
        (None, "has no array 'train_labels'"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels, match):
    with pytest.raises(ValueError, match=rf"set\.npz.*'train_labels'.*{match}|set\.npz {match}"):
        medmnist(tmp_path, train_labels=labels)
    if labels is not None:
        with pytest.raises(ValueError, match=rf"set\.npz: the array 'labels' .*{match}"):
            plain(tmp_path, labels=labels)


def test_labels_beyond_the_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"set\.npz: the label 2 of 'c' does not fit the 2 names"):
        plain(tmp_path, labels=np.arange(COUNT), label_names=np.array(["ill", "well"]))
    with pytest.raises(ValueError, match=r"\[1, 1, 1\] of 'a' does not fit the 2 names"):
        plain(tmp_path, labels=np.ones((COUNT, 3), int), label_names=np.array(["ill", "well"]))


def test_texts_in_bytes_and_numbers_are_texts(tmp_path):
    found = plain(
        tmp_path,
        ids=np.array([f"\u00e4{k}".encode() for k in range(COUNT)]),
        patients=np.array([7, 7, 8, 8, 9, 9]),
        split=np.array([b"train", b"Val", b"test", b"", b"validation", b"training"]),
    )
    assert [item["id"] for item in found.items] == [f"\u00e4{k}" for k in range(COUNT)]
    assert [item["group"] for item in found.items] == ["7", "7", "8", "8", "9", "9"]
    assert list(found.sections.values()) == ["training", "validation", "testing", "validation", "training"]


def test_spellings_of_one_patient_are_one_group(tmp_path):
    found = plain(tmp_path, patients=np.array(["007", "7", "p 1", "P1", "q", "1.10"]))
    groups = [item["group"] for item in found.items]
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups)) == 4


def test_an_image_without_a_patient_is_its_own(tmp_path):
    found = plain(tmp_path, patients=np.array(["p", "p", "", "NA", "q", "q"]))
    assert [item["group"] for item in found.items] == ["p", "p", "c", "d", "q", "q"]


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"ids": None}, "has no array 'ids', only"),
        ({"ids": np.array(list("abcdea"))}, "'a' for 2 images"),
        ({"ids": np.array(["a", "b", "c", "d", "e", " "])}, "'' for 1 images"),
        ({"ids": np.array(list("abcde"))}, r"each of the 6 images, got the shape \(5,\)"),
        ({"ids": np.arange(6.0)}, "'ids' holds float64"),
        ({"ids": np.array(list("abcdef"), dtype=object)}, "objects"),
        ({"ids": np.array([b"\xff\xfe%d" % k for k in range(6)])}, "'ids' holds texts that are none"),
        ({"ids": np.array(["\ud800", *"bcdef"])}, "'ids' holds texts that are none"),
        ({"ids": np.full(6, 0x7FFFFFFF, "<u4").view("<U1")}, "'ids' holds texts that are none"),
        ({"patients": np.array(["p", "q"])}, "'patients'.*6 images"),
        ({"patients": np.array([1, 2, np.nan, 3, 4, 5])}, "'patients' holds float64"),
        ({"split": np.array(["train", "val", "dev", "test", "train", "train"])}, "'split' has 'dev' for 'c'"),
        ({"split": np.array([["train"] * 6])}, "'split'.*shape"),
    ],
)
def test_texts_that_do_not_fit_are_refused(tmp_path, arrays, match):
    with pytest.raises(ValueError, match=rf"set\.npz.*{match}"):
        plain(tmp_path, **arrays)


@pytest.mark.parametrize(
    "masks",
    [
        np.full((COUNT, 5, 4), np.nan),
        np.full((COUNT, 5, 4), 0.5),
        np.full((COUNT, 5, 4), -1),
        np.full((COUNT, 5, 4), 256),
        np.full((COUNT, 5, 4, 3), 1),
        np.full((COUNT, 4, 5), 1),
        np.full((COUNT - 1, 5, 4), 1),
        np.full((COUNT, 5, 4), "a"),
    ],
)
def test_masks_that_are_none_are_refused(tmp_path, masks):
    np.savez(tmp_path / "set.npz", images=IMAGES, ids=np.arange(COUNT), masks=masks)
    with pytest.raises(ValueError, match=r"set\.npz: the array 'masks' of masks"):
        prepare(tmp_path / "set.npz", tmp_path / "out", masks="masks")


def test_masks_of_any_whole_numbers_are_written_exactly(tmp_path):
    masks = (IMAGES % 3)[..., None].astype(float)
    np.savez(tmp_path / "set.npz", images=IMAGES, ids=np.arange(COUNT), masks=masks)
    for item in load_datalist(prepare(tmp_path / "set.npz", tmp_path / "out", masks="masks", split=(1, 0, 0))):
        pixels, _ = ClinicalReader().get_data([tmp_path / "out" / item["label"]])
        assert np.array_equal(pixels[0].T, masks[int(item["id"]), ..., 0])


def test_arrays_that_nothing_asks_for_are_not_read(tmp_path):
    assert len(plain(tmp_path, more=np.array([{}], dtype=object)).items) == COUNT


def test_an_image_beyond_the_bound_is_refused(tmp_path):
    with raised(max_voxels=10), pytest.raises(ValueError, match=r"'images': an image holds 20 pixels.*--max_voxels"):
        plain(tmp_path)


def test_volumes_are_refused_in_words(tmp_path):
    arrays = {f"{name}_images": np.zeros((2, 8, 8, 8), np.uint8) for name in ("train", "val", "test")}
    labels = {f"{name}_labels": np.zeros((2, 1), np.uint8) for name in ("train", "val", "test")}
    np.savez_compressed(tmp_path / "organmnist3d.npz", **arrays, **labels)
    with pytest.raises(ValueError, match=r"organmnist3d\.npz: the array 'train_images' holds volumes"):
        prepare(tmp_path / "organmnist3d.npz", tmp_path / "out", volumes=True)


def test_many_images_of_one_name_and_long_names_get_files_of_their_own(tmp_path):
    ids = np.array(["x" * 300] * 3 + ["x" * 299 + "y", "\u00e4" * 200, "a/b"])
    found = medmnist(tmp_path, train_ids=ids)
    assert len({item["id"] for item in found.items}) == COUNT
    assert len({item["image"].lower() for item in found.items}) == COUNT
    assert max(len(item["image"].encode()) for item in found.items) < 130
    json.dumps(found.items)
