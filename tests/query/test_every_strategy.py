"""What holds for every query strategy; a new one joins by a line in `STRATEGIES`."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medssl_monai import query
from medssl_monai.kinds import KINDS, Classes, Findings
from medssl_monai.networks import EmbeddingClassifier
from medssl_monai.query import (
    AfterColdStart,
    BoostMISQuery,
    Clusters,
    CoreSet,
    DensityEntropy,
    Instability,
    JointQuery,
    Mixed,
    PoolOutputs,
    TypiClust,
)
from medssl_monai.query.base import name_of
from medssl_monai.query.budget import ExactBudget

ANY = {  # whatever the labels are
    "random": query.random,
    "clusters": Clusters(num_clusters=3),
    "clusters, one of each first": Clusters(num_clusters=4, min_per_cluster=1, restarts=1),
    "core-set": CoreSet(),
    "typiclust": TypiClust(neighbors=4, min_size=2),
    "typiclust, few clusters": TypiClust(max_clusters=2),
    "bald": partial(query.bald, passes=2),
    "after cold start": AfterColdStart(Clusters(num_clusters=3), CoreSet(), labels=4),
    "mixed": Mixed([CoreSet(), query.random, Clusters(num_clusters=2)], shares=[0.5, 0.3, 0.2]),
    "joint, of one part": JointQuery(),
}
IMAGE_LABELS = {  # one label for a whole image
    "entropy": query.entropy,
    "margin": query.margin,
    "entropy, most uncertain finding": partial(query.entropy, reduction="max"),
    "margin, most uncertain finding": partial(query.margin, reduction="max"),
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
MASKS = {
    "foreground": query.foreground_random,
    "mask entropy": query.mask_entropy,
    "boundary entropy": partial(query.boundary_entropy, width=1),
    "ceal": partial(query.ceal, passes=3),
    "dice disagreement": partial(query.dice_disagreement, passes=3, batch_size=2),
    "cold start, then entropy": AfterColdStart(Clusters(num_clusters=3), query.mask_entropy),
    "typical and uncertain": Mixed([TypiClust(neighbors=4), query.mask_entropy], shares=[2, 1]),
    "exactly the budget": ExactBudget(query.mask_entropy),
}
STRATEGIES = {**ANY, **IMAGE_LABELS, **MASKS}
IMAGES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(9))  # the pool, by index
VOLUMES = torch.rand(40, 1, 4, 4, 3, generator=torch.Generator().manual_seed(9))


def kinds_of(name):
    """Those that have what a strategy needs: maps, or predictions of whole images."""
    kinds = [kind for kind in KINDS.values() if name in ANY or (kind.of_size(2).cases is None) == (name in MASKS)]
    return [kind.word for kind in kinds]


def classifier(classes, seed):
    torch.manual_seed(seed)
    return EmbeddingClassifier(nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 5)), 5, classes).eval()


class Segmenter(nn.Module):
    """Images or volumes to logits of their size; the head is a convolution of one voxel."""

    def __init__(self, classes, dims):
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.body = nn.Sequential(convolution(1, 5, 3, padding=1), norm(5), nn.ReLU(), nn.Dropout(0.3))
        self.head = convolution(5, classes, 1)

    def embed(self, images):
        return self.body(images).flatten(2).mean(dim=2)

    def forward(self, images):
        return self.head(self.body(images))


def segmenter(classes, seed, dims=2):
    torch.manual_seed(seed)
    return Segmenter(classes, dims).eval()


def network_for(kind, seed, images):
    if kind.cases is None:
        return segmenter(kind.width, seed, images.ndim - 2)
    return classifier(kind.width, seed)


def predicted(network, images, kind):
    """What is kept of the outcomes, and embeddings, as `predict_pool` has them."""
    with torch.no_grad():
        return kind.kept(kind.outcomes(network(images))), network.embed(images)


@st.composite
def pool_outputs(draw, words):
    n, seed, word = draw(st.integers(1, 14)), draw(st.integers(0, 2**16)), draw(st.sampled_from(words))
    kind = KINDS[word].of_size(draw(st.integers(1 if KINDS[word].of_size(1).states > 1 else 2, 4)))
    images = draw(st.sampled_from([IMAGES, VOLUMES])) if kind.cases is None else IMAGES
    g = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(IMAGES), generator=g)[:n]
    network = network_for(kind, seed, images)
    nn.init.normal_(network.head.weight, std=2.0, generator=g)
    kept, embedding = predicted(network, images[index], kind)
    labeled = draw(
        st.one_of(st.just([False] * n), st.just([True] * n), st.lists(st.booleans(), min_size=n, max_size=n))
    )
    threshold = draw(st.sampled_from([None, 0.0, 0.6, 0.8, 1.0]))
    if draw(st.booleans()):
        size = len(kind.names)
        threshold = draw(st.lists(st.sampled_from([0.0, 0.6, 0.8, 1.0]), min_size=size, max_size=size))
    threshold = None if threshold is None else kind.threshold(threshold)
    return PoolOutputs(index, torch.tensor(labeled), kept, kind, embedding, network, lambda i: images[i], threshold)


def permuted(outputs, order):
    rows = {name: getattr(outputs, name)[order] for name in ("index", "labeled", "kept", "embedding")}
    return replace(outputs, **rows)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def candidates(strategy, outputs):
    rows = ~outputs.labeled
    if getattr(strategy, "pool", "all") == "unselected" and outputs.threshold is not None:
        for row, outcomes in enumerate(outputs.kept):
            values = outputs.threshold.values.expand(outcomes.shape).reshape(-1, outcomes.shape[-1])
            cases = zip(outcomes.reshape(-1, outcomes.shape[-1]), values, strict=True)
            decided = outputs.kind.decide(outcomes).reshape(-1).tolist()
            rows[row] &= not all(case[k] >= of[k] for (case, of), k in zip(cases, decided, strict=True))
    return set(outputs.index[rows].tolist())


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), budget=st.integers(0, 16), seed=st.integers(0, 5))
def test_every_strategy_keeps_the_contract(name, data, budget, seed):
    strategy, outputs = STRATEGIES[name], data.draw(pool_outputs(kinds_of(name)))
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
    assert not any(module.training for module in outputs.network.modules())

    again = strategy(outputs, budget, seeded(seed))
    assert (again.index.tolist(), again.reason) == (chosen, asked.reason)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), budget=st.integers(0, 16), seed=st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(name, data, budget, seed):
    outputs = data.draw(pool_outputs(kinds_of(name)))
    shuffled = permuted(outputs, torch.randperm(len(outputs), generator=seeded(seed)))
    first = STRATEGIES[name](outputs, budget, seeded(1))
    second = STRATEGIES[name](shuffled, budget, seeded(1))
    assert first.index.tolist() == second.index.tolist()
    assert first.reason == second.reason


CASES = [pytest.param(name, word, id=f"{name}, {word}") for name in STRATEGIES for word in kinds_of(name)]
every_strategy = pytest.mark.parametrize(("name", "word"), CASES)


def make_example(labeled, word="classes"):
    """Outputs of a pool of 40 images, or volumes to be segmented, and three names."""
    kind = KINDS[word].of_size(3)
    images = VOLUMES if kind.cases is None else IMAGES
    network = network_for(kind, 0, images)
    kept, embedding = predicted(network, images, kind)
    index = torch.arange(len(images))
    return PoolOutputs(
        index, labeled, kept, kind, embedding, network, lambda i: images[i], threshold=kind.threshold(0.95)
    )


def nothing_labeled(word="classes"):
    return make_example(torch.zeros(40, dtype=torch.bool), word)


@every_strategy
def test_further_parts_of_the_labels_change_nothing_but_what_weighs_them(name, word):
    outputs, strategy = make_example(torch.arange(40) < 5, word), STRATEGIES[name]
    if isinstance(strategy, JointQuery):
        pytest.skip("it weighs all parts, see test_joint.py")
    others = {key: replace(make_example(torch.arange(40) < 9, "findings"), key=key) for key in ("mask", "grade")}
    alone, asked = strategy(outputs, 6, seeded(0)), strategy(replace(outputs, others=others), 6, seeded(0))
    assert (asked.index.tolist(), asked.part) == (alone.index.tolist(), None)


@every_strategy
def test_a_budget_of_zero_asks_for_nothing(name, word):
    asked = STRATEGIES[name](nothing_labeled(word), 0, seeded(0))
    assert asked.size == (0, 0)
    assert asked.reason == []


@every_strategy
def test_everything_labeled_asks_for_nothing(name, word):
    outputs = make_example(torch.ones(40, dtype=torch.bool), word)
    assert STRATEGIES[name](outputs, 5, seeded(0)).size == (0, 0)


@every_strategy
def test_a_pool_smaller_than_the_budget_is_asked_for_once(name, word):
    labeled = torch.ones(40, dtype=torch.bool)
    labeled[[3, 8, 21]] = False
    assert sorted(STRATEGIES[name](make_example(labeled, word), 10, seeded(0)).index.tolist()) == [3, 8, 21]


@every_strategy
def test_identical_samples(name, word):
    outputs = nothing_labeled(word)
    image = outputs.images(torch.tensor([0]))
    same = replace(
        outputs,
        kept=outputs.kept[:1].expand_as(outputs.kept),
        embedding=outputs.embedding[:1].expand(40, -1),
        images=lambda index: image.expand(len(index), *image.shape[1:]),
    )
    asked = STRATEGIES[name](same, 4, seeded(0))
    assert 4 <= len(asked) == len(set(asked.index.tolist())) <= 8


@every_strategy
def test_certain_predictions_do_not_break_the_scores(name, word):
    outputs = replace(nothing_labeled(word), threshold=None, labeled=torch.arange(40) < 5)
    outputs.network.head.weight.data *= 1e6
    certain = replace(outputs, kept=outputs.kind.one_hot(outputs.kept.argmax(dim=-1)))
    asked = STRATEGIES[name](certain, 4, seeded(0))
    assert len(asked) >= 4
    assert all(torch.isfinite(score).all() for score in asked.scores.values())


@pytest.mark.parametrize("name", IMAGE_LABELS)
def test_what_asks_for_labels_of_images_refuses_masks_and_names_what_does_not(name):
    with pytest.raises(ValueError, match=r"asks for labels of whole images; for masks take `medssl_monai.query.mask_e"):
        STRATEGIES[name](nothing_labeled("masks"), 4, seeded(0))


@pytest.mark.parametrize("name", MASKS)
def test_what_asks_for_masks_refuses_labels_of_images_and_names_what_does_not(name):
    outputs = make_example(torch.arange(40) < 5)
    with pytest.raises(ValueError, match=r"is for masks, and the labels are classes; take `medssl_monai.query\."):
        STRATEGIES[name](outputs, 4, seeded(0))


def test_a_strategy_that_needs_embeddings_says_so():
    outputs = replace(nothing_labeled(), embedding=None)
    for strategy in (Clusters(), CoreSet(), TypiClust()):
        with pytest.raises(ValueError, match="needs embeddings, and the network has no `embed`; give it an `encoder`"):
            strategy(outputs, 4, seeded(0))


@pytest.mark.parametrize("strategy", [Clusters, CoreSet, TypiClust])
def test_an_encoder_embeds_in_place_of_the_network(strategy):
    encoder, outputs = classifier(3, seed=7), make_example(torch.arange(40) < 5)
    by_encoder = replace(outputs, embedding=outputs.features(encoder))
    chosen = strategy(encoder=encoder)(replace(outputs, embedding=None), 6, seeded(0))
    assert chosen.index.tolist() == strategy()(by_encoder, 6, seeded(0)).index.tolist()
    assert chosen.index.tolist() != strategy()(outputs, 6, seeded(0)).index.tolist()


def test_random_depends_on_the_seed_and_on_nothing_else():
    """Trap: the published baseline takes the first samples of the pool, the same ones in every repeat."""
    outputs = nothing_labeled()
    other = replace(outputs, kept=outputs.kept.flip(0), embedding=None, network=None)
    assert query.random(outputs, 5, seeded(0)).index.tolist() == query.random(other, 5, seeded(0)).index.tolist()
    assert query.random(outputs, 5, seeded(0)).index.tolist() != query.random(outputs, 5, seeded(1)).index.tolist()


def test_random_is_uniform():
    outputs = nothing_labeled()
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


FINDINGS = torch.tensor([[0.5, 0.99, 0.99], [0.3, 0.3, 0.3], [0.01, 0.02, 0.01], [0.8, 0.5, 0.1]])
"""By the sum of entropies in nats 0.81, 1.83, 0.21, 1.52; the first and the last have the most uncertain finding."""


def of_findings(present, index=None, **others):
    """Outputs of a pool by the probabilities ``(N, K)`` that findings are present; nothing is labeled."""
    index = torch.arange(len(present)) if index is None else index
    kept = torch.stack([1 - present, present], dim=-1)
    return PoolOutputs(
        index, torch.zeros(len(present), dtype=torch.bool), kept, Findings.of_size(present.shape[1]), **others
    )


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (query.entropy, [11, 13, 10, 12]),
        (partial(query.entropy, reduction="max"), [10, 13, 11, 12]),
        (query.margin, [11, 13, 10, 12]),  # gaps 1.96, 1.2, 2.92, 1.4
        (partial(query.margin, reduction="max"), [10, 13, 11, 12]),
    ],
)
def test_uncertainty_of_findings_is_summed_or_that_of_the_most_uncertain(strategy, expected):
    outputs = of_findings(FINDINGS, torch.tensor([10, 11, 12, 13]))
    assert strategy(outputs, 4, seeded(0)).index.tolist() == expected


@pytest.mark.parametrize("reduction", ["sum", "max"])
@pytest.mark.parametrize("strategy", [query.entropy, query.margin])
def test_one_finding_is_asked_for_like_two_classes(strategy, reduction):
    p = torch.rand(30, 1, generator=seeded(3))
    index, labeled = torch.arange(30), torch.zeros(30, dtype=torch.bool)
    classes = strategy(PoolOutputs(index, labeled, torch.cat([1 - p, p], dim=1)), 30, seeded(0))
    found = strategy(of_findings(p), 30, seeded(0), reduction)
    assert found.index.tolist() == classes.index.tolist()
    (name,) = found.scores
    torch.testing.assert_close(found.scores[name], classes.scores[name])


def test_findings_are_summed_or_the_largest_taken_and_nothing_else():
    with pytest.raises(ValueError, match="`reduction` must be 'sum' or 'max', got 'mean'"):
        query.entropy(of_findings(FINDINGS), 2, seeded(0), reduction="mean")


def test_doubtful_is_an_image_of_which_any_finding_is():
    outputs = of_findings(FINDINGS)

    def doubtful(threshold):
        return replace(outputs, threshold=outputs.kind.threshold(threshold)).doubtful.tolist()

    assert outputs.doubtful.all()  # the learner has no threshold
    assert doubtful(0.9) == [True, True, False, True]
    assert doubtful(0.5) == [False] * 4
    assert doubtful([0.5, 0.9, 0.9]) == [False, True, False, True]
    assert doubtful({"absent": [0.9, 0.5, 0.7], "present": [0.5, 0.9, 0.9]}) == [True, True, False, False]


def test_a_threshold_for_each_class_is_that_of_the_predicted_one():
    probs = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    kind = Classes.of_size(2)
    outputs = PoolOutputs(
        torch.arange(3), torch.zeros(3, dtype=torch.bool), probs, kind, threshold=kind.threshold([0.65, 0.9])
    )
    assert outputs.doubtful.tolist() == [False, True, True]
    asked = BoostMISQuery(density_entropy=DensityEntropy("none"))(outputs, 3, seeded(0))
    assert sorted(asked.index.tolist()) == [1, 2]  # what the learner labels by itself is not asked for


def test_as_many_classes_as_samples_do_not_make_a_threshold_one_for_each_sample():
    """Trap: with K = N a threshold per class fits the samples as well."""
    kind = Classes.of_size(3)
    probs = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    outputs = PoolOutputs(
        torch.arange(3), torch.zeros(3, dtype=torch.bool), probs, kind, threshold=kind.threshold([0.5, 0.9, 0.7])
    )
    assert outputs.doubtful.tolist() == [True, True, False]


def test_images_to_be_segmented_are_all_doubtful():
    assert nothing_labeled("masks").doubtful.all()


def test_a_strategy_is_named_with_what_is_bound_to_it():
    assert name_of(query.entropy) == "entropy"
    assert name_of(partial(query.entropy, reduction="max")) == "entropy (reduction=max)"
    assert name_of(STRATEGIES["boostmis"]) == "BoostMISQuery"


def test_ties_go_to_the_smaller_index():
    index = torch.randperm(500, generator=seeded(0))
    outputs = PoolOutputs(index, torch.zeros(500, dtype=torch.bool), torch.full((500, 2), 0.5))
    assert query.entropy(outputs, 20, seeded(0)).index.tolist() == list(range(20))
