"""The lists of versions: as the script writes them, and what is installed is what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pin_versions
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT

LISTS = [*pin_versions.LISTS, "constraints-cpu.txt"]


def requirements(name):
    return [Requirement(line) for line in pin_versions.read(ROOT / name)]


def pinned(name):
    return {requirement.name: requirement for requirement in requirements(name)}


@pytest.mark.parametrize("name", LISTS)
def test_every_version_is_exact_and_has_the_hashes_of_its_files(name):
    lines = pin_versions.read(ROOT / name)
    assert lines
    for line, hashes in lines.items():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*( ; .+)?", line), line
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in hashes), line


def test_torch_is_of_one_version_everywhere():
    versions = {line.removesuffix("+cpu") for name in LISTS for line in pin_versions.read(ROOT / name)}
    assert {line for line in versions if line.startswith("torch==")} == {"torch==2.13.0"}
    assert len({line for line in versions if line.startswith("torchvision==")}) == 1


@pytest.mark.parametrize("name", pin_versions.LISTS)
def test_a_list_is_as_the_script_writes_it(name, tmp_path, monkeypatch):
    found = pin_versions.read(ROOT / name)
    monkeypatch.setattr(pin_versions, "hashes_on_pypi", lambda wanted: {line: found[line] for line in reversed(wanted)})
    path = tmp_path / name
    path.write_bytes((ROOT / name).read_bytes())
    pin_versions.write(path)
    assert path.read_bytes() == (ROOT / name).read_bytes()


def test_nothing_is_built_to_learn_the_hashes(monkeypatch):
    def run(command, cwd, check):
        assert command[:3] == ["uv", "pip", "compile"] and "--generate-hashes" in command and check
        config = (cwd / "uv.toml").read_text()
        for name, version in (("one", "1.0"), ("two", "2")):
            assert f'name = "{name}"\nversion = "{version}"\nrequires-dist = []' in config
        lines = (cwd / "wanted.txt").read_text().splitlines()
        (cwd / "pinned.txt").write_text("".join(f"{line} \\\n    --hash=sha256:aa\n" for line in lines))

    monkeypatch.setattr(subprocess, "run", run)
    wanted = ["one==1.0", "two==2 ; sys_platform == 'linux'"]
    assert pin_versions.hashes_on_pypi(wanted) == {line: {"sha256:aa"} for line in wanted}


@pytest.mark.parametrize(
    ("folder", "name"), [(Path(sys.prefix), "constraints.txt"), (ROOT / ".venv-label", "constraints-label.txt")]
)
def test_what_is_installed_is_what_the_list_says(folder, name):
    if not (folder / "installed").exists():
        pytest.skip(f"no environment that scripts/environment.sh built of {name}")
    packages = [str(path) for path in folder.glob("lib/python3.*/site-packages")]
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions(path=packages)}
    listed = pinned(name)
    for wanted in listed.values():
        if wanted.marker is None or wanted.marker.evaluate():
            assert wanted.specifier.contains(installed.get(wanted.name, "0"), prereleases=True), str(wanted)
    assert {*installed} - {*listed} - {*pinned("constraints-cuda.txt")} <= {
        "pip",
        "setuptools",
        "wheel",
        "medssl-monai",
    }


@pytest.mark.slow
def test_the_list_has_all_that_its_versions_need():
    if not (Path(sys.prefix) / "installed").exists():
        pytest.skip("no environment that scripts/environment.sh built")
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_script_adds_an_index_to_another():
    for path in (
        *(ROOT / "scripts").iterdir(),
        ROOT / ".ci" / "run",
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ):
        assert not path.is_file() or "extra-index" not in path.read_text(encoding="utf-8"), path
