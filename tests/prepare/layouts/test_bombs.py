"""Small files that unpack to large ones: what refusing them takes of memory, disk and time."""

import io
import multiprocessing
import resource
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from medssl_monai.prepare.prepare import prepare

pytestmark = pytest.mark.slow
LARGE = 3 * 10**9


def zeros(head=b""):
    """Deflated `head` and zeros behind it, as cheap as it is to pack a few of them again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    some = packer.compress(bytes(10**7)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + some * (LARGE // 10**7) + packer.flush()


def member(path, name, head=b""):
    """Append a member of `head` and zeros to an archive; `zipfile` itself would take long to pack them."""
    data, info = zeros(head), zipfile.ZipInfo(name)
    info.compress_type, info.compress_size, info.file_size = zipfile.ZIP_DEFLATED, len(data), len(head) + LARGE
    with zipfile.ZipFile(path, "a") as file:
        info.header_offset, info.CRC = file.start_dir, 0
        file.fp.seek(file.start_dir)
        file.fp.write(info.FileHeader() + data)
        file.start_dir, file._didModify = file.fp.tell(), True
        file.filelist.append(info)


def zip_bomb(folder):
    with zipfile.ZipFile(folder / "bomb.zip", "w") as file:
        file.writestr("manifest.csv", "image,label\n0.png,0\n1.png,1\nbig.png,0\n")
        for k in range(2):
            png = io.BytesIO()
            Image.fromarray(np.full((8, 8), k, np.uint8)).save(png, "PNG")
            file.writestr(f"{k}.png", png.getvalue())
    member(folder / "bomb.zip", "big.png")
    return folder / "bomb.zip"


def zip_of_many(folder):
    """A directory of two million members, of 46 bytes each."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    directory = entry * 2_000_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFE, 0xFFFE, len(directory), 0, 0)
    (folder / "many.zip").write_bytes(directory + end)
    return folder / "many.zip"


def npz_bomb(folder):
    np.savez(folder / "bomb.npz", ids=np.arange(10), labels=np.arange(10) % 2)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10, 10_000, LARGE // 100_000)}
    )
    member(folder / "bomb.npz", "images.npy", file.getvalue())
    return folder / "bomb.npz"


def npz_that_says_more(folder):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, LARGE)})
    with zipfile.ZipFile(folder / "more.npz", "w") as archive:
        archive.writestr("images.npy", file.getvalue() + b"abc")
    return folder / "more.npz"


def pickle_bomb(folder):
    (folder / "cifar").mkdir()
    steps = b"\x80\x02}U\x04data](" + b"N" * 100_000_000 + b"es."
    (folder / "cifar" / "data_batch_1").write_bytes(steps)
    (folder / "cifar" / "batches.meta").write_bytes(steps)
    return folder / "cifar"


def json_bomb(folder):
    (folder / "dataset.json").write_text('{"training": [' + "[]," * 5_000_000 + "[]]}")
    return folder / "dataset.json"


SOURCES = {
    zip_bomb: "bomb.zip: 'big.png' holds 3,000,000,000 bytes",
    zip_of_many: "many.zip holds",
    npz_bomb: "bomb.npz would unpack to",
    npz_that_says_more: "more.npz: the array 'images'",
    pickle_bomb: "batches.meta is no readable pickle (it has more than",
    json_bomb: "dataset.json holds 10,000,004 keys and values",
}


def refuse(sources, out, answers):
    for source in sources:
        began = time.monotonic()
        try:
            prepare(source, out)
        except ValueError as error:
            said = str(error)
        else:
            said = "accepted"
        answers.put((said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.monotonic() - began))


def test_little_is_taken_for_what_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=refuse, args=([make(tmp_path) for make in SOURCES], tmp_path / "out", answers))
    process.start()
    for match in SOURCES.values():
        said, memory, seconds = answers.get(timeout=120)
        assert match in said
        assert memory < 2 * 2**30, match
        assert seconds < 60, match
    process.join()
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) < 10**6
