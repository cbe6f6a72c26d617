"""What several test files use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
BUNDLES = ROOT / "bundles"


def leaves(item: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a nested state dict, by path."""
    if isinstance(item, dict):
        return {k: v for key, value in item.items() for k, v in leaves(value, f"{path}/{key}").items()}
    if isinstance(item, (list, tuple)):
        return {k: v for i, value in enumerate(item) for k, v in leaves(value, f"{path}/{i}").items()}
    return {path: item}


def assert_same_state(first: Any, second: Any) -> None:
    """Bit-equal state dicts."""
    a, b = leaves(first), leaves(second)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(torch.nan_to_num(value, -1.0), torch.nan_to_num(b[key], -1.0)), key
        else:
            assert value == b[key], key


def outputs_of(folder: Path) -> dict[str, bytes]:
    """Content of every file that equal runs must leave equal: figures, queries, labels."""
    names = ["rounds/*.json", "queries/*", "pool.json", "rounds.csv"]
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in folder.glob(name)}


def refused(run: Callable[..., Any], *args: Any, **overrides: Any) -> str:
    """What a run that fails says, at the root of it."""
    with pytest.raises((RuntimeError, ValueError)) as found:
        run(*args, **overrides)
    error: BaseException = found.value
    while error.__cause__:
        error = error.__cause__
    return str(error)


def torchrun(*arguments: str, cwd: Path | None = None, path: Sequence[Path] = ()) -> None:
    """Run a script, or a module after ``-m``, in two processes that import from `path` before the package."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-6000:]  # torchrun adds 2,000 characters of its own


def in_two_processes(code: str, folder: Path) -> list[Any]:
    """Run `code`, which can import tests, with gloo; what each process puts into `result`, as JSON gives it back.

    The code finds its ``rank``.
    """
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    script = folder / "script.py"
    script.write_text(
        "import json\nimport ignite.distributed as idist\n"
        f'with idist.Parallel(backend="gloo"):\n    rank = idist.get_rank()\n{body}'
        f"    json.dump(result, open(f'{folder}/rank{{rank}}.json', 'w'))\n"
    )
    torchrun(str(script), path=[ROOT / "tests"])
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Tags and text of an HTML page; tags must be closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]
