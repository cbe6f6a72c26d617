"""SSAL's features, intensities and network against the golden vectors; queries and masks have files of their own."""

import numpy as np
import torch

from medssl_monai.networks import pooled, ssal_unet
from medssl_monai.transforms.restoration import bezier_curve, bezier_intensity

FILE = "ssal/ssal"


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def only(g, prefix):
    """Each test answers for the keys of one prefix."""
    g.unused &= set(g.keys(prefix))


def test_pooling_as_released(golden):
    g = golden(FILE)
    only(g, "pool_")
    features = tensor(g.input("pool_map"))
    g.compare("pool_aap1", pooled(features, "gap"), atol=1e-10)
    g.compare("pool_aap2", pooled(features, "2x2"), atol=1e-10)


def test_bezier_curves_and_intensities_as_released(golden):
    g = golden(FILE)
    only(g, "bez_")
    points, samples = tensor(g.input("bez_points")).unsqueeze(0), int(g.input("bez_nTimes"))
    curve = bezier_curve(points, samples)[0]
    g.compare("bez_x", curve[:, 0], atol=1e-10)
    g.compare("bez_y", curve[:, 1], atol=1e-10)
    image = tensor(g.input("bez_img"))[None, None]
    for name, inverting in (("increasing", False), ("inverting", True)):
        for dtype, atol in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            mapped = bezier_intensity(image.to(dtype), points.to(dtype), torch.tensor([inverting]), samples)
            g.compare(f"bez_out_{name}", mapped[0, 0], atol=atol)


def test_sizes_of_the_network_as_released(golden):
    g = golden(FILE)
    only(g, "unet_")
    for classes in (1, 2):
        count = sum(parameter.numel() for parameter in ssal_unet(classes).parameters())
        g.compare(f"unet_params_1_{classes}", np.int64(count))
    network = ssal_unet(2, pooling="gap").eval()
    with torch.no_grad():
        g.compare("unet_bottleneck_channels", np.int64(network.embed(torch.zeros(1, 1, 16, 16)).shape[1]))
