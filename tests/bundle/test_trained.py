"""Weights that a configuration starts from."""

import pytest
import torch

from medssl_monai.bundle.trained import check_trained
from medssl_monai.files import save_tensors
from medssl_monai.networks.pretrained import describe


@pytest.mark.parametrize(
    "told",
    [
        {"spacing": ["$print(1)"]},
        {"classes": ["a", "@x"]},
        {"classes": ["a", "=1+1"]},
        {"mask_classes": ["a", "A"]},
        {"task": "multilabel", "classes": ["none"]},
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
