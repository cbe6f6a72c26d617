"""SSAL's clusters: shares, members, rounds; and the defects of the published scripts, each with its repair."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.published import ssal_quotas, ssal_selection
from torch import nn

from medssl_monai.clustering import nearest_center
from medssl_monai.query import Clusters, PoolOutputs
from medssl_monai.query.clusters import apportion, fit_centers, nearest_members


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(sizes=(24, 12, 8, 4), dim=3, seed=0, spread=0.3):
    """Points about as many middles as there are sizes, shuffled."""
    g = seeded(seed)
    middles = 4 * torch.randn(len(sizes), dim, generator=g)
    points = torch.cat(
        [middle + spread * torch.randn(n, dim, generator=g) for n, middle in zip(sizes, middles, strict=True)]
    )
    return points[torch.randperm(len(points), generator=g)]


def pool_of(points, labeled=()):
    known = torch.zeros(len(points), dtype=torch.bool)
    known[list(labeled)] = True
    return PoolOutputs(torch.arange(len(points)), known, torch.full((len(points), 2), 0.5), embedding=points)


def largest_remainders(sizes, budget):
    """Hamilton's method, in fractions."""
    shares = [Fraction(size * budget, sum(sizes)) for size in sizes]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda k: (counts[k] - shares[k], k))
    for k in by_remainder[: budget - sum(counts)]:
        counts[k] += 1
    return counts


some_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=8)


@settings(deadline=None)
@given(sizes=some_sizes, share=st.floats(0, 1))
def test_a_first_query_is_shared_out_by_largest_remainders(sizes, share):
    budget = int(share * sum(sizes))
    assert apportion(sizes, budget) == largest_remainders(sizes, budget)


@settings(deadline=None)
@given(sizes=some_sizes, budgets=st.lists(st.integers(0, 25), max_size=6), least=st.integers(0, 3), data=st.data())
def test_what_is_added_is_never_negative_adds_up_and_is_there(sizes, budgets, least, data):
    """Whatever was labeled before, by this rule or another."""
    have = [data.draw(st.integers(0, size)) for size in sizes]
    for budget in budgets:
        budget = min(budget, sum(sizes) - sum(have))
        more = apportion(sizes, budget, have, [min(least, size) for size in sizes])
        assert sum(more) == budget
        assert all(count >= 0 for count in more)
        have = [before + count for before, count in zip(have, more, strict=True)]
        assert all(count <= size for count, size in zip(have, sizes, strict=True))


def test_the_alabama_paradox_takes_no_label_back():
    """Trap: quotas computed anew for a larger budget are smaller for some cluster."""
    assert apportion([6, 6, 2], 10) == [4, 4, 2]
    assert apportion([6, 6, 2], 11) == [5, 5, 1]
    assert apportion([6, 6, 2], 1, present=[4, 4, 2]) == [1, 0, 0]


def test_equal_shares_go_to_the_first_clusters():
    assert apportion([5, 5, 5, 5], 6) == [2, 2, 1, 1]
    assert apportion([1] * 49, 7) == [1] * 7 + [0] * 42  # in floats, 1 / 49 * 7 * 7 is not 1


def test_published_quotas_overshoot_the_budget_and_ours_do_not():
    """Trap: shares rounded one by one leave a negative number for the last cluster."""
    sizes, budget = [7, 7, 7, 7, 7, 5], 4
    assert ssal_quotas(sizes, budget) == [1, 1, 1, 1, 1, -1]
    assert len(ssal_selection(torch.rand(40, 6, generator=seeded()), ssal_quotas(sizes, budget))) == 5
    assert apportion(sizes, budget) == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_published_selection_has_samples_twice_and_of_other_clusters_and_ours_has_not(seed):
    """Trap: all samples are ranked for each center."""
    points = torch.randn(60, 2, generator=seeded(seed))
    centers, _ = fit_centers(points, 4)
    distance, cluster = nearest_center(points.double(), centers)
    sizes = cluster.bincount(minlength=4).tolist()
    released = ssal_selection(torch.cdist(points.double(), centers), ssal_quotas(sizes, 48))
    assert len(set(released.tolist())) < len(released)
    query = Clusters(4)(pool_of(points), 48, seeded())
    assert len(set(query.index.tolist())) == len(query) == 48
    own = nearest_members(cluster, distance, apportion(sizes, 48))
    assert cluster[own].bincount(minlength=4).tolist() == apportion(sizes, 48)


def test_the_query_are_the_nearest_of_each_cluster_in_proportion_to_its_size():
    sizes = (24, 12, 8, 4)
    points = blobs(sizes)
    query = Clusters(num_clusters=4)(pool_of(points), 12, seeded())
    of_query = {}
    for rank, (index, reason) in enumerate(zip(query.index.tolist(), query.reason, strict=True)):
        of_query.setdefault(reason, []).append((index, float(query.scores["distance"][rank])))
    assert list(of_query) == [f"cluster {k}" for k in range(4)]  # in this order
    assert sorted(len(chosen) for chosen in of_query.values()) == [1, 2, 3, 6]
    for chosen in of_query.values():
        members = [i for i in range(len(points)) if (points[i] - points[chosen[0][0]]).norm() < 3]
        middle = points[members].mean(dim=0)
        nearest = sorted(members, key=lambda i: float((points[i] - middle).norm()))[: len(chosen)]
        assert [index for index, _ in chosen] == nearest
        torch.testing.assert_close(
            torch.tensor([distance for _, distance in chosen]), (points[nearest] - middle).norm(dim=1)
        )


def test_a_pair_is_as_far_from_its_mean_and_goes_by_index():
    for seed in range(20):
        pair = torch.randn(2, 5, generator=seeded(seed))
        query = Clusters(num_clusters=1)(pool_of(pair), 1, seeded())
        assert query.index.tolist() == [0]


def test_small_clusters_get_labels_first_if_wished():
    """Trap: the share of a small cluster is rounded to nothing."""
    outputs = pool_of(blobs((40, 40, 1)))
    assert len(set(Clusters(3)(outputs, 4, seeded()).reason)) == 2
    assert len(set(Clusters(3, min_per_cluster=1)(outputs, 4, seeded()).reason)) == 3
    two = Clusters(3, min_per_cluster=2)(outputs, 5, seeded())
    assert sorted(two.reason.count(reason) for reason in set(two.reason)) == [1, 2, 2]  # of one, all there is


def test_clusters_are_those_of_the_final_centers():
    """Trap: the published k-means returns the clusters of the centers one step before."""
    points = torch.randn(80, 4, generator=seeded()).double()
    centers, _ = fit_centers(points, 5)
    _, cluster = nearest_center(points, centers)
    means = torch.stack([points[cluster == k].mean(dim=0) for k in range(5)])
    torch.testing.assert_close(means, centers)


def test_growing_budgets_never_remove_a_labeled_sample():
    """The schedule of the paper: 300 of 1600, and nine times 35 more; here a tenth of it."""
    points = torch.randn(160, 6, generator=seeded())
    outputs, strategy, labeled = pool_of(points), Clusters(), set()
    ranking = Clusters()(outputs, 160, seeded())
    ranked = {reason: [] for reason in ranking.reason}
    for index, reason in zip(ranking.index.tolist(), ranking.reason, strict=True):
        ranked[reason].append(index)
    sizes = [len(members) for members in ranked.values()]
    for number, budget in enumerate([30, *[4] * 9]):
        query = strategy(outputs, budget, seeded(number))
        assert labeled.isdisjoint(query.index.tolist())
        labeled |= set(query.index.tolist())
        assert len(labeled) == 30 + 4 * number
        outputs = pool_of(points, labeled)
        counts = [len(labeled & set(members)) for members in ranked.values()]
        for count, members in zip(counts, ranked.values(), strict=True):
            assert set(members[:count]) <= labeled  # the same ranking, from its beginning
        for count, size in zip(counts, sizes, strict=True):
            assert abs(count - size / 160 * len(labeled)) < 1  # in proportion at every time


def test_what_others_have_labeled_counts_for_its_cluster():
    points = torch.cat([torch.zeros(10, 2), torch.full((10, 2), 9.0)]) + 0.1 * torch.randn(20, 2, generator=seeded())
    query = Clusters(2)(pool_of(points, labeled=[0, 1, 2]), 3, seeded())
    assert sorted(query.index.tolist()) == sorted(i for i in query.index.tolist() if i >= 10)


def test_it_reads_no_prediction_and_the_seed_is_its_own():
    outputs = pool_of(torch.randn(50, 4, generator=seeded()))
    chosen = Clusters(5, restarts=1)(outputs, 10, seeded(0)).index.tolist()
    others = replace(outputs, kept=torch.rand(50, 2), network=None, images=None)
    assert Clusters(5, restarts=1)(others, 10, seeded(1)).index.tolist() == chosen
    assert any(Clusters(5, restarts=1, seed=seed)(outputs, 10, seeded()).index.tolist() != chosen for seed in range(5))


@pytest.mark.parametrize("bad", [{"num_clusters": 0}, {"min_per_cluster": -1}, {"restarts": 0}])
def test_impossible_settings_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        Clusters(**bad)


class Encoder(nn.Module):
    """With what behaves otherwise in training mode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))

    def embed(self, images):
        return self.layers(images).flatten(2).mean(dim=2)


IMAGES = torch.rand(30, 1, 6, 6, generator=seeded(3))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = Encoder()
    for _ in range(3):
        encoder.embed(IMAGES)  # statistics of its own
    return encoder  # in training mode


def image_pool(index, embedding=None):
    asked = []

    def images(positions):
        asked.extend(positions.tolist())
        return IMAGES[positions]

    known = torch.zeros(len(index), dtype=torch.bool)
    return PoolOutputs(index, known, torch.full((len(index), 2), 0.5), embedding=embedding, images=images), asked


def test_features_are_of_clean_images_in_the_order_of_the_index(encoder):
    """Trap: the published features come from a shuffled, distorted stream, so that row i is not image i."""
    index = torch.randperm(30, generator=seeded())
    outputs, asked = image_pool(index)
    features = outputs.features(encoder)
    assert asked == [0, *range(30)]  # the first one to learn the size, and then every image once
    assert torch.equal(features, outputs.features(encoder))
    alone = torch.cat([image_pool(index[row : row + 1])[0].features(encoder) for row in range(30)])
    torch.testing.assert_close(features, alone, rtol=0, atol=1e-6)
    order = torch.randperm(30, generator=seeded(1))
    assert torch.equal(image_pool(index[order])[0].features(encoder), features[order])


def test_features_are_taken_in_evaluation_mode(encoder):
    """Trap: the published extraction runs in training mode, where a row depends on its batch."""
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    features = image_pool(torch.arange(30))[0].features(encoder, batch_size=7)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(features, encoder.eval().embed(IMAGES).double(), rtol=0, atol=1e-6)
    assert not features.requires_grad


def test_with_an_encoder_of_its_own_rounds_extend_one_ranking_whatever_the_network_learns(encoder):
    strategy = Clusters(4, encoder=encoder)
    outputs, _ = image_pool(torch.arange(30))
    whole = strategy(outputs, 12, seeded()).index.tolist()
    first = strategy(outputs, 5, seeded()).index
    nn.init.normal_(encoder.layers[0].weight)  # the network, whose copy the strategy has, is trained
    later, _ = image_pool(torch.arange(30), embedding=torch.randn(30, 4))
    labeled = torch.zeros(30, dtype=torch.bool)
    labeled[first] = True
    second = strategy(replace(later, labeled=labeled), 7, seeded(5)).index
    assert sorted([*first.tolist(), *second.tolist()]) == sorted(whole)
    assert strategy(later, 12, seeded()).index.tolist() == whole
    assert Clusters(4, encoder=encoder)(later, 12, seeded()).index.tolist() != whole
    assert Clusters(4)(later, 12, seeded()).index.tolist() != whole


def test_an_encoder_must_embed():
    outputs, _ = image_pool(torch.arange(30))
    with pytest.raises(ValueError, match="the encoder, a Linear, has no `embed`"):
        Clusters(4, encoder=nn.Linear(2, 2))(outputs, 3, seeded())
    with pytest.raises(ValueError, match="needs the outputs' `images`"):
        Clusters(4, encoder=Encoder())(replace(outputs, images=None), 3, seeded())
