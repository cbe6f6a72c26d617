"""Nothing that a request, a study or a label says is evaluated, by MONAI or by anyone else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from torch import nn

from medssl_monai.files import save_tensors
from medssl_monai.monai_label import write_app
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.networks import describe

CODE = "__import__('os').mkdir('EXECUTED')"
TEXTS = [f"${CODE}", f"$@device and {CODE}", "@device", "%train", "@##device", f"\uff04{CODE}", f"_${CODE}"]
"""What MONAI evaluates, refers to or copies, and what looks like it."""


@pytest.fixture(autouse=True)
def executed(tmp_path, monkeypatch):
    """Fails where something was."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list(Path().iterdir())


@pytest.fixture
def server(serve, studies):
    """With labels of twelve studies, and further ones of hostile names."""
    folder, items = studies("boostmis", 12)
    for text in TEXTS:
        shutil.copy(folder / "training_0.png", folder / f"{text}.png")
    server = serve(["boostmis"], folder)
    for name, item in items.items():
        server.save(name, {"label": item["label"]})
    return server


def test_names_of_files(server, refused, caplog):
    assert server.train("boostmis", max_epochs=1)["unlabeled"] <= 1  # the one that only looks like it
    server.score("boostmis", force=True)
    assert f"'${CODE}'" not in caplog.text and f"${CODE}: its id begins with '$'" in caplog.text
    for text in TEXTS[:-1]:
        assert refused(server.infer, "boostmis", text)[0] == 422
        assert refused(server.save, text, {"label": "left"})[0] == 422
    assert server.infer("boostmis", TEXTS[-1])["params"]["label"] in ("left", "right")


@pytest.mark.parametrize("text", TEXTS)
def test_parameters(server, refused, text):
    requests = [
        (server.app.train, {"model": "boostmis", "max_epochs": 1}),
        (server.app.scoring, {"method": "boostmis"}),
    ]
    for call, request in requests:
        for name in ("device", "gpus", "max_epochs", "model", "method", "pretrained", "force", text):
            with pytest.raises((ValueError, KeyError)):
                call({**request, "force": True, name: text} if call == server.app.scoring else {**request, name: text})
    for name in ("device", "result_extension", "model", "label_tag", "logging", text):
        request = {"model": "boostmis", "image": "training_0", name: text}
        assert refused(server.app.infer, request)[0] in (400, 404, 422)
    assert refused(server.app.next_sample, {"strategy": text})[0] == 404
    assert server.app.next_sample({"strategy": "random", "client_id": "_" + text}) is not None


@pytest.mark.parametrize("text", TEXTS)
def test_infos_and_labels(server, refused, text):
    server.store.update_image_info("training_1", {"note": text, "PatientID": text, text: text})
    assert refused(server.save, "training_1", {"label": text})[0] == 400
    assert refused(server.save, "training_1", {"label": {text: True}})[0] == 400
    server.save("training_1", {"label": "left", "note": text, text: [text]}, user=text, label_info=[{"name": text}])
    server.score("boostmis", force=True)
    assert server.train("boostmis", max_epochs=1)["labeled"] > 0


def test_names_of_segments(serve, studies, refused):
    folder, items = studies("volumes", 1)
    ((name, item),) = items.items()
    server = serve(["volumes"], folder)
    for text in TEXTS:
        info = [{"name": text, "idx": 1}]
        assert refused(server.save, name, item["label"], label_info=info)[0] == 400
    server.save(name, item["label"], label_info=[{"name": "ball", "idx": 1, "note": TEXTS[0]}])


def test_items_reach_the_data_as_they_are(trained, tmp_path):
    """Even where nobody has refused them before."""
    folder = shutil.copytree(trained("boostmis"), tmp_path / "boostmis")
    served = ServedBundle(folder)
    served.overrides = {"epoch_length": 3, "cache_dir": None, "image_size": [16, 16]}
    items = [{"image": text, "id": text, "group": text, "source": text, "labeled": False} for text in TEXTS]
    run = served.run(items, items[:1], False, output_dir=str(tmp_path / "out"))
    for section, wanted in (("train", items), ("validate", items[:1])):
        data = run.parser.get_parsed_content(f"{section}::dataset::data")
        assert list(data) == wanted


def test_what_weights_say_of_themselves(trained, tmp_path):
    served = ServedBundle(shutil.copytree(trained("volumes"), tmp_path / "volumes"))
    served.files = [served.folder / "configs" / name for name in ("train.yaml", "train_3d.yaml")]
    save_tensors(served.weights, describe(nn.Linear(1, 1), {"spacing": [TEXTS[0], 1.0, 1.0]}))
    with pytest.raises(ValueError, match="a text that a configuration would evaluate"):
        served.run([], [], False)


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_names_of_bundles_and_of_their_classes(serve, studies, untrained, tmp_path, text):
    bundle = untrained("boostmis")
    folder, _ = studies("boostmis", 1)
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "left", "1": text}
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"a (text that a )?configuration would evaluate"):
        serve([bundle], folder)
    with pytest.raises(ValueError, match=r"the bundle .* begins with"):
        write_app(tmp_path / "other", [shutil.copytree(bundle, tmp_path / text)])
