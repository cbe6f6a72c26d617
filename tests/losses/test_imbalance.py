"""Cross-entropy against class imbalance."""

import math

import pytest
import torch
from torch.nn import functional as F

from medssl_monai.kinds import Classes
from medssl_monai.losses import BalancedCrossEntropy, FindingCrossEntropy, class_weights
from medssl_monai.pool import Labels

COUNTS = [60, 12, 3, 0]  # one class has no label yet


def pool_of(counts, unlabeled=5):
    labels = [k for k, count in enumerate(counts) for _ in range(count)] + [None] * unlabeled
    items = [{"id": str(i), **({} if label is None else {"label": label})} for i, label in enumerate(labels)]
    return Labels(items, kind=Classes.of_size(len(counts)))


def draw(n=14, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=g, dtype=torch.double)
    return logits.requires_grad_(), torch.randint(3, (n,), generator=g)


def slow_weights(counts, beta):
    number = [n if beta == 1 else (1 - beta**n) / (1 - beta) for n in (max(count, 1) for count in counts)]
    scale = sum(counts) / sum(count / e for count, e in zip(counts, number, strict=True))
    return [scale / e for e in number]


def slow_loss(logits, label, counts, beta=0.0, tau=0.0):
    weights = slow_weights(counts, beta)
    prior = [max(count, 1) / sum(max(c, 1) for c in counts) for count in counts]
    total = 0.0
    for row, k in zip(logits.tolist(), label.tolist(), strict=True):
        powers = [math.exp(value) * p**tau for value, p in zip(row, prior, strict=True)]
        total -= weights[k] * math.log(powers[k] / sum(powers))
    return total / len(label)


@pytest.mark.parametrize(("beta", "tau"), [(1.0, 0.0), (0.99, 0.0), (0.5, 0.0), (0.0, 1.0), (0.0, 0.3), (0.9, 0.5)])
def test_equation_against_a_slow_loop(beta, tau):
    logits, label = draw()
    loss = BalancedCrossEntropy(pool_of(COUNTS), weighting=beta, logit_adjustment=tau)(logits, label)
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(slow_loss(logits, label, COUNTS, beta, tau), rel=1e-12)


@pytest.mark.parametrize("beta", [1.0, 1 - 1e-9, 0.9999, 0.9, 1e-3])
@pytest.mark.parametrize("counts", [[60, 12, 3], [1, 0, 0], [100_000, 1]])
def test_weights_have_the_mean_one_over_the_labeled_samples(counts, beta):
    count = torch.tensor(counts, dtype=torch.float)  # the precision of a training step
    weights = class_weights(count, beta)
    torch.testing.assert_close((weights * count).sum() / count.sum(), torch.tensor(1.0))
    assert weights.tolist() == pytest.approx(slow_weights(counts, beta), rel=1e-5)


def test_two_classes_by_hand():
    """Nine to one: every class has half of the whole weight."""
    assert class_weights(torch.tensor([9.0, 1.0]), 1.0).tolist() == pytest.approx([10 / 18, 5.0])
    loss = BalancedCrossEntropy(pool_of([9, 1]), logit_adjustment=1.0)(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 2)


def test_effective_numbers_lead_from_equal_weights_to_inverse_frequency():
    count = torch.tensor([60.0, 12.0, 3.0], dtype=torch.double)
    ratios = [(w[2] / w[0]).item() for w in (class_weights(count, beta) for beta in (1e-9, 0.9, 0.99, 1 - 1e-9, 1.0))]
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(1.0)
    assert ratios[3:] == pytest.approx([20.0, 20.0])


@pytest.mark.parametrize("options", [{"weighting": 1.0}, {"weighting": 0.9}, {"logit_adjustment": 1.0}])
def test_equal_frequencies_leave_the_cross_entropy(options):
    logits, label = draw(classes=3)
    loss = BalancedCrossEntropy(pool_of([7, 7, 7]), **options)(logits, label)
    torch.testing.assert_close(loss, F.cross_entropy(logits, label))


def test_without_an_option_it_is_the_cross_entropy_bit_for_bit():
    logits, label = draw()
    assert torch.equal(BalancedCrossEntropy(pool_of(COUNTS))(logits, label), F.cross_entropy(logits, label))


def test_a_batch_of_one_class_keeps_its_weight():
    """PyTorch's weighted mean would divide the weight out again."""
    logits, _ = draw()
    label = torch.full((len(logits),), 2)
    loss = BalancedCrossEntropy(pool_of(COUNTS), weighting=1.0)(logits, label)
    torch.testing.assert_close(loss, slow_weights(COUNTS, 1.0)[2] * F.cross_entropy(logits, label))


def test_the_best_logits_under_adjustment_are_those_of_equally_frequent_classes():
    """Images that tell nothing: plain cross-entropy learns the frequencies, the adjusted one predicts all alike."""
    label = torch.tensor([k for k, count in enumerate(COUNTS) for _ in range(count)])
    for options, best in (
        ({}, [0.8, 0.16, 0.04]),
        ({"logit_adjustment": 1.0}, [1 / 3] * 3),
        ({"weighting": 1.0}, [1 / 3] * 3),
    ):
        criterion, logits = BalancedCrossEntropy(pool_of(COUNTS[:3]), **options), torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=2.0)
        for _ in range(200):
            optimizer.zero_grad()
            criterion(logits.expand(len(label), 3), label).backward()
            optimizer.step()
        assert logits.softmax(0).tolist() == pytest.approx(best, abs=0.01)


def test_frequencies_follow_the_pool():
    logits, label = draw()
    pool = pool_of(COUNTS)
    criterion = BalancedCrossEntropy(pool, weighting=1.0, logit_adjustment=0.5)
    assert criterion(logits, label).item() == pytest.approx(slow_loss(logits, label, COUNTS, 1.0, 0.5))
    pool.annotate([75, 76, 77], [3, 3, 2])
    assert criterion(logits, label).item() == pytest.approx(slow_loss(logits, label, [60, 12, 4, 2], 1.0, 0.5))
    pool.correct([0], [1])
    assert criterion(logits, label).item() == pytest.approx(slow_loss(logits, label, [59, 13, 4, 2], 1.0, 0.5))
    pool.exclude([1, 2])  # images that cannot be read are not drawn, so they do not count
    assert criterion(logits, label).item() == pytest.approx(slow_loss(logits, label, [57, 13, 4, 2], 1.0, 0.5))


def test_a_resumed_pool_gives_the_same_loss():
    logits, label = draw()
    pool, resumed = pool_of(COUNTS), pool_of([1, 1, 1, 0], unlabeled=77)
    pool.annotate([77], [3])
    criterion = BalancedCrossEntropy(resumed, weighting=1.0)
    before = criterion(logits, label)
    resumed.load_state_dict(pool.state_dict())
    assert not torch.equal(criterion(logits, label), before)
    assert torch.equal(criterion(logits, label), BalancedCrossEntropy(pool, weighting=1.0)(logits, label))
    assert not criterion.state_dict()  # the labels are in the pool's state and nowhere else


@pytest.mark.parametrize("options", [{"weighting": 1.0}, {"weighting": 0.99}, {"logit_adjustment": 2.0}])
@pytest.mark.parametrize("counts", [[60, 0, 0, 0], [0, 0, 0, 1], [100_000, 1, 0, 0]])
def test_classes_without_a_label_make_no_nan_and_still_learn_to_be_absent(options, counts):
    pool = pool_of(counts)
    label = pool.targets(pool.indices("labeled")[-3:])
    logits = torch.randn(len(label), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = BalancedCrossEntropy(pool, **options)(logits, label)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    absent = [k for k, count in enumerate(counts) if count == 0]
    assert (logits.grad[:, absent] > 0).all()


def test_a_half_precision_step_computes_in_single_precision():
    logits, label = draw()
    for options in ({"weighting": 1.0}, {"logit_adjustment": 1.0}):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = BalancedCrossEntropy(pool_of(COUNTS), **options)(logits.bfloat16(), label)
        assert loss.dtype == torch.float32
        rounded = BalancedCrossEntropy(pool_of(COUNTS), **options)(logits.bfloat16().double(), label)
        torch.testing.assert_close(loss, rounded.float())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weighting": 1.5}, r"`weighting` must be in \[0, 1\], got 1.5"),
        ({"weighting": -0.1}, "`weighting` must be in"),
        ({"logit_adjustment": -1.0}, "`logit_adjustment` must be at least 0 and finite, got -1.0"),
        ({"logit_adjustment": math.inf}, "`logit_adjustment` must be"),
    ],
)
def test_values_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        BalancedCrossEntropy(pool_of(COUNTS), **options)


def test_classes_of_a_pool_of_findings_are_refused():
    pool = Labels([{"id": "a", "label": [1, 0]}, {"id": "b", "label": [0, 0]}])
    with pytest.raises(ValueError, match=r"have the states \(2, 2\), and a loss .* needs \(2,\)"):
        BalancedCrossEntropy(pool, weighting=1.0)(torch.zeros(1, 2), torch.tensor([0]))


# ---- findings --------------------------------------------------------------------------------------------------------

FINDINGS = [[1, 0, -1, 0]] * 3 + [[0, 0, -1, 1]] * 20 + [[-1, 1, -1, 1]] * 7  # of the third nothing is known


def findings_pool(labels=FINDINGS, unlabeled=4):
    items = [{"id": str(i), "label": label} for i, label in enumerate(labels)]
    items += [{"id": str(len(labels) + i)} for i in range(unlabeled)]
    return Labels(items)


def draw_findings(seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(14, 4, generator=g, dtype=torch.double)
    label = torch.randint(-1, 2, (14, 4), generator=g)
    label[:, 2] = -1
    return logits.requires_grad_(), label


@pytest.mark.parametrize(("beta", "tau"), [(0.0, 0.0), (1.0, 0.0), (0.99, 0.0), (0.0, 1.0), (0.9, 0.5)])
def test_each_finding_is_balanced_as_two_classes(beta, tau):
    logits, label = draw_findings()
    losses = []
    for k in range(4):
        counts = [sum(row[k] == value for row in FINDINGS) for value in (0, 1)]
        for z, y in zip(logits[:, k].tolist(), label[:, k].tolist(), strict=True):
            if y != -1:
                two = torch.tensor([[0.0, z]], dtype=torch.double)
                losses.append(slow_loss(two, torch.tensor([y]), counts, beta, tau))
    loss = BalancedCrossEntropy(findings_pool(), weighting=beta, logit_adjustment=tau)(logits, label)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_without_an_option_findings_have_their_plain_cross_entropy_bit_for_bit():
    logits, label = draw_findings()
    assert torch.equal(BalancedCrossEntropy(findings_pool())(logits, label), FindingCrossEntropy()(logits, label))


def test_presence_and_absence_of_a_finding_weigh_alike_over_the_labeled_images():
    """Of 23 known labels 3 show the first finding: 23 / 6 each, and 23 / 40 for each of the 20 others."""
    weights = class_weights(findings_pool().counts().float(), 1.0)
    assert weights[0].tolist() == pytest.approx([23 / 40, 23 / 6])
    assert weights[2].tolist() == [1.0, 1.0]  # of which nothing is known


@pytest.mark.parametrize("options", [{"weighting": 1.0}, {"weighting": 0.99}, {"logit_adjustment": 1.0}])
def test_unknown_findings_have_no_gradient_however_they_are_balanced(options):
    logits, label = draw_findings()
    BalancedCrossEntropy(findings_pool(), **options)(logits, label).backward()
    assert torch.isfinite(logits.grad).all()
    assert ((logits.grad != 0) == (label != -1)).all()
    nothing = BalancedCrossEntropy(findings_pool(), **options)(logits, torch.full_like(label, -1))
    assert nothing.item() == 0.0
    assert nothing.requires_grad


def test_frequencies_of_findings_follow_the_pool():
    logits, label = draw_findings()
    pool = findings_pool()
    criterion = BalancedCrossEntropy(pool, weighting=1.0)
    before = criterion(logits, label)
    pool.annotate([30, 31], [[1, 1, 0, 0], [1, 0, 1, 0]])
    known = findings_pool([*FINDINGS, [1, 1, 0, 0], [1, 0, 1, 0]])
    assert not torch.equal(criterion(logits, label), before)
    assert torch.equal(criterion(logits, label), BalancedCrossEntropy(known, weighting=1.0)(logits, label))


def test_findings_of_a_pool_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"have the states \(4,\), and a loss .* needs \(4, 2\)"):
        BalancedCrossEntropy(pool_of(COUNTS), weighting=1.0)(*draw_findings())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("options", [{"weighting": 1.0}, {"weighting": 0.99}, {"logit_adjustment": 1.0}])
def test_a_step_on_cuda_waits_for_nothing(options):
    logits, label = draw()
    criterion = BalancedCrossEntropy(pool_of(COUNTS), **options)
    expected = criterion(logits, label)
    on_cuda, label = logits.detach().cuda().requires_grad_(), label.cuda()
    criterion(on_cuda, label)  # counts go to the device once
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = criterion(on_cuda, label)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), expected)
