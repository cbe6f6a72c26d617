"""What the page on MONAI Label says of this package; the server is driven by scripts/test_monailabel.sh."""

from __future__ import annotations

import re
import shlex

import pytest
from support import ROOT

from medssl_monai.bundle.shipped import copy_bundle
from medssl_monai.cli import main

PAGE = (ROOT / "docs" / "monai-label.md").read_text(encoding="utf-8")
COMMANDS = [line.removeprefix("$ medssl ") for line in PAGE.splitlines() if line.startswith("$ medssl ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("boostmis", "ssal"):
        copy_bundle(name, tmp_path / f"my_{name}")
    assert main(shlex.split(command)) == 0
    assert (tmp_path / "app" / "main.py").exists()


def test_settings_of_the_page_are_those_of_the_app():
    named = set(re.findall(r"^\| `([a-z]+) [^`|]*` \|", PAGE, re.MULTILINE))
    source = (ROOT / "medssl_monai" / "monai_label" / "app.py").read_text(encoding="utf-8")
    read = set(re.findall(r'conf\.get\("(\w+)"|\("(\w+)", "[\d.]+"\)', source))
    assert named | {"public", "label_mb"} == {one or other for one, other in read}


def test_versions_of_the_page_are_those_of_the_environment():
    pins = (ROOT / "constraints-label.txt").read_text(encoding="utf-8")
    assert f"monailabel=={re.search(r'MONAI Label (0[.0-9]+[0-9])', PAGE)[1]}" in pins
    assert (
        "make_label_environment" in PAGE and "make_label_environment" in (ROOT / "scripts/environment.sh").read_text()
    )
