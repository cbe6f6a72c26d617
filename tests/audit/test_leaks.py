"""The quick search before a training."""

import logging

import numpy as np
import pytest
from PIL import Image
from support_audit import clean

from medssl_monai.audit.audit import audit
from medssl_monai.audit.leaks import check_leaks


def test_allowed_leaks_are_logged(folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_leaks(folder(training=clean(), validation=[{"seed": 0}]), allow_leaks=True)
    assert "leaks in the data, which are allowed: exact copies in training" in caplog.text


def test_files_of_equal_size_and_samples_are_compared_whole(folder, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, 60000, dtype=np.uint8)
    other = large.copy()
    other[20000] += 1  # between the samples
    for name, content in (("a", large), ("b", large), ("c", other)):
        Image.fromarray(content.reshape(200, 300)).save(tmp_path / f"{name}.png", compress_level=0)
    sizes = {(tmp_path / f"{name}.png").stat().st_size for name in "abc"}
    assert len(sizes) == 1
    check_leaks(folder(training=[{"image": "a.png"}], validation=[{"image": "c.png"}]))
    with pytest.raises(ValueError, match="exact copies"):
        check_leaks(folder(training=[{"image": "a.png"}], validation=[{"image": "b.png"}]))


def test_an_audit_of_other_items_or_files_does_not_count(folder, tmp_path):
    audit(folder(training=clean(), validation=[{"seed": 0}]), tmp_path)
    check_leaks(folder(training=clean(), validation=[{"seed": 10}]))  # the same datalist, another file
    audit(folder(training=clean(), validation=[{"seed": 0}]), tmp_path)
    check_leaks(folder(training=clean(), validation=[{"seed": 10, "id": "other"}]))
    (tmp_path / "audit.json").write_text("{}")
    check_leaks(tmp_path / "datalist.json")
