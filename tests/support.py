"""What several test files use."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta
from html.parser import HTMLParser
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medssl_monai.data import load_datalist
from medssl_monai.kinds import Classes
from medssl_monai.locks import holding
from medssl_monai.losses import sharpen, weighted_mean

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "bundles"


def leaves(item: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a nested state dict, by path."""
    if isinstance(item, dict):
        return {k: v for key, value in item.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(item, (list, tuple)):
        return {k: v for i, value in enumerate(item) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: item}


def assert_same_state(first: Any, second: Any) -> None:
    """Bit-equal state dicts."""
    a, b = leaves(first), leaves(second)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.nan_to_num(value, -1.0), torch.nan_to_num(b[key], -1.0)), key
        else:
            assert value == b[key], key


def listed_files(path: Path) -> dict[str, str]:
    """Path of the image by id, as an inference has noted it for the user; those that it could not use as well."""
    unusable = json.loads(path.read_text()).get("quarantine", [])
    return {item["id"]: item["image"] for item in [*load_datalist(path, "testing"), *unusable]}


def outputs_of(folder: Path) -> dict[str, bytes]:
    """Content of every file that equal runs must leave equal: figures, queries, labels."""
    names = ["rounds/*.json", "queries/*", "pool.json", "rounds.csv"]
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.glob(name)}


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Another run, one of another thread, has a folder."""
    taken, go_on = threading.Event(), threading.Event()

    def _run() -> None:
        with holding(folder):
            taken.set()
            go_on.wait()

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(_run)
        assert taken.wait(60)
        try:
            yield
        finally:
            go_on.set()
        done.result()


def refused(run: Callable[..., Any], *args: Any, **overrides: Any) -> str:
    """What a run that fails says, at the root of it."""
    with pytest.raises((RuntimeError, ValueError, OSError)) as found:
        run(*args, **overrides)
    error: BaseException = found.value
    while error.__cause__:
        error = error.__cause__
    return str(error)


def torchrun(*arguments: str, cwd: Path | None = None, path: Sequence[Path] = ()) -> None:
    """Run a script, or a module after ``-m``, in two processes that import from `path` before the package."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-6000:]  # torchrun adds 2,000 characters of its own


def in_two_processes(code: str, folder: Path) -> list[Any]:
    """Run `code`, which can import tests, with gloo; what each process puts into `result`, as JSON gives it back.

    The code finds its ``rank``. Both processes come from one that has imported what takes long, and begin anew.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["ignite.distributed", "medssl_monai.methods", "pytest"])
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        ranks = [processes.submit(_one_of_two, rank, code, folder) for rank in (0, 1)]
        for done in as_completed(ranks):
            done.result()  # raises what went wrong first, not that the other one was left alone
        return [done.result() for done in ranks]


def _one_of_two(rank: int, code: str, folder: Path) -> Any:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    idist.initialize("gloo", init_method=meeting, world_size=2, rank=rank, timeout=timedelta(minutes=5))
    try:
        names: dict[str, Any] = {"rank": rank}
        exec(code, names)
        return json.loads(json.dumps(names["result"]))
    finally:
        idist.finalize()  # so that the other one does not wait for one that failed


def dicom_sample(name: str) -> Path:
    """A file that pydicom ships; its own look-up needs setuptools in version 2, which also ships fewer."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not path.exists() and pydicom.__version__.startswith("2."):
        pytest.skip(f"pydicom {pydicom.__version__} ships no {name}")
    return path


def save_dicom(path: Path, pixels: np.ndarray, photometric: str, bits: int | None = None, **elements: Any) -> Path:
    """Write grey `pixels`, (rows, columns) or (frames, rows, columns), with any version of pydicom.

    `elements` may replace those that follow from the pixels; they include the UIDs of class and instance.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # is put right when written
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = elements["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, preamble=bytes(128), file_meta=meta, is_implicit_VR=False, is_little_endian=True)
    allocated = 8 * pixels.itemsize
    bits = bits or allocated
    content = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": photometric,
        **({"NumberOfFrames": len(pixels)} if pixels.ndim == 3 else {}),
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **elements,
    }
    for name, value in content.items():
        setattr(ds, name, value)
    ds.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    ds.save_as(str(path))
    return path


VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Tags and text of an HTML page; tags must be closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def pseudo_label_loss(logits, outcomes, threshold, normalization="batch", temperature=None, targets=None, kind=None):
    """Loss and mask of strong views `logits`, as the steps of FixMatch, MultiMix and TEAR put them together."""
    kind = kind or Classes.of_size(logits.shape[1])
    mask = kind.confident(outcomes.detach(), kind.threshold(threshold)).to(logits.dtype)
    wanted = targets
    if wanted is None:
        wanted = kind.decide(outcomes.detach()) if temperature is None else sharpen(outcomes, temperature)
    return weighted_mean(kind.losses(logits, wanted), mask, normalization), mask


def outcomes_of(present):
    """Outcomes ``(..., 2)`` of findings that are present with these probabilities."""
    return torch.stack([1 - present, present], dim=-1)


def read_csv(path):
    """Rows of a table, as mappings."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
