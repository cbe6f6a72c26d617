"""BoostMIS's query: uncertainty weighted with density, balance, and the union with what is unstable."""

import math
from dataclasses import replace

import pytest
import torch
from query.pools import linear, pool_of, randn, seeded

from medssl_monai.kinds import Findings
from medssl_monai.pool import Labels
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, PoolOutputs

# ---- BUS: entropy and density -------------------------------------------------------------------------------------


def entropies(probs):
    outputs = PoolOutputs(torch.arange(len(probs)), torch.zeros(len(probs), dtype=torch.bool), probs)
    return DensityEntropy("none")(outputs, torch.arange(len(probs)))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_entropy_of_certainty_is_zero_and_of_ignorance_ln_k(classes):
    probs = torch.stack([torch.eye(classes)[0], torch.full((classes,), 1 / classes)])
    assert entropies(probs).tolist() == pytest.approx([0.0, math.log(classes)])


def test_a_certain_sample_never_beats_a_positive_score():
    probs = torch.tensor([[1.0, 0.0], [0.999, 0.001], [1.0, 0.0], [0.6, 0.4]])
    outputs = replace(pool_of(randn(4, 6), linear(2)), kept=probs)
    for density in ("degree", "none"):
        score = DensityEntropy(density, neighbors=3)(outputs, torch.arange(4))
        assert score[[0, 2]].tolist() == [0.0, 0.0]
        assert (score[[1, 3]] > 0).all() or density == "degree"
    assert set(entropies(probs).argsort(descending=True)[:2].tolist()) == {1, 3}


def test_mean_similarity_is_the_mean_cosine_to_the_neighbours():
    features = randn(15, 4)
    unit = features / features.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-math.inf).sort(dim=1, descending=True).values[:, :3]
    torch.testing.assert_close(DensityEntropy("mean_sim", neighbors=4).weight(features), cosine.mean(dim=1))


@pytest.mark.parametrize("density", ["degree", "mean_sim", "none"])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_pools_with_hardly_a_neighbour(density, n):
    score = DensityEntropy(density)(pool_of(randn(n, 6), linear()), torch.arange(n))
    assert score.shape == (n,)
    assert torch.isfinite(score).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"density": "sum"}, "`density` must be 'degree', 'mean_sim' or 'none', got 'sum'"),
        ({"neighbors": 1}, "`neighbors` counts the sample itself and must be at least 2, got 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        DensityEntropy(**arguments)


def test_density_needs_an_embedding():
    plain = PoolOutputs(torch.arange(2), torch.zeros(2, dtype=torch.bool), torch.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="density needs embeddings, but the network has no `embed` method"):
        DensityEntropy()(plain, torch.arange(2))


def test_a_query_of_findings_is_balanced_over_the_most_probable_ones():
    present = torch.tensor([[0.4, 0.3]] * 6 + [[0.1, 0.2]] * 6, dtype=torch.double)
    kept = torch.stack([1 - present, present], dim=-1)
    outputs = PoolOutputs(torch.arange(12), torch.zeros(12, dtype=torch.bool), kept, Findings.of_size(2))
    asked = BoostMISQuery(density_entropy=DensityEntropy("none"))(outputs, 4, seeded())
    assert sorted(asked.index.tolist()) == [0, 1, 6, 7]


# ---- BUS: balance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 5, 6, 11])
def test_at_most_k_over_c_of_every_predicted_class_and_the_best_of_it(budget):
    score, predicted = randn(30), torch.arange(30) % 3
    predicted[predicted == 2] = 1
    predicted[:1] = 2  # a rare class
    chosen = DensityEntropy(fill=False).choose(score, predicted, 4, budget)
    for k in range(4):
        of_class = chosen[predicted[chosen] == k]
        rows = (predicted == k).nonzero().squeeze(1)
        best = rows[score[rows].argsort(descending=True)][: budget // 4]
        assert of_class.tolist() == best.tolist()
    assert len(chosen.unique()) == len(chosen) <= budget


def test_what_a_class_lacks_is_filled_from_the_ranking_of_all():
    score = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    predicted = torch.tensor([0, 0, 0, 0, 0, 1])
    assert DensityEntropy(fill=False).choose(score, predicted, 2, 4).tolist() == [0, 1, 5]
    assert DensityEntropy(fill=True).choose(score, predicted, 2, 4).tolist() == [0, 1, 5, 2]
    assert DensityEntropy(balanced=False).choose(score, predicted, 2, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fill", [True, False])
def test_a_class_that_is_never_predicted(fill):
    chosen = DensityEntropy(fill=fill).choose(randn(10), torch.zeros(10, dtype=torch.long), 3, 6)
    assert len(chosen) == (6 if fill else 2)


def test_more_classes_than_budget_still_fills_the_query():
    assert len(DensityEntropy().choose(randn(10), torch.arange(10), 10, 4)) == 4


def test_the_predicted_class_is_the_argmax_and_not_the_probability():
    """The released code compares the largest probability with the class index, for classes 0 and 1 only."""
    probs = torch.tensor([[0.1, 0.2, 0.7], [0.2, 0.1, 0.7], [0.1, 0.7, 0.2], [0.7, 0.2, 0.1], [0.2, 0.2, 0.6]])
    outputs = replace(pool_of(randn(5, 6), linear()), kept=probs)
    asked = BoostMISQuery(density_entropy=DensityEntropy("none"))(outputs, 3, seeded())
    assert set(probs[asked.index].argmax(dim=1).tolist()) == {0, 1, 2}


# ---- the union ------------------------------------------------------------------------------------------------------


BOTH = {"instability": Instability(), "density_entropy": DensityEntropy(neighbors=4)}


def test_the_union_holds_both_lists_and_no_id_twice():
    outputs = pool_of(randn(40, 6), linear())
    asked = BoostMISQuery(**BOTH)(outputs, 8, seeded())
    unstable = BoostMISQuery(instability=BOTH["instability"])(outputs, 8, seeded())
    uncertain = BoostMISQuery(density_entropy=BOTH["density_entropy"])(outputs, 8, seeded())
    ids = {name: set(part.index.tolist()) for name, part in (("unstable", unstable), ("uncertain", uncertain))}
    assert set(asked.index.tolist()) == ids["unstable"] | ids["uncertain"]
    assert len(asked) == len(set(asked.index.tolist()))
    assert asked.size == (len(asked), 16)
    for index, reason in zip(asked.index.tolist(), asked.reason, strict=True):
        names = [name for name, members in ids.items() if index in members]
        assert reason == ("both" if len(names) == 2 else names[0])


def test_overlapping_selectors_ask_for_less_and_exactly_topped_up_for_all():
    head = linear(2)
    outputs = pool_of(randn(1, 6).expand(20, -1) + 1e-3 * randn(20, 6), head)
    outputs = replace(outputs, kept=torch.full((20, 2), 0.5))
    both = {"instability": Instability(), "density_entropy": DensityEntropy("none", balanced=False)}
    asked = BoostMISQuery(**both)(outputs, 15, seeded())
    assert 15 <= len(asked) < 30
    assert "both" in asked.reason
    exact = BoostMISQuery(**both, exact_budget=True)(outputs, 9, seeded())
    assert exact.size == (18, 18)
    assert "filled" in exact.reason
    plain = BoostMISQuery(**both)(outputs, 9, seeded())
    assert exact.index[: len(plain)].tolist() == plain.index.tolist()  # what fills up comes last


def test_only_what_the_learner_could_not_label_is_asked_for():
    outputs = pool_of(randn(60, 6), linear(), threshold=0.8)
    below = outputs.kept.amax(dim=1) < 0.8
    assert 0 < below.sum() < 60
    paper = BoostMISQuery(**BOTH)(outputs, 60, seeded()).index
    code = BoostMISQuery(**BOTH, pool="all")(outputs, 60, seeded()).index
    assert sorted(paper.tolist()) == below.nonzero().squeeze(1).tolist()
    assert sorted(code.tolist()) == list(range(60))


def test_a_sample_at_the_threshold_is_labeled_by_the_learner_and_not_asked_for():
    outputs = replace(pool_of(randn(3, 6), linear(2), threshold=0.5), kept=torch.full((3, 2), 0.5))
    assert len(BoostMISQuery(**BOTH)(outputs, 3, seeded())) == 0


def test_a_learner_without_a_threshold_is_asked_about_everything():
    outputs = pool_of(randn(10, 6), linear(), threshold=None)
    assert len(BoostMISQuery(**BOTH)(outputs, 10, seeded())) == 10


def test_a_learner_that_is_sure_of_everything_has_nothing_to_ask():
    outputs = pool_of(randn(10, 6), linear(), threshold=0.0)
    assert BoostMISQuery(**BOTH)(outputs, 5, seeded()).size == (0, 0)


def test_positions_are_of_the_datalist_and_labeled_samples_are_never_among_them():
    outputs = pool_of(randn(10, 6), linear())
    outputs = replace(outputs, index=torch.arange(10) * 10 + 5, labeled=torch.arange(10) < 6)
    asked = BoostMISQuery(**BOTH)(outputs, 2, seeded()).index.tolist()
    assert set(asked) <= {65, 75, 85, 95}


def test_the_best_of_each_selector_comes_first():
    outputs = pool_of(randn(40, 6), linear())
    asked = BoostMISQuery(**BOTH)(outputs, 8, seeded())
    assert asked.index[0] == BoostMISQuery(instability=Instability())(outputs, 8, seeded()).index[0]


def test_labels_and_the_rest_stay_a_partition_after_every_round():
    features, head = randn(30, 6), linear()
    pool = Labels([{"id": str(i)} for i in range(30)])
    for round_ in range(6):
        outputs = replace(pool_of(features, head), labeled=pool.mask)
        pool.annotate(asked := BoostMISQuery(**BOTH)(outputs, 4, seeded(round_)).index, [0] * len(asked))
        parts = [pool.indices(side).tolist() for side in ("labeled", "unlabeled")]
        assert sorted(parts[0] + parts[1]) == list(range(30))
    assert len(parts[0]) >= 24


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "BoostMISQuery needs at least one of `instability` and `density_entropy`"),
        ({**BOTH, "pool": "unlabeled"}, "`pool` must be 'unselected' or 'all', got 'unlabeled'"),
    ],
)
def test_a_query_that_cannot_be_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        BoostMISQuery(**arguments)
