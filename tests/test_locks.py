"""One process at a time changes a file, one run at a time has a folder."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import ROOT, in_two_processes

from medssl_monai import locks
from medssl_monai.files import write_text
from medssl_monai.locks import RUN_LOCK, changing, holding

HOLDER = """
import sys, time
from medssl_monai.locks import holding
with holding(sys.argv[1]):
    print('held', flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that has ``run``; killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.fixture(params=[errno.ENOLCK, errno.ENOTSUP, NotImplementedError])
def without_locks(request, monkeypatch):
    """A file system that has none."""

    def refuse(handle, how):
        raise request.param if isinstance(request.param, type) else OSError(request.param, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def write_facts(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / RUN_LOCK).write_text(json.dumps({**locks._own_facts(), **changes}))


def add(path, text):
    with changing(path):
        before = path.read_text() if path.exists() else ""
        write_text(path, before + text)


def test_ten_writers_of_one_file_lose_nothing(tmp_path):
    path = tmp_path / "pool.json"
    with ThreadPoolExecutor(10) as executor:
        list(executor.map(lambda number: add(path, f"{number}\n"), range(50)))
    assert sorted(map(int, path.read_text().split())) == list(range(50))


def test_a_file_is_one_file_by_any_name(tmp_path):
    (tmp_path / "pool.json").touch()
    (tmp_path / "link.json").symlink_to("pool.json")
    with changing(tmp_path / "link.json"), ThreadPoolExecutor(1) as executor:
        second = executor.submit(lambda: changing(tmp_path / "pool.json", seconds=0.1).__enter__())
        message = r"pool\.json is being changed by another process.*start the same command"
        assert pytest.raises(OSError, match=message).matches(second.exception())


def test_a_lock_beside_a_file_is_private_and_no_link_is_followed(tmp_path):
    with changing(tmp_path / "pool.json"):
        assert stat.S_IMODE((tmp_path / ".pool.json.lock").stat().st_mode) == 0o600
    (tmp_path / ".other.json.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"other\.json cannot be locked"), changing(tmp_path / "other.json"):
        pass
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_that_cannot_be_locked_is_not_changed(tmp_path, monkeypatch, number):
    def refuse(handle, how):
        raise OSError(number, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"pool\.json cannot be locked .*a disk with locks"):
        add(tmp_path / "pool.json", "lost")
    assert not (tmp_path / "pool.json").exists()


def test_a_folder_is_had_by_one_run_and_free_after_it(tmp_path):
    with holding(tmp_path / "run"):
        facts = json.loads((tmp_path / "run" / RUN_LOCK).read_text())
        assert facts["pid"] == os.getpid()
        assert stat.S_IMODE((tmp_path / "run" / RUN_LOCK).stat().st_mode) == 0o600
    assert list((tmp_path / "run").iterdir()) == []
    with holding(tmp_path / "run"):
        pass


@pytest.mark.slow
def test_the_second_process_is_told_who_has_the_folder(tmp_path, other):
    message = rf"run is in use by process {other.pid} on .*since 2.*`output_dir`"
    with pytest.raises(OSError, match=message) as error, holding(tmp_path / "new", tmp_path / "run"):
        pass
    assert "rm " not in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_a_stopped_process_keeps_it_and_a_killed_one_does_not(tmp_path, other):
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(OSError, match="is in use"), holding(tmp_path / "run"):
        pass
    other.kill()
    other.wait()
    assert (tmp_path / "run" / RUN_LOCK).exists()
    with holding(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / RUN_LOCK).read_text())["pid"] == os.getpid()


def test_a_loop_hands_its_folders_to_its_trainings(tmp_path):
    with holding(tmp_path / "loop", tmp_path / "loop" / "round_00"):
        with holding(tmp_path / "loop" / "round_00"):
            pass
        assert (tmp_path / "loop" / "round_00" / RUN_LOCK).exists()


def test_two_threads_are_two_runs(tmp_path):
    def take():
        with holding(tmp_path):
            pass

    with holding(tmp_path), ThreadPoolExecutor(1) as executor:
        second = executor.submit(take)
        assert pytest.raises(OSError, match=f"process {os.getpid()}").matches(second.exception())


def test_of_many_at_once_one_has_it(tmp_path):
    inside, most, refused = [], [], []
    gate = threading.Barrier(8)

    def take():
        gate.wait()
        for _ in range(200):
            try:
                with holding(tmp_path / "run"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except OSError:
                refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 1600


def test_a_loader_s_process_does_not_keep_what_its_parent_has(tmp_path):
    go_on = multiprocessing.get_context("fork").Event()
    with holding(tmp_path / "run"):
        child = multiprocessing.get_context("fork").Process(target=go_on.wait)
        child.start()
    with holding(tmp_path / "run"):
        pass
    go_on.set()
    child.join()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    left = [tmp_path / f".state.pt.{'0a' * 8}.tmp", tmp_path / "rounds" / f".round_00.json.{'1b' * 8}.tmp"]
    kept = [tmp_path / "a.tmp", tmp_path / ".a.tmp", tmp_path / "state.pt", tmp_path / f"{'0a' * 8}.tmp"]
    (tmp_path / "rounds").mkdir()
    for path in left + kept:
        path.touch()
    with holding(tmp_path):
        assert [path.exists() for path in left] == [False, False]
        assert all(path.exists() for path in kept)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / RUN_LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="cannot be locked for this run"), holding(tmp_path):
        pass
    assert not (tmp_path / "precious").exists()


def test_all_processes_of_a_run_are_refused_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "is_first", lambda: False)
    monkeypatch.setattr(locks, "from_first", lambda value: "run is in use by process 1")
    with pytest.raises(OSError, match="in use by process 1"), holding(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_of_one_run_hold_it_together_and_are_refused_together(tmp_path):
    code = f"""
from medssl_monai.locks import holding
result = []
for name in ("free", "taken"):
    try:
        with holding("{tmp_path}/" + name):
            result.append("held")
    except OSError as error:
        result.append(str(error))
"""
    with holding(tmp_path / "taken"):
        first, second = in_two_processes(code, tmp_path)
    assert first == second
    assert first[0] == "held"
    assert f"taken is in use by process {os.getpid()}" in first[1]


def test_without_locks_the_file_is_the_lock(tmp_path, without_locks):
    folder = tmp_path / "run"
    with holding(folder):
        locks._held.clear()  # as another process sees it
        with pytest.raises(OSError, match=f"process {os.getpid()}") as error, holding(folder):
            pass
        assert "rm " not in str(error.value)
    (folder / RUN_LOCK).unlink()
    with holding(folder):
        assert (folder / RUN_LOCK).exists()
    assert not (folder / RUN_LOCK).exists()


def test_without_locks_another_machine_s_run_is_never_taken_over(tmp_path, without_locks):
    write_facts(tmp_path / "a run", host="elsewhere", machine="another", pid=2**22 + 1, start="5")
    message = r"on elsewhere.*free the folder: rm -f '.*/a run/\.run\.lock'\*"
    for _ in range(2):
        with pytest.raises(OSError, match=message), holding(tmp_path / "a run"):
            pass
    (tmp_path / "a run" / RUN_LOCK).write_text("")
    with pytest.raises(OSError, match=r"in use by another run.*rm -f"), holding(tmp_path / "a run"):
        pass


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"start": "5"}])
def test_without_locks_a_process_that_died_here_holds_nothing(tmp_path, without_locks, changes):
    write_facts(tmp_path / "run", **changes)
    with holding(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / RUN_LOCK).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_without_locks_one_at_a_time_takes_over(tmp_path, without_locks):
    write_facts(tmp_path / "run", pid=2**22 + 1)
    (tmp_path / "run" / f"{RUN_LOCK}.removing").touch()
    with pytest.raises(OSError, match=r"rm -f .*\*"), holding(tmp_path / "run"):
        pass
