"""TEAR: estimated loss, relaxed targets and prototypes that agree between models."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same_state, in_two_processes, outcomes_of, pseudo_label_loss
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from medssl_monai.kinds import Findings
from medssl_monai.losses import QueueAlignment
from medssl_monai.methods import IPH, TEAR, AdaPL, FixMatch
from medssl_monai.methods.estimator import discrepancy, estimate_loss, label_weight, relaxed_targets
from medssl_monai.methods.prototypes import prototype_distance, tear_prototypes
from medssl_monai.networks import EmbeddingClassifier, small_resnet

KINDS = ["l2", "tv", "kl"]


def draw(n=12, classes=4, seed=0, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, classes, generator=g, dtype=torch.double)).softmax(1)


def one_hot(*labels, classes=4):
    return F.one_hot(torch.tensor(labels), classes).double()


# ---- the estimate and what it does to a target -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "logits"])
def test_identical_predictions_leave_fixmatch(kind):
    """Score 0, estimate 0, a one-hot target, and the loss of FixMatch to 1e-12."""
    probs, logits = draw(), draw(seed=1).log()
    score = discrepancy(probs, probs.clone(), kind)
    estimate = estimate_loss(score)
    weight = label_weight(estimate, "exp", minimum=0.5)
    targets = relaxed_targets(probs.argmax(1), weight, 4)
    assert score.tolist() == estimate.tolist() == [0.0] * 12
    assert torch.equal(targets, one_hot(*probs.argmax(1).tolist()))
    relaxed, hard = pseudo_label_loss(logits, probs, 0.5, targets=targets)[0], pseudo_label_loss(logits, probs, 0.5)[0]
    assert relaxed.item() == pytest.approx(hard.item(), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relaxation", ["exp", "sigmoid"])
def test_opposite_predictions_leave_the_least_weight_exactly(kind, relaxation):
    score = discrepancy(one_hot(0, 1), one_hot(1, 3), kind)
    torch.testing.assert_close(score, torch.ones(2, dtype=torch.double), rtol=0, atol=1e-12)
    weight = label_weight(estimate_loss(score), relaxation, minimum=0.6)
    assert weight.tolist() == [0.6, 0.6]
    assert relaxed_targets(torch.tensor([0, 1]), weight, 4).amax(1).tolist() == [0.6, 0.6]


@settings(max_examples=50, deadline=None)
@given(
    classes=st.integers(2, 9),
    minimum=st.floats(0.51, 1.0),
    gamma=st.floats(0.1, 50.0),
    kind=st.sampled_from([*KINDS, "logits"]),
    relaxation=st.sampled_from(["exp", "sigmoid", "none"]),
    seed=st.integers(0, 99),
)
def test_targets_are_distributions_whose_peak_is_the_pseudo_label(classes, minimum, gamma, kind, relaxation, seed):
    probs, previous = draw(8, classes, seed), draw(8, classes, seed + 100)
    pseudo_label = probs.argmax(1)
    weight = label_weight(estimate_loss(discrepancy(probs, previous, kind), gamma), relaxation, minimum, gamma)
    targets = relaxed_targets(pseudo_label, weight, classes)
    torch.testing.assert_close(targets.sum(1), torch.ones(8, dtype=torch.double))
    assert bool((targets >= 0).all())
    assert torch.equal(targets.argmax(1), pseudo_label)
    others = targets.scatter(1, pseudo_label[:, None], torch.nan)
    for row in others:
        assert len(row[~row.isnan()].unique()) == 1  # what the peak loses, all others gain alike


def test_estimate_grows_with_the_discrepancy_and_with_gamma():
    score = torch.linspace(0.0, 0.99, 20, dtype=torch.double)
    for gamma in (0.5, 1.0):
        assert bool((estimate_loss(score, gamma).diff() > 0).all())
    assert bool((estimate_loss(score[1:], 1.0) > estimate_loss(score[1:], 0.5)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_estimate_stays_finite(dtype):
    assert torch.isfinite(estimate_loss(torch.ones(1, dtype=dtype), gamma=100.0)).all()
    assert torch.isfinite(discrepancy(torch.eye(2, dtype=dtype), torch.eye(2, dtype=dtype).flip(0), "logits")).all()


@pytest.mark.parametrize("kind", KINDS)
def test_discrepancy_is_between_zero_and_one_and_all_but_kl_are_symmetric(kind):
    probs, previous = draw(200, scale=6.0), draw(200, seed=1, scale=6.0)
    score = discrepancy(probs, previous, kind)
    assert 0.0 <= score.min() < 0.1 < 0.9 < score.max() <= 1.0
    symmetric = torch.allclose(score, discrepancy(previous, probs, kind), atol=1e-12)
    assert symmetric == (kind != "kl")


def test_squared_l2_is_half_the_squared_distance():
    """The score of Temporal Output Discrepancy."""
    probs, previous = draw(), draw(seed=1)
    torch.testing.assert_close(discrepancy(probs, previous).square(), 0.5 * (probs - previous).square().sum(1))


def test_tv_is_never_above_kl():
    probs, previous = draw(200), draw(200, seed=1)
    assert bool((discrepancy(probs, previous, "tv") <= discrepancy(probs, previous, "kl") + 1e-12).all())


def test_exp_leaves_the_probability_that_the_estimate_is_the_cross_entropy_of():
    loss = torch.tensor([0.0, -math.log(0.9), 3.0], dtype=torch.double)
    assert label_weight(loss, "exp", 0.5).tolist() == pytest.approx([1.0, 0.9, 0.5])


def test_loss_is_linear_in_the_target():
    """(1 - rho) CE(pseudo-label) + rho / (K - 1) times the sum of all other cross-entropies."""
    probs, log_p = draw(), draw(seed=1).log()
    pseudo_label, rho = probs.argmax(1), torch.linspace(0.0, 0.5, 12, dtype=torch.double)
    loss, _ = pseudo_label_loss(log_p, probs, 0.0, targets=relaxed_targets(pseudo_label, 1 - rho, 4))
    own = -log_p.gather(1, pseudo_label[:, None]).squeeze(1)
    expected = (1 - rho) * own + rho / 3 * (-log_p.sum(1) - own)
    assert loss.item() == pytest.approx(expected.mean().item(), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_one_step_of_a_linear_model_bounds_its_loss_and_gives_it_for_two_classes(classes):
    g = torch.Generator().manual_seed(3)
    eta, x = 0.1, torch.randn(20, 6, generator=g, dtype=torch.double)
    weight = torch.randn(6, classes, generator=g, dtype=torch.double)
    label = torch.arange(20) % classes
    before = x @ weight
    gradient = before.softmax(1) - F.one_hot(label, classes)
    squared = x.square().sum(1, keepdim=True)
    after = before - eta * squared * gradient  # each sample takes a step of its own
    kappa = 2**0.5 * eta * squared.squeeze(1)
    estimate = estimate_loss(discrepancy(after.softmax(1), before.softmax(1), "logits"), 2**0.5 / kappa, delta=0.0)
    truth = F.cross_entropy(before, label, reduction="none")
    assert bool((estimate <= truth + 1e-10).all())
    assert torch.allclose(estimate, truth, rtol=0, atol=1e-10) == (classes == 2)


# ---- AdaPL's memory --------------------------------------------------------------------------------------------------


def test_first_visit_stores_the_estimate_and_later_ones_average():
    adapl = AdaPL(4, (3,), history_decay=0.75)
    index, probs = torch.tensor([2]), torch.tensor([[0.8, 0.1, 0.1]])
    first = adapl(probs, index, torch.tensor([[0.5, 0.3, 0.2]]))
    assert adapl.estimate.isnan().all()  # forward changes nothing
    adapl.update(index, first, probs)
    assert adapl.estimate.isnan().tolist() == [True, True, False, True]
    torch.testing.assert_close(adapl.estimate[index], first)
    torch.testing.assert_close(adapl(probs, index, probs), 0.75 * first)  # 0 by itself


def test_without_history_decay_the_past_has_no_say():
    adapl = AdaPL(4, (3,))
    adapl.estimate.fill_(5.0)
    probs, previous = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.5, 0.3, 0.2]])
    torch.testing.assert_close(adapl(probs, torch.tensor([1]), previous), estimate_loss(discrepancy(probs, previous)))


def test_gamma_scales_the_score_or_with_the_sigmoid_the_estimate():
    probs, previous, index = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0])
    score = discrepancy(probs, previous)
    scaled, plain = AdaPL(4, (3,), gamma=4.0), AdaPL(4, (3,), gamma=4.0, relaxation="sigmoid")
    torch.testing.assert_close(scaled(probs, index, previous), -torch.log(1 - 4 * score))
    torch.testing.assert_close(scaled.weight(scaled(probs, index, previous)), 1 - 4 * score)
    estimate = plain(probs, index, previous)
    torch.testing.assert_close(estimate, -torch.log(1 - score))
    torch.testing.assert_close(plain.weight(estimate), 2 / (1 + torch.exp(4 * estimate)))


def test_bank_compares_with_the_last_prediction_of_the_same_sample():
    adapl = AdaPL(4, (3,), previous="bank")
    first, second = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.2, 0.7, 0.1]])
    adapl.update(torch.tensor([3]), torch.tensor([torch.nan]), first)
    torch.testing.assert_close(adapl(second, torch.tensor([3])), estimate_loss(discrepancy(second, first)))


def test_a_sample_that_the_bank_does_not_know_keeps_its_hard_pseudo_label():
    adapl = AdaPL(4, (3,), previous="bank", history_decay=0.5)
    probs = torch.tensor([[0.8, 0.1, 0.1]])
    estimate = adapl(probs, torch.tensor([0]))
    assert estimate.isnan().all()
    assert adapl.weight(estimate).tolist() == [1.0]
    adapl.update(torch.tensor([0]), estimate, probs)
    assert adapl.estimate.isnan().all()  # nothing was measured that could be averaged
    assert adapl(probs, torch.tensor([0])).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("previous", ["ema", "bank"])
def test_minus_one_has_no_history(previous):
    adapl = AdaPL(4, (3,), previous=previous, history_decay=0.5)
    probs, last = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.1, 0.1, 0.8]])
    adapl.update(torch.arange(4), torch.full((4,), 3.0), last.expand(4, 3))
    estimate = adapl(probs, torch.tensor([-1]), None if previous == "bank" else probs)
    assert float(estimate.nan_to_num(nan=0.0)) == 0.0


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_an_index_drawn_twice_gives_the_same_state_in_any_order(order):
    adapl = AdaPL(4, (3,), previous="bank")
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    adapl.update(torch.tensor([1, 1, 0])[order], torch.tensor([0.25, 0.5, 0.125])[order], probs[order])
    assert adapl.estimate[:2].tolist() == [0.125, 0.5]
    torch.testing.assert_close(adapl.bank[1], torch.tensor([0.6, 0.3, 0.5]))
    now = torch.tensor([[0.6, 0.3, 0.5]]) / 1.4
    assert adapl(now, torch.tensor([1])).item() == pytest.approx(0.0, abs=1e-6)


def test_the_bank_takes_room_only_where_it_is_used():
    assert AdaPL(1000, (3,)).bank.numel() == 0
    assert AdaPL(1000, (3,), previous="bank").bank.numel() == 3000


def test_two_classes_need_more_than_half_for_the_pseudo_label():
    with pytest.raises(
        ValueError, match=r"greater than 1 / K = 0\.5 and at most 1, got 0\.5.*for two classes take 0\.75"
    ):
        AdaPL(4, (2,))
    assert AdaPL(4, (2,), minimum_weight=0.75).minimum_weight == 0.75


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"discrepancy": "emd"}, r"`discrepancy` must be one of \('l2', 'tv', 'kl', 'logits'\), got 'emd'"),
        ({"relaxation": "hard"}, "`relaxation` must be one of"),
        ({"previous": "last"}, "`previous` must be one of"),
        ({"shape": (1,)}, "`shape` must end with at least 2 states"),
        ({"gamma": 0.0}, "`gamma` must be greater than 0, got 0.0"),
        ({"minimum_weight": 1.5}, "`minimum_weight` must be greater than"),
        ({"history_decay": 1.0}, r"`history_decay` is the share of the old mean and must be in \[0, 1\), got 1.0"),
    ],
)
def test_values_of_adapl_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        AdaPL(**{"num_samples": 4, "shape": (3,), **arguments})


# ---- prototypes ------------------------------------------------------------------------------------------------------


def features(n=30, dim=6, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def iph(clusters=3, dim=6, **kwargs):
    made = IPH(clusters, **kwargs)
    made.allocate(dim)
    return made


@pytest.mark.parametrize("mode", ["shared", "matched"])
@pytest.mark.parametrize(("scale", "loss"), [(1.0, 0.0), (7.5, 0.0), (-1.0, 2.0)])
def test_same_or_scaled_features_agree_and_opposite_ones_do_not(mode, scale, loss):
    student = features()
    if mode == "matched" and scale < 0:
        student = student * 0.1 + 5.0  # all prototypes in one direction, so that no pairing helps
    found = iph(mode=mode)(student, scale * student)["prototype"]
    assert found.item() == pytest.approx(loss, abs=2e-3 if mode == "matched" else 1e-5)


@pytest.mark.parametrize("mode", ["shared", "matched"])
@pytest.mark.parametrize("seed", range(5))
def test_prototype_loss_is_in_its_range(mode, seed):
    assert 0.0 <= iph(mode=mode)(features(seed=seed), features(seed=seed + 50))["prototype"] <= 2.0


def test_an_empty_cluster_is_skipped():
    first, second = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0]]),
    )
    used = torch.tensor([True, True, False])
    assert prototype_distance(first, second, used).item() == pytest.approx(0.5)
    assert prototype_distance(first, second, ~used.new_ones(3)).item() == 0.0
    shared = iph()
    shared.update({"centers": torch.stack([features()[0], features()[1], torch.full((6,), 1e3)]).unsqueeze(0)})
    student, teacher = features(), features(seed=1)
    label, _ = shared._cluster(student)
    assert set(label.tolist()) == {0, 1}
    expected = [
        1 - F.cosine_similarity(student[label == k].mean(0), teacher[label == k].mean(0), dim=0) for k in (0, 1)
    ]
    torch.testing.assert_close(shared(student, teacher)["prototype"], torch.stack(expected).mean())


def test_a_pair_with_an_empty_cluster_on_either_side_is_skipped():
    """The models agree, but the teacher has rows in one cluster only."""
    student = torch.cat([20 + features(5), features(5) - 20])
    matched, lost = iph(2, mode="matched"), torch.full((6,), 1e3)
    matched.update({"centers": torch.stack([torch.stack([student[0], student[5]]), torch.stack([lost, student[0]])])})
    teacher = student[:5].repeat(2, 1)
    assert matched(student, teacher)["prototype"].item() == pytest.approx(0.0, abs=1e-2)


def test_a_center_without_rows_starts_anew_at_the_next_step():
    shared, student = iph(), features()
    shared.update({"centers": torch.stack([student[0], student[1], torch.full((6,), 1e3)]).unsqueeze(0)})
    shared.update(shared(student, student))
    assert set(shared._cluster(student)[0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("mode", ["shared", "matched"])
def test_numbers_of_clusters_do_not_matter(mode):
    student, teacher = features(), features(seed=1)
    first, second = iph(mode=mode), iph(mode=mode)
    start = torch.stack([student[:3], teacher[3:6]])[: len(first.centers)]
    first.update({"centers": start})
    second.update({"centers": start.flip(1)})
    torch.testing.assert_close(first(student, teacher)["prototype"], second(student, teacher)["prototype"])


def test_matching_pairs_what_is_alike_whatever_its_number():
    groups = torch.eye(3, 6) * 20
    student = torch.cat([groups + 0.1 * features(3, seed=s) for s in range(5)])
    matched = iph(mode="matched")
    matched.update({"centers": torch.stack([groups, groups.roll(1, dims=0)])})
    assert matched(student, student)["prototype"].item() == pytest.approx(0.0, abs=1e-5)


def test_gradient_goes_to_the_student_alone():
    student, teacher = features().requires_grad_(), features(seed=1).requires_grad_()
    for mode in ("shared", "matched"):
        loss = iph(mode=mode)(student, teacher)["prototype"]
        grad, none = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
        assert grad.abs().sum() > 0
        assert none is None


def test_rows_are_all_or_the_unlabeled_ones():
    student, teacher = features(), features(seed=1)
    everything, unlabeled = iph(), iph(rows="unlabeled")
    assert torch.equal(
        unlabeled(student, teacher, labeled=10)["prototype"], everything(student[10:], teacher[10:])["prototype"]
    )
    assert not torch.equal(
        unlabeled(student, teacher, labeled=10)["prototype"], everything(student, teacher, labeled=10)["prototype"]
    )


def test_centers_start_the_next_k_means():
    student = features()
    warm = iph(iterations=1)
    first = warm(student, student)["centers"]
    assert not warm.started
    warm.update({"centers": first})
    assert not torch.equal(warm(student, student)["centers"], first)  # one more iteration from there


def test_fewer_rows_than_clusters_are_refused():
    match = r"cannot make 3 clusters of a batch of 2 images \(`rows` is 'unlabeled'\): raise the batch size or lower"
    with pytest.raises(ValueError, match=match):
        iph(rows="unlabeled")(features(4), features(4), labeled=2)


def test_k_means_asks_for_no_randomness():
    torch.manual_seed(0)
    first = iph()(features(), features(seed=1))
    torch.manual_seed(1)
    assert_same_state(first, iph()(features(), features(seed=1)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mode": "figure"}, r"`mode` must be one of \('shared', 'matched', 'official'\), got 'figure'"),
        ({"rows": "labeled"}, "`rows` must be one of"),
        ({"num_clusters": 0}, "`num_clusters` must be at least 1, got 0"),
        ({"interval": 0}, "`interval` must be at least 1, got 0"),
        ({"iterations": 0}, "`iterations` must be at least 1, got 0"),
    ],
)
def test_values_of_iph_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        IPH(**{"num_clusters": 3, **arguments})


def test_the_released_block_is_not_the_default():
    assert IPH(3).mode == "shared"


def test_the_released_block_takes_clusters_of_unlabeled_rows_for_those_of_the_first_rows():
    """With 2 labeled rows, the last 2 unlabeled ones are in no cluster, and the labeled ones are."""
    embedding = features(8).requires_grad_()
    probs = torch.eye(3)[torch.arange(8) % 3]
    block = tear_prototypes(embedding, features(8, seed=1), torch.tensor([0, 1, 2, 0, 1, 2]), probs, probs)
    torch.testing.assert_close(block.prototypes[0], embedding[[0, 3]].mean(0))
    block.prototypes.sum().backward()
    assert (embedding.grad.abs().sum(1) > 0).tolist() == [True] * 6 + [False] * 2


def test_the_released_block_divides_by_the_number_of_classes_with_like_deviations():
    """One row per class and model: all deviations are alike. Without confident rows of the teacher, none is."""
    embedding, teacher, probs = features(3), features(3, seed=1), torch.eye(3)
    block = tear_prototypes(embedding, teacher, torch.arange(3), probs, probs)
    distance = 1 - (embedding * teacher).sum(1) / (embedding.norm(dim=1) * teacher.norm(dim=1) + 1e-4)
    assert block.alike == 3
    torch.testing.assert_close(block.loss, distance.mean())
    spread = torch.cat([embedding, embedding + 4])
    block = tear_prototypes(
        spread, spread, torch.arange(6) % 3, torch.eye(3).repeat(2, 1), 0.5 * torch.eye(3).repeat(2, 1)
    )
    assert block.alike == 0
    assert block.loss == 0.0


# ---- the method ------------------------------------------------------------------------------------------------------


def make_batch(labeled=4, unlabeled=9, classes=3, index=None):
    """Images that are embeddings: the tests below know what the head makes of them."""
    g = torch.Generator().manual_seed(0)
    image, weak, strong = (1.5 * torch.randn(n, classes, generator=g) for n in (labeled, unlabeled, unlabeled))
    index = torch.arange(unlabeled) if index is None else index
    return {
        "labeled": {"image": image, "label": torch.arange(labeled) % classes, "index": torch.arange(labeled) + 20},
        "unlabeled": {"weak": weak, "strong": strong, "index": index},
    }


def linear(classes=3, *layers):
    """Logits are the images, at first."""
    network = EmbeddingClassifier(nn.Sequential(*layers), classes, classes)
    network.head.load_state_dict({"weight": torch.eye(classes), "bias": torch.zeros(classes)})
    return network


def adapl(**kwargs):
    return AdaPL(**{"num_samples": 40, "shape": (3,), **kwargs})


def image_batch(seed=1, labeled=6, unlabeled=10):
    g = torch.Generator().manual_seed(seed)
    image, weak, strong = (torch.rand(n, 1, 16, 16, generator=g) for n in (labeled, unlabeled, unlabeled))
    return {
        "labeled": {"image": image, "label": torch.arange(labeled) % 3, "index": torch.arange(labeled) + 20},
        "unlabeled": {"weak": weak, "strong": strong, "index": torch.arange(unlabeled)},
    }


def everything(seed=0, **kwargs):
    torch.manual_seed(seed)
    parts = {"alignment": QueueAlignment((3,)), "adapl": adapl(history_decay=0.5), "iph": IPH(3)}
    return TEAR(small_resnet(3, width=2), **{"threshold": 0.35, **parts, **kwargs})


def step(method, batch, lr=0.05):
    method.train()
    method.zero_grad()
    output = method(batch)
    output["loss"].backward()
    with torch.no_grad():
        for parameter in method.trainable_parameters():
            parameter -= lr * parameter.grad
    method.after_step(batch, {name: value.detach() for name, value in output.items()})
    return output


@pytest.mark.parametrize("aligned", [False, True])
def test_without_its_parts_it_is_fixmatch_bit_for_bit(aligned):
    methods = []
    for make in (TEAR, FixMatch):
        torch.manual_seed(0)
        method = make(small_resnet(3, width=2), threshold=0.35, alignment=QueueAlignment((3,)) if aligned else None)
        losses = [step(method, image_batch(seed))["loss"].item() for seed in range(4)]
        methods.append((losses, method.network.state_dict(), method.teacher.state_dict()))
    assert methods[0][0] == methods[1][0]
    assert_same_state(methods[0][1:], methods[1][1:])


def test_equation_against_a_slow_loop():
    batch, method = make_batch(), TEAR(linear(), threshold=0.6, weight=2.0, adapl=adapl(minimum_weight=0.7))
    method.teacher.network.head.weight.data *= 0.5
    expected, estimates = 0.0, []
    for weak, strong in zip(batch["unlabeled"]["weak"], batch["unlabeled"]["strong"], strict=True):
        q, previous = weak.softmax(0).tolist(), (0.5 * weak).softmax(0).tolist()
        score = math.sqrt(sum((a - b) ** 2 for a, b in zip(q, previous, strict=True)) / 2)
        estimates.append(-math.log(1 - score))
        weight = min(1.0, max(0.7, 1 - score))
        if max(q) < 0.6:
            continue
        for k, log_p in enumerate(strong.log_softmax(0).tolist()):
            target = weight if q[k] == max(q) else (1 - weight) / 2
            expected -= target * log_p / 9
    output = method(batch)
    assert 0 < output["mask_rate"] < 1
    assert output["unsupervised"].item() == pytest.approx(expected, abs=1e-5)
    assert output["estimate"].tolist() == pytest.approx(estimates, abs=1e-5)
    assert output["estimated_loss"].item() == pytest.approx(sum(estimates) / 9, abs=1e-5)
    assert output["loss"].item() == pytest.approx(output["supervised"].item() + 2.0 * expected, abs=1e-5)


def test_two_samples_by_hand():
    """q = (0.9, 0.1), earlier (0.6, 0.4): score 0.3, target (0.7, 0.3); strong view 1/2: ln 2 over two images."""
    weak = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    batch = {
        "labeled": {"image": torch.zeros(1, 2), "label": torch.zeros(1, dtype=torch.long)},
        "unlabeled": {"weak": weak, "strong": torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log(), "index": torch.arange(2)},
    }
    method = TEAR(linear(2), threshold=0.7, adapl=AdaPL(2, (2,), minimum_weight=0.55))
    earlier = torch.tensor([0.6, 0.4]).log() - weak[0]
    method.teacher.network.head.bias.data = earlier
    output = method(batch)
    assert output["estimate"][0].item() == pytest.approx(-math.log(0.7), abs=1e-5)
    expected = -(0.7 * math.log(0.8) + 0.3 * math.log(0.2)) / 2
    assert output["unsupervised"].item() == pytest.approx(expected, abs=1e-5)


def test_the_mean_is_over_all_unlabeled_images_not_over_the_selected_ones():
    batch, method = make_batch(), TEAR(linear(), threshold=0.6, adapl=adapl())
    method.teacher.network.head.weight.data *= 0.5
    output = method(batch)
    unsure = {name: torch.cat([batch["unlabeled"][name], torch.zeros(9, 3)]) for name in ("weak", "strong")}
    twice = method({**batch, "unlabeled": {**unsure, "index": torch.arange(18)}})
    assert twice["mask_rate"] == output["mask_rate"] / 2
    torch.testing.assert_close(twice["unsupervised"], output["unsupervised"] / 2)


def test_nothing_confident_is_exactly_zero_with_a_gradient_of_zero():
    method, batch = TEAR(linear(), threshold=1.0, adapl=adapl()), make_batch()
    batch["unlabeled"]["strong"].requires_grad_()
    method.teacher.network.head.weight.data *= 0.5
    output = method(batch)
    assert output["unsupervised"] == 0.0
    assert not torch.autograd.grad(output["unsupervised"], batch["unlabeled"]["strong"])[0].any()


def test_no_gradient_reaches_the_weak_branch_or_an_earlier_model_unless_prototypes_ask_for_it():
    for previous in ("ema", "snapshot", "bank"):
        for part in (None, IPH(2)):
            method, batch = TEAR(linear(), threshold=0.6, adapl=adapl(previous=previous), iph=part), make_batch()
            batch["unlabeled"]["weak"].requires_grad_()
            method(batch)["loss"].backward()
            assert (batch["unlabeled"]["weak"].grad is not None) == (part is not None)
            frozen = [p for name, p in method.named_parameters() if not name.startswith("network.")]
            assert frozen and all(p.grad is None and not p.requires_grad for p in frozen)


def test_student_and_earlier_model_see_the_same_view():
    """The figure draws a second random view; then the discrepancy would measure the augmentation as well."""
    seen = {"student": [], "earlier": []}
    method, batch = TEAR(linear(3, nn.Identity()), adapl=adapl()), make_batch()
    method.network.backbone.register_forward_hook(lambda m, i, o: seen["student"].append((m.training, i[0])))
    method.teacher.network.backbone.register_forward_hook(lambda m, i, o: seen["earlier"].append((m.training, i[0])))
    method.train()
    method(batch)
    ((training, view),) = seen["earlier"]
    assert not training
    assert torch.equal(view, batch["unlabeled"]["weak"])
    compared = [images for mode, images in seen["student"] if not mode]
    assert len(compared) == 1
    assert torch.equal(compared[0], view)


def test_the_discrepancy_is_of_raw_predictions_not_of_aligned_ones():
    batch = make_batch()
    estimates = []
    for alignment in (None, QueueAlignment((3,))):
        method = TEAR(linear(), threshold=0.6, adapl=adapl(), alignment=alignment)
        method.teacher.network.head.weight.data *= 0.5
        estimates.append(method(batch)["estimate"])
    assert torch.equal(*estimates)


def test_the_target_takes_its_class_from_the_aligned_prediction():
    """In training as in `targets`; the class of the raw prediction would be another, and teach something else."""
    method = TEAR(linear(), threshold=0.0, adapl=adapl(minimum_weight=0.7), alignment=QueueAlignment((3,)))
    method.teacher.network.head.weight.data *= 0.5
    for _ in range(9):
        method.alignment.update(torch.tensor([[0.03, 0.90, 0.07]]))  # so that class 1 gets rarer
    batch = make_batch()
    weak, strong, index = (batch["unlabeled"][name] for name in ("weak", "strong", "index"))
    raw, previous = weak.softmax(1), (0.5 * weak).softmax(1)
    weight = label_weight(estimate_loss(discrepancy(raw, previous)), "exp", 0.7)
    in_training, _ = method.alignment(raw, batch["labeled"]["image"].softmax(1))
    aligned = method.alignment.align(raw)

    def loss(predictions):
        return -(relaxed_targets(predictions.argmax(1), weight, 3) * strong.log_softmax(1)).sum(1).mean()

    assert bool((in_training.argmax(1) != raw.argmax(1)).any() and (aligned.argmax(1) != raw.argmax(1)).any())
    torch.testing.assert_close(method(batch)["unsupervised"], loss(in_training))
    assert (loss(raw) - loss(in_training)).abs() > 0.01
    found = method.targets(weak, index)
    torch.testing.assert_close(found.targets, relaxed_targets(aligned.argmax(1), weight, 3))
    assert torch.equal(found.pseudo_label, aligned.argmax(1))


def test_confidence_counts_after_alignment():
    """The code takes it there: an aligned probability can reach the threshold although the raw one does not."""
    probs = torch.tensor([[0.6, 0.4], [0.9, 0.1]])
    batch = {
        "labeled": {"image": torch.zeros(1, 2), "label": torch.zeros(1, dtype=torch.long)},
        "unlabeled": {"weak": probs.log(), "strong": probs.log(), "index": torch.arange(2)},
    }
    aligned = F.normalize(probs / probs.mean(0), p=1.0, dim=1)
    output = TEAR(linear(2), threshold=0.65, alignment=QueueAlignment((2,)))(batch)
    torch.testing.assert_close(output["confidence"], aligned.amax(1))
    assert (output["confidence"] >= 0.65).tolist() == [True, True]
    assert (probs.amax(1) >= 0.65).tolist() == [False, True]


def test_equal_weights_have_no_discrepancy_whatever_dropout_and_batch_norm_do():
    torch.manual_seed(0)
    noisy = linear(3, nn.BatchNorm1d(3), nn.Dropout(0.5))
    for previous in ("ema", "snapshot"):
        method = TEAR(copy.deepcopy(noisy), adapl=adapl(previous=previous)).train()
        assert method(make_batch())["estimate"].tolist() == [0.0] * 9


def test_every_module_gets_its_own_mode_back():
    frozen = nn.BatchNorm1d(3).eval()
    method = TEAR(linear(3, frozen, nn.Dropout(0.5)), adapl=adapl()).train()
    frozen.eval()
    for call in (method, lambda batch: method.targets(batch["unlabeled"]["weak"], batch["unlabeled"]["index"])):
        call(make_batch())
        assert method.network.training
        assert method.network.backbone[1].training
        assert not frozen.training
    method.eval()
    method.targets(make_batch()["unlabeled"]["weak"], torch.arange(9))
    assert not method.network.training


def test_the_snapshot_is_of_one_step_before():
    torch.manual_seed(0)
    method = TEAR(small_resnet(3, width=2), adapl=adapl(previous="snapshot"))
    for seed in range(3):
        before = [p.detach().clone() for p in method.network.parameters()]
        step(method, image_batch(seed))
        for kept, old, new in zip(
            method.snapshot.network.parameters(), before, method.network.parameters(), strict=True
        ):
            assert torch.equal(kept, old)
            assert not torch.equal(kept, new)
        for kept, student in zip(method.snapshot.network.buffers(), method.network.buffers(), strict=True):
            assert torch.equal(kept, student)


@pytest.mark.parametrize("previous", ["ema", "snapshot"])
def test_earlier_models_start_from_weights_that_were_loaded_after_construction(previous):
    method = TEAR(linear(), adapl=adapl(previous=previous))
    method.network.head.weight.data *= 3.0
    assert method(make_batch())["estimate"].min() > 0
    method.on_start()
    assert method(make_batch())["estimate"].tolist() == [0.0] * 9


def test_a_snapshot_differs_by_the_order_of_the_learning_rate():
    means = []
    for lr in (1e-3, 1e-4):
        torch.manual_seed(0)
        method = TEAR(small_resnet(3, width=2), adapl=adapl(previous="snapshot"))
        step(method, image_batch(), lr)
        means.append(float(step(method, image_batch(2), lr)["estimated_loss"].detach()))
    assert means[0] / means[1] == pytest.approx(10, rel=0.1)


def test_the_teacher_after_one_step():
    torch.manual_seed(0)
    method = TEAR(small_resnet(3, width=2), decay=0.05, adapl=adapl())
    old = copy.deepcopy(method.teacher.network.state_dict())
    step(method, image_batch())
    new = method.network.state_dict()
    for name, value in method.teacher.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.05 * old[name] + 0.95 * new[name])


def test_ramp_raises_both_terms_from_zero():
    batch = image_batch()
    method = everything(ramp_steps=4)
    for method.steps_done in (0, 1, 4, 9):
        output = method(batch)
        terms = output["unsupervised"] + 0.1 * output["prototype"]
        expected = output["supervised"] + min(method.steps_done / 4, 1.0) * terms
        torch.testing.assert_close(output["loss"], expected)


def test_between_uses_of_the_prototypes_the_weak_views_have_no_gradient():
    method, asked = everything(iph=IPH(3, interval=3)), []
    for number in range(7):
        batch = image_batch(number)
        batch["unlabeled"]["weak"].requires_grad_()
        output = step(method, batch)
        asked.append(batch["unlabeled"]["weak"].grad is not None)
        assert asked[-1] == ("prototype" in output)
    assert asked == [True, False, False, True, False, False, True]


def test_prototypes_change_no_batch_statistics():
    """Weak views have a pass of their own with and without them, so that all else is FixMatch's."""
    outputs = [everything(iph=part)(image_batch()) for part in (None, IPH(3))]
    for name in ("supervised", "unsupervised", "confidence"):
        assert torch.equal(outputs[0][name], outputs[1][name])


def test_the_released_block_trains_and_wants_a_cluster_per_class():
    method = everything(iph=IPH(3, "official"))
    for seed in range(3):
        assert torch.isfinite(step(method, image_batch(seed))["loss"])
    assert method.iph.teacher_alignment.count == 3
    with pytest.raises(ValueError, match="`num_clusters` must be 3, got 2"):
        everything(iph=IPH(2, "official"))


def test_targets_are_those_of_the_equations():
    method, batch = TEAR(linear(), threshold=0.6, adapl=adapl(minimum_weight=0.7)), make_batch()
    method.teacher.network.head.weight.data *= 0.5
    found = method.targets(batch["unlabeled"]["weak"], torch.arange(9))
    probs, previous = batch["unlabeled"]["weak"].softmax(1), (0.5 * batch["unlabeled"]["weak"]).softmax(1)
    estimate = estimate_loss(discrepancy(probs, previous))
    torch.testing.assert_close(found.outcomes, probs)
    torch.testing.assert_close(found.estimated_loss, estimate)
    assert torch.equal(found.pseudo_label, probs.argmax(1))
    assert found.mask.tolist() == (probs.amax(1) >= 0.6).tolist()
    assert set(found.mask.tolist()) == {True, False}
    torch.testing.assert_close(found.targets, relaxed_targets(probs.argmax(1), label_weight(estimate, "exp", 0.7), 3))


@pytest.mark.parametrize("previous", ["ema", "snapshot", "bank"])
def test_targets_change_no_state_carry_no_gradient_and_do_not_depend_on_the_batch(previous):
    method = everything(adapl=adapl(previous=previous, history_decay=0.5))
    for seed in range(3):
        step(method, image_batch(seed))
    before, weak = copy.deepcopy(method.state_dict()), image_batch()["unlabeled"]["weak"]
    found = method.targets(weak, torch.arange(10))
    assert_same_state(before, method.state_dict())
    assert not any(value.requires_grad for value in found)
    assert found.estimated_loss.min() > 0
    alone = method.targets(weak[3:4], torch.tensor([3]))
    for one, all_ in zip(alone, found, strict=True):
        torch.testing.assert_close(one[0], all_[3], atol=1e-5, rtol=1e-4)


def test_targets_are_aligned_by_training_alone_not_by_the_images_they_are_asked_for():
    method, images = (
        TEAR(linear(), threshold=0.6, alignment=QueueAlignment((3,))),
        torch.tensor([[0.8, 0.1, 0.1]]).log(),
    )
    assert method.targets(images.expand(4, 3), torch.arange(4)).mask.tolist() == [True] * 4
    method.alignment.update(torch.tensor([[0.8, 0.1, 0.1]]))
    assert method.targets(images.expand(4, 3), torch.arange(4)).mask.tolist() == [False] * 4


def test_targets_without_adapl_are_hard():
    method = TEAR(linear())
    found = method.targets(make_batch()["unlabeled"]["weak"], torch.full((9,), -1))
    assert method.previous is None
    assert not found.estimated_loss.any()
    assert torch.equal(found.targets, F.one_hot(found.pseudo_label, 3).float())


def test_history_is_by_index():
    method = everything(adapl=adapl(previous="bank"))
    batch = image_batch()
    batch["unlabeled"]["index"] = torch.arange(10) + 7
    step(method, batch)
    seen = [7 <= i < 17 for i in range(40)]
    assert (~method.adapl.bank.isnan().any(1)).tolist() == seen
    assert method.adapl.estimate.isnan().all()  # nothing to compare with yet
    step(method, batch)
    assert (~method.adapl.estimate.isnan()).tolist() == seen


def test_bank_queues_and_centers_are_in_the_checkpoint():
    method = everything(adapl=adapl(previous="bank"), iph=IPH(3, "official"))
    step(method, image_batch())
    names = {name for name in method.state_dict() if not name.startswith(("network.", "teacher."))}
    assert names == {
        "step",
        "adapl.bank",
        "adapl.estimate",
        "alignment.queue",
        "alignment.count",
        "iph.centers",
        "iph.teacher_alignment.queue",
        "iph.teacher_alignment.count",
    }
    twin = everything(seed=1, adapl=adapl(previous="bank"), iph=IPH(3, "official"))
    twin.load_state_dict(method.state_dict())
    assert twin.iph.started


def test_a_loaded_fresh_state_starts_its_clusters_anew():
    method, fresh = everything(), copy.deepcopy(everything().state_dict())
    step(method, image_batch())
    assert method.iph.started
    method.load_state_dict(fresh)
    assert not method.iph.started


class WaitsForNothing(TorchDispatchMode):
    """Refuses what makes the host wait for an accelerator."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal"), name
        if name in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), f"{name} by a mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("parts", [{}, {"adapl": adapl(previous="bank")}, {"adapl": adapl(previous="snapshot")}])
def test_no_step_waits_for_the_device(parts):
    method = everything(**parts)
    for seed in range(2):
        batch = image_batch(seed)
        with WaitsForNothing():
            output = method(batch)
            output["loss"].backward()
            method.after_step(batch, {name: value.detach() for name, value in output.items()})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"threshold": 1.5}, r"a threshold is a probability and must be in \[0, 1\], got 1.5"),
        ({"ramp_steps": -1}, "`ramp_steps` counts optimizer steps and must not be negative, got -1"),
    ],
)
def test_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        TEAR(linear(), **arguments)


# ---- findings --------------------------------------------------------------------------------------------------------


KIND = Findings.of_size(3)


def findings_of(seed=0, n=9):
    return outcomes_of(torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)))


def findings_adapl(**kwargs):
    return adapl(**{"shape": KIND.shape, "minimum_weight": 0.75, **kwargs})


def findings_batch():
    batch = make_batch()
    batch["labeled"]["label"] = torch.tensor([[1, 0, -1], [-1, -1, -1], [0, 1, 1], [0, 0, 0]])
    return batch


@pytest.mark.parametrize("kind", ["l2", "tv"])
def test_discrepancy_of_a_finding_is_the_difference_of_its_probabilities(kind):
    now, earlier = findings_of(), findings_of(1)
    torch.testing.assert_close(discrepancy(now, earlier, kind), (now - earlier)[..., 1].abs())


@pytest.mark.parametrize("kind", [*KINDS, "logits"])
def test_each_finding_is_estimated_as_the_two_classes_that_it_is(kind):
    now, earlier = findings_of(), findings_of(1)
    memory, single = findings_adapl(discrepancy=kind), adapl(discrepancy=kind, shape=(2,), minimum_weight=0.75)
    estimate = memory(now, torch.arange(9), earlier)
    for k in range(3):
        expected = single(now[:, k], torch.arange(9), earlier[:, k])
        torch.testing.assert_close(estimate[:, k], expected)
        torch.testing.assert_close(memory.weight(estimate)[:, k], single.weight(expected))


def test_a_pseudo_label_of_a_finding_keeps_what_it_has_not_moved_by():
    """By 0.1, 0.2 and 0.6: the weights 0.9, 0.8 and the least; not known: all of it."""
    memory = findings_adapl()
    now, earlier = outcomes_of(torch.tensor([[0.9, 0.3, 0.8]])), outcomes_of(torch.tensor([[0.8, 0.1, 0.2]]))
    estimate = memory(now, torch.tensor([0]), earlier)
    assert memory.weight(estimate).tolist() == [pytest.approx([0.9, 0.8, 0.75])]
    assert memory.weight(torch.full((1, 3), torch.nan)).tolist() == [[1.0, 1.0, 1.0]]


def test_history_and_bank_outcomes_of():
    memory, index = findings_adapl(previous="bank", history_decay=0.75), torch.tensor([2])
    first, second = outcomes_of(torch.tensor([[0.9, 0.3, 0.5]])), outcomes_of(torch.tensor([[0.7, 0.3, 0.1]]))
    nothing = memory(first, index)
    assert nothing.shape == (1, 3)
    assert nothing.isnan().all()
    memory.update(index, nothing, first)
    estimate = memory(second, index)
    torch.testing.assert_close(estimate, -torch.log(1 - torch.tensor([[0.2, 0.0, 0.4]])))
    assert memory(second, torch.tensor([-1])).isnan().all()
    memory.update(index, estimate, second)
    assert memory.estimate.isnan().all(1).tolist() == [row != 2 for row in range(40)]
    torch.testing.assert_close(memory(second, index), 0.75 * estimate)  # 0 by itself


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_findings_drawn_twice_give_the_same_state_in_any_order(order):
    memory = findings_adapl(previous="bank")
    outcomes, estimate = findings_of(n=3), findings_of(1, 3)[..., 1]
    memory.update(torch.tensor([1, 1, 0])[order], estimate[order], outcomes[order])
    torch.testing.assert_close(memory.estimate[1], estimate[:2].amax(0))
    torch.testing.assert_close(memory.bank[1], outcomes[:2].amax(0))
    torch.testing.assert_close(memory.bank[0], outcomes[2])


def test_one_finding_is_enough_and_needs_more_than_half_for_its_pseudo_label():
    one = outcomes_of(torch.tensor([[0.9]]))
    assert findings_adapl(shape=(1, 2))(one, torch.tensor([0]), one).shape == (1, 1)
    with pytest.raises(
        ValueError, match=r"greater than 1 / K = 0\.5 .*got 0\.5.*findings, which are absent or present"
    ):
        findings_adapl(minimum_weight=0.5)


def test_equation_of_findings_against_a_slow_loop():
    batch = findings_batch()
    method = TEAR(
        linear(),
        threshold={"absent": [0.6, 0.7, 0.9], "present": 0.7},
        weight=2.0,
        adapl=findings_adapl(),
        kind=KIND,
    )
    method.teacher.network.head.weight.data *= 0.5
    expected, estimates, selected = 0.0, [], 0
    for weak, strong in zip(batch["unlabeled"]["weak"], batch["unlabeled"]["strong"], strict=True):
        for k, (q, q_previous, z) in enumerate(
            zip(weak.sigmoid().tolist(), (0.5 * weak).sigmoid().tolist(), strong.tolist(), strict=True)
        ):
            estimates.append(-math.log(1 - abs(q - q_previous)))
            weight = max(0.75, 1 - abs(q - q_previous))
            if max(q, 1 - q) < (0.7 if q > 0.5 else [0.6, 0.7, 0.9][k]):
                continue
            selected += 1
            target = weight if q > 0.5 else 1 - weight
            expected += (target * math.log1p(math.exp(-z)) + (1 - target) * math.log1p(math.exp(z))) / 27
    output = method(batch)
    assert output["mask_rate"].item() == pytest.approx(selected / 27)
    assert 0 < selected < 27
    assert output["unsupervised"].item() == pytest.approx(expected, abs=1e-5)
    assert output["estimate"].flatten().tolist() == pytest.approx(estimates, abs=1e-5)
    assert output["estimated_loss"].item() == pytest.approx(sum(estimates) / 27, abs=1e-5)
    assert output["loss"].item() == pytest.approx(output["supervised"].item() + 2.0 * expected, abs=1e-5)


def test_without_its_parts_it_is_fixmatch_of_findings_bit_for_bit():
    methods = []
    for make in (TEAR, FixMatch):
        torch.manual_seed(0)
        method = make(small_resnet(3, width=2), threshold={"absent": 0.52, "present": 0.55}, kind=KIND)
        losses = []
        for seed in range(3):
            batch = image_batch(seed)
            batch["labeled"]["label"] = torch.eye(3).long()[batch["labeled"]["label"]]
            losses.append(step(method, batch)["loss"].item())
        methods.append((losses, method.network.state_dict(), method.teacher.state_dict()))
    assert methods[0][0] == methods[1][0]
    assert_same_state(methods[0][1:], methods[1][1:])


@pytest.mark.parametrize("relaxed", [False, True])
def test_targets_of_findings_are_what_training_teaches(relaxed):
    batch = findings_batch()
    method = TEAR(linear(), threshold=0.7, adapl=findings_adapl() if relaxed else None, kind=KIND)
    method.teacher.network.head.weight.data *= 0.5
    weak, strong = batch["unlabeled"]["weak"], batch["unlabeled"]["strong"]
    found = method.targets(weak, torch.arange(9))
    assert [tuple(part.shape) for part in found] == [(9, 3, 2), (9, 3), (9, 3, 2), (9, 3), (9, 3)]
    torch.testing.assert_close(found.outcomes, outcomes_of(weak.sigmoid()))
    assert torch.equal(found.pseudo_label, (weak > 0).long())
    assert torch.equal(found.targets.argmax(dim=-1), found.pseudo_label)
    assert found.estimated_loss.any() == relaxed
    assert bool(((found.targets == 0) | (found.targets == 1)).all()) != relaxed
    expected = F.binary_cross_entropy_with_logits(strong, found.targets[..., 1], weight=found.mask.float())
    torch.testing.assert_close(method(batch)["unsupervised"], expected)


def test_no_step_of_findings_waits_for_the_device():
    aligned = QueueAlignment(KIND.shape, labeled_target=True)
    threshold = {"absent": [0.6, 0.7, 0.9], "present": 0.6}
    method = everything(alignment=aligned, adapl=findings_adapl(previous="bank"), threshold=threshold, kind=KIND)
    for seed in range(2):
        batch = image_batch(seed)
        batch["labeled"]["label"] = torch.eye(3).long()[batch["labeled"]["label"]]
        with WaitsForNothing():
            output = method(batch)
            output["loss"].backward()
            method.after_step(batch, {name: value.detach() for name, value in output.items()})


def test_the_released_block_knows_no_findings():
    with pytest.raises(
        ValueError, match="compares clusters with classes, and findings are none: take the mode 'shared'"
    ):
        TEAR(linear(), iph=IPH(3, "official"), kind=KIND)


TWO_PROCESSES = """
import torch
from torch.nn.parallel import DistributedDataParallel
from methods.test_tear import IPH, adapl, everything, image_batch

method = everything(adapl=adapl(previous="bank", history_decay=0.5), iph=IPH(3, "matched"))
wrapped = DistributedDataParallel(method)
optimizer = torch.optim.SGD(method.trainable_parameters(), lr=0.05)
for step in range(3):
    batch = image_batch(10 * step + rank)
    batch["unlabeled"]["index"] = torch.arange(10) + 5 * rank  # five samples are in both
    optimizer.zero_grad()
    output = wrapped(batch)
    output["loss"].backward()
    optimizer.step()
    method.after_step(batch, {name: value.detach() for name, value in output.items()})
result = {k: v.tolist() for k, v in method.state_dict().items() if "running" not in k}
"""


@pytest.mark.slow
def test_two_processes_have_one_state(tmp_path):
    first, second = in_two_processes(TWO_PROCESSES, tmp_path)
    assert first.keys() == second.keys()
    for name, value in first.items():
        a, b = torch.tensor(value), torch.tensor(second[name])
        assert torch.equal(torch.nan_to_num(a, -1.0), torch.nan_to_num(b, -1.0)), name
    seen = ~torch.tensor(first["adapl.bank"]).isnan().any(1)
    assert seen.tolist() == [True] * 15 + [False] * 25
    assert not torch.tensor(first["iph.centers"]).isnan().any()
