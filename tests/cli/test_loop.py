"""The command `medssl loop`."""

from __future__ import annotations

import json

from medssl_monai.cli import main


def test_the_terminal_says_which_file_a_person_is_asked_about(own_bundle, tiny, tmp_path, capsys):
    settings = tiny("loop", labels=6)
    flags = [part for key, value in settings.items() if key not in ("output_dir", "ckpt_dir", "rounds")
             for part in (f"--{key}", str(value))]  # fmt: skip
    command = ["loop", str(own_bundle("boostmis")), str(tmp_path / "loop"), "--annotator", "person", *flags]
    assert main(command) == 0
    printed = capsys.readouterr().out
    asked = json.loads((tmp_path / "loop" / "round_00" / "queries" / "round_00.json").read_text())["items"]
    assert f"labels in {tmp_path / 'loop' / 'round_00' / 'queries' / 'round_00.csv'}" in printed
    for item in asked:
        assert f"{item['id']} is " in printed
