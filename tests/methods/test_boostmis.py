"""BoostMIS, the learner: the threshold that follows learning and annotation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.kinds import Findings
from medssl_monai.methods import AdaptiveThreshold, BoostMIS
from medssl_monai.methods.boostmis import adaptive_threshold
from medssl_monai.networks import small_resnet

SURE, UNSURE = 0.99, 0.6
LITERAL = {"alpha": 0.9, "beta": 0.05, "minimum": 0.0}


def confident(count, total=20):
    """Confidence of a pool in which `count` samples are above the bar."""
    return torch.tensor([SURE] * count + [UNSURE] * (total - count))


def after(*counts, query_size=(0, 0), total=20, **kwargs):
    """A threshold that saw whole pools with so many confident samples, one comparison each."""
    threshold = AdaptiveThreshold(total, (2,), query_size=query_size, **{**LITERAL, **kwargs})
    for step, count in enumerate(counts):
        threshold.update(torch.arange(total), confident(count, total), step)
    return threshold


def value(threshold, step=0):
    return pytest.approx(float(threshold.at(step)), abs=1e-6)


def test_worked_example_of_the_paper_s_rule():
    """alpha 0.9, beta 0.05: Count 20 -> 10 and N_A 50 of 100 give 0.9 * 0.5 + 0.05 * 0.5."""
    rule = {"alpha": 0.9, "beta": 0.05}
    halved = adaptive_threshold(torch.tensor(10.0), torch.tensor(20.0), share=50 / 100, **rule)
    doubled = adaptive_threshold(torch.tensor(20.0), torch.tensor(10.0), share=100 / 100, **rule)
    assert float(halved) == pytest.approx(0.475)
    assert float(doubled) == pytest.approx(0.95)


def test_worked_example_through_the_module():
    assert value(after(20, 10, query_size=(50, 100))) == 0.475
    assert value(after(10, 20, query_size=(100, 100))) == 0.95


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20), max_size=6),
    asked=st.integers(0, 100),
    last_step=st.integers(0, 6),
    minimum=st.sampled_from([None, 0.0, 0.7, 1.0]),
)
def test_never_above_alpha_plus_beta_and_equal_to_it_at_the_end(counts, asked, last_step, minimum):
    threshold = after(*counts, query_size=(asked, 100), last_step=last_step, minimum=minimum)
    for step in range(last_step):
        assert float(threshold.at(step)) <= 0.95 + 1e-6
    assert value(threshold, last_step) == 0.95


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).map(sorted))
def test_growing_counts_and_a_full_query_are_fixmatch(counts):
    assert value(after(*counts, query_size=(100, 100))) == 0.95


def test_before_the_first_query_its_size_counts_as_full():
    assert value(after(20, 20)) == 0.95


def test_without_confident_samples_before_the_ratio_is_one():
    assert value(after(0, 0)) == 0.95
    assert value(after(0, 7)) == 0.95


def test_count_collapse_makes_the_literal_rule_accept_everything():
    assert value(after(20, 0, minimum=0.0)) == 0.05
    assert value(after(1, 0, minimum=0.0)) == 0.05
    assert value(after(20, 0, minimum=0.0, query_size=(50, 100))) == 0.025


def test_default_minimum_prevents_the_collapse():
    assert value(after(20, 0, minimum=None)) == 0.5
    assert AdaptiveThreshold(5, (1,)).minimum == 1.0  # never below 1 / K
    assert AdaptiveThreshold(5, (3,)).minimum == 0.5


def test_minimum_does_not_lift_the_threshold_above_alpha_plus_beta():
    assert value(after(20, 0, alpha=0.2, beta=0.1, minimum=0.5)) == 0.3


def test_from_the_last_step_on_the_threshold_is_fixmatch_again():
    threshold = after(20, 10, last_step=7)
    assert value(threshold, 6) == 0.9 * 0.5 + 0.05
    assert value(threshold, 7) == 0.95
    assert value(threshold, 1000) == 0.95


def test_annotating_confident_samples_does_not_lower_the_threshold():
    threshold = after(20)
    threshold.forget(torch.arange(10))  # half of the confident ones are labeled now
    threshold.update(torch.arange(10, 20), confident(10, 10), step=1)
    assert value(threshold) == 0.95


def test_annotated_samples_leave_both_counts():
    """12 of 20 confident; 4 of them are annotated, and of the other 8 only 2 remain: the ratio is 2 / 8."""
    threshold = after(12)
    threshold.forget(torch.arange(4))
    threshold.update(torch.arange(4, 20), confident(2, 16), step=1)
    assert value(threshold) == 0.9 * 2 / 8 + 0.05


def test_samples_seen_for_the_first_time_do_not_count():
    threshold = AdaptiveThreshold(20, (2,), **LITERAL)
    threshold.update(torch.arange(10), confident(4, 10), step=0)
    threshold.update(torch.arange(20), torch.cat([confident(2, 10), confident(10, 10)]), step=1)
    assert value(threshold) == 0.9 * 2 / 4 + 0.05


def test_samples_not_drawn_in_this_period_keep_their_confidence():
    threshold = after(20)
    threshold.update(torch.arange(5), torch.full((5,), UNSURE), step=1)
    assert value(threshold) == 0.9 * 15 / 20 + 0.05


@pytest.mark.parametrize("scope", ["epoch", "batch"])
def test_confidence_at_the_bar_does_not_count(scope):
    threshold = AdaptiveThreshold(4, (2,), alpha=0.5, beta=0.25, scope=scope, minimum=0.0)
    threshold.update(torch.arange(4), torch.tensor([0.8, 0.8, 0.8, 0.8]), step=0)
    threshold.update(torch.arange(4), torch.tensor([0.8, 0.75, 0.75, 0.75]), step=1)
    assert value(threshold) == 0.5 / 4 + 0.25


def test_threshold_changes_once_per_period():
    threshold = AdaptiveThreshold(20, (2,), period=3, **LITERAL)
    seen = []
    for step, count in enumerate([20, 20, 20, 10, 10, 10]):
        threshold.update(torch.arange(20), confident(count), step)
        seen.append(round(float(threshold.at(step)), 4))
    assert seen == [0.95, 0.95, 0.95, 0.95, 0.95, 0.5]


def test_counted_per_batch_the_threshold_follows_every_step():
    threshold = AdaptiveThreshold(20, (2,), scope="batch", period=100, **LITERAL)
    seen = []
    for step, count in enumerate([8, 4, 4, 8]):
        threshold.update(torch.arange(10), confident(count, 10), step)
        seen.append(round(float(threshold.at(step)), 4))
    assert seen == [0.95, 0.5, 0.95, 0.95]


def test_overlap_of_the_selectors_lowers_the_next_threshold():
    threshold = after(20)
    threshold.set_query_size((60, 100))
    assert value(threshold) == 0.95  # from the next comparison on
    threshold.update(torch.arange(20), confident(20), step=1)
    assert value(threshold) == 0.9 + 0.05 * 0.6


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_an_index_drawn_twice_keeps_its_larger_confidence_whatever_the_order(order):
    threshold = AdaptiveThreshold(4, (2,), **LITERAL)
    threshold.update(torch.tensor([3, 3]), torch.tensor([UNSURE, SURE])[order], step=0)
    assert float(threshold.confidence[3]) == pytest.approx(SURE)


def test_a_sample_that_lost_confidence_is_not_held_by_its_past():
    threshold = after(20)
    threshold.update(torch.tensor([3]), torch.tensor([UNSURE]), step=1)
    assert float(threshold.confidence[3]) == pytest.approx(UNSURE)


def test_all_state_is_in_buffers():
    threshold = after(20, 10, 15, query_size=(60, 100))
    assert set(threshold.state_dict()) == {"confidence", "previous", "count", "value", "share"}
    twin = AdaptiveThreshold(20, (2,), **LITERAL)
    twin.load_state_dict(threshold.state_dict())
    for one in (threshold, twin):
        one.update(torch.arange(20), confident(5), step=3)
    assert value(twin) == float(threshold.at(3)) == pytest.approx(0.9 * 5 / 15 + 0.05 * 0.6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"alpha": 0.9, "beta": 0.2}, r"`alpha` \+ `beta` is a probability.* got 0.9 and 0.2"),
        ({"alpha": -0.1}, "neither is negative"),
        ({"period": 0}, "`period` counts optimizer steps and must be at least 1, got 0"),
        ({"scope": "pool"}, "`scope` must be 'epoch' or 'batch', got 'pool'"),
        ({"minimum": 1.5}, "`minimum` is a probability and must be in"),
    ],
)
def test_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        AdaptiveThreshold(4, (2,), **arguments)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    weak, strong, image = torch.rand(3, 4, 1, 16, 16, generator=g)
    return {
        "labeled": {"image": image, "label": torch.tensor([0, 1, 0, 1]), "index": torch.arange(4)},
        "unlabeled": {"weak": weak, "strong": strong, "index": torch.arange(4, 8)},
    }


def boostmis(**kwargs):
    torch.manual_seed(0)
    return BoostMIS(small_resnet(2, width=2), AdaptiveThreshold(8, (2,), **LITERAL), **kwargs)


def test_loss_over_the_batch_is_the_mask_rate_times_that_over_the_selected(batch):
    outputs = [boostmis(normalization=n) for n in ("batch", "selected")]
    for method in outputs:
        method.threshold.value.fill_(0.0)
        method.threshold.value.fill_(float(method(batch)["confidence"].median()))
    over_batch, over_selected = (method(batch) for method in outputs)
    assert 0 < over_batch["mask_rate"] < 1
    expected = over_selected["unsupervised"] * over_selected["mask_rate"]
    torch.testing.assert_close(over_batch["unsupervised"], expected)


def test_the_step_uses_the_threshold_from_before_it(batch):
    """Count_t is known after the step only: forward compares with the last value and reports that."""
    method = boostmis()
    method.threshold.value.fill_(0.123)
    output = method(batch)
    assert float(output["threshold"]) == pytest.approx(0.123)
    assert output["mask_rate"] == 1
    method.after_step(batch, output)
    assert float(output["threshold"]) == pytest.approx(0.123)  # not a view of the buffer
    assert method.thresholds()["label"].plain() == pytest.approx([0.95])


def test_the_threshold_remembers_samples_by_their_index(batch):
    method = boostmis()
    method.after_step(batch, method(batch))
    assert method.threshold.confidence.isnan().tolist() == [True] * 4 + [False] * 4


def test_a_query_reaches_the_threshold(batch):
    method = boostmis()
    method.after_step(batch, method(batch))
    method.on_query(torch.tensor([5, 6]), (3, 4))
    assert method.threshold.confidence.isnan().tolist() == [True] * 4 + [False, True, True, False]
    assert method.threshold.previous.isnan().tolist() == [True] * 4 + [False, True, True, False]
    assert float(method.threshold.share) == 0.75


# ---- findings --------------------------------------------------------------------------------------------------------


def findings_after(*counts, total=20, **kwargs):
    """Each of `counts` says how many samples are confident in each of two findings."""
    threshold = AdaptiveThreshold(total, (2, 2), **{**LITERAL, **kwargs})
    for step, pair in enumerate(counts):
        threshold.update(torch.arange(total), torch.stack([confident(count, total) for count in pair], dim=1), step)
    return threshold


@pytest.mark.parametrize("scope", ["epoch", "batch"])
def test_each_finding_has_the_threshold_that_it_would_have_alone(scope):
    found = findings_after((20, 8), (10, 16), (12, 2), scope=scope, query_size=(60, 100))
    for k, counts in enumerate([(20, 10, 12), (8, 16, 2)]):
        alone = after(*counts, scope=scope, query_size=(60, 100))
        assert found.at(0)[k] == alone.at(0)
    assert found.at(0)[0] != found.at(0)[1]


def test_a_finding_that_loses_confidence_lowers_its_own_threshold_alone():
    assert findings_after((20, 20), (10, 20)).at(0).tolist() == pytest.approx([0.9 * 0.5 + 0.05, 0.95])


def test_findings_of_annotated_samples_leave_the_counts():
    threshold = findings_after((12, 20))
    threshold.forget(torch.arange(4))
    threshold.update(torch.arange(4, 20), torch.stack([confident(2, 16), confident(16, 16)], dim=1), step=1)
    assert threshold.at(1).tolist() == pytest.approx([0.9 * 2 / 8 + 0.05, 0.95])


def test_default_minimum_of_findings_is_above_what_every_prediction_reaches():
    assert findings_after((20, 20), (0, 20), minimum=None).at(0).tolist() == pytest.approx([0.75, 0.95])


def test_from_the_last_step_on_all_findings_are_fixmatch_again():
    threshold = findings_after((20, 20), (10, 5), last_step=7)
    assert threshold.at(6).tolist() == pytest.approx([0.5, 0.9 / 4 + 0.05])
    assert threshold.at(7).tolist() == pytest.approx([0.95, 0.95])


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_finding_drawn_twice_keeps_its_larger_confidence_whatever_the_order(order):
    threshold = AdaptiveThreshold(4, (2, 2), **LITERAL)
    threshold.update(torch.tensor([3, 3]), torch.tensor([[UNSURE, SURE], [SURE, 0.7]])[order], step=0)
    assert threshold.confidence[3].tolist() == pytest.approx([SURE, SURE])


def test_each_finding_is_compared_with_its_own_threshold(batch):
    torch.manual_seed(0)
    threshold = AdaptiveThreshold(8, (2, 2), **LITERAL)
    method = BoostMIS(small_resnet(2, width=2), threshold, kind=Findings.of_size(2))
    batch["labeled"]["label"] = torch.tensor([[1, 0], [0, -1], [-1, 1], [0, 0]])
    threshold.value.copy_(torch.tensor([0.0, 1.0]))
    output = method(batch)
    assert output["mask_rate"] == 0.5
    assert output["threshold"] == 0.5  # the mean, for the log
    assert method.thresholds()["label"].plain() == [[0.0], [1.0]]
    method.after_step(batch, output)
    assert threshold.confidence.isnan().any(1).tolist() == [True] * 4 + [False] * 4
    torch.testing.assert_close(threshold.confidence[4:], output["confidence"])
