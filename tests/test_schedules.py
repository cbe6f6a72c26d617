"""Schedules: limits and closed forms."""

import itertools
import math

import pytest

from medssl_monai.schedules import constant, cosine_decay, linear_rampup, sigmoid_rampup


def test_last_learning_rate_of_the_released_code():
    assert 0.03 * cosine_decay(1000)(1000) == pytest.approx(0.0058527, abs=5e-8)
    assert cosine_decay(1000)(1000) == pytest.approx(math.cos(7 * math.pi / 16))


def test_cosine_starts_at_one_and_only_falls():
    factors = [cosine_decay(100)(step) for step in range(101)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)


def test_cosine_past_its_end_never_turns_negative_or_rises_again_within_the_decay():
    assert min(cosine_decay(100)(step) for step in range(150)) >= 0.0


def test_warm_up_rises_from_zero_and_the_decay_begins_after_it():
    factor = cosine_decay(100, warmup=10)
    assert [factor(step) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert factor(100) == pytest.approx(cosine_decay(90)(90))


def test_last_learning_rate_of_tear_s_code():
    assert 1e-3 * cosine_decay(14_080)(14_080) == pytest.approx(1.95090e-4, abs=5e-10)


def test_exponential_warm_up_rises_by_the_same_ratio_and_meets_the_decay():
    factor = cosine_decay(100, warmup=10, warmup_start=5e-4)
    rise = [factor(step) for step in range(11)]
    assert (rise[0], rise[10]) == (pytest.approx(5e-4), 1.0)
    ratios = [after / before for before, after in itertools.pairwise(rise)]
    assert ratios == pytest.approx([5e-4**-0.1] * 10)
    assert factor(50) == cosine_decay(100, warmup=10)(50)


@pytest.mark.parametrize("start", [-0.1, 1.1])
def test_warm_up_starts_from_a_factor(start):
    with pytest.raises(ValueError, match=r"`warmup_start` is a factor and must be in \[0, 1\], got"):
        cosine_decay(100, warmup=10, warmup_start=start)


@pytest.mark.parametrize(("total", "warmup"), [(10, 10), (0, 0), (5, -1)])
def test_cosine_needs_steps_after_the_warm_up(total, warmup):
    with pytest.raises(ValueError, match=f"`total` must be greater than `warmup`, got {total} and {warmup} steps"):
        cosine_decay(total, warmup)


@pytest.mark.parametrize(("step", "weight"), [(0, 2 * math.exp(-5)), (50, 2 * math.exp(-1.25)), (100, 2.0), (999, 2.0)])
def test_ramp_up(step, weight):
    assert sigmoid_rampup(2.0, length=100)(step) == pytest.approx(weight)


def test_ramp_up_needs_a_length():
    with pytest.raises(ValueError, match="`length` counts optimizer steps and must be at least 1, got 0"):
        sigmoid_rampup(1.0, length=0)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (25, 0.5), (100, 2.0), (999, 2.0)])
def test_linear_ramp_up(step, weight):
    assert linear_rampup(2.0, length=100)(step) == pytest.approx(weight)


def test_linear_ramp_up_needs_a_length():
    with pytest.raises(ValueError, match="`length` counts optimizer steps and must be at least 1, got 0"):
        linear_rampup(1.0, length=0)


def test_constant():
    assert [constant()(0), constant(0.5)(10**9)] == [1.0, 0.5]
