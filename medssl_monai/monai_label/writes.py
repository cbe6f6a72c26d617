"""Several processes that write to one datastore, and a kill at any moment: no label is lost."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from medssl_monai.files import write_atomically
from medssl_monai.monai_label.files import form_of

logger = logging.getLogger(__name__)


@contextmanager
def opening(folder: str) -> Iterator[None]:
    """Nobody else writes to the datastore of a folder while it is opened, which may change it; see `restore`.

    Args:
        folder: of the studies; of an archive, by its address, nothing is known before it is asked.
    """
    if folder.startswith(("http://", "https://")):
        yield
        return
    path = Path(folder) / "datastore_v2.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock(path)):
        restore(path)
        yield


def restore(path: Path) -> None:
    """Put back what a datastore's file held before its last change, if that was broken off while it was written.

    Args:
        path: ``datastore_v2.json`` of a local datastore; nothing happens without one.
    """
    try:
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        if _before(path).exists():
            logger.warning(f"{path.name} was broken off while it was written; it is put back as it was before.")
            shutil.copyfile(_before(path), path)


def _lock(path: str | Path) -> str:
    return f"{path}.lock"


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


class SafeWrites:
    """Let the server and its subprocesses write to one datastore without losing each other's changes.

    MONAI Label's local datastore keeps everything in one file, and each process writes all that it remembers: a
    subprocess that scored for a minute would put back the labels of a minute ago. Here every change first reads what is
    there, both under one lock. What the store is asked for afterwards is the file's content as well. The file is
    written in place; what it held before is kept beside it, for `restore`. A label (`put`) is whole or not there; what
    a kill left between its file and the datastore's is taken up at the next start (`adopt`).

    Args:
        store: a `monailabel.datastore.local.LocalDatastore`, or one that is derived from it; its methods are replaced.

    Raises:
        ValueError: for a store of another kind.
    """

    CHANGES = ("add_image", "remove_image", "save_label", "remove_label", "update_image_info", "update_label_info")

    def __init__(self, store: Any) -> None:
        if not hasattr(store, "_init_from_datastore_file"):
            raise ValueError("this app serves a folder of studies or a DICOMweb archive, and no other datastore.")
        self.store = store
        self.lock = FileLock(_lock(store._datastore_config_path), thread_local=False)
        self.thread = threading.RLock()
        for name in (*self.CHANGES, "_reconcile_datastore"):
            setattr(store, name, self.locked(getattr(store, name)))
        store._update_datastore_file = self._keeping(store._update_datastore_file)

    def _keeping(self, write: Callable[..., None]) -> Callable[..., None]:
        path = Path(self.store._datastore_config_path)

        def written(*arguments: Any, **named: Any) -> None:
            if path.exists():
                with path.open("rb") as content:
                    write_atomically(_before(path), partial(shutil.copyfileobj, content))
            write(*arguments, **named)

        return written

    def locked(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """`change`, while nobody else writes and after reading what they wrote."""

        def changed(*arguments: Any, **named: Any) -> Any:
            with self._alone():
                return change(*arguments, **named)

        return changed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes, and the store knows what they wrote."""
        with self.thread:
            within = self.lock.is_locked  # a change that makes another has not been written yet
            with self.lock:
                if not within:
                    self.store._config_ts = None  # it goes by the file's time, which two writes in one tick share
                    self.store._init_from_datastore_file()
                yield

    def read(self) -> None:
        """Take in what other processes wrote."""
        with self._alone():
            pass

    def update(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Update the info of many images, with one write; images that are gone are passed over."""
        with self._alone():
            objects = self.store._datastore.objects
            for name in infos.keys() & objects.keys():
                objects[name].image.info.update(infos[name])
            self.store._update_datastore_file()

    def put(self, image_id: str, file: Path, tag: str, info: Mapping[str, Any]) -> Path:
        """Store a label, as the local datastore's `save_label` does, but never a part of it; returns its file.

        Raises:
            LookupError: if the image is gone.
        """
        with self._alone():
            objects = self.store._datastore.objects
            if image_id not in objects:
                raise LookupError(f"there is no image {image_id!r} in the studies any more.")
            suffix = ".json" if form_of(file) == "class" else self.store._to_id(file.name)[1]
            path = Path(self.store._datastore.label_path(tag)) / f"{image_id}{suffix}"
            with file.open("rb") as content:
                write_atomically(path, partial(shutil.copyfileobj, content))
            self._enter(objects[image_id], tag, path, suffix, {**info, "ts": int(time.time())})
            self.store._update_datastore_file()
        return path

    def adopt(self, tags: Iterable[str]) -> None:
        """Take up classes whose files are there and that the datastore does not know; MONAI Label does so for masks."""
        with self._alone():
            found = 0
            for tag in tags:
                for path in sorted(Path(self.store._datastore.label_path(tag)).glob("*.json")):
                    entry = self.store._datastore.objects.get(path.stem)
                    if entry is not None and tag not in entry.labels:
                        self._enter(entry, tag, path, ".json", {"ts": int(path.stat().st_mtime)})
                        found += 1
            if found:
                logger.warning(f"{found} labels were stored and not entered, as by a kill; they are taken up.")
                self.store._update_datastore_file()

    @staticmethod
    def _enter(entry: Any, tag: str, path: Path, suffix: str, info: Mapping[str, Any]) -> None:
        entry.labels[tag] = type(entry.image)(ext=suffix, info={**info, "name": path.name})
