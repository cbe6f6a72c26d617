"""The command `medssl prepare`."""

from __future__ import annotations

from medssl_monai.cli import main


def test_prepare_says_what_it_found_and_where_the_bad_file_is(leaky, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["prepare", str(leaky), out, "--split", "0.5", "0.5", "0"]) == 0
    printed = capsys.readouterr()
    assert "training: 4 images, 2 groups, 4 labeled (2 a, 2 b in all)" in printed.out
    assert "bad.png: cannot be read as PNG" in printed.err
    assert main(["prepare", str(leaky), out, "--split_column", "split"]) == 1
    assert "puts 1 groups into several sections" in capsys.readouterr().err
    assert main(["prepare", str(leaky), out, "--label_column", "", "--split", "1", "0", "0"]) == 0
    assert "no label: name a table" in capsys.readouterr().out
    assert main(["prepare", str(leaky), out, "--positive", "b", "--labels", "2", "--split", "1", "0", "0"]) == 0
    assert "2 labeled (4 other, 4 b in all)" in capsys.readouterr().out
    assert main(["prepare", str(leaky), out, "--positive", "c"]) == 1
    assert "`positive` 'c' is none of the classes" in capsys.readouterr().err
