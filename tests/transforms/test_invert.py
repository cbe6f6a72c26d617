"""Predictions back on the grid of the file."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, Resized
from PIL import Image

from medssl_monai.readers import ClinicalReader
from medssl_monai.transforms import InvertProbabilitiesd, ToFileAxesd


def load(*steps):
    return Compose([LoadImaged("image", reader=ClinicalReader(), image_only=True, ensure_channel_first=True), *steps])


@pytest.fixture
def picture(tmp_path):
    """An upright edge at a third of the width."""
    pixels = np.zeros((60, 90), np.uint8)
    pixels[:, :30] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return {"image": str(tmp_path / "image.png")}


def test_probabilities_come_back_without_steps(picture):
    """A ramp on a grid of 9 x 6 is a ramp on 90 x 60; MONAI's way back leaves steps of ten pixels."""
    chain = load(Resized("image", [9, 6], anti_aliasing=True))
    data = chain(picture)
    ramp = torch.linspace(0, 1, 9)[None, :, None].repeat(1, 1, 6)
    data["pred"] = MetaTensor(torch.cat([ramp, 1 - ramp]))
    before = data["image"].applied_operations
    smooth = InvertProbabilitiesd("pred", chain)(data)
    assert smooth["pred"].shape == (2, 90, 60)
    torch.testing.assert_close(smooth["pred"].sum(0).as_tensor(), torch.ones(90, 60))
    steps = smooth["pred"][0, :, 30].diff().abs()
    assert float(steps.max()) < 0.02 and (smooth["pred"][0].diff(dim=0) >= -1e-6).all()
    plain = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(data)["pred"]
    assert float(plain[0, :, 30].diff().abs().max()) > 0.1
    assert smooth["image"] is data["image"]
    assert smooth["image"].applied_operations == before and before[-1]["extra_info"]["mode"] == "area"


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAS", "PSR", "ASL", "IRP"])
def test_volumes_are_turned_to_the_axes_of_their_file(tmp_path, axes):
    """As MONAI Label does it: a result is written with the affine of the file."""
    array = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    codes = nibabel.orientations.axcodes2ornt(axes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (to, sign) in enumerate(codes):
        affine[int(to), axis] = sign * (1.0 + axis)
    affine[:3, 3] = 3, -7, 11
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "image.nii.gz")
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    chain = load(Orientationd("image", "RAS", labels=labels))
    data = chain({"image": str(tmp_path / "image.nii.gz")})
    data["pred"] = data["image"].clone()
    back = ToFileAxesd("pred")(InvertProbabilitiesd("pred", chain)(data))["pred"]
    np.testing.assert_array_equal(back[0], array)
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    assert tuple(back.meta["spatial_shape"]) == array.shape


def test_images_have_no_axes_to_turn(picture):
    data = load()(picture)
    assert ToFileAxesd("image")(data)["image"] is data["image"]
