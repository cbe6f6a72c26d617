"""The adversarial instability of a prediction."""

from dataclasses import replace

import pytest
import torch
from query.pools import linear, pool_of, randn, seeded
from torch import nn

from medssl_monai.data import ImageDataset
from medssl_monai.engines import predict_pool
from medssl_monai.kinds import Classes, Findings
from medssl_monai.networks import small_resnet
from medssl_monai.pool import LabelPool, Labels
from medssl_monai.query import DensityEntropy, Instability, PoolOutputs
from medssl_monai.query.instability import adversarial_instability, unit_rows

CLASSES = Classes()


def logs_of(head, kind=CLASSES):
    """Logarithms of the outcomes that a head predicts."""
    return lambda inputs: kind.log_outcomes(head(inputs))


def direction_of(head, features, **kwargs):
    start = unit_rows(randn(*features.shape, seed=8))
    return start, *adversarial_instability(logs_of(head), features, start, **kwargs)


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
        return logs_of(lambda x: torch.stack([torch.zeros(len(x)).double(), head(x)[:, k]], dim=1))

    for k in range(3):
        as_classes = adversarial_instability(one(k), features, start, xi=1.5)
        finding = logs_of(lambda x, k=k: head(x)[:, [k]], Findings.of_size(1))
        torch.testing.assert_close(adversarial_instability(finding, features, start, xi=1.5), as_classes)
    _, together = adversarial_instability(logs_of(head, Findings.of_size(3)), features, start, power_iterations=0)
    parts = [adversarial_instability(one(k), features, start, power_iterations=0)[1] for k in range(3)]
    torch.testing.assert_close(together, torch.stack(parts).sum(dim=0))


def test_a_pool_of_findings_is_scored_as_findings():
    head, features = linear(classes=3), randn(20, 6)
    kind = Findings.of_size(3)
    outputs = replace(pool_of(features, head), kept=kind.outcomes(head(features)).double(), kind=kind)
    scores = Instability()(outputs, torch.arange(20), seeded(1))
    assert not torch.allclose(scores, Instability()(replace(outputs, kind=Classes()), torch.arange(20), seeded(1)))
    p = outputs.kept[..., 1]
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    torch.testing.assert_close(DensityEntropy("none")(outputs, torch.arange(20)), entropy.sum(dim=1))
    torch.testing.assert_close(DensityEntropy("none", reduction="max")(outputs, torch.arange(20)), entropy.amax(dim=1))


def test_a_zero_row_stays_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(unit_rows(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_volumes_are_normalised_as_a_whole():
    assert unit_rows(randn(2, 1, 3, 4, 5)).flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_the_adversarial_shift_beats_a_random_one():
    head, features = linear(), randn(50, 6)
    start, _, adversarial = direction_of(head, features, xi=1e-2, radius=0.5, power_iterations=3)
    _, by_chance = adversarial_instability(logs_of(head), features, start, radius=0.5, power_iterations=0)
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
    return small_resnet(2, width=2).train(), dataset, LabelPool(Labels(data))


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
