"""U-Nets that show their bottleneck."""

import copy
from itertools import pairwise

import pytest
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, UNet
from torch import nn

from medssl_monai.networks import (
    EMATeacher,
    Layout,
    SegmentationNetwork,
    basic_unet,
    dyn_unet,
    pooled,
    small_unet,
    ssal_unet,
)


def tiny(classes=3, seed=0, **kwargs):
    torch.manual_seed(seed)
    return small_unet(classes, **{"width": 4, "levels": 3, **kwargs})


def basic(classes=3, seed=0, **kwargs):
    torch.manual_seed(seed)
    return basic_unet(classes, **{"features": (8, 8, 16, 16, 32, 8), **kwargs})


def monai_unet(classes, dims, residuals, seed=0):
    torch.manual_seed(seed)
    strides = [2, (2,) * (dims - 1) + (1,)]
    unet = UNet(dims, 1, classes, (4, 8, 16), strides, num_res_units=residuals, norm="batch")
    return SegmentationNetwork(unet)


NETWORKS = {  # how it is built, an image that fits, and the channels of its bottleneck
    "small, 2-D": (lambda **k: tiny(**k), (1, 16, 24), 16),
    "small, colour": (lambda **k: tiny(in_channels=3, **k), (3, 16, 16), 16),
    "small, a flat volume": (lambda **k: tiny(spatial_dims=3, levels=[3, 3, 2], **k), (1, 16, 12, 6), 16),
    "small, a volume": (lambda **k: tiny(spatial_dims=3, **k), (1, 20, 28, 20), 16),
    "basic": (lambda **k: basic(**k), (1, 37, 16), 32),
    "basic, a volume": (lambda **k: basic(spatial_dims=3, **k), (1, 16, 17, 32), 32),
    "ssal": (lambda classes=3: ssal_unet(classes, width=4, pooling="gap"), (1, 33, 16), 32),
    "ssal, a volume": (lambda classes=3: ssal_unet(classes, 1, 3, width=2, pooling="gap"), (1, 16, 32, 17), 16),
    "UNet": (lambda classes=3: monai_unet(classes, 2, 0), (1, 16, 16), 16),
    "UNet, residual, a volume": (lambda classes=3: monai_unet(classes, 3, 2), (1, 8, 8, 4), 16),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def case(request):
    make, shape, channels = NETWORKS[request.param]
    torch.manual_seed(0)
    return make().eval(), torch.rand(2, *shape), channels


# ---- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (2, 3, 4, 6, 8)])
def test_pooling_means_by_channel_first(shape):
    features = torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(pooled(features, "gap"), features.flatten(2).mean(2))
    halves = [[slice(0, n // 2), slice(n // 2, n)] for n in shape[2:]]
    cells = torch.cartesian_prod(*[torch.arange(2)] * len(halves))
    means = [features[(..., *(h[i] for h, i in zip(halves, cell, strict=True)))].flatten(2).mean(2) for cell in cells]
    torch.testing.assert_close(pooled(features, "2x2"), torch.stack(means, dim=2).flatten(1))


def test_a_bottleneck_of_one_voxel_along_an_axis_can_be_halved():
    features = torch.rand(1, 2, 2, 1)
    assert pooled(features, "2x2").tolist() == [features.repeat_interleave(2, dim=3).flatten().tolist()]


def test_pooling_of_the_network():
    images = torch.rand(2, 1, 16, 16)
    assert tiny(pooling="gap").embed(images).shape == (2, 16)
    assert tiny(pooling="2x2").embed(images).shape == (2, 64)
    with pytest.raises(ValueError, match=r"`pooling` must be one of \['gap', '2x2'\], got 'max'"):
        tiny(pooling="max")


# ---- every network ---------------------------------------------------------------------------------------------------


def test_logits_and_embedding_of_one_pass(case):
    network, images, channels = case
    with torch.no_grad():
        embedding, logits = network.with_embedding(images)
        assert logits.shape == (2, 3, *images.shape[2:])
        assert embedding.shape == (2, channels)
        assert torch.equal(logits, network(images))
        assert torch.equal(embedding, network.embed(images))
    assert network.num_classes == 3
    assert not any(module._forward_hooks for module in network.modules())


def test_the_embedding_is_of_the_bottleneck_as_it_leaves_it(case):
    """Also where the next layer works in place; the bottleneck is the module with the coarsest output."""
    network, images, channels = case
    shapes, features = [], []
    bottleneck = network.unet.get_submodule(network.layout.bottleneck)
    for module in network.unet.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, output: shapes.append(output.shape))
    bottleneck.register_forward_hook(lambda m, i, output: features.append(output.clone()))
    with torch.no_grad():
        embedding, _ = network.with_embedding(images)
    coarsest = min(shape[2:].numel() for shape in shapes)
    assert features[0].shape[1:2] == (channels,)
    assert features[0].shape[2:].numel() == coarsest
    torch.testing.assert_close(embedding, features[0].flatten(2).mean(2))


def test_gradients_reach_the_encoder_through_the_embedding(case):
    network, images, _ = case
    network.embed(images).square().sum().backward()
    decoder = {*network.names_of("decoder"), *network.names_of("output")}
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name in decoder), name


def test_torchscript_and_a_copy_predict_the_same(case):
    network, images, _ = case
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(torch.jit.script(network)(images), expected)
        twin = copy.deepcopy(network)
        assert torch.equal(twin(images), expected)
        assert torch.equal(twin.embed(images), network.embed(images))


def test_state_is_plain_and_complete(case, tmp_path):
    network, images, _ = case
    torch.save(network.state_dict(), tmp_path / "model.pt")
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    twin.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(twin(images), network(images))
    assert all(name.startswith("unet.") for name in network.state_dict())


def test_parts_are_disjoint_and_only_the_output_depends_on_the_classes(case, request):
    network, _, _ = case
    make = NETWORKS[request.node.callspec.params["case"]][0]
    output, decoder = set(network.names_of("output")), set(network.names_of("decoder"))
    assert output and decoder and not output & decoder
    state, other = network.state_dict(), make(classes=5).state_dict()
    differ = {name for name in state if state[name].shape != other[name].shape}
    assert differ and differ <= output
    assert state.keys() - output - decoder


@pytest.mark.parametrize("name", ["small, 2-D", "small, a flat volume", "UNet", "UNet, residual, a volume"])
def test_sizes_that_do_not_fit_are_refused_with_the_divisor(name):
    make, shape, _ = NETWORKS[name]
    network, divisor = make(), make().divisor
    for axis, length in enumerate(divisor):
        size = list(shape[1:])
        size[axis] += 1
        if length == 1:
            assert network(torch.rand(1, 1, *size)).shape[2:] == torch.Size(size)
            continue
        with pytest.raises(ValueError, match=r"images of \[.*\] do not fit this network.* must be multiples of"):
            network(torch.rand(1, 1, *size))
    with pytest.raises(ValueError, match=rf"multiples of \[{', '.join(map(str, divisor))}\]"):
        network.embed(torch.rand(1, 1, *[n * 2 + 1 for n in divisor]))


@pytest.mark.parametrize("name", ["basic", "basic, a volume", "ssal", "ssal, a volume"])
def test_networks_that_pad_by_themselves_refuse_only_what_is_too_small(name):
    make, shape, _ = NETWORKS[name]
    with pytest.raises(ValueError, match="sides must be at least"):
        make()(torch.rand(1, 1, *shape[1:-1], 15))


def test_script_refuses_sizes_too():
    with pytest.raises(torch.jit.Error, match=r"multiples of \[4, 4\]"):
        torch.jit.script(tiny())(torch.rand(1, 1, 16, 18))


# ---- features of SSAL ------------------------------------------------------------------------------------------------


def test_trap_2_features_in_evaluation_mode_depend_on_the_image_alone():
    """The released script leaves batch norm in training mode. Card, check 6: rows move with the images."""
    torch.manual_seed(0)
    network, images, order = ssal_unet(2, width=2).eval(), torch.rand(6, 1, 32, 32), torch.randperm(6)
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        features = network.embed(images)
        torch.testing.assert_close(network.embed(images[order]), features[order], rtol=0, atol=1e-6)
        torch.testing.assert_close(torch.cat([network.embed(i[None]) for i in images]), features, rtol=0, atol=1e-6)
        assert torch.equal(network.embed(images), features)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        network.train()
        assert not torch.allclose(torch.cat([network.embed(i[None]) for i in images]), features, atol=1e-3)


def test_dropout_is_off_in_evaluation_mode_and_never_on_the_logits():
    network, images = tiny(dropout=0.5), torch.rand(2, 1, 16, 16)
    found = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert {module.p for module in found} == {0.5}
    assert not any(isinstance(module, nn.Dropout) for module in network.unet.output_block.modules())
    network.train()
    assert not torch.equal(network(images), network(images))
    nn.init.ones_(network.unet.output_block.conv.conv.bias)
    nn.init.zeros_(network.unet.output_block.conv.conv.weight)
    assert (network(images) == 1).all()
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("make", [tiny, basic])
def test_group_norm_normalises_alike_in_training_and_evaluation(make):
    network, images = make(dropout=0.0), torch.rand(3, 1, 32, 32)
    assert list(network.buffers()) == []
    expected = network.eval()(images)
    torch.testing.assert_close(network.train()(images), expected)
    torch.testing.assert_close(network(images[:1]), expected[:1])
    teacher = EMATeacher(network, 0.5)
    teacher.update(network, 5)
    torch.testing.assert_close(teacher(images), expected)


def test_means_of_the_bottleneck_tell_images_apart():
    """After instance norm each channel has the same mean in every image; after group norm it has not."""
    torch.manual_seed(0)
    images = torch.rand(4, 1, 32, 32) * torch.rand(4, 1, 1, 1)
    means = []
    network = tiny().eval()
    network.unet.bottleneck.norm2.register_forward_hook(lambda m, i, output: means.append(output.flatten(2).mean(2)))
    network.embed(images)
    assert means[0].std(dim=0).min() > 1e-4


# ---- how they are built ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "divisor"), [(3, [4, 4, 4]), (4, [8, 8, 8]), ([4, 4, 2], [8, 8, 2]), ([3, 3, 1], [4, 4, 1])]
)
def test_thin_axes_are_halved_last(levels, divisor):
    network = small_unet(2, spatial_dims=3, width=2, levels=levels)
    assert network.divisor == divisor
    strides = network.unet.strides
    assert strides[0] == [1, 1, 1]
    for before, after in pairwise(strides):
        assert all(first <= second for first, second in zip(before, after, strict=True))
    assert network.unet.filters == [2 * 2**level for level in range(len(strides))]


@pytest.mark.parametrize("levels", [2, [4, 4], [2, 2, 2], [4, 4, 0]])
def test_levels_that_do_not_fit_are_refused(levels):
    with pytest.raises(ValueError, match="`levels` must be at least 3, or one number for each of 3 axes"):
        small_unet(2, spatial_dims=3, levels=levels)


@pytest.mark.parametrize("size", [(40, 56, 40), (64, 64, 8)])
def test_defaults_fit_the_volumes_that_we_train_on(size):
    network = small_unet(2, spatial_dims=3, width=2).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, *size)).shape == (1, 2, *size)


def test_nnunet_s_sizes():
    unet = dyn_unet(2, spatial_dims=2, strides=[1, [2, 1], 2, 2], kernel_size=[3, [3, 1], 3, 3], dropout=0.1).unet
    assert unet.filters == [32, 64, 128, 256]
    assert SegmentationNetwork(unet).divisor == [8, 4]
    assert {m.num_groups for m in unet.modules() if isinstance(m, nn.GroupNorm)} == {8}


def test_a_network_of_another_class_needs_its_layout():
    unet = AttentionUnet(2, 1, 2, (4, 8), (2,))
    with pytest.raises(TypeError, match=r"where AttentionUnet has its bottleneck.*pass `layout` \(medssl_monai"):
        SegmentationNetwork(unet)
    names = [name for name, _ in unet.named_modules()]
    bottleneck = next(name for name in names if name.endswith("submodule.1.submodule") or name == "model.1")
    layout = Layout(bottleneck, [], "model.2", [2, 2])
    network = SegmentationNetwork(unet, layout=layout)
    embedding, logits = network.with_embedding(torch.rand(2, 1, 8, 8))
    assert logits.shape == (2, 2, 8, 8)
    assert embedding.ndim == 2
    with pytest.raises(ValueError, match="`layout` names 'middle', and AttentionUnet has no such module"):
        SegmentationNetwork(unet, layout=Layout("middle", [], "model.2", [2, 2]))


def test_a_subclass_is_not_taken_for_its_parent():
    class Own(BasicUNet):
        pass

    with pytest.raises(TypeError, match="where Own has its bottleneck"):
        SegmentationNetwork(Own(2, 1, 2))


def test_deep_supervision_is_refused():
    unet = DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], deep_supervision=True)
    with pytest.raises(ValueError, match="`deep_supervision` has several outputs"):
        SegmentationNetwork(unet)


def test_a_bottleneck_that_is_not_passed_is_named():
    unet = nn.Sequential(nn.Conv2d(1, 2, 1))
    unet.unused = nn.Identity()
    unet.forward = lambda images: unet[0](images)
    network = SegmentationNetwork(unet, layout=Layout("unused", [], "0", [1, 1]))
    for predict in (network.embed, network.with_embedding):
        with pytest.raises(ValueError, match="Sequential does not pass 'unused', the `bottleneck` that `layout` names"):
            predict(torch.rand(1, 1, 4, 4))


def test_an_output_without_a_convolution_is_named():
    unet = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Identity())
    with pytest.raises(ValueError, match="'1', the `output` that `layout` names, has no convolution"):
        SegmentationNetwork(unet, layout=Layout("0", [], "1", [1, 1]))
