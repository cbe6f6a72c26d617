"""Classifiers that show their embedding."""

import pytest
import torch

from medssl_monai.networks import densenet121, resnet18, resnet50, small_resnet

NETWORKS = {
    "small, 2-D": (lambda: small_resnet(3, width=4), (1, 28, 28), 32),
    "small, 2-D, stride 2": (lambda: small_resnet(3, in_channels=3, width=4, stride=2), (3, 64, 64), 32),
    "small, 2-D, deeper": (lambda: small_resnet(3, width=2, layers=(2, 2, 1, 1)), (1, 28, 28), 16),
    "small, 3-D": (lambda: small_resnet(3, spatial_dims=3, width=2), (1, 16, 16, 8), 16),
    "resnet18": (lambda: resnet18(3), (1, 64, 64), 512),
    "resnet18, 3-D": (lambda: resnet18(3, spatial_dims=3), (1, 32, 32, 32), 512),
    "resnet50": (lambda: resnet50(3), (3, 64, 64), 2048),
    "densenet121, 2-D": (lambda: densenet121(3), (1, 64, 64), 1024),
    "densenet121, 3-D": (lambda: densenet121(3, spatial_dims=3), (1, 32, 32, 32), 1024),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_head_of_the_embedding(name):
    make, shape, dim = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    images = torch.rand(2, *shape)
    with torch.no_grad():
        embedding, logits = network.embed(images), network(images)
        assert embedding.shape == (2, dim)
        assert logits.shape == (2, 3)
        torch.testing.assert_close(network.head(embedding), logits)
        assert network(images[:1]).shape == (1, 3)  # a batch of one keeps its axis


def test_small_images_are_not_lost_in_the_first_layers():
    backbone = small_resnet(2, width=4).backbone
    shapes = []
    for layer in (backbone.layer1, backbone.layer4):
        layer.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    backbone(torch.rand(2, 1, 28, 28))
    assert shapes == [(28, 28), (4, 4)]


def test_every_parameter_takes_part():
    """A parameter without a gradient would stop DistributedDataParallel."""
    network = small_resnet(2, width=2)
    network(torch.rand(2, 1, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
