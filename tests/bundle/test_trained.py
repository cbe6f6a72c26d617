"""Weights that a configuration starts from."""

import pytest
import torch

from medssl_monai.bundle.trained import check_trained
from medssl_monai.bundle.weights import described_kind, kind_of_weights
from medssl_monai.files import save_tensors
from medssl_monai.kinds import Classes, Findings, Masks
from medssl_monai.networks.pretrained import describe, weights_metadata


@pytest.mark.parametrize(
    "told",
    [
        {"spacing": ["$print(1)"]},
        {"classes": ["a", "@x"]},
        {"classes": ["a", "=1+1"]},
        {"mask_classes": ["a", "A"]},
    ],
)
def test_what_weights_say_of_themselves_is_checked(tmp_path, told):
    save_tensors(tmp_path / "model.pt", describe(torch.nn.Linear(1, 1), told))
    with pytest.raises(ValueError, match=r"model.pt: .*(configuration|rename|its own name)"):
        check_trained(tmp_path / "model.pt", ["a"], None)


def test_weights_for_other_masks_are_refused(tmp_path):
    network = torch.nn.Linear(1, 1)
    save_tensors(tmp_path / "model.pt", describe(network, {"classes": ["a"], "mask_classes": ["nothing", "spot"]}))
    check_trained(tmp_path / "model.pt", ["a"], None, ["nothing", "spot"])
    check_trained(tmp_path / "model.pt", ["a"], None)  # what was not learned is not measured
    with pytest.raises(ValueError, match=r"classes \['nothing', 'spot'\], the datalist has \['x', 'y'\]"):
        check_trained(tmp_path / "model.pt", ["a"], None, ["x", "y"])


def test_weights_tell_the_kind_of_each_part_of_the_labels(tmp_path):
    path, network = tmp_path / "model.pt", torch.nn.Linear(1, 1)
    assert kind_of_weights(path, ["a", "b"]) == Classes(("a", "b"))  # nothing is trained yet
    told = {"kind": "findings", "classes": ["mass"], "mask_classes": ["nothing", "spot"]}
    save_tensors(path, describe(network, told))
    assert kind_of_weights(path, ["a", "b"]) == Findings(("mass",))
    assert described_kind(weights_metadata(path), part="mask") == Masks(("nothing", "spot"))
    save_tensors(path, describe(network, {"kind": "findings", "classes": ["none"]}))
    with pytest.raises(ValueError, match=r"model.pt: the finding 'none' would mean that nothing is there"):
        kind_of_weights(path)
