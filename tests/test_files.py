"""Files that are either whole or not there."""

import json
import os
import pickle
import resource
import stat
import zipfile
from contextlib import contextmanager

import pytest
import torch

from medssl_monai.files import (
    load_tensors,
    read_json,
    remove_leftovers,
    save_tensors,
    set_aside,
    sha256,
    write_atomically,
    write_json,
    write_text,
)


@contextmanager
def full_disk(room):
    """No file may grow beyond `room` bytes; the write fails as on a full disk (Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_folders_are_made_and_content_is_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "notes.txt"
    write_text(path, "first")
    write_text(path, "zweite, größer")
    assert path.read_text(encoding="utf-8") == "zweite, größer"
    assert [p.name for p in path.parent.iterdir()] == ["notes.txt"]  # no temporary file is left


@pytest.mark.parametrize(
    ("synced", "expected"),
    [(True, ["write", "sync the new file", "replace", "sync the folder"]), (False, ["write", "replace"])],
)
def test_content_is_on_the_disk_before_it_takes_the_old_one_s_place(tmp_path, monkeypatch, synced, expected):
    """Else a power failure leaves an empty file under the name; and the folder follows, else the new name is lost."""
    path, done, fsync, replace = tmp_path / "notes.txt", [], os.fsync, os.replace
    write_text(path, "old")

    def note_sync(handle):
        what = os.fstat(handle)
        new = next(tmp_path.glob(".*.tmp"), path)
        done.append("sync the new file" if os.path.samestat(what, new.stat()) else "sync the folder")
        assert stat.S_ISDIR(what.st_mode) or what.st_size == 3  # nothing is left in Python's buffer
        fsync(handle)

    def note_replace(source, target):
        done.append("replace")
        replace(source, target)

    def write(file):
        done.append("write")
        file.write(b"new")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(path, write, synced=synced)
    assert done == expected
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("unexpected pos"), ValueError("bug")])
def test_a_failing_writer_leaves_the_old_file_whole(tmp_path, error):
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def half(file):
        file.write(b"ne")
        raise error

    with pytest.raises((OSError, ValueError)):
        write_atomically(path, half)
    assert path.read_text() == "old"


def test_a_failed_write_says_what_to_do(tmp_path):
    def fail(file):
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(OSError, match=r"could not write .*state\.pt: unexpected pos .* is unchanged; free some space"):
        write_atomically(tmp_path / "state.pt", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "tensors"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, kind):
    path = tmp_path / "file"
    write, old, new = {
        "text": (write_text, "old", "new" * 100_000),
        "tensors": (save_tensors, {"w": torch.zeros(2)}, {"w": torch.zeros(100_000)}),
    }[kind]
    write(path, old)
    before = path.read_bytes()
    with full_disk(20_000), pytest.raises(OSError, match=r"could not write .* What was there before is unchanged"):
        write(path, new)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write(path, new)  # there is room again
    assert path.stat().st_size > 20_000


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not write"):
        write_text(tmp_path / "file" / "below.txt", "text")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_nan(tmp_path, value):
    write_json(tmp_path / "a.json", {"auroc": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"auroc": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"auroc": 0.5}


def test_json_keeps_umlauts_readable(tmp_path):
    write_json(tmp_path / "a.json", {"class": "Wirbelkörper"})
    assert "Wirbelkörper" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_is_read_with_or_without_a_mark(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Wirbelsäule", "parts": [1, {"x": None}]})
    told = read_json(tmp_path / "a.json")
    assert told == {"name": "Wirbelsäule", "parts": [1, {"x": None}]}
    (tmp_path / "b.json").write_text(json.dumps(told), encoding="utf-8-sig")
    assert read_json(tmp_path / "b.json") == told


DAMAGED = ['{"a": {"b": 1, "b": 2}}', '{"a": Infinity}', "null", '"a"', "{]", '{"a":' * 50_000, "\0"]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_json_that_is_damaged_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_what_is_set_aside_replaces_nothing(tmp_path):
    for content in "abc":
        (tmp_path / "q.csv").write_text(content)
        set_aside(tmp_path / "q.csv")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "q.previous1.csv": "a",
        "q.previous2.csv": "b",
        "q.previous3.csv": "c",
    }


def test_tensors_come_back(tmp_path):
    save_tensors(tmp_path / "a.pt", {"w": torch.arange(3), "name": "x", "best": None})
    content = load_tensors(tmp_path / "a.pt")
    assert content["w"].tolist() == [0, 1, 2]
    assert (content["name"], content["best"]) == ("x", None)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "write", [lambda path: torch.save(Evil(), path), lambda path: path.write_bytes(pickle.dumps(Evil()))]
)
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "evil.pt")
    with pytest.raises(
        ValueError, match=r"evil\.pt cannot be read \(.*It is damaged or was not written by this package"
    ):
        load_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "a.pt"
    save_tensors(path, {"w": torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.pt cannot be read .*restore it from a copy"):
        load_tensors(path)


def test_a_missing_file_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "nowhere.pt")


def test_sha256_is_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_names_persons_is_for_its_owner_alone(tmp_path, monkeypatch):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "private", "")
        write_text(tmp_path / "public", "", private=False)
        monkeypatch.setenv("MEDSSL_FILE_MODE", "640")
        write_text(tmp_path / "shared", "")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "public": 0o644, "shared": 0o640}


@pytest.mark.parametrize("mode", ["rw", "40", "777", "-1"])
def test_a_mode_that_is_none_is_refused(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("MEDSSL_FILE_MODE", mode)
    with pytest.raises(ValueError, match="MEDSSL_FILE_MODE must be a mode such as 600"):
        write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed(tmp_path, monkeypatch):
    """Whoever may write to the folder could have laid a link where the new file goes, had its name been known."""
    victim, path = tmp_path / "victim", tmp_path / "state.pt"
    victim.write_text("precious")
    monkeypatch.setattr("medssl_monai.files.secrets.token_hex", lambda size: "00")
    (tmp_path / ".state.pt.00.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="could not write"):
        write_text(path, "new")
    path.symlink_to(victim)  # the target itself: the link is replaced, what it shows stays
    write_text(path, "new")
    assert victim.read_text() == "precious" and path.read_text() == "new" and not path.is_symlink()


def test_two_writers_do_not_meet_in_one_temporary_file(tmp_path):
    path = tmp_path / "file"

    def first(file):
        file.write(b"first")
        write_text(path, "second")

    write_atomically(path, first)
    assert path.read_text() == "first"


def test_weights_that_unpack_to_more_than_there_is_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(ValueError, match=r"bomb\.pt cannot be read .*unpack to more than there is"):
        load_tensors(tmp_path / "bomb.pt")


def test_what_killed_writers_left_is_known_by_its_name(tmp_path):
    names = [f".a.pt.{8 * 'a0'}.tmp", ".a.pt.tmp", f"a.pt.{8 * 'a0'}.tmp", f".a.pt.{8 * 'a0'}", f".a.{7 * 'a0'}.tmp"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    remove_leftovers(tmp_path / "nowhere")


# ---- JSON that others wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_the_encodings_of_editors(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"größe": [1, 2.5, null]}', encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"größe": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff{}", "no text in UTF-8"),
        (b'{"id": "a", "label": 0, "label": 1}', "one object, of 'id' 'a', has the key 'label' 2 times"),
        (b'{"x": [{"1": 1, "1": 1, "1": 2}]}', "one object has the key '1' 3 times"),
        (b'{"x": NaN}', "it holds NaN"),
        (b"[]", "must hold a JSON object, and holds a list"),
        (b"[-Infinity]", "it holds -Infinity"),
        (b"[1e999]", "it holds 1e999, which is larger than any number"),
        (b"[" + b"9" * 5000 + b"]", "is not read"),
        (b"[" * 100_000, "is not read: its lists and objects are too deep in each other"),
        (b'{"a":' * 100_000, "is not read: its lists and objects are too deep in each other"),
    ],
)
def test_json_that_is_damaged_or_says_two_things_at_once(tmp_path, content, problem):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json {problem}|a.json is not .*: {problem}|a.json .*: it is {problem}"):
        read_json(tmp_path / "a.json")


def test_json_is_bounded_before_it_is_parsed(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("[[], {}, 1]")
    monkeypatch.setenv("MEDSSL_MAX_VALUES", "4")
    with pytest.raises(ValueError, match=r"a.json holds 5 keys and values of JSON, and 4 are the most"):
        read_json(tmp_path / "a.json")
    monkeypatch.setenv("MEDSSL_MAX_JSON_BYTES", "10")
    with pytest.raises(ValueError, match=r"a.json holds 11 bytes of JSON, and 10 are the most"):
        read_json(tmp_path / "a.json")
