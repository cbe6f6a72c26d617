"""The closed form over infinitely many positives, and the queue of negatives."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from medssl_monai.losses import KeyQueue, joint_contrastive_loss
from medssl_monai.losses.contrastive import mean_key


def draw(images=5, keys=3, dim=6, negatives=7, seed=0):
    """Unit vectors in float64; the keys of an image resemble its query."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(images, dim, generator=g, dtype=torch.double)
    own = query.unsqueeze(1) + torch.randn(images, keys, dim, generator=g, dtype=torch.double)
    others = torch.randn(negatives, dim, generator=g, dtype=torch.double)
    query, own, others = (F.normalize(rows, dim=-1) for rows in (query, own, others))
    return query.requires_grad_(), own, others


def slow_losses(query, keys, negatives, temperature, strength):
    """The formula of the paper, image by image, with a covariance matrix."""
    losses = []
    for q, own in zip(query, keys, strict=True):
        mean = sum(own) / len(own)
        covariance = sum(torch.outer(k - mean, k - mean) for k in own) / len(own)
        half = strength / (2 * temperature**2) * q @ covariance @ q
        total = torch.exp(q @ mean / temperature + half) + sum(torch.exp(q @ n / temperature) for n in negatives)
        losses.append(torch.log(total) - q @ mean / temperature)
    return torch.stack(losses)


def info_nce(query, key, negatives, temperature):
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ negatives.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long), reduction="none")


@pytest.mark.parametrize(("images", "keys", "dim", "negatives"), [(1, 1, 2, 1), (5, 3, 6, 7), (4, 5, 3, 32)])
@pytest.mark.parametrize(("temperature", "strength"), [(0.07, 0.02), (0.2, 0.8), (0.2, 2.0), (1.0, 1.0)])
def test_value_and_gradient_against_a_slow_loop(images, keys, dim, negatives, temperature, strength):
    query, own, others = draw(images, keys, dim, negatives)
    losses = joint_contrastive_loss(query, own, others, temperature, strength).losses
    expected = slow_losses(query, own, others, temperature, strength)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)
    mine, slow = (torch.autograd.grad(value.mean(), query)[0] for value in (losses, expected))
    torch.testing.assert_close(mine, slow, rtol=0, atol=1e-10)


def test_one_query_by_hand():
    """Keys (1, 0) and (0, 1), query (1, 0): projections 1 and 0, their mean 1/2, their variance 1/4."""
    query, keys = torch.tensor([[1.0, 0.0]]), torch.eye(2).unsqueeze(0)
    terms = joint_contrastive_loss(query, keys, torch.tensor([[-1.0, 0.0]]), temperature=0.5, strength=2.0)
    assert terms.spread.item() == pytest.approx(2.0 / (2 * 0.25) * 0.25)
    assert terms.positive.item() == pytest.approx(0.5 / 0.5 + 1.0)
    assert terms.negative.item() == pytest.approx(-2.0)
    assert terms.losses.item() == pytest.approx(math.log(math.exp(2.0) + math.exp(-2.0)) - 1.0)


def test_strength_zero_is_infonce_with_the_mean_key():
    query, keys, negatives = draw()
    losses = joint_contrastive_loss(query, keys, negatives, 0.07, strength=0.0).losses
    torch.testing.assert_close(losses, info_nce(query, keys.mean(1), negatives, 0.07), rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 1.0, 50.0])
def test_one_key_is_moco_for_any_strength(strength):
    query, keys, negatives = draw(keys=1)
    losses = joint_contrastive_loss(query, keys, negatives, 0.07, strength).losses
    expected = info_nce(query, keys[:, 0], negatives, 0.07)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12)
    mine, moco = (torch.autograd.grad(value.sum(), query)[0] for value in (losses, expected))
    torch.testing.assert_close(mine, moco, rtol=0, atol=1e-10)


def test_the_loss_grows_with_the_strength():
    query, keys, negatives = draw()
    losses = [joint_contrastive_loss(query, keys, negatives, 0.2, s).losses for s in (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)]
    assert all((later > earlier).all() for earlier, later in pairwise(losses))


def test_it_is_a_cross_entropy_and_a_regulariser():
    query, keys, negatives = draw()
    terms = joint_contrastive_loss(query, keys, negatives, 0.2, 0.8)
    logits = torch.cat([terms.positive.unsqueeze(1), terms.negative], dim=1)
    entropy = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long), reduction="none")
    torch.testing.assert_close(terms.infonce, entropy)
    torch.testing.assert_close(terms.losses, entropy + terms.spread)


def test_quadratic_term_equals_that_of_an_explicit_covariance():
    query, keys, negatives = draw(images=4, keys=6, dim=5)
    centered = keys - keys.mean(1, keepdim=True)
    covariance = torch.einsum("bmc,bmd->bcd", centered, centered) / keys.shape[1]
    quadratic = torch.einsum("bc,bcd,bd->b", query, covariance, query)
    spread = joint_contrastive_loss(query, keys, negatives, 0.2, 1.3).spread
    torch.testing.assert_close(spread, 1.3 / (2 * 0.2**2) * quadratic)


def test_it_bounds_the_expected_infonce_of_gaussian_keys():
    query, keys, negatives = draw(images=3, keys=4, dim=4, negatives=6)
    centered = keys - keys.mean(1, keepdim=True)
    g = torch.Generator().manual_seed(1)
    mixing = torch.randn(4000, keys.shape[1], generator=g, dtype=torch.double) / math.sqrt(keys.shape[1])
    samples = keys.mean(1) + torch.einsum("sm,bmd->sbd", mixing, centered)  # covariance as the keys'
    expected = torch.stack([info_nce(query.detach(), sample, negatives, 0.5) for sample in samples]).mean(0)
    bound = joint_contrastive_loss(query.detach(), keys, negatives, 0.5, strength=1.0).losses
    assert (bound + 5e-3 >= expected).all()
    assert (bound - expected < 0.2).all()


def test_gradient_flows_through_the_query_alone():
    query, keys, negatives = draw()
    keys.requires_grad_()
    negatives.requires_grad_()
    joint_contrastive_loss(query, keys, negatives).losses.mean().backward()
    assert query.grad.abs().sum() > 0
    assert keys.grad is None
    assert negatives.grad is None


def test_keys_belong_to_their_image():
    """A mix of crop-major and image-major order would leave no error, only a worse loss."""
    query, keys, negatives = draw()
    order = torch.tensor([3, 0, 4, 1, 2])
    losses = joint_contrastive_loss(query, keys, negatives).losses
    torch.testing.assert_close(joint_contrastive_loss(query[order], keys[order], negatives).losses, losses[order])
    mixed = keys.transpose(0, 1).reshape(keys.shape)
    assert (joint_contrastive_loss(query, mixed, negatives).losses.mean() > losses.mean()).item()


def test_order_of_the_keys_and_of_the_negatives_does_not_matter():
    query, keys, negatives = draw()
    losses = joint_contrastive_loss(query, keys, negatives).losses
    torch.testing.assert_close(joint_contrastive_loss(query, keys.flip(1), negatives.flip(0)).losses, losses)


def test_the_mean_key_is_not_brought_to_unit_length_unless_asked():
    query, keys, negatives = draw()
    assert (mean_key(keys).norm(dim=1) < 1.0).all()
    torch.testing.assert_close(mean_key(keys, renormalise=True).norm(dim=1), torch.ones(5, dtype=torch.double))
    plain, unit = (joint_contrastive_loss(query, keys, negatives, 0.2, 0.0, flag).positive for flag in (False, True))
    torch.testing.assert_close(plain, unit * keys.mean(1).norm(dim=1))


def test_under_autocast_all_is_float32():
    """In bfloat16 the quadratic term, times 100 at a temperature of 0.07, is off by more than the loss."""
    query, keys, negatives = (rows.detach().float() for rows in draw(dim=64))
    full = joint_contrastive_loss(query, keys, negatives, 0.07, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = joint_contrastive_loss(query, keys, negatives, 0.07, 2.0)
        half = joint_contrastive_loss(query.bfloat16(), keys.bfloat16(), negatives.bfloat16(), 0.07, 2.0)
    assert cast.losses.dtype == half.losses.dtype == torch.float32
    assert torch.equal(cast.losses, full.losses)
    assert half.losses.isfinite().all()


def test_it_stays_finite_at_full_strength_and_the_published_temperature():
    query, keys, negatives = (rows.detach().float() for rows in draw())
    query.requires_grad_()
    losses = joint_contrastive_loss(query, -keys * torch.tensor([1.0, -1.0, 1.0])[None, :, None], negatives, 0.07, 2.0)
    losses.losses.mean().backward()
    assert losses.spread.max() > 50  # exp of it would be too large for half precision
    assert query.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperature": 0.0}, "`temperature` must be greater than 0, got 0.0"),
        ({"strength": -1.0}, "`strength` must not be negative, got -1.0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        joint_contrastive_loss(*draw(), **arguments)


# ---- queue -----------------------------------------------------------------------------------------------------------


def numbered(*values):
    return torch.tensor(values, dtype=torch.float)[:, None].expand(-1, 2)


def test_first_in_first_out_with_a_wrap_around():
    """Length 5 and batches of 2: the third batch is split between the end and the start."""
    queue, pointers = KeyQueue(5, 2), []
    for first in (0, 2, 4, 6):
        queue.update(numbered(first, first + 1))
        pointers.append(int(queue.pointer))
    assert pointers == [2, 4, 1, 3]
    assert queue.keys[:, 0].tolist() == [5.0, 6.0, 7.0, 3.0, 4.0]


def test_of_more_keys_than_fit_the_last_ones_stay():
    queue, slow = KeyQueue(3, 2), KeyQueue(3, 2)
    queue.update(numbered(9))
    slow.update(numbered(9))
    queue.update(numbered(*range(8)))
    for value in range(8):
        slow.update(numbered(value))
    assert torch.equal(queue.keys, slow.keys)
    assert queue.pointer == slow.pointer


def test_it_starts_with_the_same_random_unit_vectors_everywhere():
    before = torch.get_rng_state()
    queue = KeyQueue(50, 8)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert torch.equal(queue.keys, KeyQueue(50, 8).keys)


def test_rows_and_place_are_in_the_state():
    queue, other = KeyQueue(5, 2), KeyQueue(5, 2)
    queue.update(numbered(1, 2, 3))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.update(numbered(4, 5, 6))
    assert torch.equal(queue.keys, other.keys)
    assert queue.pointer == other.pointer == 1


def test_half_precision_keys_are_kept_in_full():
    queue = KeyQueue(4, 2)
    queue.update(torch.ones(2, 2, dtype=torch.bfloat16))
    assert queue.keys.dtype == torch.float32


def test_a_queue_without_room_is_refused():
    with pytest.raises(ValueError, match="`length` counts keys and must be at least 1, got 0"):
        KeyQueue(0, 2)
