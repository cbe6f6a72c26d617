"""An app for the MONAI Label server, as a folder."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from medssl_monai.monai_label import write_app
from medssl_monai.monai_label.served import ServedBundle
from medssl_monai.monai_label.write import MAIN


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_app_without_a_bundle(tmp_path):
    assert write_app(tmp_path / "app") == tmp_path / "app"
    assert files_below(tmp_path / "app") == {"main.py"}
    assert (tmp_path / "app" / "model").is_dir()
    assert write_app(tmp_path / "app") == tmp_path / "app"  # again, to the same effect


def test_main_imports_the_app_and_nothing_else():
    names = [node for node in ast.walk(ast.parse(MAIN)) if isinstance(node, ast.ImportFrom | ast.Import)]
    assert [(node.module, [alias.name for alias in node.names]) for node in names] == [
        ("medssl_monai.monai_label.app", ["LabelApp"])
    ]


def test_a_bundle_is_copied_without_its_runs(own_bundle, tmp_path):
    bundle = own_bundle("boostmis")
    for name in ("models/model.pt", "eval/report.html", "runs/1/x.json", "configs/__pycache__/y.pyc"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("weights")
    app = write_app(tmp_path / "app", [bundle])
    copied = files_below(app / "model" / "boostmis")
    left = ("eval", "runs", "configs/__pycache__")
    assert copied == {name for name in files_below(bundle) if not name.startswith(left)}
    assert "models/model.pt" in copied and "configs/label.json" not in copied


def test_what_it_was_trained_with_stands_beside_its_configuration(own_bundle, tmp_path):
    values = {"batch_size#labeled": 3, "method_def": "@methods::supervised", "spacing": [1.0, 1.0, 3.0]}
    app = write_app(tmp_path / "app", [own_bundle("ssal")], ["train_3d.yaml"], values)
    served = ServedBundle(app / "model" / "ssal")
    assert [path.name for path in served.files] == ["train.yaml", "train_3d.yaml"]
    assert served.overrides == {name.replace("#", "::"): value for name, value in values.items()}
    assert served.config["batch_size"]["labeled"] == 3
    assert served.config["phantom"]["kind"] == "spine_cord"


def test_another_bundle_joins_and_the_first_stays(own_bundle, tmp_path):
    write_app(tmp_path / "app", [own_bundle("boostmis")], overrides={"seed": 7})
    (tmp_path / "app" / "model" / "boostmis" / "models").mkdir()
    (tmp_path / "app" / "model" / "boostmis" / "models" / "model.pt").write_text("trained in the app")
    app = write_app(tmp_path / "app", [own_bundle("ssal"), str(own_bundle("tear"))])
    assert sorted(path.name for path in (app / "model").iterdir()) == ["boostmis", "ssal", "tear"]
    assert ServedBundle(app / "model" / "boostmis").overrides == {"seed": 7}
    assert ServedBundle(app / "model" / "ssal").overrides == {}
    assert (app / "model" / "boostmis" / "models" / "model.pt").read_text() == "trained in the app"


def test_a_bundle_that_is_there_already(own_bundle, tmp_path):
    bundle = own_bundle("boostmis")
    write_app(tmp_path / "app", [bundle])
    with pytest.raises(FileExistsError, match="has a bundle 'boostmis' already; remove that folder, or write another"):
        write_app(tmp_path / "app", [own_bundle("ssal"), bundle])
    assert not (tmp_path / "app" / "model" / "ssal").exists()  # all or nothing


def test_two_bundles_of_one_name(own_bundle, tmp_path):
    bundle = own_bundle("boostmis")
    with pytest.raises(FileExistsError, match="has a bundle 'boostmis' already"):
        write_app(tmp_path / "app", [bundle, bundle])
    assert not (tmp_path / "app").exists()


def test_a_folder_by_its_real_name(own_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(own_bundle("boostmis"))
    app = write_app(tmp_path / "app", ["."])
    assert [path.name for path in (app / "model").iterdir()] == ["boostmis"]


def test_an_app_does_not_go_into_what_it_copies(own_bundle):
    bundle = own_bundle("boostmis")
    with pytest.raises(ValueError, match="lies in the bundle 'boostmis', which would be copied into itself"):
        write_app(bundle / "app", [bundle])
    assert not (bundle / "app").exists()


@pytest.mark.parametrize("main", [None, "print('mine')"])
def test_a_folder_that_holds_something_else(tmp_path, main):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "thesis.txt").write_text("my only copy")
    if main:
        (tmp_path / "app" / "main.py").write_text(main)
    with pytest.raises(FileExistsError, match="is not empty, and no app of this package; name a new folder"):
        write_app(tmp_path / "app")
    assert not (tmp_path / "app" / "model").exists()


@pytest.mark.parametrize("lacks", ["train.yaml", "inference.json", "metadata.json", "train_3d.yaml"])
def test_a_folder_that_is_no_bundle(own_bundle, tmp_path, lacks):
    bundle = own_bundle("ssal")
    (bundle / "configs" / lacks).unlink()
    with pytest.raises(FileNotFoundError, match=f"is no bundle of this package: there is no .*{lacks}"):
        write_app(tmp_path / "app", [bundle], ["train_3d.yaml"])
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("methoddef", 1, r"the override `--methoddef` names nothing in the configuration; did you mean `--method_def`"),
        ("batch_size::labelled", 1, "did you mean `--batch_size::labeled`"),
        ("method_def", "@methods::x", r"`--method_def @methods::x`: .* names nothing in the configuration"),
        ("method_def", "@methods#mean_teachr", r"`--method_def @methods#mean_teachr`: .*--methods::mean_teacher`"),
        ("labels", 20, "`--labels` is for the app or the viewer to say; leave it out"),
        ("query#budget", 20, "`--query::budget` is for the app"),
    ],
)
def test_an_override_that_says_nothing(own_bundle, tmp_path, name, value, reason):
    with pytest.raises(ValueError, match=reason):
        write_app(tmp_path / "app", [own_bundle("boostmis")], overrides={"seed": 1, name: value})
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("more", [{"overlays": ["train_3d.yaml"]}, {"overrides": {"train_3d.yaml": 1}}])
def test_values_without_a_bundle(tmp_path, more):
    with pytest.raises(ValueError, match=r"no bundle is named that 'train_3d\.yaml' is for; name its folder"):
        write_app(tmp_path / "app", **more)


def test_paths_do_not_depend_on_where_the_server_is_started(own_bundle, toy_datalist, tmp_path, monkeypatch):
    monkeypatch.chdir(toy_datalist.parent)
    values = {"datalist": "datalist.json", "dataset_dir": None}
    app = write_app(tmp_path / "app", [own_bundle("boostmis")], overrides=values)
    written = json.loads((app / "model" / "boostmis" / "configs" / "label.json").read_text())["overrides"]
    assert written == {"datalist": str(toy_datalist.resolve()), "dataset_dir": None}
    assert Path(written["datalist"]).exists()


def test_a_bundle_that_is_not_trained_takes_the_classes_of_a_datalist(own_bundle, toy_datalist, tmp_path):
    app = write_app(tmp_path / "app", [own_bundle("boostmis")], overrides={"datalist": str(toy_datalist)})
    served = ServedBundle(app / "model" / "boostmis")
    assert served.classes == ["left", "right"]
    (own_bundle("boostmis") / "models").mkdir()
    (own_bundle("boostmis") / "models" / "model.pt").write_text("weights, of the classes low and high")
    app = write_app(tmp_path / "trained", [own_bundle("boostmis")], overrides={"datalist": str(toy_datalist)})
    assert ServedBundle(app / "model" / "boostmis").classes == ["low", "high"]
