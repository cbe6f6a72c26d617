"""Queries of an exact size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from medssl_monai import query
from medssl_monai.kinds import Classes, Findings
from medssl_monai.networks import EmbeddingClassifier
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, PoolOutputs, Query
from medssl_monai.query.budget import ExactBudget

BOTH = BoostMISQuery(Instability(), DensityEntropy(neighbors=4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_pool(samples=60, classes=3, labeled=4, threshold=0.99, seed=0, kind=Classes):
    """Outputs of a random network for points of noise; the indices are shuffled."""
    torch.manual_seed(seed)
    network = EmbeddingClassifier(nn.Identity(), 6, classes).eval()
    nn.init.normal_(network.head.weight, std=2.0)
    embedding = torch.randn(samples, 6)
    with torch.no_grad():
        kept = kind.of_size(classes).outcomes(network.head(embedding))
    known = torch.arange(samples) < labeled
    limit = None if threshold is None else kind.of_size(classes).threshold(threshold)
    return PoolOutputs(torch.randperm(samples), known, kept, kind.of_size(classes), embedding, network, threshold=limit)


STRATEGIES = {
    "random": query.random,
    "both": BOTH,
    "all": BoostMISQuery(Instability(), DensityEntropy(neighbors=4), pool="all"),
    "unstable": BoostMISQuery(Instability()),
    "uncertain": BoostMISQuery(density_entropy=DensityEntropy("none")),
    "not filled": BoostMISQuery(density_entropy=DensityEntropy("none", fill=False)),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("threshold", [None, 0.99, 0.6, 0.0])
@pytest.mark.parametrize("budget", [0, 1, 7, 10, 56, 80])
def test_the_query_has_the_size_of_the_budget_or_of_all_that_is_unlabeled(name, threshold, budget):
    outputs = make_pool(threshold=threshold)
    before = outputs.labeled.clone()
    asked = ExactBudget(STRATEGIES[name])(outputs, budget, seeded())
    chosen = asked.index.tolist()
    assert len(chosen) == len(set(chosen)) == len(asked.reason)
    assert len(chosen) == (54 if name == "not filled" and budget >= 56 else min(budget, 56))  # two left, three classes
    assert all(len(score) == len(chosen) for score in asked.scores.values())
    assert not set(chosen) & set(outputs.index[outputs.labeled].tolist())
    assert asked.size[0] <= asked.size[1]
    assert torch.equal(outputs.labeled, before)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("threshold", [None, 0.6, [0.99, 0.6, 0.0]])
def test_a_query_of_findings_has_the_size_of_the_budget(name, threshold):
    outputs = make_pool(threshold=threshold, kind=Findings)
    asked = ExactBudget(STRATEGIES[name])(outputs, 10, seeded())
    assert len(asked) == len(set(asked.index.tolist())) == 10
    assert not set(asked.index.tolist()) & set(outputs.index[outputs.labeled].tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [4, 9, 12])
def test_it_is_the_query_of_the_smallest_k_less_what_is_too_much(seed, budget):
    outputs = make_pool(seed=seed)
    asked = ExactBudget(BOTH)(outputs, budget, seeded())
    sizes = [len(BOTH(outputs, k, seeded())) for k in range(budget + 1)]
    k = next(k for k in range(budget + 1) if sizes[k] >= budget)
    whole = BOTH(outputs, k, seeded())
    assert asked.index.tolist() == whole.index[:budget].tolist()
    assert asked.reason == whole.reason[:budget]
    assert asked.size == (budget, 2 * k)  # the overlap that BoostMIS's threshold is told


def test_a_balanced_query_stays_balanced():
    """Cut to the budget, the list for K = budget would hold the first class only."""
    outputs = make_pool(classes=2, threshold=None)
    uncertain = BoostMISQuery(Instability(), DensityEntropy("none"))
    asked = ExactBudget(uncertain)(outputs, 8, seeded())
    row_of = {int(index): row for row, index in enumerate(outputs.index)}
    chosen = [i for i, reason in zip(asked.index.tolist(), asked.reason, strict=True) if reason != "unstable"]
    predicted = [int(outputs.kept[row_of[index]].argmax()) for index in chosen]
    assert set(predicted) == {0, 1}


def test_without_candidates_below_the_threshold_the_same_scores_choose_among_the_others():
    outputs = make_pool(threshold=0.0)
    assert len(BOTH(outputs, 6, seeded())) == 0
    asked = ExactBudget(BOTH)(outputs, 6, seeded())
    assert asked.reason == ["filled"] * 6
    free = replace(outputs, threshold=None)
    assert asked.index.tolist() == ExactBudget(BOTH)(free, 6, seeded()).index.tolist()


def test_what_is_below_the_threshold_comes_first_and_what_fills_up_last():
    outputs = make_pool()
    few = sorted(outputs.kept[4:].amax(dim=1).tolist())[3]  # three candidates
    asked = ExactBudget(BOTH)(replace(outputs, threshold=outputs.kind.threshold(few)), 6, seeded())
    assert [reason == "filled" for reason in asked.reason] == [False] * 3 + [True] * 3


def test_the_randomness_is_that_of_one_call():
    outputs = make_pool(threshold=None)
    assert ExactBudget(query.random)(outputs, 9, seeded(3)).index.tolist() == (
        query.random(outputs, 9, seeded(3)).index.tolist()
    )


def test_the_record_names_the_strategy_within():
    assert ExactBudget(BOTH).__name__ == "exactly the budget of BoostMISQuery"
    assert ExactBudget(query.entropy).__name__ == "exactly the budget of entropy"


def test_a_strategy_that_never_fills_its_budget_is_asked_for_more():

    def odd(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        return query.random(outputs, budget - budget % 3, generator)

    assert len(ExactBudget(odd)(make_pool(), 10, seeded())) == 10


def test_a_strategy_that_finds_nothing_ends():
    def nothing(outputs: PoolOutputs, budget: int, generator: torch.Generator) -> Query:
        return Query(torch.zeros(0, dtype=torch.long), [])

    assert len(ExactBudget(nothing)(make_pool(), 10, seeded())) == 0
