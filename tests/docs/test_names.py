"""What pages, configurations and code call by its full name is there."""

from __future__ import annotations

import importlib
import re
from functools import cache

import pytest
from support import ROOT

NAME = re.compile(r"\bmedssl_monai(?:\.[A-Za-z_]\w*)+")
WALK_THROUGH = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
"""Blocks of CONTRIBUTING.md, which make what they name."""
FOLDERS = ("medssl_monai", "bundles", "benchmarks", "docs", "data", "scripts")
ELSEWHERE = ("fastapi", "monailabel", "starlette")
"""MONAI Label, which has an environment of its own."""
PAGES = [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*"))]
PAGES = sorted(path for path in PAGES if path.suffix in (".md", ".yaml", ".json", ".py") and path.is_file())


@cache
def is_there(name: str) -> bool:
    """Whether a name is a module of this tree, or can be read from one."""
    parts, path = name.split("."), ROOT
    modules = 0
    while modules < len(parts) and any((path / parts[modules]).with_suffix(end).exists() for end in ("", ".py")):
        path, modules = path / parts[modules], modules + 1
    try:
        found = importlib.import_module(".".join(parts[:modules]))
    except ModuleNotFoundError as error:
        return str(error.name).partition(".")[0] in ELSEWHERE
    for part in parts[modules:]:
        if not hasattr(found, part):
            return part in getattr(found, "__annotations__", {})
        found = getattr(found, part)
    return True


def missing(text: str) -> list[str]:
    return sorted({name for name in NAME.findall(text) if not is_there(name)})


def test_what_is_named_is_there():
    found = {}
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        text = WALK_THROUGH.sub("", text) if path.name == "CONTRIBUTING.md" else text
        if lost := missing(text):
            found[str(path.relative_to(ROOT))] = lost
    assert not found


@pytest.mark.parametrize("name", ["medssl_monai.task.Task", "medssl_monai.handlers.Oracle", "medssl_monai.nothing"])
def test_what_is_not_there_is_found(name):
    assert missing(f"see `{name}`.") == [name]
