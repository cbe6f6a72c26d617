"""Which room of the package may import which, and how long its files and functions may be."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from support import ROOT

PACKAGE = ROOT / "medssl_monai"
FLOORS = {
    "": 0,  # the files that are in no room
    **dict.fromkeys(("losses", "metrics", "networks", "readers", "transforms"), 1),
    "kinds": 2,
    "data": 3,
    "pool": 4,
    **dict.fromkeys(("audit", "methods", "phantoms", "prepare", "query"), 5),
    "engines": 6,
    **dict.fromkeys(("asking", "report"), 7),
    **dict.fromkeys(("bundle", "handlers"), 8),
    **dict.fromkeys(("benchmark", "monai_label"), 9),
    "cli": 10,
    "__main__": 11,
}
"""The floor of every room; it imports rooms of lower floors, and `LEAST` says where it may import less."""
LEAST = {"kinds": {"", "losses", "metrics"}}
FORBIDDEN = {"kinds": ("ignite", "monai.data", "torch.utils.data")}
"""What a room must not import from elsewhere: a label needs no engine and no loader."""
LINES, FUNCTION = 400, 80
ONE_IDEA = "One idea:"
"""Begins the reason, in the first line of its docstring, for which a file may be longer."""


class Import(NamedTuple):
    """One import: from which module and line, what module, and which name of it."""

    importer: str
    line: int
    module: str
    name: str


def modules_of(package: Path) -> dict[str, Path]:
    """Paths of all modules by name; that of a package is its own."""
    paths = sorted(package.rglob("*.py"))
    parts = {path: path.relative_to(package.parent).with_suffix("").parts for path in paths}
    return {".".join(own[:-1] if own[-1] == "__init__" else own): path for path, own in parts.items()}


@functools.cache
def imports_of(package: Path) -> list[Import]:
    """Every import, in functions and under TYPE_CHECKING as well; a submodule is a module, however it is imported."""
    modules, found = modules_of(package), []
    for importer, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [Import(importer, node.lineno, alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module, f"{path}:{node.lineno}: imports are absolute here"
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    name = (below, "") if below in modules else (node.module, alias.name)
                    found.append(Import(importer, node.lineno, *name))
    return found


def room_of(module: str, package: Path) -> str:
    """The first folder below the package; empty for a file that is in none."""
    _, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    return first if (package / first).is_dir() or first == "__main__" else ""


def between_rooms(package: Path) -> Iterator[tuple[str, str, Import]]:
    """Imports of another room of the package, with both rooms."""
    for one in imports_of(package):
        if one.module.partition(".")[0] == package.name:
            rooms = room_of(one.importer, package), room_of(one.module, package)
            if rooms[0] != rooms[1]:
                yield *rooms, one


def wrong_imports(package: Path) -> dict[tuple[str, str], list[str]]:
    """Imports that the floors forbid, by pair of rooms."""
    found: dict[tuple[str, str], list[str]] = {}
    for room, other, one in between_rooms(package):
        allowed = other in LEAST[room] if room in LEAST else FLOORS[other] < FLOORS[room]
        if not allowed:
            found.setdefault((room, other), []).append(f"{one.importer}:{one.line} imports {one.module} {one.name}")
    return found


def circles(package: Path) -> list[set[str]]:
    """Modules that reach each other by their imports."""
    names = list(modules_of(package))
    place = {name: number for number, name in enumerate(names)}
    graph = np.zeros((len(names), len(names)), dtype=bool)
    for one in imports_of(package):
        if one.module in place:
            graph[place[one.importer], place[one.module]] = True
    count, groups = connected_components(graph, connection="strong")
    found = [{name for name, group in zip(names, groups, strict=True) if group == number} for number in range(count)]
    return [group for group in found if len(group) > 1]


def private_imports(package: Path) -> list[str]:
    """Names with one underscore in front that another module imports."""
    return [
        f"{one.importer}:{one.line} imports {one.name} of {one.module}"
        for one in imports_of(package)
        if one.module.partition(".")[0] == package.name and one.name.startswith("_") and not one.name.endswith("__")
    ]


def too_long(package: Path) -> dict[str, str]:
    """Files and functions that are longer than they may be, with how long they are."""
    found = {}
    for name, path in modules_of(package).items():
        text = path.read_text(encoding="utf-8")
        tree, lines = ast.parse(text), len(text.splitlines())
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        if lines > LINES and ONE_IDEA not in first:
            found[name] = f"{name} has {lines} lines, and {LINES} are the most"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION:
                    found[f"{name}.{node.name}"] = f"{name}.{node.name} has {length} lines, and {FUNCTION} are the most"
    return found


def strangers(package: Path) -> list[str]:
    """Imports from elsewhere that a room must not make."""
    return [
        f"{one.importer}:{one.line} imports {one.module}"
        for one in imports_of(package)
        for name in FORBIDDEN.get(room_of(one.importer, package), ())
        if f"{one.module}.{one.name}.".startswith(f"{name}.")
    ]


def test_every_room_has_a_floor():
    rooms = {room_of(name, PACKAGE) for name in modules_of(PACKAGE)}
    assert rooms <= FLOORS.keys(), "give a new room its floor"


def test_a_room_imports_lower_floors_only():
    wrong = wrong_imports(PACKAGE)
    assert not wrong, "\n".join(line for lines in wrong.values() for line in lines)


def test_modules_import_each_other_in_no_circle():
    assert not circles(PACKAGE)


def test_no_private_name_is_imported():
    assert not private_imports(PACKAGE)


def test_a_label_needs_no_engine_and_no_loader():
    assert not strangers(PACKAGE)


def test_no_file_and_no_function_is_too_long():
    found = too_long(PACKAGE)
    assert not found, "\n".join(found.values())


# ---- the checks themselves ------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """Writes a package, each module given by its path and its text; every folder is a package of its own."""

    def _tree(files: dict[str, str]) -> Path:
        package = tmp_path / "medssl_monai"
        for name, text in files.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)
        return package

    return _tree


def test_imports_of_a_function_and_of_types_count(tree):
    package = tree(
        {
            "cli/program.py": "from medssl_monai import pool\nfrom medssl_monai.pool import pool as module\n",
            "data/items.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import medssl_monai.pool.pool\n",
            "pool/pool.py": "def f():\n    from medssl_monai.cli.program import main\n",
        }
    )
    assert wrong_imports(package).keys() == {("pool", "cli"), ("data", "pool")}


def test_rooms_of_one_floor_do_not_import_each_other(tree):
    package = tree(
        {
            "bundle/b.py": "from medssl_monai import files\n",
            "files.py": "",
            "handlers/a.py": "import medssl_monai.bundle.b\n",
        }
    )
    assert wrong_imports(package).keys() == {("handlers", "bundle")}


def test_kinds_import_less_than_their_floor_allows(tree):
    package = tree(
        {
            "kinds/a.py": "import medssl_monai.networks.n\nfrom medssl_monai.losses import l\nimport ignite\n",
            "losses/l.py": "",
            "networks/n.py": "import torch.utils.data\n",
        }
    )
    assert wrong_imports(package).keys() == {("kinds", "networks")}
    assert strangers(package) == ["medssl_monai.kinds.a:3 imports ignite"]


def test_a_circle_through_a_function_is_found(tree):
    package = tree(
        {
            "pool/a.py": "from medssl_monai.pool.b import f\n",
            "pool/b.py": "def f():\n    import medssl_monai.pool.c\n",
            "pool/c.py": "from medssl_monai.pool import a\n",
            "pool/d.py": "from medssl_monai.pool import a\n",
        }
    )
    assert circles(package) == [{f"medssl_monai.pool.{name}" for name in "abc"}]


def test_private_names_are_found_and_those_of_python_are_none(tree):
    package = tree({"a.py": "from medssl_monai.b import _f, __doc__\nfrom os import _exit\n", "b.py": ""})
    assert private_imports(package) == ["medssl_monai.a:1 imports _f of medssl_monai.b"]


def test_long_files_and_functions_are_found(tree):
    body = "def f():\n" + "    pass\n" * FUNCTION
    reason = f'"""A table. {ONE_IDEA} all of it."""\n'
    files = {"a.py": "x = 1\n" * (LINES + 1), "b.py": reason + "x = 1\n" * LINES, "c.py": body, "d.py": body[:-9]}
    assert too_long(tree(files)).keys() == {"medssl_monai.a", "medssl_monai.c.f"}
