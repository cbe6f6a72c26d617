"""The command `medssl bundle`."""

from __future__ import annotations

from medssl_monai.cli import main


def test_bundle_is_copied_out_once(tmp_path, capsys):
    assert main(["bundle", "boostmis", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "configs" / "train.yaml").exists()
    assert not (tmp_path / "mine" / "models").exists()
    assert main(["bundle", "boostmis", str(tmp_path / "mine")]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["bundle", "boostmiss", str(tmp_path / "other")]) == 1
    assert "there is no bundle 'boostmiss'" in capsys.readouterr().err
