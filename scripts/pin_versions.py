"""Write the lists of versions anew, with the hashes of every file of each version on PyPI.

    pip install uv && python scripts/pin_versions.py

What is installed, and in which version, is written by hand: `name==version`, and `; marker` where it is not for every
machine. What a new version needs beside it, `uv pip compile pyproject.toml --extra test --universal` says.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = ("constraints.txt", "constraints-cuda.txt", "constraints-label.txt")  # constraints-cpu.txt is written by hand
PYTHON = "3.11.5"  # the oldest one that all versions allow


def read(path: Path) -> dict[str, set[str]]:
    """Return the requirements of a list, ``name==version`` and a marker if there is one, each with its hashes."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {re.split(r"\s+--hash", line)[0].strip(): set(re.findall(r"--hash=(\S+)", line)) for line in lines}


def hashes_on_pypi(requirements: list[str]) -> dict[str, set[str]]:
    """Return the same requirements as PyPI spells them, with the hashes of their files; builds and runs none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wanted.txt").write_text("\n".join(requirements))
        (folder / "uv.toml").write_text(  # says that none needs another: to know, uv would build those without a wheel
            "\n".join(
                f'[[dependency-metadata]]\nname = "{package}"\nversion = "{version}"\nrequires-dist = []'
                for package, version in (requirement.split(" ")[0].split("==") for requirement in requirements)
            )
        )
        command = "uv pip compile wanted.txt --config-file uv.toml --output-file pinned.txt --quiet --universal"
        options = f"--generate-hashes --no-annotate --no-header --no-python-downloads --python-version {PYTHON}"
        subprocess.run([*command.split(), *options.split()], cwd=folder, check=True)
        return read(folder / "pinned.txt")


def write(path: Path) -> None:
    """Write a list anew, sorted, below the comment that it begins with."""
    text = path.read_text(encoding="utf-8")
    comment = "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    entries = [
        " \\\n".join([requirement, *(f"    --hash={file}" for file in sorted(files))]) + "\n"
        for requirement, files in sorted(hashes_on_pypi(list(read(path))).items())
    ]
    path.write_text(comment + "".join(entries), encoding="utf-8")


if __name__ == "__main__":
    for name in LISTS:
        write(ROOT / name)
