"""k-means on the device."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from medssl_monai.clustering import cluster_means, initial_centers, kmeans, match, nearest_center, refill


def blobs(clusters=4, per=10, dim=3, seed=0, spread=0.1):
    g = torch.Generator().manual_seed(seed)
    middle = 5 * torch.randn(clusters, dim, generator=g, dtype=torch.double)
    rows = middle.repeat(per, 1) + spread * torch.randn(clusters * per, dim, generator=g, dtype=torch.double)
    return rows, torch.arange(clusters).repeat(per)


def slow_lloyd(rows, centers):
    """Until nothing moves."""
    while True:
        label = [min(range(len(centers)), key=lambda k: float((row - centers[k]).norm())) for row in rows]
        label = torch.tensor(label)
        new = [rows[label == k].mean(0) if (label == k).any() else centers[k] for k in range(len(centers))]
        new = torch.stack(new)
        if torch.allclose(new, centers, rtol=0, atol=1e-14):
            return label, new
        centers = new


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_a_slow_loop_that_stops_when_nothing_moves(seed):
    rows, _ = blobs(seed=seed, spread=3.0)
    label, centers = kmeans(rows, rows[:4], iterations=60)
    slow_label, slow_centers = slow_lloyd(rows, rows[:4])
    assert torch.equal(label, slow_label)
    torch.testing.assert_close(centers, slow_centers)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_scikit_learn_from_the_same_rows(seed):
    rows, _ = blobs(seed=seed, spread=3.0)
    label, centers = kmeans(rows, rows[:4], iterations=60)
    reference = KMeans(4, init=rows[:4].numpy(), n_init=1, algorithm="lloyd", tol=0).fit(rows.numpy())
    assert label.tolist() == reference.labels_.tolist()
    torch.testing.assert_close(centers, torch.from_numpy(reference.cluster_centers_))


def test_once_nothing_moves_more_iterations_change_nothing():
    rows, _ = blobs(spread=3.0)
    first, second = (kmeans(rows, rows[:4], iterations) for iterations in (60, 61))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_without_iterations_the_centers_stay():
    rows, _ = blobs()
    assert torch.equal(kmeans(rows, rows[:4], iterations=0)[1], rows[:4])


@pytest.mark.parametrize("count", [5, 40])
def test_the_first_of_equally_near_centers_wins(count):
    rows = torch.linspace(-1.0, 1.0, count).unsqueeze(1).repeat(1, 7)
    assert nearest_center(rows, torch.zeros(3, 7))[1].tolist() == [0] * count
    assert nearest_center(torch.zeros(1, 1), torch.tensor([[9.0], [-1.0], [1.0]]))[1].tolist() == [1]


def test_an_empty_cluster_keeps_its_center():
    rows, _ = blobs(2)
    far = torch.full((1, 3), 1e3, dtype=torch.double)
    label, centers = kmeans(rows, torch.cat([rows[:2], far]), iterations=5)
    assert set(label.tolist()) == {0, 1}
    assert torch.equal(centers[2:], far)


def test_means_are_zero_for_an_empty_cluster_and_carry_the_gradient():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    means, count = cluster_means(rows, torch.tensor([2, 0, 2]), 3)
    assert means.tolist() == [[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]]
    assert count.tolist() == [1.0, 0.0, 2.0]
    means.sum().backward()
    assert rows.grad.tolist() == [[0.5, 0.5], [1.0, 1.0], [0.5, 0.5]]


@settings(max_examples=20, deadline=None)
@given(clusters=st.integers(1, 6), seed=st.integers(0, 99))
def test_initial_centers_are_one_row_of_each_clear_group_in_whatever_order(clusters, seed):
    rows, group = blobs(clusters, seed=seed, spread=1e-3)
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    centers = initial_centers(rows[shuffled], clusters)
    owner = [int(group[(rows == center).all(1).nonzero()[0, 0]]) for center in centers]
    assert sorted(owner) == list(range(clusters))
    assert torch.equal(centers, initial_centers(rows, clusters))


def test_as_many_clusters_as_rows_take_every_row():
    rows, _ = blobs(3, per=1)
    centers = initial_centers(rows, 3)
    assert sorted(centers.tolist()) == sorted(rows.tolist())


def test_equal_rows_make_no_nan():
    rows = torch.ones(5, 2)
    label, centers = kmeans(rows, initial_centers(rows, 3), iterations=3)
    assert label.tolist() == [0] * 5
    assert torch.equal(refill(rows, centers), torch.ones(3, 2))


def test_centers_of_empty_clusters_restart_at_the_rows_that_are_farthest_each_at_another():
    rows = torch.tensor([[0.0], [1.0], [8.0], [5.0]])
    centers = torch.tensor([[100.0], [0.0], [-50.0]])
    assert refill(rows, centers).tolist() == [[8.0], [0.0], [5.0]]
    assert refill(rows, rows[:3]).tolist() == rows[:3].tolist()


def test_a_lost_center_finds_rows_again():
    rows, group = blobs(4)
    centers = torch.cat([rows[:3], torch.full((1, 3), 1e3, dtype=torch.double)])
    for _ in range(2):
        label, centers = kmeans(rows, centers, iterations=3)
        centers = refill(rows, centers)
    for k in range(4):
        assert len(set(label[group == k].tolist())) == 1
    assert len(set(label.tolist())) == 4


def test_matching_takes_each_column_once_and_the_best_sum():
    """Row by row, row 0 would take column 0, and row 1 be left with nothing alike."""
    assert match(torch.tensor([[0.9, 0.8], [0.9, 0.1]])).tolist() == [1, 0]
    assert match(torch.eye(3)[[2, 0, 1]]).tolist() == [2, 0, 1]
