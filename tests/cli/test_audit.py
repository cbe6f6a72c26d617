"""The command `medssl audit`."""

from __future__ import annotations

from medssl_monai.cli import main


def test_audit_fails_on_leaks_unless_they_are_allowed(leaky, tmp_path, capsys):
    folder = tmp_path / "out"
    main(["prepare", str(leaky), str(folder), "--split_column", "split", "--allow_leaks"])
    capsys.readouterr()
    assert main(["audit", str(folder / "datalist.json")]) == 1
    assert "leak: groups (patients, lesions) in both training and validation: 1" in capsys.readouterr().out
    assert main(["audit", str(folder / "datalist.json"), str(tmp_path / "page"), "--allow_leaks"]) == 0
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"audit.json", "audit.html"}
    assert main(["audit", str(leaky), str(tmp_path / "source")]) == 1  # as its publisher split it
    assert "leak: groups (patients, lesions) in both training and validation: 1" in capsys.readouterr().out
