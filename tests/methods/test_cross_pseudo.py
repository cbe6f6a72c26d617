"""Cross pseudo supervision: the equation, and how the two networks differ."""

import copy
import math

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import nn

from medssl_monai.kinds import Classes, Masks
from medssl_monai.methods import CrossPseudoSupervision
from medssl_monai.networks import small_resnet
from medssl_monai.schedules import constant


class Scaled(nn.Module):
    """Logits are the images, class by class times a weight."""

    def __init__(self, classes=3, dims=0):
        super().__init__()
        torch.manual_seed(0)
        convolution = [nn.Linear, None, nn.Conv2d, nn.Conv3d][dims]
        self.layer = convolution(classes, classes, **({"kernel_size": 1} if dims else {})).double()

    def forward(self, images):
        return self.layer(images)


def make_batch(size, classes=3, labeled=3, unlabeled=12):
    g = torch.Generator().manual_seed(0)
    image, weak = (2 * torch.randn(n, classes, *size, generator=g, dtype=torch.double) for n in (labeled, unlabeled))
    label = torch.randint(0, classes, (labeled, *size), generator=g)
    return {"labeled": {"image": image, "label": label}, "unlabeled": {"weak": weak}}


def slow_cross_entropy(logits, classes):
    """Mean over all voxels, one after the other."""
    rows, classes = logits.movedim(1, -1).reshape(-1, logits.shape[1]), classes.flatten()
    losses = [-math.log(row.exp()[k] / row.exp().sum()) for row, k in zip(rows, classes.tolist(), strict=True)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("size", [(), (4, 3), (2, 3, 2)])
def test_equation_against_a_slow_loop(size):
    batch = make_batch(size)
    kind = Masks() if size else Classes()
    method = CrossPseudoSupervision(
        Scaled(dims=len(size)), weight=constant(0.7), criterion=nn.CrossEntropyLoss(), kind=kind
    )
    supervised = unsupervised = 0.0
    networks = [method.network, method.second]
    with torch.no_grad():
        for mine, other in (networks, networks[::-1]):
            image, weak = batch["labeled"]["image"], batch["unlabeled"]["weak"]
            supervised += slow_cross_entropy(mine(image), batch["labeled"]["label"])
            for images in (image, weak):
                unsupervised += slow_cross_entropy(mine(images), other(images).argmax(dim=1))
        agreement = (networks[0](weak).argmax(1) == networks[1](weak).argmax(1)).double().mean()
    output = method(batch)
    assert output["supervised"].item() == pytest.approx(supervised, rel=1e-5)
    assert output["unsupervised"].item() == pytest.approx(unsupervised, rel=1e-5)
    assert output["loss"].item() == pytest.approx(supervised + 0.7 * unsupervised, rel=1e-5)
    assert output["agreement"].item() == pytest.approx(agreement.item())
    assert 0 < agreement < 1


def test_each_network_is_taught_by_the_other_alone():
    """Without labels in play, a network that agrees with the other still learns; its own target moves nothing."""
    batch = make_batch(())
    method = CrossPseudoSupervision(Scaled(), weight=constant(1.0))
    output = method(batch)
    (first,) = torch.autograd.grad(output["unsupervised"], method.network.layer.bias, retain_graph=True)
    probs = [method.network(images).softmax(1) for images in (batch["labeled"]["image"], batch["unlabeled"]["weak"])]
    taught = [method.second(images).argmax(1) for images in (batch["labeled"]["image"], batch["unlabeled"]["weak"])]
    expected = sum(
        (p - nn.functional.one_hot(k, 3)).mean(dim=0) for p, k in zip(probs, taught, strict=True)
    )  # the gradient of cross-entropy, and nothing through the second network's targets
    torch.testing.assert_close(first, expected.detach(), atol=1e-5, rtol=0)


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1])


def test_the_second_network_begins_with_weights_of_its_own_that_the_seed_decides():
    torch.manual_seed(1)
    network = UNet(2, 1, 2, channels=(4, 8), strides=(2,))  # its layers draw as `reset_parameters` does
    state = torch.get_rng_state()
    method, again = CrossPseudoSupervision(network), CrossPseudoSupervision(copy.deepcopy(network))
    assert torch.equal(torch.get_rng_state(), state)
    assert not (weights_of(method.network) == weights_of(method.second)).any()
    assert torch.equal(weights_of(method.second), weights_of(again.second))
    other = CrossPseudoSupervision(network, seed=2)
    assert not (weights_of(method.second) == weights_of(other.second)).any()
    assert [p.requires_grad for p in method.second.parameters()] == [True] * len(list(network.parameters()))


UNETS = {
    "UNet": (lambda: UNet(2, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1), "model.2"),
    "BasicUNet": (lambda: BasicUNet(2, 1, 3, features=(4,) * 6), "final_conv"),
    "DynUNet": (lambda: DynUNet(2, 1, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8]), "output_block"),
    "classifier": (lambda: small_resnet(3, width=2), "head"),
}


@pytest.mark.parametrize("name", UNETS)
def test_after_pre_training_only_the_output_layer_begins_anew(name):
    make, last = UNETS[name]
    network = make()
    method = CrossPseudoSupervision(network, reset="last")
    pretrained = make().state_dict()
    method.network.load_state_dict(pretrained)
    method.on_start()
    kept = {key: torch.equal(value, method.second.state_dict()[key]) for key, value in pretrained.items()}
    changed = [key for key, same in kept.items() if not same]
    assert changed
    assert all(last in key for key in changed)
    assert torch.equal(weights_of(method.inference_network), weights_of(method.network))


def test_weights_that_are_loaded_do_not_reach_a_second_network_that_begins_anew():
    method = CrossPseudoSupervision(small_resnet(3, width=2))
    before = weights_of(method.second)
    method.network.load_state_dict(small_resnet(3, width=2).state_dict())
    method.on_start()
    assert torch.equal(weights_of(method.second), before)


def test_the_first_network_is_deployed():
    network = small_resnet(3, width=2)
    assert CrossPseudoSupervision(network, decay=None).inference_network is network
    method = CrossPseudoSupervision(network)
    assert method.inference_network is method.teacher.network


def test_the_weight_rises():
    method = CrossPseudoSupervision(small_resnet(3, width=2))
    assert method.weight(0) == pytest.approx(1.5 * math.exp(-5))
    assert method.weight(1000) == 1.5


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"no layer of Identity draws its weights in `reset_parameters`"):
        CrossPseudoSupervision(nn.Identity())
    with pytest.raises(ValueError, match=r"`reset` must be 'all' or 'last', got 'encoder'"):
        CrossPseudoSupervision(small_resnet(3, width=2), reset="encoder")
