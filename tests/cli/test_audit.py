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


def test_audit_of_a_datalist_whose_paths_start_elsewhere(toy_datalist, tmp_path, capsys):
    """As in a bundle, which has `dataset_dir`."""
    moved = tmp_path / "datalist.json"
    moved.write_text(toy_datalist.read_text())
    main(["audit", str(moved), "--allow_leaks"])
    assert "cannot be read" in capsys.readouterr().out
    main(["audit", str(moved), "--dataset_dir", str(toy_datalist.parent), "--allow_leaks"])
    assert "cannot be read" not in capsys.readouterr().out
    assert main(["audit", str(toy_datalist.parent), "--dataset_dir", str(tmp_path)]) == 1
    assert "is for the paths of a datalist.json" in capsys.readouterr().err
