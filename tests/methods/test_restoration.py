"""Stage 1 of SSAL; what holds for every method is in `test_every_method`."""

import copy

import pytest
import torch
from torch import nn

from medssl_monai.methods import Restoration
from medssl_monai.networks import prepare_network, small_unet
from medssl_monai.transforms import RestorationViews

SHAPES = {"2-D": (1, 16, 16), "2-D, colour": (3, 16, 16), "3-D": (1, 8, 12, 8)}


class Given(nn.Module):
    """Logits that are parameters."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits


def network(outputs=1, channels=1, dims=2, seed=0):
    torch.manual_seed(seed)
    return small_unet(outputs, channels, dims, width=4, levels=3)


def views(shape, count=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return RestorationViews()({"unlabeled": {"image": torch.rand(count, *shape, generator=g)}}, g)


def train(method, batch, steps, rate=0.5):
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=rate, momentum=0.9)
    losses = []
    for _ in range(steps):
        method.train()
        optimizer.zero_grad()
        output = method(batch)
        output["loss"].backward()
        optimizer.step()
        method.after_step(batch, output)
        losses.append(output["loss"].item())
    return losses


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_network_learns_to_restore(shape):
    method = Restoration(network(shape[0], shape[0], len(shape) - 1))
    ramp = torch.linspace(0, 1, shape[-1]).expand(6, *shape).contiguous()
    batch = RestorationViews(flip=0.0)({"unlabeled": {"image": ramp}}, torch.Generator().manual_seed(0))
    losses = train(method, batch, 20)
    assert losses[-1] < 0.7 * losses[0]
    assert method.inference_network is method.network
    assert method.steps_done == 20


def test_trap_6_there_is_exactly_one_sigmoid():
    """Dark pixels can be restored: to 0.05, where two sigmoids stop at 0.5."""
    logits = torch.tensor([-3.0, 0.0, 2.0, 0.5]).view(1, 1, 2, 2)
    image = torch.tensor([0.05, 0.4, 0.9, 0.7]).view(1, 1, 2, 2)
    method = Restoration(Given(logits.clone()))
    batch = {"unlabeled": {"image": image, "distorted": image}}
    expected = (
        sum((1 / (1 + torch.exp(-z)) - y) ** 2 for z, y in zip(logits.flatten(), image.flatten(), strict=True)) / 4
    )
    torch.testing.assert_close(method(batch)["loss"], expected)
    perfect = Restoration(Given(image.logit()))
    assert perfect(batch)["loss"] < 1e-12


def test_the_network_sees_the_distorted_image_and_the_loss_the_image():
    method, batch = Restoration(network()).eval(), views((1, 16, 16))["unlabeled"]
    with torch.no_grad():
        expected = (method.network(batch["distorted"]).sigmoid() - batch["image"]).square().mean()
        torch.testing.assert_close(method({"unlabeled": batch})["loss"], expected)
        other = {**batch, "distorted": torch.zeros_like(batch["image"])}
        assert method({"unlabeled": other})["loss"] != expected


def test_no_label_is_read():
    assert Restoration.streams.keys() == {"unlabeled"}
    batch = {"unlabeled": views((1, 16, 16))["unlabeled"]}
    assert Restoration(network())(batch)["loss"].isfinite()


def test_another_number_of_outputs_than_channels_is_refused():
    with pytest.raises(ValueError, match=r"of the shape of the images, \(6, 1, 16, 16\), got \(6, 2, 16, 16\); build"):
        Restoration(network(outputs=2))(views((1, 16, 16)))


@pytest.mark.parametrize("part", ["load", "encoder"])
def test_what_it_learned_starts_a_segmentation(tmp_path, part):
    """Stage 3 begins with the very features of stage 1."""
    method, images = Restoration(network()), torch.rand(2, 1, 16, 16)
    train(method, views((1, 16, 16)), 2)
    torch.save(method.inference_network.state_dict(), tmp_path / "model.pt")
    segmentation = network(outputs=4, seed=3)
    fresh = copy.deepcopy(segmentation.state_dict())
    prepare_network(segmentation, pretrained=tmp_path / "model.pt", num_classes=4, channels=1, part=part).eval()
    with torch.no_grad():
        assert torch.equal(segmentation.embed(images), method.network.eval().embed(images))
        assert segmentation(images).shape == (2, 4, 16, 16)
    for name in segmentation.names_of("output"):
        assert torch.equal(segmentation.state_dict()[name], fresh[name])
