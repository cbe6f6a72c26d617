"""Predicting the images of a pool again, for strategies that need every voxel."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from medssl_monai.kinds import Masks
from medssl_monai.query import PoolOutputs

IMAGES = torch.rand(9, 1, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def outputs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5))
    index = torch.tensor([7, 2, 8, 0, 4])
    labeled = torch.tensor([False, False, True, False, False])
    kept = torch.full((5, 3), 1 / 3)
    return PoolOutputs(index, labeled, kept, Masks.of_size(3), None, network, lambda i: IMAGES[i])


@pytest.mark.parametrize("training", [True, False])
def test_maps_are_the_outcomes_of_every_voxel_in_evaluation_mode(outputs, training):
    network = outputs.network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = {}
    for rows, probs in outputs.maps(batch_size=2):
        assert network.training == training  # between the batches, too
        assert torch.is_grad_enabled()
        assert not probs.requires_grad
        found |= dict(zip(rows.tolist(), probs, strict=True))
    assert list(found) == [3, 1, 4, 0, 2]  # in the order of their index
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        expected = network.eval()(IMAGES[outputs.index]).softmax(dim=1).movedim(1, -1)
    torch.testing.assert_close(torch.stack([found[row] for row in range(5)]), expected)


def test_maps_of_some_rows(outputs):
    assert [rows.tolist() for rows, _ in outputs.maps(torch.tensor([2, 0, 1]), batch_size=2)] == [[2, 0], [1]]
    assert list(outputs.maps(torch.zeros(0, dtype=torch.long))) == []


def test_large_images_are_predicted_one_by_one(outputs, monkeypatch):
    monkeypatch.setattr("medssl_monai.pool.outputs.VOXELS", 2 * 4 * 5 + 1)
    assert [len(rows) for rows, _ in outputs.maps()] == [2, 2, 1]
    monkeypatch.setattr("medssl_monai.pool.outputs.VOXELS", 3)
    assert [len(rows) for rows, _ in outputs.maps()] == [1] * 5


def test_a_part_that_stays_in_evaluation_mode_is_left_in_it(outputs):
    """Such as the averaged network within what goes over its windows."""
    outputs.network.train()
    outputs.network[1].eval()
    list(outputs.maps())
    assert [module.training for module in outputs.network] == [True, False, True]
    assert outputs.network.training


def test_unlabeled_rows_are_in_the_order_of_their_index(outputs):
    assert outputs.unlabeled.tolist() == [3, 1, 4, 0]


def test_maps_need_a_network_and_images(outputs):
    with pytest.raises(ValueError, match="needs the outputs' `network`"):
        next(replace(outputs, network=None).maps())
    with pytest.raises(ValueError, match="needs the outputs' `images`"):
        next(replace(outputs, images=None).maps())
