"""Queries for masks: each score against a slow loop or a closed form, and what is defined where nothing is there."""

import math
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from medssl_monai import query
from medssl_monai.kinds import Findings, Masks
from medssl_monai.query import PoolOutputs
from medssl_monai.query.masks import (
    boundary_band,
    ceal_uncertainty,
    distance_weight,
    dropout_samples,
    pairwise_dice,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool_of(images, network=None, labeled=(), index=None):
    """By default a network that takes logits for images and returns them."""
    known = torch.zeros(len(images), dtype=torch.bool)
    known[list(labeled)] = True
    index = torch.arange(len(images)) if index is None else index
    row_of = {int(position): row for row, position in enumerate(index)}
    return PoolOutputs(
        index,
        known,
        torch.full((len(images), 2), 0.5),
        Masks.of_size(2),
        None,
        nn.Identity() if network is None else network,
        lambda positions: images[[row_of[position] for position in positions.tolist()]],
    )


def logits_of(masks, sure=20.0):
    """Logits that are sure of masks ``(B, *spatial)`` of two classes."""
    signed = sure * (2.0 * masks.float() - 1.0)
    return torch.stack([-signed, signed], dim=1) / 2


def slow_entropy(logits):
    """Of each voxel of one image, by position."""
    found = {}
    for voxel in np.ndindex(*logits.shape[1:]):
        p = logits[(slice(None), *voxel)].double().softmax(dim=0)
        found[voxel] = float(-(p * p.log()).sum())
    return found


def by_index(asked):
    (scores,) = asked.scores.values()
    return dict(zip(asked.index.tolist(), scores.tolist(), strict=True))


SHAPES = pytest.mark.parametrize("shape", [(5, 4), (4, 3, 5)])


@SHAPES
def test_mask_entropy_is_the_mean_over_the_voxels(shape):
    logits = 2 * torch.randn(6, 3, *shape, generator=seeded())
    scores = by_index(query.mask_entropy(pool_of(logits), 6, seeded()))
    for i, score in scores.items():
        entropy = slow_entropy(logits[i])
        assert score == pytest.approx(sum(entropy.values()) / len(entropy), abs=1e-6)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def slow_band(mask, width):
    found = {}
    for voxel in np.ndindex(*mask.shape):
        window = tuple(slice(max(0, x - width), x + width + 1) for x in voxel)
        found[voxel] = len(set(mask[window].flatten().tolist())) > 1
    return found


@SHAPES
@pytest.mark.parametrize("width", [1, 2])
def test_boundary_entropy_is_the_mean_about_predicted_boundaries(shape, width):
    coarse = torch.randn(6, 3, *[2] * len(shape), generator=seeded())  # so that not all voxels are near a boundary
    logits = 3 * nn.functional.interpolate(coarse, size=shape) + torch.randn(6, 3, *shape, generator=seeded(1))
    scores = by_index(query.boundary_entropy(pool_of(logits), 6, seeded(), width=width))
    for i, score in scores.items():
        entropy, band = slow_entropy(logits[i]), slow_band(logits[i].argmax(dim=0), width)
        near = [entropy[voxel] for voxel in entropy if band[voxel]] or list(entropy.values())
        assert score == pytest.approx(sum(near) / len(near), abs=1e-6)


def test_boundary_band_of_one_voxel():
    mask = torch.zeros(1, 5, 5, dtype=torch.long)
    mask[0, 2, 2] = 4
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = True
    assert torch.equal(boundary_band(mask, 1)[0], expected)
    assert bool(boundary_band(mask, 2).all())
    assert not boundary_band(torch.full((1, 5, 5), 3), 2).any()


def test_doubt_far_from_the_boundary_counts_for_the_mean_and_not_for_the_boundary():
    mask = torch.zeros(2, 8, 8)
    mask[:, :2] = 1
    logits = logits_of(mask)
    logits[0, :, 5:] = logits_of(torch.zeros(1, 3, 8), sure=0.2)[0]  # far away, three rows
    logits[1, :, 2:3] = logits_of(torch.zeros(1, 1, 8), sure=0.2)[0]  # at the boundary, one row
    assert query.mask_entropy(pool_of(logits), 1, seeded()).index.tolist() == [0]
    assert query.boundary_entropy(pool_of(logits), 1, seeded(), width=1).index.tolist() == [1]


def test_without_a_boundary_the_whole_image_counts():
    logits = torch.stack([logits_of(torch.zeros(1, 4, 4), sure)[0] for sure in (8.0, 1.0, 3.0)])
    asked = query.boundary_entropy(pool_of(logits), 3, seeded())
    assert asked.index.tolist() == [1, 2, 0]
    assert by_index(asked) == pytest.approx(by_index(query.mask_entropy(pool_of(logits), 3, seeded())))


def test_a_band_has_a_width():
    with pytest.raises(ValueError, match="`width` counts voxels and must be at least 1, got 0"):
        query.boundary_entropy(pool_of(torch.zeros(2, 2, 4, 4)), 1, seeded(), width=0)


class Wavering(nn.Module):
    """Dropout makes each voxel of 1 sure of one class or of the other; a voxel of 0 is torn in every pass."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        signed = 20.0 * (self.drop(images) - images)  # -20 or 20; 0 without dropout
        return torch.cat([-signed, signed], dim=1)


SURE_AND_TORN = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6)])


def test_bald_tells_doubt_about_the_weights_from_doubt_about_the_image():
    outputs = pool_of(SURE_AND_TORN, Wavering().eval())
    scores = by_index(query.bald(outputs, 2, seeded(), passes=400))
    assert list(scores) == [1, 0]
    assert scores[0] == pytest.approx(0.0, abs=1e-6)
    assert scores[1] == pytest.approx(math.log(2), abs=5e-3)
    entropy = by_index(query.mask_entropy(outputs, 2, seeded()))
    assert entropy[0] == pytest.approx(entropy[1]) == pytest.approx(math.log(2))


def test_bald_is_the_entropy_of_the_mean_less_the_mean_of_the_entropies():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.4), nn.Conv2d(4, 3, 1)).eval()
    outputs = pool_of(torch.randn(5, 1, 6, 6), network)
    (rows, samples), *rest = dropout_samples(outputs, 3, seeded(2), batch_size=5)
    assert samples.shape == (3, 5, 6, 6, 3)
    assert rest == []
    scores = by_index(query.bald(outputs, 5, seeded(2), passes=3, batch_size=5))
    for position, row in enumerate(rows.tolist()):
        p = samples[:, position].double()
        mean = p.mean(dim=0)
        expected = (p * p.log()).sum(dim=-1).mean() - (mean * mean.log()).sum(dim=-1).mean()
        assert scores[row] == pytest.approx(float(expected), abs=1e-6)


def test_bald_of_findings_of_whole_images_sums_over_them():
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)).eval()
    nn.init.eye_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    images = torch.tensor([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [4.0, 4.0, 4.0]])
    kind, nothing = Findings.of_size(3), torch.zeros(3, dtype=torch.bool)
    outputs = PoolOutputs(torch.arange(3), nothing, kind.outcomes(images), kind, None, network, lambda i: images[i])
    scores = by_index(query.bald(outputs, 3, seeded(), passes=400))
    assert list(scores) == [2, 1, 0]
    assert scores[0] == pytest.approx(0.0, abs=1e-6)
    assert scores[2] == pytest.approx(3 * scores[1], rel=0.1)


class Spy(nn.Module):
    """Notes whether it was in training mode."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.seen = layer, set()

    def forward(self, images):
        self.seen.add((self.training, self.layer.training))
        return self.layer(images)


@pytest.mark.parametrize("training", [True, False])
def test_only_dropout_is_in_training_mode(training):
    norm, drop, off = Spy(nn.BatchNorm2d(2)), Spy(nn.Dropout2d(0.5)), Spy(nn.Dropout(0.0))
    network = nn.Sequential(norm, drop, off).train(training)
    before = norm.layer.running_mean.clone()
    query.bald(pool_of(torch.randn(5, 2, 4, 4), network), 2, seeded())
    assert norm.seen == {(False, False)}
    assert drop.seen == {(False, True)}
    assert off.seen == {(False, False)}
    assert torch.equal(norm.layer.running_mean, before)
    assert all(module.training == training for module in network.modules())


def test_dropout_is_seeded_by_the_generator_and_by_nothing_else():
    outputs = pool_of(torch.rand(9, 1, 5, 5), Wavering().eval())

    def scores(seed):
        torch.manual_seed(int(torch.randint(99, (1,))))
        return by_index(query.bald(outputs, 9, seeded(seed), passes=4))

    assert scores(1) == scores(1) != scores(2)


def test_batches_drop_other_units():
    (_, first), (_, second) = dropout_samples(pool_of(torch.ones(2, 1, 5, 5), Wavering()), 4, seeded(), batch_size=1)
    assert not torch.equal(first, second)


DROPOUT = [query.bald, query.ceal, query.dice_disagreement]


@pytest.mark.parametrize("strategy", DROPOUT)
@pytest.mark.parametrize("network", [nn.Identity(), nn.Sequential(nn.Dropout(0.0)), None])
def test_a_network_without_dropout_is_refused(strategy, network):
    outputs = PoolOutputs(
        torch.arange(2), torch.zeros(2, dtype=torch.bool), torch.full((2, 2), 0.5), Masks.of_size(2), None, network,
        lambda i: torch.zeros(len(i), 2, 4, 4),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"no dropout layer with p > 0; build it with `dropout`, or take"):
        strategy(outputs, 1, seeded())


@pytest.mark.parametrize("strategy", DROPOUT)
def test_one_pass_is_too_few(strategy):
    with pytest.raises(ValueError, match="`passes` are compared with each other and must be at least 2, got 1"):
        strategy(pool_of(SURE_AND_TORN, Wavering()), 1, seeded(), passes=1)


@SHAPES
def test_distance_weight_is_the_depth_within_the_mask(shape):
    mask = torch.rand(shape, generator=seeded()) < 0.6
    depth = {}
    for voxel in np.ndindex(*shape):
        outside = [other for other in np.ndindex(*shape) if not mask[other]]
        depth[voxel] = min(math.dist(voxel, other) for other in outside)
    weight = distance_weight(mask)
    for voxel, distance in depth.items():
        assert float(weight[voxel]) == pytest.approx(distance / max(depth.values()))


def test_distance_weight_without_foreground_is_0_and_without_background_1():
    assert distance_weight(torch.zeros(3, 4, dtype=torch.bool)).eq(0).all()
    assert distance_weight(torch.ones(3, 4, dtype=torch.bool)).eq(1).all()


def test_ceal_is_the_variance_weighted_by_the_depth():
    samples = torch.rand(5, 6, 6, generator=seeded())
    mask = samples.mean(dim=0) > 0.5
    weight, expected = distance_weight(mask), 0.0
    for voxel in np.ndindex(6, 6):
        values = samples[(slice(None), *voxel)].double()
        expected += float(((values - values.mean()) ** 2).mean() * weight[voxel])
    assert float(ceal_uncertainty(samples, mask)) == pytest.approx(expected)


class Rough(nn.Module):
    """Adds noise that dropout makes to the logits of two classes."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, logits):
        return logits + 3.0 * (self.drop(torch.ones_like(logits)) - 1.0)


def squares(*sides, size=12):
    """Logits of images with a square of each side in the middle."""
    masks = torch.zeros(len(sides), size, size)
    for mask, side in zip(masks, sides, strict=True):
        start = (size - side) // 2
        mask[start : start + side, start : start + side] = 1
    return logits_of(masks, sure=6.0)


def test_ceal_weighs_by_the_distance_within_the_binary_mask():
    """Trap: the released code overwrites the mask by probabilities, for which nearly every voxel is foreground."""
    outputs = pool_of(squares(0, 3, 7), Rough().eval())
    scores = by_index(query.ceal(outputs, 3, seeded()))
    assert list(scores) == [2, 1, 0]
    assert scores[0] == 0.0  # nothing predicted, no weight
    (_, samples), *_ = dropout_samples(outputs, 20, seeded(), batch_size=4)
    for image, score in scores.items():
        foreground = samples[:, image, ..., 1]
        mask = foreground.mean(dim=0) > 0.5
        soft = foreground.mean(dim=0) != 0
        assert score == pytest.approx(float(ceal_uncertainty(foreground, mask)))
        assert score < float(ceal_uncertainty(foreground, soft))


def test_queries_name_positions_in_the_datalist():
    """Trap: the released code applies positions in what is left of the pool to the whole of it."""
    images, index = squares(0, 3, 7, 5), torch.tensor([30, 4, 17, 9])
    outputs = pool_of(images, Rough().eval(), labeled=[2], index=index)
    assert query.ceal(outputs, 2, seeded()).index.tolist() == [9, 4]
    assert query.boundary_entropy(outputs, 2, seeded()).index.tolist()[-1] in {9, 4, 30}
    assert 17 not in query.foreground_random(outputs, 4, seeded()).index.tolist()


@SHAPES
@pytest.mark.parametrize("classes", [2, 4])
def test_pairwise_dice(shape, classes):
    masks = torch.randint(classes, (4, 3, *shape), generator=seeded())
    masks[:, 0] = 0  # all empty: 1
    masks[0, 1] = 0  # one empty: 0 for its pairs
    for image, value in enumerate(pairwise_dice(masks, classes).tolist()):
        dice = []
        for first, second in combinations(masks[:, image], 2):
            for k in range(1, classes):
                total = int((first == k).sum() + (second == k).sum())
                dice.append(2 * int(((first == k) & (second == k)).sum()) / total if total else 1.0)
        assert value == pytest.approx(sum(dice) / len(dice), abs=1e-6)
    assert float(pairwise_dice(masks[:, :1], classes)) == 1.0


def test_dice_disagreement_is_relative_to_the_size():
    """The sum over voxels asks for the large structure first, the overlap for the small one."""
    outputs = pool_of(squares(0, 2, 8), Rough().eval())
    asked = query.dice_disagreement(outputs, 3, seeded(), passes=20)
    scores = by_index(asked)
    assert scores[1] > scores[2] > 0
    assert query.ceal(outputs, 1, seeded()).index.tolist() == [2]
    same = pool_of(squares(0, 2, 8) * 10, Rough().eval())
    assert list(by_index(query.dice_disagreement(same, 3, seeded())).values()) == [0.0] * 3  # also where all are empty


HALF_EMPTY = squares(*[0, 4] * 15)  # even: nothing, odd: a square


def test_foreground_random_takes_a_share_from_predicted_foreground():
    outputs = pool_of(HALF_EMPTY, labeled=[0])
    with_foreground = []
    for seed in range(200):
        asked = query.foreground_random(outputs, 9, seeded(seed))
        assert asked.reason == ["foreground"] * 6 + ["random"] * 3
        assert all(index % 2 == 1 for index in asked.index[:6].tolist())
        with_foreground += (asked.index[6:] % 2).tolist()
    assert 0.42 < sum(with_foreground) / len(with_foreground) < 0.62  # 15 of 29, as in the whole pool
    all_of_it = partial(query.foreground_random, share=1.0)
    assert all_of_it(outputs, 20, seeded()).reason == ["foreground"] * 15 + ["random"] * 5
    none_of_it = query.foreground_random(outputs, 9, seeded(), share=0.0)
    assert none_of_it.index.tolist() == query.random(outputs, 9, seeded()).index.tolist()


def test_foreground_random_is_random_before_the_first_label_and_says_so():
    outputs = pool_of(HALF_EMPTY)
    asked = query.foreground_random(outputs, 5, seeded())
    assert asked.index.tolist() == query.random(outputs, 5, seeded()).index.tolist()
    assert asked.reason == ["random: no labels yet"] * 5


def test_foreground_random_is_random_where_no_foreground_is_predicted_and_says_so():
    outputs = pool_of(squares(*[0] * 8), labeled=[3])
    asked = query.foreground_random(outputs, 5, seeded())
    assert asked.index.tolist() == query.random(outputs, 5, seeded()).index.tolist()
    assert asked.reason == ["random: no foreground predicted"] * 5


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_part_of_the_budget(share):
    with pytest.raises(ValueError, match=r"`share` is a part of the budget and must be in \[0, 1\], got"):
        query.foreground_random(pool_of(HALF_EMPTY), 5, seeded(), share=share)
