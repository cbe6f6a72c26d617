"""The pages of docs/ are run, command by command, and must print what they say."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from medssl_monai.bundle.overrides import check_command_line
from medssl_monai.cli import main
from medssl_monai.cli.program import build_parser

PAGE = ROOT / "docs" / "own-data.md"
BLOCK = re.compile(r"^## (?P<title>.+?)$|^```console\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def sections(page):
    """Title of each section, with its console blocks as (command, printed lines)."""
    found = {}
    for match in BLOCK.finditer(page):
        if match["title"]:
            steps = found.setdefault(match["title"], [])
            continue
        for line in match["text"].splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif line == ">" or line.startswith("> "):
                steps[-1] = (f"{steps[-1][0]}\n{line[2:]}", steps[-1][1])
            else:
                steps[-1][1].append(line)
    return {title: steps for title, steps in found.items() if steps}


def plain(line):
    """A line without what differs from run to run: pseudonyms, and figures of a training."""
    line = re.sub(r"\b[a-z][0-9a-f]{12}\b", "ID", line)
    line = re.sub(r"^(\d+) +\d+( +\d+)? +(?=\d\.\d{3})", r"\1 LABELS ", line)  # a query asks for K to 2 K
    line = re.sub(r"\b\d+\.\d+\b", "0.0", line)
    return re.sub(r"\s+", " ", line).strip()


def missing(expected, printed):
    """The first expected line that does not follow, in order; ``...`` stands for any lines."""
    lines = iter([plain(line) for line in printed])
    skipping = False
    for line in expected:
        if line == "...":
            skipping = True
            continue
        following = next(lines, None)
        while skipping and following is not None and following != plain(line):
            following = next(lines, None)
        if following != plain(line):
            return line
        skipping = False
    return None


SECTIONS = sections(PAGE.read_text(encoding="utf-8"))
SHORT = {"A folder of DICOM files", "Masks that do not fit"}  # the others take a minute or more


def words(command):
    """The words of a command, or none if it is several."""
    parts = shlex.split(command.replace("\\\n", " "))
    return [] if any(part[-1:] in (";", "|") for part in parts) else parts


@pytest.mark.parametrize("title", SECTIONS)
def test_flags_and_keys_of_the_page_exist(title, tmp_path, monkeypatch):
    """Those of the sections as well that ``--all`` alone runs."""
    monkeypatch.chdir(tmp_path)
    checked = 0
    for parts in map(words, [command for command, _ in SECTIONS[title]]):
        if parts[:4] == ["python", "-m", "monai.bundle", "run"]:
            check_command_line(["bundle/__main__.py", *parts[3:]])
        elif parts[:1] == ["medssl"]:
            known, rest = build_parser().parse_known_args(parts[1:])
            assert not rest or known.command == "loop"
            if known.command == "bundle":
                main(parts[1:])
        else:
            continue
        checked += 1
    assert checked > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "title", [title if title in SHORT else pytest.param(title, marks=pytest.mark.every) for title in SECTIONS]
)
def test_what_the_page_says_is_what_happens(title, tmp_path, request):
    steps = SECTIONS[title]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "2",
        "GOMP_SPINCOUNT": "20000",  # waiting threads must not take the core of another test run
    }
    if any("$MEDSSL_DATA" in command for command, _ in steps):
        environment["MEDSSL_DATA"] = str(request.getfixturevalue("real_data"))
    for command, expected in steps:
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}  # as a terminal shows them
        run = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, text=True, timeout=1200, **out)
        printed = run.stdout.splitlines()
        fails = any(line.startswith(("medssl ", "leak: ")) for line in expected)
        assert (run.returncode != 0) == fails, f"$ {command}\n" + "\n".join(printed)
        lost = missing(expected, printed)
        assert lost is None, f"$ {command}\ndid not print {lost!r}, but\n" + "\n".join(printed)


def test_the_comparison_can_fail():
    assert missing(["a", "...", "c 0.1"], ["a", "b", "c 0.2"]) is None
    assert missing(["a", "c"], ["a", "b", "c"]) == "c"
    assert missing(["...", "d"], ["a", "b"]) == "d"
    assert missing(["1 image"], ["2 images"]) == "1 image"
