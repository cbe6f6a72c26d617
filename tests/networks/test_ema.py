"""The averaged copy of a network."""

import copy

import pytest
import torch
from torch import nn

from medssl_monai.networks import EMATeacher, MomentumEncoder

LATE = 10**9  # steps after which the decay is what was asked for


def student(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_it_follows_the_closed_form():
    """Towards a student that stands still, the distance shrinks by the decay at every step."""
    start, goal = student(0), student(1)
    teacher = EMATeacher(start, decay=0.9)
    for step in range(5):
        teacher.update(goal, LATE + step)
    expected = goal[0].weight + 0.9**5 * (start[0].weight - goal[0].weight)
    torch.testing.assert_close(teacher.network[0].weight, expected, check_stride=False)


@pytest.mark.parametrize(("step", "kept"), [(0, 0.1), (8, 0.5), (10**6, 0.9)])
def test_a_short_run_is_not_dominated_by_its_random_start(step, kept):
    start, goal = student(0), student(1)
    teacher = EMATeacher(start, decay=0.9)
    teacher.update(goal, step)
    torch.testing.assert_close(teacher.network[0].bias, torch.lerp(goal[0].bias, start[0].bias, kept))


def test_decay_zero_copies_the_student():
    teacher = EMATeacher(student(0), decay=0.0)
    teacher.update(student(1), step=0)
    torch.testing.assert_close(teacher.network.state_dict(), student(1).state_dict())


def test_batch_norm_statistics_are_averaged_with_the_weights():
    """Copied, they are those of the last few batches, and do not belong to weights of hundreds of steps."""
    net = student()
    teacher = EMATeacher(net, decay=0.75)
    net(torch.randn(16, 3) + 5)
    teacher.update(net, LATE)
    torch.testing.assert_close(teacher.network[1].running_mean, 0.25 * net[1].running_mean)
    torch.testing.assert_close(teacher.network[1].running_var, 0.75 + 0.25 * net[1].running_var)
    assert int(teacher.network[1].num_batches_tracked) == 1


def test_a_momentum_encoder_has_batch_norm_statistics_of_its_own():
    """Parameters follow the student; statistics and counter are moved by passes in training mode alone."""
    net = student()
    teacher = MomentumEncoder(net, decay=0.75)
    images = torch.randn(16, 3) + 5
    expected = copy.deepcopy(net)
    net(images)
    with torch.no_grad():
        net[0].weight.zero_()
        kept = teacher.network[0].weight.clone()
    teacher.update(net, step=0)
    torch.testing.assert_close(teacher.network[0].weight, 0.75 * kept)
    assert torch.equal(teacher.network[1].running_mean, torch.zeros(4))
    assert int(teacher.network[1].num_batches_tracked) == 0
    teacher.reset(expected)
    teacher.train()(images)
    expected(images)
    torch.testing.assert_close(teacher.network.state_dict(), expected.state_dict())


def test_on_request_it_follows_the_mode_of_what_is_around_it():
    around = nn.ModuleList([EMATeacher(student(), always_eval=False)])
    assert {module.training for module in around.train()[0].modules()} == {True}
    assert {module.training for module in around.eval()[0].modules()} == {False}


def test_it_stays_in_evaluation_mode():
    teacher = nn.ModuleList([EMATeacher(student())])
    teacher.train()
    assert not any(module.training for module in teacher[0].modules())


def test_its_own_forward_moves_nothing():
    teacher = EMATeacher(student())
    before = copy.deepcopy(teacher.state_dict())
    teacher(torch.randn(8, 3) + 5)
    torch.testing.assert_close(before, teacher.state_dict(), rtol=0, atol=0)


def test_it_is_no_view_of_the_student_and_takes_no_gradient():
    net = student()
    teacher = EMATeacher(net)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        net[0].weight.zero_()
    assert teacher.network[0].weight.any()


def test_update_keeps_the_tensors_so_that_a_reference_to_the_network_stays_valid():
    teacher = EMATeacher(student(0))
    before = [p.data_ptr() for p in teacher.network.parameters()]
    teacher.update(student(1), step=3)
    assert before == [p.data_ptr() for p in teacher.network.parameters()]
    assert not any(p.requires_grad for p in teacher.parameters())


def test_reset_forgets_the_average():
    teacher = EMATeacher(student(0))
    teacher.reset(student(1))
    torch.testing.assert_close(teacher.network.state_dict(), student(1).state_dict())


def test_a_student_without_buffers():
    teacher = EMATeacher(nn.Linear(2, 2), decay=0.5)
    teacher.update(nn.Linear(2, 2), step=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 99])
def test_decay_is_a_share_of_the_old_value(decay):
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\), got {decay}"):
        EMATeacher(student(), decay)
