"""The walk-throughs of CONTRIBUTING.md are done, each on a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^## (?P<title>.+?)$|^```(?P<kind>python|console)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"# (?P<file>\S+\.py)(?:, below: (?P<line>.+))?\n")
COPIED = ["bundles", "medssl_monai", "scripts", "tests", "pyproject.toml"]


def walk_throughs():
    """Return the blocks of each section that has some, as pairs of kind and text."""
    found = {}
    for match in BLOCK.finditer(PAGE):
        if match["title"]:
            steps = found.setdefault(match["title"], [])
        else:
            steps.append((match["kind"], match["text"]))
    return {title: steps for title, steps in found.items() if steps}


def write(tree, text):
    """Write a block where its first line says; return the file, if it is new."""
    target = TARGET.match(text)
    file, code = tree / target["file"], text[target.end() :]
    if target["line"] is None:
        assert not file.exists()
        file.write_text(code)
        return [file]
    before, line, after = file.read_text().partition(f"\n{target['line']}\n")
    assert line, f"{target['file']} has no line {target['line']!r}"
    file.write_text(before + line + code + after)
    return []


def commands(text):
    return [command.replace("\n> ", " ") for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]


@pytest.fixture
def tree(tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = {"ignore": shutil.ignore_patterns("__pycache__", "golden")} if (ROOT / name).is_dir() else {}
        copy(ROOT / name, tmp_path / name, **options)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("title", walk_throughs())
def test_a_walk_through_leads_to_its_end(title, tree):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tree),
        "XDG_CACHE_HOME": str(tree / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    for kind, text in walk_throughs()[title]:
        if kind == "python":
            todo = [f"ruff check {file} && ruff format --check {file}" for file in write(tree, text)]
        else:
            todo = commands(text)
        for command in todo:
            run = subprocess.run(
                ["bash", "-c", command], cwd=tree, env=environment, text=True, capture_output=True, timeout=1200
            )
            assert run.returncode == 0, f"$ {command}\n{run.stdout[-3000:]}{run.stderr[-3000:]}"


def test_each_idea_of_the_package_that_grows_has_a_walk_through():
    assert list(walk_throughs()) == ["A method", "A query strategy", "A kind of label", "A layout of data"]
