import numpy as np
import pytest
import torch

from medssl_monai.bundle.features import write_features
from medssl_monai.bundle.run import workflow
from medssl_monai.cli import main
from medssl_monai.data import load_datalist


def test_features_of_a_bundle_are_learned_from_with_a_head(run_bundle, own_bundle, toy_datalist, tiny, tmp_path):
    bundle = own_bundle("boostmis")
    run = run_bundle(rounds=1)
    weights = str(tmp_path / "run" / "models" / "model.pt")
    assert main(["features", str(bundle), str(toy_datalist), str(tmp_path / "f"), "--weights", weights,
                 "--device", "cpu", "--cache_dir", "null"]) == 0  # fmt: skip
    network, dataset = (run.parser.get_parsed_content(name) for name in ("network", "train::dataset"))
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        wanted = network.eval().embed(dataset.images[3:4].float() / 255)
    table = np.load(tmp_path / "f" / "training-features.npy")
    assert table.shape == (40, wanted.shape[1])
    assert np.allclose(table[3], wanted[0], atol=1e-5)

    assert main(["prepare", str(tmp_path / "f"), str(tmp_path / "p")]) == 0
    prepared, first = load_datalist(tmp_path / "p" / "datalist.json"), load_datalist(toy_datalist)
    assert prepared.classes == first.classes and prepared.synthetic
    keys = ("id", "group", "label")
    assert [[item[key] for key in keys] for item in prepared] == [[item[key] for key in keys] for item in first]

    settings = tiny("head", datalist=str(tmp_path / "p" / "datalist.json"))
    del settings["image_size"]
    files = [bundle / "configs" / name for name in ("train.yaml", "features.yaml")]
    flow = workflow(files, bundle_root=str(bundle), logging_file=False, **settings)
    flow.initialize()
    flow.run()
    head = torch.load(tmp_path / "head" / "models" / "model.pt", weights_only=True)
    assert {key: tuple(value.shape) for key, value in head.items()} == {
        "head.weight": (2, table.shape[1]),
        "head.bias": (2,),
    }
    assert (tmp_path / "head" / "report.html").exists()


def test_a_datalist_that_is_not_there(own_bundle, tmp_path):
    with pytest.raises(FileNotFoundError):
        write_features(own_bundle("boostmis"), tmp_path / "none.json", tmp_path / "f")
