"""Files of decoded images."""

import os
import zlib

import numpy as np
import pytest

from medssl_monai.data.item_files import KEY, NO_KEY, STATE
from medssl_monai.data.packs import Pack


@pytest.fixture
def path(tmp_path):
    """A pack of two images, of which the second cannot be read."""
    path = tmp_path / "pack.npy"
    np.save(path, np.arange(2 * 3 * 2, dtype=np.uint8).reshape(2, 1, 3, 2))
    content = path.read_bytes()
    end = b"s" * STATE + b"k" * KEY + bytes(STATE + KEY) + zlib.crc32(content).to_bytes(4)
    path.write_bytes(content + end + zlib.crc32(end).to_bytes(4))
    return path


def test_pixels_and_table_come_back(path):
    pack = Pack.open(path)
    assert pack.images.tolist() == np.arange(12).reshape(2, 1, 3, 2).tolist()
    assert pack.states == [b"s" * STATE, bytes(STATE)] and pack.keys == [b"k" * KEY, NO_KEY]
    assert pack.is_sound()


def test_a_changed_pixel_is_noticed_and_the_pack_discarded(path, caplog):
    content = bytearray(path.read_bytes())
    content[128] ^= 1
    path.write_bytes(content)
    assert not Pack.open(path).is_sound()
    assert not path.exists() and "is damaged; it is deleted" in caplog.text


def test_a_pipe_in_place_of_a_pack_is_discarded(tmp_path):
    os.mkfifo(tmp_path / "pack.npy")
    assert Pack.open(tmp_path / "pack.npy") is None
    assert not (tmp_path / "pack.npy").exists()
