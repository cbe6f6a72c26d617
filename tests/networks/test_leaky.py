"""Leaky rectifiers."""

import pytest
import torch
from torch import nn

from medssl_monai.networks import densenet121, leaky, small_resnet


@pytest.mark.parametrize("make", [densenet121, small_resnet])
def test_every_relu_becomes_leaky_and_no_weight_changes(make):
    torch.manual_seed(0)
    network = make(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rectifiers = sum(isinstance(module, nn.ReLU) for module in network.modules())
    assert leaky(network, slope=0.2) is network
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())
    found = [module for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert len(found) == rectifiers > 0
    assert {module.negative_slope for module in found} == {0.2}
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_negative_values_keep_a_part():
    network = leaky(nn.Sequential(nn.ReLU(inplace=True)))
    torch.testing.assert_close(network(torch.tensor([-1.0, 2.0])), torch.tensor([-0.1, 2.0]))


def test_nothing_to_replace_is_refused():
    with pytest.raises(ValueError, match="Linear has no ReLU module to replace"):
        leaky(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"`slope` must be greater than 0, got 0\.0"):
        leaky(nn.ReLU(), 0.0)
