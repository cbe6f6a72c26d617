"""Mean Teacher: the consistency term, its ramp-up, and what the teacher predicts with."""

import copy
import math

import pytest
import torch
from torch import nn

from medssl_monai.kinds import Findings
from medssl_monai.methods import MeanTeacher
from medssl_monai.networks import small_resnet
from medssl_monai.schedules import constant, sigmoid_rampup


def make_batch(same_views=False):
    g = torch.Generator().manual_seed(0)
    image, weak, strong = torch.rand(3, 4, 1, 16, 16, generator=g)
    return {
        "labeled": {"image": image, "label": torch.tensor([0, 1, 1, 0])},
        "unlabeled": {"weak": weak, "strong": weak if same_views else strong},
    }


def method(**kwargs):
    torch.manual_seed(0)
    return MeanTeacher(small_resnet(2, width=2), **kwargs)


def test_two_samples_by_hand():
    """Teacher (0.8, 0.2) and (0.5, 0.5), student (0.5, 0.5) twice: the mean of four squares is 2 * 0.09 / 4."""
    batch = {
        "labeled": {"image": torch.zeros(1, 2), "label": torch.tensor([0])},
        "unlabeled": {"weak": torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log(), "strong": torch.zeros(2, 2)},
    }
    output = MeanTeacher(nn.Identity(), weight=constant(3.0))(batch)
    assert output["consistency"].item() == pytest.approx(2 * 0.09 / 4)
    assert output["loss"].item() == pytest.approx(math.log(2) + 3.0 * 2 * 0.09 / 4)


def test_a_student_equal_to_its_teacher_is_consistent():
    assert method().eval()(make_batch(same_views=True))["consistency"].item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("step", "weight"), [(0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1.0), (500, 1.0)])
def test_consistency_ramps_up_with_the_optimizer_steps(step, weight):
    mean_teacher = method(weight=sigmoid_rampup(1.0, length=100))
    mean_teacher.steps_done = step
    output = mean_teacher(make_batch())
    torch.testing.assert_close(output["loss"], output["supervised"] + weight * output["consistency"])


def test_the_ramp_goes_on_after_a_resume():
    first, resumed = method(), method()
    first.step += 400
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert resumed.steps_done == 400


def test_teacher_predicts_with_averaged_running_statistics():
    mean_teacher, batch = method(), make_batch()
    for _ in range(3):
        mean_teacher.train()
        mean_teacher.after_step(batch, mean_teacher(batch))
    name = "backbone.bn1.running_mean"
    student, teacher = mean_teacher.network.state_dict(), mean_teacher.teacher.network.state_dict()
    assert teacher[name].any()
    assert not torch.equal(student[name], teacher[name])


def test_decay_outside_of_its_range_is_refused():
    with pytest.raises(ValueError, match=r"`decay` is the share of the old teacher.*got 1.0"):
        method(decay=1.0)


def test_findings_by_hand():
    """Teacher (0.8, 0.1), student (0.5, 0.5): (0.09 + 0.16) / 2; one of two labels is known, and predicted by 1/4."""
    batch = {
        "labeled": {"image": torch.tensor([[0.25, 0.9]]).logit(), "label": torch.tensor([[1, -1]])},
        "unlabeled": {"weak": torch.tensor([[0.8, 0.1]]).logit(), "strong": torch.zeros(1, 2)},
    }
    output = MeanTeacher(nn.Identity(), weight=constant(3.0), kind=Findings.of_size(3))(batch)
    assert output["consistency"].item() == pytest.approx(0.125)
    assert output["loss"].item() == pytest.approx(math.log(4) + 3.0 * 0.125)
