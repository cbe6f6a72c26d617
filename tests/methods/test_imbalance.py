"""Every method takes the loss of its labeled images as an argument; a new one joins by a line in `METHODS`."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medssl_monai.kinds import Classes
from medssl_monai.losses import BalancedCrossEntropy
from medssl_monai.methods import (
    IPH,
    TEAR,
    AdaPL,
    AdaptiveThreshold,
    BoostMIS,
    FixMatch,
    FlexMatch,
    FreeMatch,
    MeanTeacher,
    SoftMatch,
    Supervised,
)
from medssl_monai.networks import small_resnet
from medssl_monai.pool import Labels

METHODS = {
    "supervised": Supervised,
    "fixmatch": lambda net, **kwargs: FixMatch(net, threshold=0.3, **kwargs),
    "flexmatch": lambda net, **kwargs: FlexMatch(net, 20, 0.3, kind=Classes.of_size(3), **kwargs),
    "freematch": lambda net, **kwargs: FreeMatch(net, kind=Classes.of_size(3), **kwargs),
    "softmatch": lambda net, **kwargs: SoftMatch(net, kind=Classes.of_size(3), **kwargs),
    "mean_teacher": lambda net, **kwargs: MeanTeacher(net, weight=lambda step: 1.0, **kwargs),
    "boostmis": lambda net, **kwargs: BoostMIS(
        net, AdaptiveThreshold(num_samples=20, shape=(3,), alpha=0.3, beta=0.0, minimum=0.0), **kwargs
    ),
    "tear": lambda net, **kwargs: TEAR(net, 0.3, adapl=AdaPL(20, (3,)), iph=IPH(3), **kwargs),
}
OPTIONS = [{"weighting": 1.0}, {"weighting": 0.9}, {"logit_adjustment": 1.0}]


@pytest.fixture
def pool():
    """Nine labels of class 0, two of class 1, none of class 2 yet."""
    labels = [0] * 9 + [1] * 2 + [None] * 9
    items = [{"id": str(i), **({} if label is None else {"label": label})} for i, label in enumerate(labels)]
    return Labels(items, kind=Classes.of_size(3))


@pytest.fixture(params=METHODS)
def make(request):
    def _make(criterion=None):
        torch.manual_seed(0)
        return METHODS[request.param](small_resnet(num_classes=3, width=2), decay=0.9, criterion=criterion)

    return _make


def make_batch(pool):
    g = torch.Generator().manual_seed(1)
    index = torch.tensor([0, 3, 9, 10])
    return {
        "labeled": {"image": torch.rand(4, 1, 16, 16, generator=g), "label": pool.targets(index), "index": index},
        "unlabeled": {
            "weak": torch.rand(5, 1, 16, 16, generator=g),
            "strong": torch.rand(5, 1, 16, 16, generator=g),
            "index": torch.arange(11, 16),
        },
    }


def train(method, batch, steps=2):
    optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        method.train()
        optimizer.zero_grad()
        output = method(batch)
        output["loss"].backward()
        optimizer.step()
        method.after_step(batch, {name: value.detach() for name, value in output.items()})
        losses.append(output["loss"].item())
    return losses


class CrossEntropy(nn.Module):
    """What all methods had before they took a criterion."""

    def forward(self, logits, label):
        return F.cross_entropy(logits, label)


def test_without_a_criterion_it_is_the_mean_cross_entropy_bit_for_bit(make, pool):
    plain, explicit = make(), make(CrossEntropy())
    assert train(plain, make_batch(pool)) == train(explicit, make_batch(pool))
    assert plain.state_dict().keys() == explicit.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(explicit.state_dict()[key])), key


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_criterion_changes_the_labeled_term_alone(make, pool, options):
    plain, corrected = make()(make_batch(pool)), make(BalancedCrossEntropy(pool, **options))(make_batch(pool))
    own = {"loss", "supervised"}
    assert plain.keys() == corrected.keys()
    for name in plain.keys() - own:
        assert torch.equal(plain[name], corrected[name]), name
    assert plain["loss"] != corrected["loss"]
    if "supervised" in plain:
        rest = [output["loss"] - output["supervised"] for output in (plain, corrected)]
        torch.testing.assert_close(*rest)
        assert rest[0] > 0  # or the comparison says nothing


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_correction_trains(make, pool, options):
    method = make(BalancedCrossEntropy(pool, **options))
    losses = train(method, make_batch(pool), steps=15)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < losses[0]


def test_an_annotation_counts_in_the_next_step_and_the_methods_state_is_still_its_own(make, pool):
    method, plain = make(BalancedCrossEntropy(pool, weighting=1.0)), make()
    assert method.state_dict().keys() == plain.state_dict().keys()
    batch = make_batch(pool)
    before = method(batch)["loss"]
    pool.annotate([16, 17], [2, 1])
    assert method(batch)["loss"] != before


def test_a_resumed_run_with_a_criterion_goes_on_bit_for_bit(make, pool):
    method = make(BalancedCrossEntropy(pool, weighting=1.0))
    batch = make_batch(pool)
    train(method, batch)
    pool.annotate([16], [2])
    fresh = Labels([{"id": str(i)} for i in range(20)], kind=Classes.of_size(3))
    twin = make(BalancedCrossEntropy(fresh, weighting=1.0))
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    fresh.load_state_dict(pool.state_dict())
    assert train(method, batch) == train(twin, batch)


def test_a_rare_class_pulls_harder(make, pool):
    """The gradient of the bias towards the rare class grows with the correction."""
    gradients = []
    for beta in (0.0, 0.9, 1.0):
        method = make(BalancedCrossEntropy(pool, weighting=beta))
        method(make_batch(pool))["loss"].backward()
        gradients.append(method.network.head.bias.grad[1].item())
    assert all(second < first for first, second in pairwise(gradients))
