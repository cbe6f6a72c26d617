"""What MONAI Label's own app does to a bundle, step by step, without a server."""

from __future__ import annotations

import json

import pytest
import torch
from monai.bundle import ConfigParser

from medssl_monai.files import save_tensors
from medssl_monai.networks import weights_metadata


@pytest.mark.parametrize(
    ("name", "more", "classes"),
    [
        ("boostmis", {}, ["low", "high"]),
        ("tear", {"convert_channels": True}, ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]),  # the toys are grey
    ],
)
def test_overrides_of_bundle_train_task(own_bundle, tiny, toy_datalist, tmp_path, name, more, classes):
    bundle = own_bundle(name)
    content = json.loads(toy_datalist.read_text())
    images = {
        section: [{"image": str(toy_datalist.parent / i["image"]), "label": i["label"]} for i in content[section]]
        for section in ("training", "validation")
    }
    for item in images["training"][8:]:
        del item["label"]  # not annotated yet

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "train.yaml")  # one file only
    parser.read_meta(bundle / "configs" / "metadata.json")
    handlers = parser.get("train#handlers", [])
    assert isinstance(handlers, list)
    values = {key.replace("::", "#"): value for key, value in tiny().items() if key not in ("datalist", "labels")}
    parser.update(
        {
            **values,
            **more,
            "labels": None,
            "bundle_root": str(bundle),
            "train#trainer#max_epochs": 1,
            "train#dataset#data": images["training"],
            "device": torch.device("cpu"),
            "train#handlers": handlers,
            "validate#dataset#data": images["validation"],
        }
    )
    parser.parse()
    for expression in range(len(parser["initialize"])):
        parser.get_parsed_content(f"initialize::{expression}")
    parser.get_parsed_content("train::trainer").run()
    pool = parser.get_parsed_content("pool")
    assert len(pool) == 40 and int(pool.first.mask.sum()) == 8
    assert parser.get_parsed_content("method").steps_done == 3
    assert weights_metadata(tmp_path / "run" / "models" / "model.pt")["classes"] == classes  # of the metadata


@pytest.mark.parametrize("name", ["boostmis", "tear", "s2mts2", "ssal", "multimix"])
def test_inference_is_read_from_one_file_alone(own_bundle, name):
    """As BundleInferTask does: no metadata, the folder as `bundle_root`, and parts one by one."""
    bundle = own_bundle(name)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.config.update({"bundle_root": str(bundle)})
    network = parser.get_parsed_content("network_def", instantiate=True)
    save_tensors(bundle / "models" / "model.pt", network.state_dict())
    size = parser.get_parsed_content("image_size")
    image = torch.rand(1, parser.get_parsed_content("channels"), *size)
    logits = parser.get_parsed_content("inferer", instantiate=True)(image, network.eval())
    preprocessing, postprocessing = (parser.get_parsed_content(f"{part}processing") for part in ("pre", "post"))
    assert preprocessing.transforms[0].__class__.__name__ == "LoadImaged"
    if name not in ("ssal", "multimix"):
        assert torch.isfinite(postprocessing({"pred": logits[0]})["pred"]).all()


def test_weights_that_monai_label_loads_reach_student_and_teacher(own_bundle, tiny, tmp_path):
    """It inserts a CheckpointLoader into the handlers before parsing; weights arrive when the run has started."""
    bundle = own_bundle("boostmis")
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "train.yaml")
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser.update({key.replace("::", "#"): value for key, value in tiny().items()})
    parser.update({"bundle_root": str(bundle), "max_epochs": 0})
    parser.parse()
    state = {
        key: torch.full_like(value, 0.25) for key, value in parser.get_parsed_content("network").state_dict().items()
    }
    torch.save(state, tmp_path / "model.pt")

    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "train.yaml")
    parser.read_meta(bundle / "configs" / "metadata.json")
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(tmp_path / "model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    parser.update({key.replace("::", "#"): value for key, value in tiny().items()})
    parser.update({"bundle_root": str(bundle), "train#handlers": [loader, *parser["train::handlers"]]})
    parser.update({"rounds": 1, "epochs_per_round": 1, "epoch_length": 1})
    parser.parse()
    method, seen = parser.get_parsed_content("method"), {}

    def spy(module, arguments):
        seen["student"] = float(method.network.head.weight.detach().mean())
        seen["teacher"] = float(method.teacher.network.head.weight.mean())

    method.register_forward_pre_hook(spy)
    parser.get_parsed_content("train::trainer").run()
    assert seen == {"student": 0.25, "teacher": 0.25}
