"""The command `medssl label-app`."""

from __future__ import annotations

import json

import pytest

from medssl_monai.cli import main


def test_label_app(own_bundle, tmp_path, capsys):
    app = tmp_path / "app"
    bundle = str(own_bundle("boostmis"))
    assert main(["label-app", "--output", str(app)]) == 0
    assert f"serves nothing yet: copy bundles to {app / 'model'}" in capsys.readouterr().out
    command = ["label-app", bundle, "--output", str(app), "--method_def", "@methods::fixmatch", "--image_size=[32, 32]"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{app}\nserves boostmis\nmonailabel start_server --app {app} --studies")
    settings = json.loads((app / "model" / "boostmis" / "configs" / "label.json").read_text())
    assert settings == {"overlays": [], "overrides": {"method_def": "@methods::fixmatch", "image_size": [32, 32]}}
    assert main(command) == 1
    assert "has a bundle 'boostmis' already" in capsys.readouterr().err
    assert main(["label-app", str(own_bundle("ssal")), "--overlay", "train_3d.yaml", "--output", str(app)]) == 0
    assert "serves boostmis, ssal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["boostmis", "--method_def", "@methods::x"], "`--method_def @methods::x`: the override"),
        (["boostmis", "--datalsit", "x.json"], "did you mean `--datalist`?"),
        (["boostmis", "--overlay", "train_4d.yaml"], "train_4d.yaml"),
        (["boostmis", "--rounds", "3"], "`--rounds` is for the app or the viewer to say"),
        (["boostmis/docs"], "is no bundle of this package: there is no"),
        (["nothing"], "is no bundle of this package: there is no"),
    ],
)
def test_label_app_says_what_is_wrong_and_writes_nothing(own_bundle, tmp_path, capsys, arguments, reason):
    folder = own_bundle("boostmis").parent
    assert main(["label-app", str(folder / arguments[0]), *arguments[1:], "--output", str(tmp_path / "app")]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "app").exists()
