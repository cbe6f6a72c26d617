"""The weights of the last epoch, for training without labels."""

import torch
from ignite.engine import Engine
from torch import nn

from medssl_monai.handlers import LatestWeights
from medssl_monai.networks import weights_metadata


def test_keeps_the_weights_of_the_last_epoch_and_says_of_which(tmp_path):
    network, path = nn.Linear(2, 2), tmp_path / "models" / "pretrained.pt"

    def step(engine, batch):
        with torch.no_grad():
            network.weight += 1.0

    trainer = Engine(step)
    LatestWeights(path, network, {"seed": 3}).attach(trainer)
    trainer.run([0, 1], max_epochs=3)
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert {name: weights_metadata(path)[name] for name in ("seed", "epoch")} == {"seed": 3, "epoch": 3}
