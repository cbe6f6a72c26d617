"""TypiClust: what makes it different."""

import pytest
import torch
from torch.nn import functional as F

from medssl_monai.query import CoreSet, PoolOutputs, TypiClust
from medssl_monai.query.typiclust import typicality


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def directions(sizes, seed=0, spread=0.05):
    """Points of any length about as many directions at right angles, and the direction of each."""
    g = seeded(seed)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    points = F.one_hot(group, len(sizes)).double() + spread * torch.randn(len(group), len(sizes), generator=g)
    return points * (0.5 + torch.rand(len(group), 1, generator=g)), group


def pool_of(points, labeled=()):
    known = torch.zeros(len(points), dtype=torch.bool)
    known[list(labeled)] = True
    return PoolOutputs(torch.arange(len(points)), known, torch.full((len(points), 2), 0.5), embedding=points)


@pytest.mark.parametrize("neighbors", [1, 4, 100])
def test_typicality_is_the_inverse_mean_distance_to_the_nearest_neighbours(neighbors):
    points = torch.randn(20, 4, generator=seeded()).double()
    unit = points / points.norm(dim=1, keepdim=True)
    for i, value in enumerate(typicality(points, neighbors).tolist()):
        distances = sorted(float((unit[i] - unit[j]).norm()) for j in range(20) if j != i)[:neighbors]
        assert value == pytest.approx(1 / (sum(distances) / len(distances) + 1e-5))


def test_copies_and_a_single_image_have_a_typicality():
    assert torch.isfinite(typicality(torch.ones(3, 2), 2)).all()
    assert torch.isfinite(typicality(torch.ones(1, 2), 2)).all()


def test_a_cold_start_takes_one_typical_sample_of_each_cluster_the_largest_first():
    points, group = directions([6, 20, 12])
    query = TypiClust(neighbors=5)(pool_of(points), 3, seeded())
    assert group[query.index].tolist() == [1, 2, 0]
    assert query.reason == ["typical of 20 images", "typical of 12 images", "typical of 6 images"]
    for index in query.index.tolist():
        members = (group == group[index]).nonzero().squeeze(1)
        assert index == int(members[typicality(points, 5)[members].argmax()])


def test_clusters_that_have_labels_come_later():
    points, group = directions([6, 20, 12])
    labeled = (group == 1).nonzero().squeeze(1)[:1].tolist()
    query = TypiClust(neighbors=5, max_clusters=3)(pool_of(points, labeled), 3, seeded())
    assert group[query.index].tolist() == [2, 0, 1]  # uncovered, the larger first, and then again


def test_small_clusters_come_last_and_outliers_are_left_to_the_core_set():
    points, group = directions([20, 12, 2])
    outputs = pool_of(points)
    strategy = TypiClust(neighbors=5, max_clusters=3)
    assert group[strategy(outputs, 4, seeded()).index].tolist() == [0, 1, 0, 1]
    assert (group[strategy(outputs, 34, seeded()).index][-2:] == 2).all()  # once the others are used up
    assert 2 in group[CoreSet()(pool_of(F.normalize(points)), 3, seeded()).index].tolist()


@pytest.mark.parametrize("bad", ["neighbors", "max_clusters"])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"`{bad}` must be at least 1, got 0"):
        TypiClust(**{bad: 0})
