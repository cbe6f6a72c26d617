"""Helpers for the tests of synthetic data."""

import json

import pydicom

from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.readers.reader import ClinicalReader

FEW = {"training": 24, "validation": 6, "testing": 10}


def items_of(path):
    sections = [section for section in SECTIONS if section in json.loads(path.read_text())]
    return [item for section in sections for item in load_datalist(path, section)]


def read(item):
    reader = ClinicalReader()
    pixels = reader.get_data(reader.read(item["image"]))[0][0]
    return pixels[..., item["slice"]] if "slice" in item else pixels


def headers_of(path):
    return [pydicom.dcmread(item["image"]) for item in items_of(path) if item["image"].endswith(".dcm")]


def files_below(folder):
    return {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
