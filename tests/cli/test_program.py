"""The program `medssl`, its help, and arguments that no command has."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT

from medssl_monai.cli.program import COMMANDS, main


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from medssl_monai.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    for command in COMMANDS:
        assert command.name in done.stdout
    assert "not a medical device" in " ".join(done.stdout.split())
    assert done.stdout.strip().endswith("False")


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "usage: medssl" in capsys.readouterr().out


def test_an_unknown_argument_of_another_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["phantom", "chest", "folder", "--sead", "1"])
    assert "unknown argument '--sead'" in capsys.readouterr().err
