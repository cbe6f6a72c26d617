"""Decoded images on disk."""

import logging
import multiprocessing
import os
import shutil
import stat
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from monai.transforms import Compose
from PIL import Image

from medssl_monai.data import ImageDataset, cache, item_files
from medssl_monai.data.packs import Pack
from medssl_monai.files import write_atomically

READ: list[str] = []
"""Names of the files that `Grey` has read."""
BROKEN: set[str] = set()
"""Names that it cannot read for now."""


class Grey:
    """Reads the grey value of a PNG file or of all in a folder; a module's class, so that it has a fingerprint."""

    def __init__(self, offset=0, log=None):
        self.offset, self.log = offset, log

    def __call__(self, item):
        path = Path(item["image"])
        READ.append(path.name)
        if self.log:
            with open(self.log, "a") as file:
                file.write("x")
        if path.name in BROKEN:
            raise OSError("no decoder")
        values = [np.asarray(Image.open(file)).max() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        return {"image": torch.full((1, 3, 2), (sum(map(int, values)) + self.offset + item.get("slice", 0)) / 255)}


@pytest.fixture(autouse=True)
def _forget():
    READ.clear()
    BROKEN.clear()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "images"


@pytest.fixture
def settled(monkeypatch):
    """Files of a moment ago count as old."""
    monkeypatch.setattr(item_files, "SETTLED_S", -60.0)


@pytest.fixture
def make(tmp_path):
    """Items with files of these grey values."""

    def _make(*values, prefix="scan"):
        for value in values:
            write(tmp_path / f"{prefix}{value}.png", value)
        return [{"image": str(tmp_path / f"{prefix}{v}.png"), "id": f"secret {v}", "label": 0} for v in values]

    return _make


def write(path, value):
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path, compress_level=0)  # all of one size


def load(items, folder, transform=None, **options):
    """Grey values of a fresh dataset, and which files were read for them."""
    READ.clear()
    dataset = ImageDataset(items, transform or Grey(), cache_dir=folder, **options)
    return dataset.images[:, 0, 0, 0].tolist(), list(READ)


def packs(folder):
    return sorted(folder.glob("*/*.npy"))


def test_a_second_start_reads_nothing(make, folder):
    items = make(10, 20, 30)
    assert load(items, folder) == ([10, 20, 30], ["scan10.png", "scan20.png", "scan30.png"])
    assert load(items, folder) == ([10, 20, 30], [])


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_images_are_the_same_with_and_without_a_cache(make, folder, dtype):
    items = make(10, 77)
    plain = ImageDataset(items, Grey(), dtype=dtype).images
    for _ in range(2):
        cached = ImageDataset(items, Grey(), dtype=dtype, cache_dir=folder).images
        assert cached.dtype == plain.dtype and torch.equal(cached, plain)
    assert load(items, folder, dtype=dtype)[1] == []


def test_another_dtype_is_another_pack(make, folder):
    items = make(10)
    load(items, folder)
    assert load(items, folder, dtype="float16")[1] == ["scan10.png"]


@pytest.mark.parametrize("word", [None, "null", "None", ""])
def test_without_a_folder_nothing_is_kept(make, tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    items = make(10)
    for _ in range(2):
        assert load(items, word) == ([10], ["scan10.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["scan10.png"]


def test_images_stay_on_disk_and_changing_them_does_not_reach_it(make, folder):
    items = make(10, 20)
    images = ImageDataset(items, Grey(), cache_dir=folder).images
    assert packs(folder)[0].name in Path("/proc/self/maps").read_text()
    images.fill_(99)
    assert load(items, folder) == ([10, 20], [])


def test_the_folder_is_the_owner_s_and_names_nobody(make, folder):
    load(make(10, 20), folder)
    for path in (folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        for text in ("secret", "scan", str(folder.parents[1])):
            assert text not in path.relative_to(folder).as_posix()
            assert path.is_dir() or text.encode() not in path.read_bytes()


# ---- what is noticed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [True, False], ids=["settled", "fresh"])
def test_a_changed_file_costs_one_decoding_even_with_the_old_size_and_date(make, folder, request, old):
    if old:
        request.getfixturevalue("settled")
    items = make(10, 20, 30)
    load(items, folder)
    path = Path(items[1]["image"])
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        write(path, 25)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert load(items, folder) == ([10, 25, 30], ["scan20.png"])


def test_old_files_are_looked_at_and_not_hashed_again(make, folder, settled, monkeypatch):
    items = make(10, 20)
    load(items, folder)
    monkeypatch.setattr(item_files, "sha256", lambda path: pytest.fail(f"{path} is hashed"))
    assert load(items, folder) == ([10, 20], [])


def test_a_file_of_a_moment_ago_is_hashed_again(make, folder, monkeypatch):
    items = make(10, 20)
    load(items, folder)
    hashed = []
    monkeypatch.setattr(item_files, "sha256", lambda path: hashed.append(path) or "other")
    load(items, folder)
    assert set(hashed) == {item["image"] for item in items}


@pytest.mark.parametrize("old", [True, False], ids=["settled", "fresh"])
def test_a_file_that_changes_while_it_is_read_is_not_kept(make, folder, request, old):
    if old:
        request.getfixturevalue("settled")
    items = make(10, 20)
    load(items, folder, Changing())
    write(items[0]["image"], 10)  # as it was before
    assert load(items, folder, Changing())[0] == [20, 20]  # and not 99, which a pack under the old content would hold


class Changing(Grey):
    """Somebody overwrites the first file just before it is decoded."""

    def __call__(self, item):
        if Path(item["image"]).name == "scan10.png":
            write(item["image"], 99 if READ == [] and not (Path(item["image"]).parent / "done").exists() else 20)
            (Path(item["image"]).parent / "done").touch()
        return super().__call__(item)


def test_another_transform_decodes_anew(make, folder):
    items = make(10)
    load(items, folder)
    assert load(items, folder, Grey(offset=1)) == ([11], ["scan10.png"])
    assert load(items, folder) == ([10], [])


def test_other_lists_of_the_same_images_decode_only_what_is_new(make, folder):
    items = make(10, 20, 30)
    load(items, folder)
    assert load(items[::-1], folder) == ([30, 20, 10], [])
    assert load(items[1:], folder) == ([20, 30], [])
    assert load([*make(5), *items[:2]], folder) == ([5, 10, 20], ["scan5.png"])
    assert load([items[0], items[0]], folder) == ([10, 10], [])


def test_the_same_content_elsewhere_under_another_id_is_not_decoded(make, folder):
    load(make(10), folder)
    assert load([{**item, "id": "x"} for item in make(10, prefix="copy")], folder) == ([10], [])


@pytest.mark.parametrize("old", [True, False], ids=["settled", "fresh"])
@pytest.mark.parametrize("key", ["slice", "meta"])
def test_what_else_an_item_says_matters(make, folder, key, request, old):
    if old:
        request.getfixturevalue("settled")
    (item,) = make(10)
    items = [{**item, key: 1}, {**item, key: 2}]
    assert load(items, folder)[0] == ([11, 12] if key == "slice" else [10, 10])
    assert len(READ) == 2
    assert load(items, folder)[1] == []
    assert len(load([{**item, key: 3}, items[0]], folder)[1]) == 1


@pytest.mark.parametrize("key", ["label", "labeled", "group", "id"])
def test_what_a_transform_cannot_see_does_not(make, folder, key):
    items = make(10)
    load(items, folder)
    assert load([{**items[0], key: "other"}], folder)[1] == []


def test_a_folder_is_all_the_files_in_it(tmp_path, folder, settled):
    series = tmp_path / "series"
    series.mkdir()
    items = [{"image": str(series), "id": "s"}]
    for value, name in ((10, "first.png"), (20, "second.png")):
        write(series / name, 10)
        assert load(items, folder) == ([value], ["series"])
        assert load(items, folder) == ([value], [])


def test_several_files_of_one_item(make, folder):
    first, second = make(10, 20)
    items = [{"image": [first["image"], second["image"]], "id": "x"}]
    both = Both()
    assert load(items, folder, both)[0] == [30]
    assert load(items, folder, both)[1] == []
    write(second["image"], 21)
    assert load(items, folder, both)[0] == [31]


class Both(Grey):
    def __call__(self, item):
        first, second = (super(Both, self).__call__({"image": path})["image"] for path in item["image"])
        return {"image": first + second}


# ---- what is not cached ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["local class", "open file"])
def test_a_transform_without_a_fingerprint_is_not_cached(make, folder, transform, caplog):
    class Local(Grey):
        pass

    grey = Local() if transform == "local class" else Grey()
    with open(os.devnull) as grey.handle:
        for _ in range(2):
            assert load(make(10), folder, grey) == ([10], ["scan10.png"])
    assert "The images are not cached, but kept in memory by this run" in caplog.text
    assert not folder.exists()


@pytest.mark.parametrize("path", ["nothing.png", "scan.mhd"])
def test_images_that_no_file_or_only_half_of_one_stands_for_are_not_cached(tmp_path, folder, path, caplog):
    (tmp_path / "scan.mhd").write_text("ElementDataFile = scan.raw")
    for _ in range(2):
        values, read = load([{"image": str(tmp_path / path), "id": "x"}], folder, Constant())
        assert values == [255] and read
    assert "made from something else than the files of its item" in caplog.text
    assert packs(folder) == [] and list(folder.rglob("*.tmp")) == []


class Constant:
    def __call__(self, item):
        READ.append("read")
        return {"image": torch.ones(1, 2, 2)}


def test_images_of_different_size_are_named_and_leave_nothing_behind(make, folder):
    with pytest.raises(ValueError, match=r"images differ in size: secret 10 .*, secret 20 .*"):
        load(make(10, 20), folder, Growing())
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["lock"]


class Growing:
    def __call__(self, item):
        return {"image": torch.zeros(1, 2, 2 if Path(item["image"]).name == "scan10.png" else 3)}


# ---- bad files ------------------------------------------------------------------------------------------------------


def test_bad_files_are_tried_again_and_have_their_reason_each_time(make, folder):
    items = make(10, 20, 30)
    BROKEN.add("scan20.png")
    for expected in (["scan10.png", "scan20.png", "scan30.png"], ["scan20.png"]):
        dataset = ImageDataset(items, Grey(), on_bad_file="skip", cache_dir=folder)
        READ.clear()
        assert dataset.unreadable == {1: "OSError: no decoder"}
        assert list(dict.fromkeys(READ)) == expected
        assert dataset.images[:, 0, 0, 0].tolist() == [10, 0, 30]
    BROKEN.clear()  # somebody installs what was missing
    values, read = load(items, folder)
    assert values == [10, 20, 30] and set(read) == {"scan20.png"}
    assert load(items, folder)[1] == []


def test_after_a_stop_only_the_mended_file_is_read(make, folder):
    items = make(10, 20, 30)
    Path(items[0]["image"]).write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 3 images cannot be read:\n  secret 10: "):
        load(items, folder)
    write(items[0]["image"], 40)
    assert load(items, folder) == ([40, 20, 30], ["scan10.png"])


def test_a_file_that_is_not_there_is_a_bad_file(make, folder):
    items = make(10, 20)
    Path(items[1]["image"]).unlink()
    for _ in range(2):
        dataset = ImageDataset(items, Grey(), on_bad_file="skip", cache_dir=folder)
        assert set(dataset.unreadable) == {1}
    assert load(make(20), folder) == ([20], ["scan20.png"])


def test_nothing_but_bad_files(make, folder):
    BROKEN.add("scan10.png")
    with pytest.raises(ValueError, match="1 of 1 images cannot be read"):
        load(make(10), folder, on_bad_file="skip")
    assert packs(folder) == []


def test_an_empty_list(folder):
    assert (
        len(ImageDataset([], Grey(), cache_dir=folder)) == len(ImageDataset([], Grey(), cache_dir=folder).images) == 0
    )
    assert not folder.exists()


# ---- a folder in trouble --------------------------------------------------------------------------------------------


def spoil(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:-5]
    elif how == "cut in the pixels":
        content = content[:130]
    elif how == "empty":
        content = bytearray()
    elif how == "text":
        content = bytearray(b"not an array")
    elif how.startswith("header"):
        shape = {
            "header open": "(",
            "header huge": f"({2**62}, {2**62})",
            "header negative": "(-2, 1, 3, 2)",
            "header flat": "()",
            "header of no dimension": "None",
            "header deep": "(" * 5000,
        }.get(how, "(2, 1, 3, 2)")
        kind = {"header of objects": "|O", "header of fields": "junk"}.get(how, "|u1")
        order = how == "header of other order"
        text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
        content[10:128] = text[:117].ljust(117) + b"\n"
    elif how == "archive":
        content = bytearray(b"PK\3\4") + content
    else:
        place = {"type": content.index(b"|u1"), "pixels": 128, "table": -20, "seal": -1}[how]
        content[place : place + 1 or None] = b"<" if how == "type" else bytes([content[place] ^ 1])
    path.write_bytes(content)


HEADERS = ("open", "huge", "negative", "flat", "of no dimension", "deep", "of objects", "of fields", "of other order")


@pytest.mark.parametrize(
    "how",
    [
        *("cut", "cut in the pixels", "empty", "text", "type", "pixels", "table", "seal", "archive"),
        *(f"header {how}" for how in HEADERS),
    ],
)
def test_a_damaged_pack_is_made_anew(make, folder, how, caplog):
    items = make(10, 20)
    load(items, folder)
    (pack,) = packs(folder)
    whole = pack.read_bytes()
    spoil(pack, how)
    assert pack.read_bytes() != whole
    assert load(items, folder) == ([10, 20], ["scan10.png", "scan20.png"])
    assert "A file of the image cache is damaged" in caplog.text
    assert pack.read_bytes() == whole
    caplog.clear()
    assert load(items, folder)[1] == []
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_whatever_bytes_of_a_pack_change_it_is_sound_afterwards(make, folder):
    items, rng = make(10, 20), np.random.default_rng(0)
    load(items, folder)
    (pack,) = packs(folder)
    whole = pack.read_bytes()
    for _ in range(150):
        content = bytearray(whole[: rng.integers(len(whole) // 2, len(whole) + 1)])
        for place in rng.integers(0, len(content), rng.integers(1, 5)):
            content[place] = rng.integers(256)
        pack.write_bytes(content)
        assert load(items, folder)[0] == [10, 20]
        assert Pack.open(pack).is_sound()


def test_nothing_is_copied_from_a_damaged_pack(make, folder):
    items = make(10, 20, 30)
    load(items[:2], folder)
    spoil(packs(folder)[0], "pixels")
    assert load(items, folder)[0] == [10, 20, 30]


def test_a_folder_that_cannot_be_written_falls_back_to_memory(make, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert load(make(10), tmp_path / "file" / "cache") == ([10], ["scan10.png"])
    assert "kept in memory by this run: Not a directory." in caplog.text


def test_a_disk_without_room_falls_back_to_memory(make, folder, monkeypatch, caplog):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10))
    assert load(make(10), folder)[0] == [10]
    assert "kept in memory by this run: 0.0 GB are needed and 0.0 GB free." in caplog.text
    assert packs(folder) == []


def test_a_disk_that_is_full_in_the_end_falls_back_to_memory(make, folder, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert load(make(10, 20), folder)[0] == [10, 20]
    assert "kept in memory by this run: No space left on device." in caplog.text
    assert packs(folder) == [] and list(folder.rglob("*.tmp")) == []


def test_what_a_killed_run_left_is_removed(make, folder):
    load(make(10), folder)
    left = packs(folder)[0].with_name(f".{'0' * 64}.npy.{'0' * 16}.tmp")
    left.write_bytes(b"half")
    load(make(20), folder)
    assert not left.exists()


@pytest.mark.parametrize("text", ["many", "1,5"])
def test_a_limit_that_is_no_number_is_an_error(make, folder, monkeypatch, text):
    monkeypatch.setenv("MEDSSL_CACHE_GB", text)
    with pytest.raises(ValueError, match=f"MEDSSL_CACHE_GB must be a number of gigabytes, got '{text}'"):
        load(make(10), folder)


def test_more_than_the_limit_stays_in_memory(make, folder, monkeypatch, caplog):
    monkeypatch.setenv("MEDSSL_CACHE_GB", "0.00000001")
    assert load(make(10), folder)[0] == [10]
    assert "more than the 1e-08 GB of MEDSSL_CACHE_GB; set it higher" in caplog.text
    assert packs(folder) == []


def test_what_was_not_used_for_longest_makes_room_and_other_people_s_files_stay(make, folder, monkeypatch):
    first, second, third, fourth = ([item] for item in make(1, 2, 3, 4))
    images = ImageDataset(first, Grey(), cache_dir=folder).images
    used: dict[Path, float] = {}
    for age, items, transform in ((30, first, Grey()), (20, second, Grey(offset=1)), (10, third, Grey())):
        load(items, folder, transform)
        for path in packs(folder):
            os.utime(path, times=(0, used.setdefault(path, time.time() - age)))
    load(first, folder)  # used just now
    size = packs(folder)[0].stat().st_size
    foreign = [folder / "notes" / "a.npy", folder / packs(folder)[0].parent.name / "mine.npy", folder / "b.npy"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 1000)
        os.utime(path, times=(0, 0))
    monkeypatch.setenv("MEDSSL_CACHE_GB", str(3.5 * size / 1e9))
    load(fourth, folder)
    assert len([path for path in packs(folder) if path not in foreign]) == 3
    assert load(first, folder)[1] == load(third, folder)[1] == []
    assert all(path.exists() for path in foreign)
    monkeypatch.setenv("MEDSSL_CACHE_GB", str(1.5 * size / 1e9))
    assert load(second, folder, Grey(offset=1)) == ([3], ["scan2.png"])
    assert len([path for path in packs(folder) if path not in foreign]) == 1
    assert images[:, 0, 0, 0].tolist() == [1]  # the pack is deleted, and its reader goes on


# ---- several processes ----------------------------------------------------------------------------------------------


def test_processes_that_start_at_once_decode_and_write_each_image_once(make, folder, tmp_path, monkeypatch):
    def count(path, write):
        with open(tmp_path / "written", "a") as file:
            file.write("x")
        write_atomically(path, write)

    monkeypatch.setattr(cache, "write_atomically", count)
    items, log = make(*range(1, 30)), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def start():
        results.put(ImageDataset(items, Grey(log=str(log)), cache_dir=folder).images[:, 0, 0, 0].tolist())

    processes = [context.Process(target=start) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [list(range(1, 30))] * 4
    for process in processes:
        process.join()
    assert len(log.read_text()) == 29
    assert (tmp_path / "written").read_text() == "x"


def test_who_waits_says_so_and_whoever_reads_does_not_wait(make, folder, caplog):
    items = make(10)
    load(items, folder)
    lock = FileLock(packs(folder)[0].with_name("lock"))
    with lock, caplog.at_level(logging.INFO):
        assert load(items, folder) == ([10], [])
        assert "1 of 1 images are in the cache" in caplog.text
        context = multiprocessing.get_context("fork")
        said = context.Queue()
        waiting = context.Process(target=lambda: said.put(load_aloud(make(20), folder)))
        waiting.start()
        while not (folder.parent / "said").exists() and waiting.is_alive():
            time.sleep(0.01)
    assert said.get(timeout=60) == ([20], ["scan20.png"])
    waiting.join()


def load_aloud(items, folder):
    """`load`, with a file as the sign that it waits."""

    class Sign(logging.Handler):
        def emit(self, record):
            if "waiting" in record.getMessage():
                (folder.parent / "said").touch()

    cache.logger.addHandler(Sign())
    return load(items, folder)


def test_compositions_of_monai_are_cached_too(make, folder):
    items = make(10)
    load(items, folder, Compose([Grey()]).set_random_state(1))
    assert load(items, folder, Compose([Grey()]).set_random_state(2))[1] == []
