"""Several strategies in one."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from medssl_monai import query
from medssl_monai.kinds import Masks
from medssl_monai.query import (
    AfterColdStart,
    BoostMISQuery,
    Clusters,
    CoreSet,
    DensityEntropy,
    JointQuery,
    Mixed,
    PoolOutputs,
)
from medssl_monai.query.base import name_of
from medssl_monai.query.budget import ExactBudget


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool_of(samples=40, labeled=0):
    g = seeded(5)
    embedding, kept = torch.randn(samples, 4, generator=g), torch.rand(samples, 3, generator=g).softmax(dim=1)
    return PoolOutputs(torch.randperm(samples, generator=g), torch.arange(samples) < labeled, kept, embedding=embedding)


@pytest.mark.parametrize("labels", [1, 12])
def test_after_the_cold_start_another_strategy_asks(labels):
    strategy = AfterColdStart(Clusters(4), query.entropy, labels=labels)
    for known in (0, labels - 1):
        outputs = pool_of(labeled=known)
        assert strategy(outputs, 5, seeded()).index.tolist() == Clusters(4)(outputs, 5, seeded()).index.tolist()
    for known in (labels, 30):
        outputs = pool_of(labeled=known)
        assert strategy(outputs, 5, seeded()).index.tolist() == query.entropy(outputs, 5, seeded()).index.tolist()


def test_a_mixed_query_has_the_shares_and_takes_turns():
    outputs = pool_of(labeled=2)
    asked = Mixed([query.entropy, CoreSet()], shares=[2, 1])(outputs, 9, seeded())
    turn = ["entropy", "far from labels", "entropy"]
    assert asked.reason == turn * 3
    by_entropy = [i for i, reason in zip(asked.index.tolist(), asked.reason, strict=True) if reason == "entropy"]
    assert by_entropy == query.entropy(outputs, 6, seeded()).index.tolist()
    assert asked.size == (9, 9)


def test_no_sample_is_chosen_twice():
    outputs = pool_of()
    asked = Mixed([query.entropy, query.entropy], shares=[1, 1])(outputs, 10, seeded())
    assert sorted(asked.index.tolist()) == sorted(query.entropy(outputs, 10, seeded()).index.tolist())


def test_a_share_may_be_too_small_for_a_sample():
    asked = Mixed([query.random, query.margin], shares=[0.9, 0.1])(pool_of(), 3, seeded())
    assert asked.reason == ["random"] * 3


def test_what_does_not_fill_its_budget_is_refused_and_told_how_to():
    both = BoostMISQuery(density_entropy=DensityEntropy("none", fill=False))
    with pytest.raises(ValueError, match=r"BoostMISQuery chose 3 samples where 5 were asked for; wrap it in .*Exact"):
        Mixed([both, query.random], shares=[1, 1])(pool_of(), 10, seeded())
    assert len(Mixed([ExactBudget(both), query.random], shares=[1, 1])(pool_of(), 10, seeded())) == 10


@pytest.mark.parametrize("shares", [[1], [1, 0], [1, -1, 1], []])
def test_every_strategy_needs_a_share(shares):
    strategies = [query.random] * (2 if len(shares) < 3 else 3)
    with pytest.raises(ValueError, match="needs a share above 0 for each strategy"):
        Mixed(strategies, shares)
    with pytest.raises(ValueError, match="needs a share above 0 for each strategy"):
        Mixed([], [])


def test_the_record_names_the_strategies_within():
    cold = AfterColdStart(Clusters(), partial(query.bald, passes=5), labels=20)
    assert name_of(cold) == "Clusters, from 20 labels on bald (passes=5)"
    assert name_of(Mixed([cold.first, query.random], [0.75, 0.25])) == "0.75 Clusters + 0.25 random"


@pytest.mark.parametrize("wrap", [lambda own: Mixed([own, query.random], [1, 1]), ExactBudget])
def test_a_query_for_two_parts_is_not_taken_for_one_of_samples(wrap):
    outputs = pool_of()
    masks = PoolOutputs(
        outputs.index,
        outputs.labeled,
        outputs.kept[:, :2],
        Masks.of_size(2),
        network=torch.nn.Identity(),
        images=lambda index: torch.zeros(len(index), 2, 4, 4),
        key="mask",
    )
    with pytest.raises(ValueError, match="asks for several parts of the labels, and its budget is in units of cost"):
        wrap(JointQuery())(replace(outputs, others={"mask": masks}), 6, seeded())
