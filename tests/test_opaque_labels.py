"""Outside of `medssl_monai.kinds` nobody knows which kinds of labels there are, or looks into a label."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest
from mypy import api
from support import ROOT

from medssl_monai.kinds import KINDS

PACKAGE = ROOT / "medssl_monai"
OLD_WORDS = re.compile(r"multiclass|multilabel|segmentation")
"""Names of tasks by which files used to tell kinds of labels apart; 25 lines are about something else."""
ASKS = {"isinstance", "issubclass", "type", "hasattr", "getattr", "repr", "str", "len", "list", "int"}
"""Functions that look into what they are given."""


KIND_OR_LABEL = re.compile(rf"kinds\.\w+\.(Label|Kind|{'|'.join(kind.__name__ for kind in KINDS.values())})\b")
"""In what mypy reveals."""
HOLDS_LABELS = re.compile(r"(Union\[)?\"?(def|(builtins\.)?(dict|list|tuple|set)|typing\.(Sequence|Iterable|Mapping))")
"""Of what is revealed: a container of labels, or a function."""


def outside() -> list[Path]:
    """Files that must not know any kind."""
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] not in ("kinds", "cli")]


def test_files_outside_of_the_kinds_hardly_say_which_there_are():
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in outside()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if OLD_WORDS.search(line)
    ]
    assert len(lines) <= 25, "\n".join(lines)
    assert not [path for path in PACKAGE.rglob("*.py") if ".beside" in path.read_text(encoding="utf-8")]


def test_no_file_outside_compares_with_the_word_of_a_kind():
    found = []
    for path in outside():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            equal = isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq)
            sides = [node.left, *node.comparators] if equal else []
            sides += [case.pattern.value for case in getattr(node, "cases", []) if hasattr(case.pattern, "value")]
            words = {side.value for side in sides if isinstance(side, ast.Constant) and isinstance(side.value, str)}
            if words & (set(KINDS) - {"masks", "classes"}):  # which name other things as well, such as columns
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, found


class Reveal(ast.NodeTransformer):
    """Asks mypy for the type of whatever is compared, matched, keyed by or type-tested, whatever it is called."""

    def mark(self, node: ast.expr) -> ast.expr:
        return ast.Call(ast.Name("reveal_type", ast.Load()), [node], [])

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        nothing = isinstance(node.comparators[-1], ast.Constant) and node.comparators[-1].value is None
        if not (nothing and isinstance(node.ops[0], ast.Is | ast.IsNot)):
            node.left, node.comparators = self.mark(node.left), [self.mark(side) for side in node.comparators]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        asks = isinstance(node.func, ast.Name) and node.func.id in ASKS and node.args
        if asks and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
            node.args[0] = self.mark(node.args[0])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Name | ast.Attribute | ast.Call):
            node.slice = self.mark(node.slice)
        return node

    def visit_Match(self, node: ast.Match) -> ast.AST:
        self.generic_visit(node)
        node.subject = self.mark(node.subject)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:  # an annotation is no look
        node.value = None if node.value is None else self.visit(node.value)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node


def looks(folder: Path, fault: str) -> list[str]:
    """Lines outside of the kinds that look into a kind or a label, in a copy of the package with `fault` in it."""
    copy = folder / "medssl_monai"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "spy.py").write_text(fault)
    for path in copy.rglob("*.py"):
        if path.relative_to(copy).parts[0] == "kinds":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if getattr(node, "returns", None) is not None:
                node.returns = ast.Constant(ast.unparse(node.returns))
        tree.body = [node if _is_alias(node) else Reveal().visit(node) for node in tree.body]
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    text, _, _ = api.run(["--no-incremental", f"--config-file={ROOT / 'pyproject.toml'}", str(copy)])
    found = []
    for line in text.splitlines():
        note = re.search(r"medssl_monai/(\S+)\.py:(\d+): note: Revealed type is \"(.*)\"", line)
        if note and KIND_OR_LABEL.search(note[3]) and not HOLDS_LABELS.match(note[3]):
            source = (copy / f"{note[1]}.py").read_text(encoding="utf-8").splitlines()[int(note[2]) - 1]
            found.append(f"{note[1]}: {source.strip()}")
    return found


def _is_alias(node: ast.stmt) -> bool:
    """Whether a statement may give a name to a type."""
    return isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom)


FAULT = """
from medssl_monai.pool.labels import Labels
from medssl_monai.pool.pool import LabelPool

def spy(pool: LabelPool, own: Labels) -> int:
    harmless = own.label(0)
    x = own.kind
    if isinstance(harmless, list):
        return 1
    if harmless == 0 or x in (1, 2) or harmless is not None:
        return 2
    return {x: 3}[x] if type(x) is int else 4
"""


@pytest.mark.slow
def test_nobody_outside_looks_into_a_kind_or_a_label(tmp_path):
    found = looks(tmp_path, FAULT)
    assert [line for line in found if not line.startswith("spy:")] == []
    assert len(found) >= 5, found
