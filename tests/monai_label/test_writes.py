"""Several processes that write to one datastore, and kills while they do."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from support import ROOT

from medssl_monai.monai_label.studies import KEY, read_studies
from medssl_monai.monai_label.writes import SafeWrites, opening, restore


class FileStore:
    """As MONAI Label's LocalDatastore keeps its images: all in one file, written whole by who changes anything."""

    def __init__(self, folder, clock=None):
        self._datastore_config_path = os.path.join(folder, "datastore_v2.json")
        self._lock_file = os.path.join(folder, ".lock")
        self._config_ts, self._datastore = 0, SimpleNamespace(objects={})
        self.clock = clock or (lambda: os.stat(self._datastore_config_path).st_mtime)
        self._init_from_datastore_file()

    def _init_from_datastore_file(self, throw_exception=False):
        with FileLock(self._lock_file):
            if os.path.exists(self._datastore_config_path) and self._config_ts != (ts := self.clock()):
                content = json.loads(Path(self._datastore_config_path).read_text())
                images = {name: SimpleNamespace(image=SimpleNamespace(info=info)) for name, info in content.items()}
                self._datastore, self._config_ts = SimpleNamespace(objects=images), ts

    def _update_datastore_file(self, lock=True):
        with FileLock(self._lock_file):
            content = {name: each.image.info for name, each in self._datastore.objects.items()}
            Path(self._datastore_config_path).write_text(json.dumps(content))
            self._config_ts = self.clock()

    def add_image(self, image_id, image_filename, image_info):
        self._datastore.objects[image_id] = SimpleNamespace(image=SimpleNamespace(info=dict(image_info)))
        self._update_datastore_file()

    def remove_image(self, image_id):
        del self._datastore.objects[image_id]
        self._reconcile_datastore()

    def update_image_info(self, image_id, info):
        self._datastore.objects[image_id].image.info.update(info)
        self._update_datastore_file()

    def _reconcile_datastore(self):
        self._update_datastore_file()

    def get_image_info(self, image_id):
        return self._datastore.objects[image_id].image.info

    save_label = remove_label = update_label_info = update_image_info

    def refresh(self):
        self._reconcile_datastore()


@pytest.fixture(params=[None, lambda: 1], ids=["by the file's time", "all in one tick"])
def open_store(tmp_path, request):
    """Opens the datastore as another process does."""
    FileStore(tmp_path).add_image("a", "", {})
    return lambda: FileStore(tmp_path, request.param)


class TestSafeWrites:
    def test_without_it_changes_are_lost(self, tmp_path):
        FileStore(tmp_path).add_image("a", "", {})
        first, second = FileStore(tmp_path), FileStore(tmp_path)
        first.update_image_info("a", {"one": 1})
        second.update_image_info("a", {"two": 2})
        assert FileStore(tmp_path).get_image_info("a") == {"two": 2}

    def test_two_that_write_in_turn_lose_nothing(self, open_store):
        first, second = open_store(), open_store()
        SafeWrites(first), SafeWrites(second)
        for number in range(5):
            first.update_image_info("a", {f"first {number}": number})
            second.update_image_info("a", {f"second {number}": number})
            first.add_image(f"image {number}", "", {})
        wanted = {f"{who} {number}": number for number in range(5) for who in ("first", "second")}
        assert open_store().get_image_info("a") == wanted
        assert second.get_image_info("a") == wanted
        assert len(open_store()._datastore.objects) == 6

    def test_many_at_once(self, open_store, monkeypatch):
        first, second = open_store(), open_store()
        second.add_image("b", "", {KEY: {"scored": 1}, "ts": 5})
        writes = SafeWrites(first)
        written = []
        original = first._update_datastore_file
        monkeypatch.setattr(first, "_update_datastore_file", lambda *args: (written.append(1), original(*args)))
        writes.update({"a": {KEY: {"scored": 2}}, "b": {KEY: {"scored": 2}}, "gone": {KEY: {"scored": 2}}})
        assert written == [1]
        content = open_store()._datastore.objects
        assert {name: each.image.info for name, each in content.items()} == {
            "a": {KEY: {"scored": 2}},
            "b": {KEY: {"scored": 2}, "ts": 5},  # what others keep of it stays
        }

    def test_what_others_wrote_is_there_after_reading(self, open_store):
        first, second = open_store(), open_store()
        writes = SafeWrites(first)
        second.update_image_info("a", {"two": 2})
        assert first.get_image_info("a") == {}
        writes.read()
        assert first.get_image_info("a") == {"two": 2}

    def test_a_change_that_makes_another(self, open_store):
        first, second = open_store(), open_store()
        SafeWrites(first)
        second.add_image("b", "", {})
        first.remove_image("a")  # it reconciles the datastore, which is a change too
        assert list(open_store()._datastore.objects) == ["b"]

    def test_a_change_that_fails_leaves_no_lock(self, open_store):
        first, second = open_store(), open_store()
        SafeWrites(first), SafeWrites(second)
        with pytest.raises(KeyError):
            first.update_image_info("nobody", {})
        second.update_image_info("a", {"two": 2})
        assert open_store().get_image_info("a") == {"two": 2}

    def test_arguments_and_answers_pass(self, open_store):
        store = open_store()
        store.save_label = lambda *arguments, **named: (arguments, named)
        SafeWrites(store)
        assert store.save_label("a", "file", label_tag="final") == (("a", "file"), {"label_tag": "final"})

    def test_a_store_of_another_kind(self):
        with pytest.raises(ValueError, match="a folder of studies or a DICOMweb archive"):
            SafeWrites(object())

    def test_a_change_that_was_broken_off_while_it_was_written(self, tmp_path, caplog):
        FileStore(tmp_path).add_image("a", "", {})
        store = FileStore(tmp_path)
        SafeWrites(store)
        store.update_image_info("a", {"label": "saved"})
        store.update_image_info("a", {"last": 1})
        file = tmp_path / "datastore_v2.json"
        restore(file)
        assert FileStore(tmp_path).get_image_info("a") == {"label": "saved", "last": 1}  # nothing was wrong
        file.write_text(file.read_text()[:9])  # killed
        restore(file)
        assert FileStore(tmp_path).get_image_info("a") == {"label": "saved"}
        assert "put back" in caplog.text
        restore(tmp_path / "nothing" / "there.json")

    @pytest.mark.slow
    def test_two_processes_at_a_time(self, tmp_path):
        """First without, then with `SafeWrites`: something is lost, then nothing."""
        folders = [tmp_path / "plain", tmp_path / "safe"]
        for folder in folders:
            folder.mkdir()
            FileStore(folder).add_image("a", "", {})
        code = "import runpy, sys; runpy.run_path(sys.argv[1])['write_many'](*sys.argv[2:])"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
        command = [sys.executable, "-c", code, __file__, *map(str, folders)]
        running = [subprocess.Popen([*command, who], env=environment) for who in ("first", "second")]
        assert [process.wait(120) for process in running] == [0, 0]
        wanted = {f"{who} {number}" for who in ("first", "second") for number in range(WRITES)}
        plain, safe = (set(FileStore(folder).get_image_info("a")) for folder in folders)
        assert safe == wanted
        assert plain < wanted


WRITES = 30


def write_many(plain, safe, who):
    """What each process does; both start when both are there."""
    for folder in map(Path, (plain, safe)):
        store = FileStore(folder)
        writes = SafeWrites(store) if folder == Path(safe) else None
        (folder / f"{who} is ready").touch()
        while len(list(folder.glob("* is ready"))) < 2:
            time.sleep(0.01)
        for number in range(WRITES):
            info = {f"{who} {number}": 1}
            if writes and number % 2:
                writes.update({"a": info})
            else:
                store.update_image_info("a", info)


class TestKills:
    """At any moment while a label is stored."""

    @pytest.fixture
    def server(self, serve, studies):
        folder, _ = studies("multimix", 3)
        server = serve(["multimix"], folder)
        server.save("training_0", {"label": "left"})
        return server

    @staticmethod
    def known(server):
        """Label of each image after another start, and whether it has a mask."""
        again = server.start()
        items = read_studies(again.datastore(), again.served["multimix"], 0).train
        return {item["id"]: (item.get("label"), item["masked"]) for item in items}

    @staticmethod
    def kill(*arguments, **named):
        raise KeyboardInterrupt

    def test_while_the_file_is_copied(self, server, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr("medssl_monai.monai_label.writes.shutil.copyfileobj", self.kill)
            with pytest.raises(KeyboardInterrupt):
                server.save("training_0", {"label": "right"})
        assert self.known(server)["training_0"] == (0, False)
        assert server.labels() == {"final/training_0.json"}

    def test_before_it_is_entered(self, server, studies, monkeypatch):
        _, items = studies("multimix", 3)
        right = {"label": "right"}
        with monkeypatch.context() as patch:
            for name, label in (
                ("training_0", right),
                ("training_1", right),
                ("training_2", items["training_2"]["mask"]),
            ):
                patch.setattr(server.store, "_update_datastore_file", self.kill)
                with pytest.raises(KeyboardInterrupt):
                    server.save(name, label)
        found = self.known(server)
        assert (found["training_0"], found["training_1"]) == ((1, False), (1, False))
        assert (server.folder / "labels" / "final" / "training_2.png").exists()

    def test_while_the_datastore_is_written(self, server):
        server.save("training_1", {"label": "right"})
        file = server.folder / "datastore_v2.json"
        file.write_text(file.read_text()[:50])
        found = self.known(server)
        assert (found["training_0"], found["training_1"]) == ((0, False), (1, False))

    def test_a_class_of_no_image_is_left_alone(self, server):
        (server.folder / "labels" / "final" / "nobody.json").write_text('{"label": "left"}')
        assert self.known(server).keys() == {"training_0", "training_1", "training_2"}


@pytest.mark.usefixtures("label")
def test_ten_writers_of_five_labels_each(tmp_path):
    for number in range(50):
        (tmp_path / f"image_{number}.png").touch()
    (tmp_path / "label.json").write_text('{"label": 0}')
    local = sys.modules["monailabel.datastore.local"].LocalDatastore
    fork = multiprocessing.get_context("fork")

    def write(who):
        with opening(str(tmp_path)):
            store = local(tmp_path, extensions=("*.png",))
        writes = SafeWrites(store)
        for number in range(5 * who, 5 * who + 5):
            writes.put(f"image_{number}", tmp_path / "label.json", "final", {"who": who})

    writers = [fork.Process(target=write, args=(who,)) for who in range(10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 10
    kept = json.loads((tmp_path / "datastore_v2.json").read_text())["objects"]
    assert len(kept) == 50
    assert all(kept[f"image_{n}"]["labels"]["final"]["info"]["who"] == n // 5 for n in range(50))
    assert len(list((tmp_path / "labels" / "final").iterdir())) == 50


def test_threads_of_a_server_do_not_wait_for_each_other_forever(open_store):
    store = open_store()
    writes = SafeWrites(store)
    with ThreadPoolExecutor(4) as pool:
        changes = [pool.submit(store.update_image_info, "a", {str(n): n}) for n in range(20)]
        changes += [pool.submit(writes.update, {"a": {str(n): n}}) for n in range(20, 40)]
        for change in changes:
            change.result(timeout=60)
    assert len(open_store().get_image_info("a")) == 40
