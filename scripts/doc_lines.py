"""Name the lines of YAML and Markdown with more than 120 columns, as ruff does for Python.

Not meant, as they cannot be wrapped: rows of tables and code blocks in Markdown, and lines without a space to break at.

Usage: python scripts/doc_lines.py FILE...
"""

from __future__ import annotations

import sys
from pathlib import Path

COLUMNS = 120


def long_lines(path: Path) -> list[int]:
    """Return the numbers of the lines of a file that are too long."""
    found, code = [], False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            code = not code
        free = (path.suffix == ".md" and (code or line.startswith(("|", "    ")))) or " " not in line.strip(" #->")
        if len(line) > COLUMNS and not free:
            found.append(number)
    return found


def main() -> int:
    """Print ``FILE:LINE`` for each line that is too long."""
    found = [(name, number) for name in sys.argv[1:] for number in long_lines(Path(name))]
    for name, number in found:
        print(f"{name}:{number}: more than {COLUMNS} columns")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
