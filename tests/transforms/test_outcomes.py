"""From logits to probabilities, whatever the labels are."""

import pytest
import torch
from monai.data import MetaTensor

from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.transforms import Outcomesd


@pytest.mark.parametrize("kind", [Classes(("a", "b", "c")), Findings(("a", "b", "c"))])
def test_of_a_whole_image_they_are_the_outcomes_of_the_kind(kind):
    logits = torch.tensor([1.0, -2.0, 0.5])
    found = Outcomesd("pred", kind)({"pred": logits, "other": 1})
    assert torch.equal(found["pred"], kind.outcomes(logits.unsqueeze(0))[0]) and found["other"] == 1


def test_of_voxels_the_states_come_first_and_the_history_stays():
    logits = MetaTensor(torch.rand(3, 4, 5), meta={"filename": "x"}, applied_operations=[{"class": "Flip"}])
    found = Outcomesd("pred", Masks())({"pred": logits})["pred"]
    torch.testing.assert_close(found.as_tensor(), logits.as_tensor().softmax(dim=0))
    assert found.meta["filename"] == "x" and found.applied_operations == logits.applied_operations


def test_a_key_that_is_missing_is_refused_or_passed_over():
    with pytest.raises(KeyError):
        Outcomesd("pred", Classes())({})
    assert Outcomesd("pred", Classes(), allow_missing_keys=True)({}) == {}
