import pickle

import numpy as np
import pytest
import torch

from medssl_monai.transforms import FeatureDropout, FeatureNoise, LoadFeaturesd


def generator():
    return torch.Generator().manual_seed(0)


def test_a_row_of_a_table_is_loaded(tmp_path):
    table = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.save(tmp_path / "a.npy", table)
    np.save(tmp_path / "b.npy", table + 100)
    load = LoadFeaturesd("image")
    for name, row in (("a", 2), ("b", 0), ("a", 1)):
        image = load({"image": str(tmp_path / f"{name}.npy"), "slice": row})["image"]
        assert image.dtype == torch.float32
        assert image.tolist() == [(table[row] + 100 * (name == "b")).tolist()]
    with pytest.raises(ValueError, match="row 3 is asked for, and the table of features has 3"):
        load({"image": str(tmp_path / "a.npy"), "slice": 3})
    assert pickle.loads(pickle.dumps(load))._table == ("", None)


def test_noise_is_in_proportion_to_each_feature():
    features = torch.randn(4000, 1, 3, generator=generator()) * torch.tensor([0.0, 1.0, 100.0])
    noise = FeatureNoise(0.3)(features, generator()) - features
    spread = noise.std(dim=0)[0] / torch.tensor([1.0, 1.0, 100.0])
    assert spread[0] == 0
    assert torch.allclose(spread[1:], torch.full((2,), 0.3 / 3**0.5), rtol=0.1)  # of U(0, 0.3): its root mean square


def test_dropout_puts_the_mean_in_place_of_up_to_its_share():
    features = torch.randn(500, 1, 200, generator=generator())
    dropped = FeatureDropout(0.5)(features, generator())
    gone = dropped != features
    assert torch.equal(dropped[gone], features.mean(dim=0, keepdim=True).expand_as(features)[gone])
    shares = gone.float().mean(dim=(1, 2))
    assert 0.2 < shares.mean() < 0.3 and shares.max() < 0.65 and shares.min() < 0.05
    with pytest.raises(ValueError, match="share"):
        FeatureDropout(1.5)


@pytest.mark.parametrize("view", [FeatureNoise(0.2), FeatureDropout(0.5)])
def test_views_depend_on_their_generator_alone(view):
    features = torch.randn(5, 1, 7, generator=generator())
    before = features.clone()
    assert torch.equal(view(features, generator()), view(features, generator()))
    assert torch.equal(features, before)
    assert view(features[:1], generator()).shape == (1, 1, 7)
