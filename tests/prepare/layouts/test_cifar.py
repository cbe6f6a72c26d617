import os
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.prepare.layouts import cifar
from medssl_monai.prepare.layouts.request import Request
from medssl_monai.prepare.prepare import prepare

RED, GREEN, BLUE = 200, 100, 50


def images(count):
    """Of one colour each, darker from one to the next, as CIFAR lays them out: all red, all green, all blue."""
    shades = np.arange(count, dtype=np.uint8)[:, None]
    return np.concatenate([np.broadcast_to(colour - shades, (count, 1024)) for colour in (RED, GREEN, BLUE)], axis=1)


def python2_batch(data, labels, names, key=b"labels"):
    """The pickle that Python 2 wrote, byte for byte; its texts are bytes, and NumPy's module has its old name."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def whole(value):
        return b"M" + struct.pack("<H", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + whole(len(data))
        + whole(data.shape[1])
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", data.size)
        + data.tobytes()
        + b"tb"
    )
    listed = b"](" + b"".join(map(whole, labels)) + b"e"
    named = b"](" + b"".join(text(name.encode()) for name in names) + b"e"
    entries = text(key) + listed + text(b"data") + array + text(b"filenames") + named
    return b"\x80\x02}(" + entries + b"u."


@pytest.fixture
def cifar10(tmp_path):
    """Three training images in two of the five batches, and two to test on."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    meta = b"\x80\x02}(U\x0blabel_names](U\x08airplaneU\nautomobilee" + b"u."
    (folder / "batches.meta").write_bytes(meta)
    (folder / "data_batch_1").write_bytes(python2_batch(images(2), [1, 0], ["a.png", "b.png"]))
    (folder / "data_batch_2").write_bytes(python2_batch(images(3)[2:], [1], ["c.png"]))
    (folder / "test_batch").write_bytes(python2_batch(images(5)[3:], [0, 9], ["a.png", "e.png"]))
    return folder


def request(folder, **options):
    return Request(folder, folder.parent / "out", **options)


def labels_of(found):
    return {item["id"]: item.get("label") for item in found.items}


# CIFAR


def test_cifar10_as_python_2_wrote_it(cifar10):
    assert cifar.fits_cifar(cifar10)
    found = cifar.read_cifar(request(cifar10))
    assert labels_of(found) == {"a.png": 1, "b.png": 0, "c.png": 1, "a.png~2": 0, "e.png": 9}
    assert found.sections == {
        **dict.fromkeys(["a.png", "b.png", "c.png"], "training"),
        **dict.fromkeys(["a.png~2", "e.png"], "testing"),
    }
    assert found.classes == ("airplane", "automobile")
    assert found.noted == {"file that is missing": ["data_batch_3", "data_batch_4", "data_batch_5"]}
    assert found.pixels["b.png"].shape == (32, 32, 3)
    assert (found.pixels["b.png"] == [RED - 1, GREEN - 1, BLUE - 1]).all()


def test_rows_of_a_cifar_image_are_rows(cifar10):
    data = np.zeros((1, 3072), dtype=np.uint8)
    data[0, :32] = 255  # the first row of the red plane
    (cifar10 / "data_batch_1").write_bytes(python2_batch(data, [0], ["top.png"]))
    pixels = cifar.read_cifar(request(cifar10)).pixels["top.png"]
    assert (pixels[0, :, 0] == 255).all()
    assert pixels.sum() == 32 * 255


def test_cifar100_has_the_fine_labels_of_two(tmp_path):
    for name, count in (("train", 3), ("test", 1)):
        batch = {"data": images(count), "fine_labels": list(range(count)), "coarse_labels": [7] * count}
        (tmp_path / name).write_bytes(pickle.dumps(batch))
    names = [f"class {k}" for k in range(100)]
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["people"]}))
    assert cifar.fits_cifar(tmp_path)
    found = cifar.read_cifar(request(tmp_path))
    assert labels_of(found) == {"train_00000": 0, "train_00001": 1, "train_00002": 2, "test_00000": 0}
    assert found.classes == tuple(names)


def test_label_that_is_none_is_noted(cifar10):
    (cifar10 / "test_batch").write_bytes(python2_batch(images(2), [0, 10], ["d.png", "e.png"]))
    found = cifar.read_cifar(request(cifar10))
    assert labels_of(found)["e.png"] is None
    assert found.noted["label that is not from 0 to 9"] == ["test_batch, image 1"]


class Harm:
    """Runs a program, or whatever it is given, when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["whole", "value", "inside an array", "key"])
def test_pickle_that_runs_a_program_is_refused(cifar10, tmp_path, place):
    marker = tmp_path / "harmed"
    harm = Harm(os.mkdir, str(marker))
    content = {
        "whole": harm,
        "value": {"data": images(1), "labels": [0], "more": harm},
        "inside an array": {"data": np.array([harm], dtype=object), "labels": [0]},
        "key": {("data", harm): 1},
    }[place]
    (cifar10 / "data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"data_batch_1 is a pickle that asks for (posix\.mkdir|.*'O8').*may do harm"):
        cifar.read_cifar(request(cifar10))
    assert not marker.exists()
    pickle.loads((cifar10 / "data_batch_1").read_bytes())  # the plain reader does run it
    assert marker.is_dir()


@pytest.mark.parametrize(
    "harm",
    [Harm(eval, "1"), Harm(np.load, "x"), Harm(getattr, "", "join"), Harm(__import__, "os"), np.random.rand],
)
def test_nothing_but_arrays_and_plain_values_is_found(tmp_path, harm):
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": harm}))
    with pytest.raises(ValueError, match="batch is a pickle that asks for"):
        cifar.load_batch(tmp_path / "batch")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_from_every_protocol_that_needs_no_program(tmp_path, protocol):
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": images(2), "labels": [1, 0]}, protocol=protocol))
    if protocol < 3:  # Python 3 then writes bytes as a call of a codec, which Python 2 never did
        with pytest.raises(ValueError, match=r"asks for _codecs\.encode"):
            cifar.load_batch(tmp_path / "batch")
    else:
        assert (cifar.load_batch(tmp_path / "batch")["data"] == images(2)).all()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "data_batch_1 is no readable pickle"),
        (b"\x80\x02}(U\x04data", "data_batch_1 is no readable pickle"),
        (pickle.dumps([1, 2]), "a pickle of a list, not of a dictionary"),
        (pickle.dumps({"labels": [0]}), "holds no uint8 images of 3072 values"),
        (pickle.dumps({"data": images(1).astype(float), "labels": [0]}), "an array of the type 'f8'"),
        (pickle.dumps({"data": images(2), "labels": [0]}), "a label for each of its 2 images"),
        (pickle.dumps({"data": images(2)}), "a label for each of its 2 images"),
        (pickle.dumps({"data": images(2), "labels": [0, 1], "filenames": ["a"]}), "a file name for each of its 2"),
        (
            pickle.dumps({"data": images(2), "labels": [0, 1], "filenames": ["a", ["b"]]}),
            "a file name for each of its 2",
        ),
        (pickle.dumps({"data": images(2), "labels": [0, 1], "filenames": "ab"}), "a file name for each of its 2"),
    ],
)
def test_broken_batch_is_named(cifar10, content, match):
    (cifar10 / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        cifar.read_cifar(request(cifar10))


def test_classes_must_have_their_file(cifar10):
    (cifar10 / "batches.meta").unlink()
    with pytest.raises(ValueError, match=r"batches\.meta, which names the classes, is missing"):
        cifar.read_cifar(request(cifar10))
    assert cifar.read_cifar(request(cifar10, classes=("a", "b"))).classes == ("a", "b")


@pytest.mark.parametrize("names", [None, "ab", 7, ["a", 1], [["a"]], {"a": 1}])
def test_names_of_classes_are_texts(cifar10, names):
    (cifar10 / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(ValueError, match=r"batches\.meta holds no list of the names"):
        cifar.read_cifar(request(cifar10))


def test_many_images_of_one_file_name_are_numbered_at_once(cifar10):
    count = 5000
    (cifar10 / "data_batch_1").write_bytes(
        pickle.dumps({"data": np.zeros((count, 3072), np.uint8), "labels": [0] * count, "filenames": ["a"] * count})
    )
    found = cifar.read_cifar(request(cifar10))
    assert f"a~{count}" in found.pixels
    assert len({item["image"] for item in found.items}) == len(found.items)


def test_publishers_test_images_stay_apart_and_validation_is_taken_from_training(cifar10, tmp_path):
    names = [f"{k}.png" for k in range(20)]
    (cifar10 / "data_batch_1").write_bytes(python2_batch(images(20), [k % 2 for k in range(20)], names))
    (cifar10 / "data_batch_2").unlink()
    (cifar10 / "test_batch").write_bytes(python2_batch(images(24)[20:], [0, 1, 0, 1], ["a", "b", "c", "d"]))
    path = prepare(cifar10, tmp_path / "out")
    sections = {name: load_datalist(path, name) for name in SECTIONS}
    assert {name: len(items) for name, items in sections.items()} == {"training": 16, "validation": 4, "testing": 4}
    assert {item["id"] for item in sections["testing"]} == {"a", "b", "c", "d"}
    with Image.open(sections["testing"][0]["image"]) as picture:
        assert picture.getpixel((0, 0)) == (RED - 20, GREEN - 20, BLUE - 20)


# SVHN


def svhn(path, digits):
    x = np.zeros((32, 32, 3, len(digits)), dtype=np.uint8)
    x[4, 7, 1] = np.arange(len(digits)) + 1
    savemat(path, {"X": x, "y": np.array(digits, dtype=np.uint8)[:, None]})


def test_svhn_calls_the_digit_zero_ten(tmp_path):
    svhn(tmp_path / "train_32x32.mat", [1, 10, 9])
    svhn(tmp_path / "test_32x32.mat", [10])
    assert cifar.fits_svhn(tmp_path)
    found = cifar.read_svhn(request(tmp_path))
    names = ["training_000000", "training_000001", "training_000002", "testing_000000"]
    assert labels_of(found) == dict(zip(names, [1, 0, 9, 0], strict=True))
    assert found.sections == dict(zip(names, ["training"] * 3 + ["testing"], strict=True))
    assert found.classes == tuple("0123456789")
    pixels = found.pixels["training_000001"]
    assert pixels.shape == (32, 32, 3)
    assert pixels[4, 7].tolist() == [0, 2, 0]
    assert pixels.sum() == 2


@pytest.mark.parametrize("label", [0.5, np.nan, np.inf, -1, 1e300])
def test_svhn_labels_are_whole_numbers(tmp_path, label):
    content = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1.0], [label]])}
    savemat(tmp_path / "train_32x32.mat", content)
    assert list(labels_of(cifar.read_svhn(request(tmp_path))).values()) == [1, None]


def test_svhn_label_beyond_ten_is_noted(tmp_path):
    svhn(tmp_path / "train_32x32.mat", [3, 11])
    found = cifar.read_svhn(request(tmp_path))
    assert labels_of(found) == {"training_000000": 3, "training_000001": None}
    assert found.noted == {
        "file that is missing": ["test_32x32.mat"],
        "label that is not from 0 to 9": ["train_32x32.mat, image 1"],
    }


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"no such file", "is no MATLAB file"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "does not hold uint8 images X"),
        ({"X": np.zeros((2, 32, 32, 3), np.uint8), "y": np.ones((2, 1))}, "does not hold uint8 images X"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))}, "does not hold uint8 images X"),
    ],
)
def test_broken_mat_file_is_named(tmp_path, content, match):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    with pytest.raises(ValueError, match=f"train_32x32.mat {match}"):
        cifar.read_svhn(request(tmp_path))


def test_other_folders_do_not_fit(tmp_path):
    for name in ("train", "test"):  # class folders
        (tmp_path / name / "ill").mkdir(parents=True)
    (tmp_path / "meta").touch()
    assert not cifar.fits_cifar(tmp_path)
    assert not cifar.fits_svhn(tmp_path)
