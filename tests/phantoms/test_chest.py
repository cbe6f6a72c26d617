"""Radiographs, normal or with opacities."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_phantoms import headers_of, items_of, read

from medssl_monai.data.datalist import SECTIONS, load_datalist
from medssl_monai.phantoms import chest as chest_kind
from medssl_monai.phantoms import make_phantom


def test_both_classes_in_every_section_of_the_chest(chest):
    for section in SECTIONS:
        share = np.mean([item["label"] for item in load_datalist(chest, section)])
        assert 0.15 < share < 0.65


def test_lung_masks_are_where_the_picture_is_dark(chest):
    for item in items_of(chest):
        lungs = np.asarray(Image.open(chest.parent / item["meta"]["masks"]["lungs"])).T > 0
        assert 0.1 < lungs.mean() < 0.45
        pixels = read(item)
        assert pixels[lungs].mean() < pixels[40:72, 40:].mean()  # MONOCHROME1 must be inverted for this


def test_chest_comes_as_png_cr_and_dx_with_the_traps_of_a_clinic(chest):
    assert {Path(item["image"]).suffix for item in items_of(chest)} == {".png", ".dcm"}
    headers = headers_of(chest)
    assert {header.Modality for header in headers} == {"CR", "DX"}
    inverted = np.mean([header.PhotometricInterpretation == "MONOCHROME1" for header in headers])
    assert 0.2 < inverted < 0.6
    spacing = {tuple(header.get("PixelSpacing", ())) for header in headers}
    assert () in spacing
    assert (0, 0) in spacing
    assert any(values and values[0] > 0 for values in spacing)


def test_format_and_photometric_interpretation_do_not_tell_the_label(tmp_path):
    items = items_of(make_phantom(tmp_path, "chest", {"training": 140}))
    share = {True: [], False: []}
    for item in items:
        share[item["image"].endswith(".png")].append(item["label"])
    assert abs(np.mean(share[True]) - np.mean(share[False])) < 0.2


def test_the_chest_is_the_same_as_before_there_were_findings():
    image, lung = chest_kind._chest_image(np.random.default_rng(0), True, "PA")
    assert lung.sum() == 4093
    column = [0.672945, 0.819261, 0.841656, 0.850549, 0.890785, 0.87529, 0.859232]
    assert image[::16, 56].tolist() == pytest.approx(column, abs=1e-5)
