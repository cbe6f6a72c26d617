"""Files whose end is missing."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl_monai.prepare.layouts.listing import list_images
from medssl_monai.readers.reader import ClinicalReader


@pytest.mark.parametrize("kind", ["png", "jpg", "progressive"])
def test_bytes_after_a_picture_are_no_damage_and_missing_ones_are(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / f"a.{'png' if kind == 'png' else 'jpg'}"
    exif = Image.Exif()
    exif[270] = "a thumbnail ends here: \xff\xd9"
    noise.save(path, exif=exif, **({"progressive": True} if kind == "progressive" else {}))
    whole = path.read_bytes()
    for tail in (b"", b"\0" * 20_000, b"\xff" * 5000, whole[: len(whole) // 2]):
        path.write_bytes(whole + tail)
        assert len(list_images(tmp_path).items) == 1
        assert ClinicalReader().get_data([path])[0].shape == (3, 64, 64)
    for share in (0.3, 0.6, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "cut short" in list_images(tmp_path).unusable[0]["reason"]
    path.write_bytes(whole[:-2])
    assert "cut short" in list_images(tmp_path).unusable[0]["reason"]


def test_a_compressed_volume_is_unpacked_no_further_than_its_voxels(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "a.nii")
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").unlink()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(10**7)))
    read = []
    original = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: read.append(size) or original(self, size))
    assert len(list_images(tmp_path, volumes=True).items) == 1
    assert max(read) < 10_000 and min(read) >= 0
