"""Classifiers that show their embedding."""

import pytest
import torch

from medssl_monai.networks import densenet121, resnet18, resnet50, small_convnet, small_resnet

NETWORKS = {
    "small, 2-D": (lambda: small_resnet(3, width=4), (1, 28, 28), 32),
    "small, 2-D, stride 2": (lambda: small_resnet(3, in_channels=3, width=4, stride=2), (3, 64, 64), 32),
    "small, 2-D, deeper": (lambda: small_resnet(3, width=2, layers=(2, 2, 1, 1)), (1, 28, 28), 16),
    "small, 3-D": (lambda: small_resnet(3, spatial_dims=3, width=2), (1, 16, 16, 8), 16),
    "convnet": (lambda: small_convnet(3), (3, 128, 128), 256),
    "convnet, of another size": (lambda: small_convnet(3, 1, image_size=(64, 96)), (1, 64, 96), 256),
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


def test_the_convnet_has_the_layers_of_the_card():
    network = small_convnet(7)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128)]
    assert {(m.kernel_size, m.stride, m.padding) for m in convolutions} == {((4, 4), (2, 2), (1, 1))}
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert linear == [(2048, 4096), (4096, 256), (256, 7)]
    order = [type(m).__name__ for m in network.backbone]
    assert order[:15] == ["Conv2d", "ReLU", "BatchNorm2d"] * 5
    assert order[15:] == ["_Flatten", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]


def test_the_embedding_of_the_convnet_is_before_the_last_relu():
    torch.manual_seed(0)
    network = small_convnet(3, image_size=(32, 32)).eval()
    with torch.no_grad():
        embedding = network.embed(torch.rand(4, 3, 32, 32))
        assert (embedding < 0).any()
        torch.testing.assert_close(network.head(embedding), network.head(embedding.clamp_min(0.0)))
        plain = torch.nn.functional.linear(embedding.relu(), network.head.weight, network.head.bias)
        torch.testing.assert_close(network.head(embedding), plain)
    assert (network.head.in_features, network.head.out_features) == (256, 3)


@pytest.mark.parametrize(
    ("size", "features"), [((128, 128), 2048), ((32, 32), 128), ((63, 95), 256), ((224, 160), 4480)]
)
def test_the_convnet_derives_what_five_halvings_leave(size, features):
    network = small_convnet(2, image_size=size).eval()
    assert network.backbone[17].in_features == features
    assert network(torch.rand(1, 3, *size)).shape == (1, 2)


@pytest.mark.parametrize("size", [(28, 28), (128, 31), (64, 64, 64), (128,)])
def test_sizes_that_the_convnet_cannot_halve_are_refused(size):
    with pytest.raises(ValueError, match=r"must be two numbers of at least 32, got \[.*take small_resnet"):
        small_convnet(2, image_size=size)


@pytest.mark.parametrize("script", [False, True])
def test_images_of_another_size_are_refused_with_words(script):
    network = small_convnet(2, image_size=(64, 64)).eval()
    images = torch.rand(2, 3, 128, 128)
    if script:  # as `ckpt_export` does; its errors have a type of their own
        scripted = torch.jit.script(network)
        torch.testing.assert_close(scripted(images[..., :64, :64]), network(images[..., :64, :64]))
        with pytest.raises(torch.jit.Error, match="512 features"):
            scripted(images)
    else:
        with pytest.raises(ValueError, match="leave 512 features, these leave 2048; resize the images"):
            network(images)


def test_instability_asks_the_whole_head_of_the_convnet():
    """BoostMIS's query shifts the embedding and takes the head alone, in float64."""
    from medssl_monai.query import Instability, PoolOutputs

    network = small_convnet(3, image_size=(32, 32)).eval()
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        embedding = network.embed(images)
    outputs = PoolOutputs(
        index=torch.arange(5),
        labeled=torch.zeros(5, dtype=torch.bool),
        kept=network.head(embedding).softmax(dim=1).detach(),
        embedding=embedding,
        network=network,
    )
    scores = Instability()(outputs, torch.arange(5), torch.Generator().manual_seed(0))
    assert scores.dtype == torch.float64 and (scores > 0).all()
