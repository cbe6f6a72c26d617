"""Masks made up for tests."""

import json

import nibabel as nib
import numpy as np

from medssl_monai.data.datalist import load_datalist
from medssl_monai.prepare.prepare import prepare


def volume(path, value, shape=(4, 5, 3), affine=None, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(shape, dtype=dtype)
    array[0, 0, 0] = value
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def run(tmp_path, **options):
    path = prepare(tmp_path / "in", tmp_path / "out", split=(1, 0, 0), volumes=True, clear_names=True, **options)
    return load_datalist(path), json.loads((path.parent / "prepare_report.json").read_text())["noted"]


def masks_of(data):
    return [(item["id"], item["label"].rpartition("/in/")[2] if "label" in item else None) for item in data]
