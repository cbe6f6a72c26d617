"""Core-set: what makes it different."""

from itertools import combinations

import pytest
import torch

from medssl_monai.query import CoreSet, PoolOutputs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool_of(points, labeled=()):
    known = torch.zeros(len(points), dtype=torch.bool)
    known[list(labeled)] = True
    return PoolOutputs(torch.arange(len(points)), known, torch.full((len(points), 2), 0.5), embedding=points)


def slow_greedy(points, labeled, budget):
    """With the whole matrix of distances."""
    distance = torch.cdist(points.double(), points.double())
    taken = list(labeled)
    while len(taken) < len(labeled) + budget:
        taken.append(int(distance[:, taken].amin(dim=1).argmax()))
    return taken[len(labeled) :]


@pytest.mark.parametrize("labeled", [[5], [0, 3, 17, 29]])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_a_slow_loop_over_all_distances(seed, labeled):
    points = torch.randn(40, 3, generator=seeded(seed))
    query = CoreSet()(pool_of(points, labeled), 8, seeded())
    assert query.index.tolist() == slow_greedy(points, labeled, 8)
    assert query.scores["distance"].tolist() == sorted(query.scores["distance"].tolist(), reverse=True)


def test_more_labels_than_fit_into_a_chunk():
    points = torch.randn(400, 2, generator=seeded())
    labeled = list(range(300))
    assert CoreSet()(pool_of(points, labeled), 5, seeded()).index.tolist() == slow_greedy(points, labeled, 5)


def test_a_cold_start_begins_in_the_middle():
    points = torch.tensor([[0.0], [10.0], [4.0], [5.5], [1.0]])  # mean 4.1
    query = CoreSet()(pool_of(points), 3, seeded())
    assert query.index.tolist() == [2, 1, 0]
    assert query.reason == ["nearest to the mean", "far from labels", "far from labels"]
    torch.testing.assert_close(query.scores["distance"], torch.tensor([0.1, 6.0, 4.0]).double())


@pytest.mark.parametrize("seed", range(5))
def test_no_sample_is_left_farther_than_twice_the_best_possible(seed):
    points = torch.randn(11, 2, generator=seeded(seed))
    distance = torch.cdist(points, points)
    best = min(float(distance[:, list(chosen)].amin(dim=1).max()) for chosen in combinations(range(11), 3))
    chosen = CoreSet()(pool_of(points), 3, seeded()).index
    assert float(distance[:, chosen].amin(dim=1).max()) <= 2 * best
