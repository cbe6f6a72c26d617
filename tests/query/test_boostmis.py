"""BoostMIS's query: the two selectors and their union."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medssl_monai.data import ImageDataset
from medssl_monai.engines import predict_pool
from medssl_monai.networks import EmbeddingClassifier, small_resnet
from medssl_monai.pool import LabelPool
from medssl_monai.query import BoostMISQuery, DensityEntropy, Instability, PoolOutputs
from medssl_monai.query.boostmis import adversarial_instability, graph_degree, nearest_neighbors, unit_rows


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.double)


def linear(classes=3, dim=6, seed=4):
    head = nn.Linear(dim, classes).double().requires_grad_(False)
    head.weight.copy_(randn(classes, dim, seed=seed))
    head.bias.copy_(randn(classes, seed=seed + 1))
    return head


def pool_of(features, head, threshold=None):
    """Outputs of a pool whose embeddings and head are given; nothing is labeled."""
    network = EmbeddingClassifier(nn.Identity(), features.shape[1], head.out_features)
    network.head = head
    probs = head(features.to(head.weight.dtype)).softmax(dim=1)
    rows = len(features)
    return PoolOutputs(
        torch.arange(rows), torch.zeros(rows, dtype=torch.bool), probs, features, network.eval(), threshold=threshold
    )


# ---- AUS ----------------------------------------------------------------------------------------------------------


def direction_of(head, features, **kwargs):
    start = unit_rows(randn(*features.shape, seed=8))
    return start, *adversarial_instability(head, features, start, **kwargs)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_the_shift_has_the_radius_as_its_norm_and_divergence_is_not_negative(radius, iterations):
    features = randn(9, 6) / 2  # not saturated: beside a vanishing gradient, the 1e-8 of `unit_rows` counts
    _, direction, divergence = direction_of(linear(), features, xi=1.0, radius=radius, power_iterations=iterations)
    torch.testing.assert_close((radius * direction).norm(dim=1), torch.full((9,), radius).double(), rtol=1e-6, atol=0)
    assert (divergence >= 0).all()
    assert (divergence > 0).any()


def test_linear_head_with_one_iteration_has_a_closed_form():
    """The gradient of the divergence at xi * d0 is W^T (softmax(W (r + xi d0) + b) - p)."""
    head, features, xi = linear(), randn(9, 6), 1.5
    start, direction, divergence = direction_of(head, features, xi=xi, radius=0.7)
    p = head(features).softmax(dim=1)
    expected = unit_rows((head(features + xi * start).softmax(dim=1) - p) @ head.weight)
    torch.testing.assert_close(direction, expected, rtol=0, atol=1e-5)
    q = head(features + 0.7 * direction).softmax(dim=1)
    torch.testing.assert_close(divergence, (p * (p / q).log()).sum(dim=1))


def test_no_power_iteration_keeps_the_random_start():
    start, direction, _ = direction_of(linear(), randn(9, 6), power_iterations=0)
    assert torch.equal(direction, start)


def test_a_head_without_weights_is_stable_everywhere():
    head = linear()
    head.weight.zero_()
    _, direction, divergence = direction_of(head, randn(9, 6))
    assert not direction.any()
    assert not divergence.any()


def test_instability_of_a_finding_is_that_of_two_classes_and_of_several_their_sum():
    """A finding with the logit z is two classes with the logits 0 and z."""
    head, features = linear(classes=3), randn(9, 6)
    start = unit_rows(randn(9, 6, seed=8))

    def one(k):
        return lambda x: torch.stack([torch.zeros(len(x)).double(), head(x)[:, k]], dim=1)

    for k in range(3):
        as_classes = adversarial_instability(one(k), features, start, xi=1.5)
        as_finding = adversarial_instability(lambda x, k=k: head(x)[:, [k]], features, start, xi=1.5, task="multilabel")
        torch.testing.assert_close(as_finding, as_classes)
    _, together = adversarial_instability(head, features, start, power_iterations=0, task="multilabel")
    parts = [adversarial_instability(one(k), features, start, power_iterations=0)[1] for k in range(3)]
    torch.testing.assert_close(together, torch.stack(parts).sum(dim=0))


def test_a_pool_of_findings_is_scored_as_findings():
    head, features = linear(classes=3), randn(20, 6)
    outputs = replace(pool_of(features, head), probs=head(features).sigmoid(), task="multilabel")
    scores = Instability()(outputs, torch.arange(20), seeded(1))
    assert not torch.allclose(scores, Instability()(replace(outputs, task="multiclass"), torch.arange(20), seeded(1)))
    p = outputs.probs
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    torch.testing.assert_close(DensityEntropy("none")(outputs, torch.arange(20)), entropy.sum(dim=1))
    torch.testing.assert_close(DensityEntropy("none", findings="max")(outputs, torch.arange(20)), entropy.amax(dim=1))


def test_a_query_of_findings_is_balanced_over_the_most_probable_ones():
    probs = torch.tensor([[0.4, 0.3]] * 6 + [[0.1, 0.2]] * 6, dtype=torch.double)
    outputs = PoolOutputs(torch.arange(12), torch.zeros(12, dtype=torch.bool), probs, task="multilabel")
    asked = BoostMISQuery(density_entropy=DensityEntropy("none"))(outputs, 4, seeded())
    assert sorted(asked.index.tolist()) == [0, 1, 6, 7]


def test_a_zero_row_stays_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(unit_rows(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_volumes_are_normalised_as_a_whole():
    assert unit_rows(randn(2, 1, 3, 4, 5)).flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_the_adversarial_shift_beats_a_random_one():
    head, features = linear(), randn(50, 6)
    start, _, adversarial = direction_of(head, features, xi=1e-2, radius=0.5, power_iterations=3)
    _, by_chance = adversarial_instability(head, features, start, radius=0.5, power_iterations=0)
    assert adversarial.mean() > 2 * by_chance.mean()


def test_a_saturated_head_in_float32_still_has_a_score():
    """At a margin of 20 the other class is lost in float32's 1 + 2e-9; AUS asks the head in float64."""
    head = nn.Linear(1, 2).requires_grad_(False)
    head.weight.copy_(torch.tensor([[-2.0], [2.0]]))
    head.bias.zero_()
    scores = Instability(xi=1.0)(pool_of(torch.full((4, 1), 5.0), head), torch.arange(4), seeded())
    assert scores.dtype == torch.double
    assert (scores > 0).all()
    assert head.weight.dtype == torch.float32  # the network itself was left alone


def test_the_choice_does_not_depend_on_how_many_are_scored_at_once():
    """The gradient of a batch mean is smaller in a larger batch; the 1e-8 of `unit_rows` then changes small scores."""
    outputs, rows = pool_of(3 * randn(4096, 6), linear()), torch.arange(4096)
    many, few = (Instability(chunk=chunk)(outputs, rows, seeded()).topk(50).indices.tolist() for chunk in (4096, 64))
    assert set(many) == set(few)


def test_scores_do_not_depend_on_the_chunk():
    outputs = pool_of(randn(23, 6), linear())
    whole, parts = (Instability(chunk=c)(outputs, torch.arange(23), seeded()) for c in (4096, 5))
    torch.testing.assert_close(whole, parts)


def test_scores_depend_on_the_generator_alone():
    outputs, rows = pool_of(randn(23, 6), linear()), torch.arange(23)
    first = Instability()(outputs, rows, seeded(1))
    torch.manual_seed(99)
    assert torch.equal(first, Instability()(outputs, rows, seeded(1)))
    assert not torch.equal(first, Instability()(outputs, rows, seeded(2)))


def test_samples_near_the_decision_boundary_are_unstable():
    head = nn.Linear(1, 2).double().requires_grad_(False)
    head.weight.copy_(torch.tensor([[-2.0], [2.0]]))
    head.bias.zero_()
    scores = Instability(xi=1e-3, radius=0.5)(
        pool_of(torch.tensor([[0.1], [2.0], [5.0]]).double(), head), torch.arange(3), seeded()
    )
    assert scores.argsort(descending=True).tolist() == [0, 1, 2]


@pytest.fixture
def trained():
    """Images, and a network with batch norm that is still in training mode, as after a step."""
    torch.manual_seed(0)
    data = [{"image": str(i), "id": str(i)} for i in range(12)]
    images = torch.rand(12, 1, 12, 12)
    dataset = ImageDataset(data, lambda item: {"image": images[int(item["image"])]}, dtype="float32")
    return small_resnet(2, width=2).train(), dataset, LabelPool(data)


@pytest.mark.parametrize("level", ["embedding", "image"])
def test_looking_for_instability_moves_no_batch_norm_statistics(trained, level):
    network, dataset, pool = trained
    outputs = predict_pool(network, dataset, pool, "cpu")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Instability(level=level)(outputs, torch.arange(12), seeded())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_instability_of_an_image_does_not_depend_on_its_neighbours_in_the_batch(trained):
    network, dataset, pool = trained
    outputs = predict_pool(network.eval(), dataset, pool, "cpu")
    whole = Instability(level="image")(outputs, torch.arange(12), seeded())
    first = Instability(level="image")(outputs, torch.arange(4), seeded())
    torch.testing.assert_close(whole[:4], first, rtol=1e-3, atol=1e-7)


def test_what_instability_needs_is_said():
    plain = PoolOutputs(torch.arange(2), torch.zeros(2, dtype=torch.bool), torch.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="instability of the embedding needs a network with `embed` and `head`"):
        Instability()(plain, torch.arange(2), seeded())
    with pytest.raises(ValueError, match="instability of the image needs the images of the pool"):
        Instability(level="image")(pool_of(randn(2, 6), linear()), torch.arange(2), seeded())
    with pytest.raises(ValueError, match="`level` must be 'embedding' or 'image', got 'features'"):
        Instability(level="features")


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
    outputs = replace(pool_of(randn(4, 6), linear(2)), probs=probs)
    for density in ("degree", "none"):
        score = DensityEntropy(density, neighbors=3)(outputs, torch.arange(4))
        assert score[[0, 2]].tolist() == [0.0, 0.0]
        assert (score[[1, 3]] > 0).all() or density == "degree"
    assert set(entropies(probs).argsort(descending=True)[:2].tolist()) == {1, 3}


@pytest.mark.parametrize(("n", "neighbors"), [(30, 5), (30, 30), (12, 2), (4, 10)])
def test_degree_is_that_of_the_symmetric_graph_without_loops(n, neighbors):
    features = randn(n, 4)
    unit = features / features.norm(dim=1, keepdim=True)
    cosine = (unit @ unit.T).fill_diagonal_(-math.inf)
    graph = torch.zeros(n, n, dtype=torch.bool)
    for row in range(n):
        closest = cosine[row].argsort(descending=True)[: min(neighbors, n) - 1]
        graph[row, closest] = cosine[row, closest] > 0
    graph |= graph.T.clone()
    assert not graph.diagonal().any()
    assert torch.equal(graph_degree(*nearest_neighbors(features, neighbors)), graph.sum(dim=1))


@pytest.mark.parametrize("neighbors", [2, 5, 20])
def test_with_positive_cosines_every_degree_is_at_least_m_minus_one(neighbors):
    features = randn(20, 4).abs()
    degree = graph_degree(*nearest_neighbors(features, neighbors))
    assert degree.min() >= neighbors - 1
    assert degree.max() <= 19
    assert int(degree.sum()) % 2 == 0  # every edge has two ends


def test_opposite_samples_are_no_neighbours():
    index, cosine = nearest_neighbors(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 2)
    assert graph_degree(index, cosine).tolist() == [0, 0]


def test_a_sample_is_not_its_own_neighbour_even_among_twins():
    index, cosine = nearest_neighbors(torch.ones(6, 3), 4)
    assert not (index == torch.arange(6).unsqueeze(1)).any()
    torch.testing.assert_close(cosine, torch.ones(6, 3))


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


@pytest.mark.parametrize("chunk_elements", [1, 4, 130, 49 * 49, 10**4])
def test_neighbours_are_those_of_the_whole_matrix_whatever_the_chunk(chunk_elements):
    features = randn(50, 8)
    unit = features / features.norm(dim=1, keepdim=True)
    whole = (unit @ unit.T).fill_diagonal_(-math.inf).topk(5, dim=1)
    index, cosine = nearest_neighbors(features, 6, chunk_elements)
    assert torch.equal(index, whole.indices)
    torch.testing.assert_close(cosine, whole.values)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_there_is_never_a_matrix_of_all_pairs():
    features = randn(600, 8).float()
    with LargestTensor() as largest:
        graph_degree(*nearest_neighbors(features, 10, chunk_elements=2**13))
    assert largest.elements <= 2**13 < 600 * 600


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
    outputs = replace(pool_of(randn(5, 6), linear()), probs=probs)
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
    outputs = replace(outputs, probs=torch.full((20, 2), 0.5))
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
    below = outputs.probs.amax(dim=1) < 0.8
    assert 0 < below.sum() < 60
    paper = BoostMISQuery(**BOTH)(outputs, 60, seeded()).index
    code = BoostMISQuery(**BOTH, pool="all")(outputs, 60, seeded()).index
    assert sorted(paper.tolist()) == below.nonzero().squeeze(1).tolist()
    assert sorted(code.tolist()) == list(range(60))


def test_a_sample_at_the_threshold_is_labeled_by_the_learner_and_not_asked_for():
    outputs = replace(pool_of(randn(3, 6), linear(2), threshold=0.5), probs=torch.full((3, 2), 0.5))
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
    pool = LabelPool([{"id": str(i)} for i in range(30)])
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
