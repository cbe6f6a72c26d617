"""SSAL's U-Net; more in `test_segmentation` and in `parity/test_ssal`."""

import pytest
import torch
from torch import nn

from medssl_monai.networks import ssal_unet
from medssl_monai.networks.ssal_unet import SSALUNet


def convolutions(network):
    found = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]
    return [(module.in_channels, module.out_channels) for module in found]


def test_channels_of_every_convolution():
    """64 to 512, and 512 again at the bottom, since what is interpolated keeps its channels."""
    down = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    up = [(1024, 512), (512, 256), (512, 256), (256, 128), (256, 128), (128, 64), (128, 64), (64, 64)]
    assert convolutions(ssal_unet(2)) == [*down, (512, 512), (512, 512), *up]


@pytest.mark.parametrize(("dims", "features"), [(2, 4 * 32), (3, 8 * 32)])
def test_features_are_of_the_parts_of_the_image_by_default(dims, features):
    network = ssal_unet(2, spatial_dims=dims, width=4)
    with torch.no_grad():
        assert network.eval().embed(torch.rand(2, 1, *[32] * dims)).shape == (2, features)


def test_an_image_of_256_leaves_16():
    found = []
    network = ssal_unet(2, width=2).eval()
    network.unet.encoder[-1].register_forward_hook(lambda m, i, output: found.append(output.shape))
    with torch.no_grad():
        network(torch.rand(1, 1, 256, 256))
    assert found == [(1, 16, 16, 16)]


def test_a_volume_is_treated_as_its_slices_where_they_are_equal():
    """Weights of 2-D, spread over a depth of equal slices, leave equal slices with the values of 2-D."""
    torch.manual_seed(0)
    flat, deep = SSALUNet(2, 1, 2, 2).eval(), SSALUNet(2, 1, 3, 2).eval()
    for two, three in zip(flat.parameters(), deep.parameters(), strict=True):
        three.data = torch.zeros_like(three) if three.ndim == 5 else two.data.clone()
        if three.ndim == 5:
            three.data[:, :, three.shape[2] // 2] = two.data
    image = torch.rand(1, 1, 32, 16)
    with torch.no_grad():
        expected = flat(image)
        found = deep(image.unsqueeze(2).expand(-1, -1, 16, -1, -1).contiguous())
    torch.testing.assert_close(found, expected.unsqueeze(2).expand_as(found), rtol=1e-4, atol=1e-5)


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="`spatial_dims` must be 2 or 3, got 1"):
        ssal_unet(2, spatial_dims=1)
