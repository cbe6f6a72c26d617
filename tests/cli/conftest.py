"""What several commands are tried on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medssl_monai.data import load_datalist
from medssl_monai.pool import LabelPool, Labels


@pytest.fixture
def pool_file(toy_datalist, tmp_path):
    LabelPool(Labels(load_datalist(toy_datalist), 4)).save(tmp_path / "labels.json")
    return tmp_path / "labels.json"


@pytest.fixture
def leaky(tmp_path):
    """Eight images of four patients with a split that tears one of them apart, and one file that is no image."""
    (tmp_path / "in").mkdir()
    rows = ["image,label,patient,split"]
    for k in range(8):
        pixels = np.random.default_rng(k).integers(0, 255, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{k}.png")
        rows.append(f"{k}.png,{'ab'[k % 2]},p{k // 2},{'train' if k < 5 else 'val'}")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    (tmp_path / "in" / "t.csv").write_text("\n".join(rows))
    return tmp_path / "in"
