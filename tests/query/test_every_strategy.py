"""What holds for every query strategy; a new one joins by a line in `STRATEGIES`."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medssl_monai import query
from medssl_monai.networks import EmbeddingClassifier
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, PoolOutputs

STRATEGIES = {
    "random": query.random,
    "entropy": query.entropy,
    "margin": query.margin,
    "boostmis": BoostMISQuery(Instability(), DensityEntropy(neighbors=4)),
    "boostmis, all": BoostMISQuery(Instability(), DensityEntropy(neighbors=4), pool="all"),
    "boostmis, exact": BoostMISQuery(Instability(), DensityEntropy(neighbors=4), exact_budget=True),
    "boostmis, unstable": BoostMISQuery(instability=Instability(power_iterations=2)),
    "boostmis, uncertain": BoostMISQuery(density_entropy=DensityEntropy("mean_sim", neighbors=4)),
    "boostmis, uncertain, exact": BoostMISQuery(density_entropy=DensityEntropy("none"), exact_budget=True),
    "boostmis, not filled": BoostMISQuery(Instability(), DensityEntropy(neighbors=4, fill=False)),
    "boostmis, unbalanced": BoostMISQuery(Instability(), DensityEntropy(balanced=False)),
    "boostmis, image": BoostMISQuery(Instability(level="image"), DensityEntropy(neighbors=4)),
}
IMAGES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(9))  # the pool, by index


def classifier(classes, seed):
    torch.manual_seed(seed)
    return EmbeddingClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), 5, classes).eval()


@st.composite
def pool_outputs(draw):
    n, classes, seed = draw(st.integers(1, 14)), draw(st.integers(2, 4)), draw(st.integers(0, 2**16))
    g = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(IMAGES), generator=g)[:n]
    network = classifier(classes, seed)
    with torch.no_grad():
        nn.init.normal_(network.head.weight, std=2.0, generator=g)
        embedding = network.embed(IMAGES[index])
        probs = network.head(embedding).softmax(dim=1)
    labeled = draw(
        st.one_of(st.just([False] * n), st.just([True] * n), st.lists(st.booleans(), min_size=n, max_size=n))
    )
    threshold = draw(st.sampled_from([None, 0.0, 0.6, 0.8, 1.0]))
    return PoolOutputs(index, torch.tensor(labeled), probs, embedding, network, lambda i: IMAGES[i], threshold)


def permuted(outputs, order):
    rows = {name: getattr(outputs, name)[order] for name in ("index", "labeled", "probs", "embedding")}
    return replace(outputs, **rows)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def candidates(strategy, outputs):
    rows = ~outputs.labeled
    if getattr(strategy, "pool", "all") == "unselected" and outputs.threshold is not None:
        rows &= outputs.probs.amax(dim=1) < outputs.threshold
    return set(outputs.index[rows].tolist())


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=30, deadline=None)
@given(outputs=pool_outputs(), budget=st.integers(0, 16), seed=st.integers(0, 5))
def test_every_strategy_keeps_the_contract(name, outputs, budget, seed):
    strategy = STRATEGIES[name]
    allowed = candidates(strategy, outputs)
    tensors = {k: v.clone() for k, v in vars(outputs).items() if isinstance(v, torch.Tensor)}
    weights, generator_state = copy.deepcopy(outputs.network.state_dict()), torch.get_rng_state()
    asked = strategy(outputs, budget, seeded(seed))
    chosen = asked.index.tolist()

    assert asked.index.dtype == torch.long
    assert set(chosen) <= allowed  # unlabeled, and not what the learner labels by itself
    assert len(set(chosen)) == len(chosen) == len(asked) == len(asked.reason)
    assert all(len(score) == len(chosen) and torch.isfinite(score).all() for score in asked.scores.values())

    returned, possible = asked.size
    per_selector = min(budget, len(allowed))
    if isinstance(strategy, BoostMISQuery):
        selectors = [strategy.instability, strategy.density_entropy]
        selectors = sum(selector is not None for selector in selectors)
        assert possible == per_selector * selectors
        assert per_selector <= returned <= min(possible, len(allowed))
        if strategy.exact_budget or selectors == 1:
            assert returned == min(possible, len(allowed))
    else:
        assert returned == possible == per_selector

    assert all(torch.equal(getattr(outputs, k), v) for k, v in tensors.items())
    assert all(torch.equal(outputs.network.state_dict()[k], v) for k, v in weights.items())
    assert all(p.grad is None for p in outputs.network.parameters())
    assert torch.equal(torch.get_rng_state(), generator_state)

    again = strategy(outputs, budget, seeded(seed))
    assert (again.index.tolist(), again.reason) == (chosen, asked.reason)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=30, deadline=None)
@given(outputs=pool_outputs(), budget=st.integers(0, 16), seed=st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(name, outputs, budget, seed):
    shuffled = permuted(outputs, torch.randperm(len(outputs), generator=seeded(seed)))
    first = STRATEGIES[name](outputs, budget, seeded(1))
    second = STRATEGIES[name](shuffled, budget, seeded(1))
    assert first.index.tolist() == second.index.tolist()
    assert first.reason == second.reason


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    return STRATEGIES[request.param]


def example(labeled):
    network = classifier(3, seed=0)
    index = torch.arange(len(IMAGES))
    with torch.no_grad():
        embedding = network.embed(IMAGES)
        probs = network.head(embedding).softmax(dim=1)
    return PoolOutputs(index, labeled, probs, embedding, network, lambda i: IMAGES[i], threshold=0.95)


def test_a_budget_of_zero_asks_for_nothing(strategy):
    asked = strategy(example(torch.zeros(40, dtype=torch.bool)), 0, seeded(0))
    assert asked.size == (0, 0)
    assert asked.reason == []


def test_everything_labeled_asks_for_nothing(strategy):
    assert strategy(example(torch.ones(40, dtype=torch.bool)), 5, seeded(0)).size == (0, 0)


def test_a_pool_smaller_than_the_budget_is_asked_for_once(strategy):
    labeled = torch.ones(40, dtype=torch.bool)
    labeled[[3, 8, 21]] = False
    assert sorted(strategy(example(labeled), 10, seeded(0)).index.tolist()) == [3, 8, 21]


def test_identical_samples(strategy):
    outputs = example(torch.zeros(40, dtype=torch.bool))
    same = replace(
        outputs,
        probs=outputs.probs[:1].expand(40, -1),
        embedding=outputs.embedding[:1].expand(40, -1),
        images=lambda index: IMAGES[:1].expand(len(index), -1, -1, -1),
    )
    asked = strategy(same, 4, seeded(0))
    assert 4 <= len(asked) == len(set(asked.index.tolist())) <= 8


def test_certain_predictions_do_not_break_the_scores(strategy):
    outputs = replace(example(torch.zeros(40, dtype=torch.bool)), threshold=None)
    certain = replace(outputs, probs=torch.eye(3)[torch.arange(40) % 3])
    asked = strategy(certain, 4, seeded(0))
    assert len(asked) >= 4
    assert all(torch.isfinite(score).all() for score in asked.scores.values())


def test_random_depends_on_the_seed_and_on_nothing_else():
    outputs = example(torch.zeros(40, dtype=torch.bool))
    other = replace(outputs, probs=outputs.probs.flip(0), embedding=None, network=None)
    assert query.random(outputs, 5, seeded(0)).index.tolist() == query.random(other, 5, seeded(0)).index.tolist()
    assert query.random(outputs, 5, seeded(0)).index.tolist() != query.random(outputs, 5, seeded(1)).index.tolist()


def test_random_is_uniform():
    outputs = example(torch.zeros(40, dtype=torch.bool))
    counts = torch.zeros(40)
    for seed in range(400):
        counts[query.random(outputs, 10, seeded(seed)).index] += 1
    assert 60 < counts.min() <= counts.max() < 140  # 100 expected, 8.7 standard deviation


PROBS = torch.tensor([[0.98, 0.01, 0.01], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [0.7, 0.3, 0.0]])


def test_entropy_takes_the_most_uncertain_first():
    outputs = PoolOutputs(torch.tensor([10, 11, 12, 13]), torch.zeros(4, dtype=torch.bool), PROBS)
    assert query.entropy(outputs, 4, seeded(0)).index.tolist() == [12, 11, 13, 10]


def test_margin_looks_at_the_two_most_probable_classes_only():
    outputs = PoolOutputs(torch.tensor([10, 11, 12, 13]), torch.zeros(4, dtype=torch.bool), PROBS)
    assert query.margin(outputs, 4, seeded(0)).index.tolist() == [11, 12, 13, 10]


def test_ties_go_to_the_smaller_index():
    index = torch.randperm(500, generator=seeded(0))
    outputs = PoolOutputs(index, torch.zeros(500, dtype=torch.bool), torch.full((500, 2), 0.5))
    assert query.entropy(outputs, 20, seeded(0)).index.tolist() == list(range(20))
