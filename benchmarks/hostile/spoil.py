"""Ways to spoil valid input: bytes, trees of plain values (JSON, pickles, states), tables of text."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Chance = random.Random

NUMBERS: list[Any] = [0, -1, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63]
NUMBERS += [-(2**31), 10**20, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")]
DEEP = 100_000


class Raw(str):
    """Text that goes into JSON as it is."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may occur twice."""


class Payloads:
    """Texts that do harm where something evaluates, follows or writes them; set before any input is made."""

    canary, victim = Path("executed"), Path("victim")

    @classmethod
    def evaluated(cls) -> list[str]:
        """Would leave the canary behind."""
        return [
            f"$open({str(cls.canary)!r}, 'w').close()",
            f"$__import__('pathlib').Path({str(cls.canary)!r}).touch()",
            f"$exec(\"open({str(cls.canary)!r}, 'w')\")",
            f"\uff04open({str(cls.canary)!r}, 'w')",
            f"__import__('os').system('touch {cls.canary}')",
            f"!!python/object/apply:os.system ['touch {cls.canary}']",
        ]

    @classmethod
    def paths(cls) -> list[str]:
        """Would be read or written outside."""
        up = [f"{'../' * depth}written" for depth in (1, 2, 3, 4)]
        return [
            *up,
            str(cls.victim),
            "..\\..\\written",
            "C:\\written",
            "/dev/zero",
            ".",
            "..",
            "~/written",
            "a\0b",
            "/",
        ]

    @classmethod
    def texts(cls) -> list[str]:
        """All of them, and names that mean something elsewhere."""
        odd = [
            "@network",
            "%network",
            "=1+1",
            "+x",
            "-x",
            "\u202egnp.a",
            "\x1b[31m",
            "\ud800",
            "A" * 70_000,
            "none",
            "?x",
        ]
        odd += [
            "a;b",
            "a|b",
            "nan",
            "٣",
            "\uff11",
            "²",
            "-²",
            "1_000",
            "0x10",
            "1e5",
            " 1 ",
            "1.0",
            "TRUE",
            "null",
            "\n",
            "",
        ]
        return [*cls.evaluated(), *cls.paths(), *odd]


def text(chance: Chance) -> str:
    """Return a hostile text."""
    return chance.choice(Payloads.evaluated() if chance.random() < 0.3 else Payloads.texts())


def odd(chance: Chance) -> Any:
    """Any value where another was expected."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(NUMBERS)
    if kind == 1:
        return text(chance)
    return chance.choice([None, True, False, "", [], {}, [[]], {"a": 1}, [None], "0", Raw("1" * 5000), Raw("1e999")])


# bytes


def cut(content: bytes, chance: Chance) -> bytes:
    """Without its end."""
    return content[: chance.randrange(len(content))] if content else content


def flip(content: bytes, chance: Chance) -> bytes:
    """With a few bits turned, often near the beginning, where headers are."""
    spoiled = bytearray(content)
    end = len(content) if chance.random() < 0.5 else min(len(content), 400)
    for _ in range(chance.choice([1, 1, 2, 8]) if content else 0):
        spoiled[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def blank(content: bytes, chance: Chance) -> bytes:
    """With a run of zeros, or of ones."""
    start = chance.randrange(len(content) or 1)
    run = min(len(content) - start, chance.choice([1, 4, 64, 1024]))
    return content[:start] + bytes([chance.choice([0, 255])]) * run + content[start + run :]


def repeat(content: bytes, chance: Chance) -> bytes:
    """With a part twice."""
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] + content[end:]


def lose(content: bytes, chance: Chance) -> bytes:
    """Without a part in the middle."""
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def append(content: bytes, chance: Chance) -> bytes:
    """With something behind its end."""
    return content + chance.choice([bytes(1), bytes(4096), b"\xff" * 7, content])


def nothing(content: bytes, chance: Chance) -> bytes:
    """Empty."""
    return b""


BYTES: list[Callable[[bytes, Chance], bytes]] = [cut, cut, flip, flip, flip, blank, repeat, lose, append, nothing]


def spoil_bytes(content: bytes, chance: Chance, what: list[str]) -> bytes:
    """One of `BYTES`, taken down in `what`."""
    way = chance.choice(BYTES)
    what.append(f"bytes: {way.__name__}")
    return way(content, chance)


def special(path: Path, chance: Chance, what: list[str]) -> None:
    """Something else than a file in its place."""
    way = chance.choice(["pipe", "folder", "loop", "cycle", "dangling", "endless", "random", "gone", "link out"])
    what.append(f"special: {way}")
    path.unlink(missing_ok=True)
    targets = {"loop": path, "cycle": path.parent, "dangling": path.with_name("nowhere"), "link out": Payloads.victim}
    targets |= {"endless": Path("/dev/zero"), "random": Path("/dev/urandom")}
    if way == "pipe":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way in targets:
        path.symlink_to(targets[way])


# trees


def spots(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in dictionaries and lists but the root."""
    plain = isinstance(tree, list) and not isinstance(tree, Pairs)
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if plain else ()
    return [found for key, value in inside for found in [(*path, key), *spots(value, (*path, key))]]


def spoil_tree(tree: Any, chance: Chance, what: list[str], value: Callable[[Chance], Any] = odd) -> Any:
    """Change one value: another, gone, twice, renamed, nested, exchanged."""
    where = spots(tree)
    if not where or chance.random() < 0.02:
        what.append("tree: another root")
        return value(chance)
    path = chance.choice(where)
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    key, way = path[-1], chance.choice(["value", "value", "value", "gone", "twice", "renamed", "nested", "exchanged"])
    what.append(f"tree: {way} at {'/'.join(map(str, path))}")
    if way == "value":
        parent[key] = value(chance)
    elif way == "gone":
        del parent[key]
    elif way == "twice" and isinstance(parent, list):
        parent.insert(chance.randrange(len(parent) + 1), parent[key])
    elif way == "twice":
        return _put(tree, path[:-1], Pairs([*parent.items(), (key, value(chance))]))
    elif way == "renamed" and isinstance(parent, dict):
        parent[text(chance)] = parent.pop(key)
    elif way == "nested":
        parent[key] = Raw("[" * DEEP + "]" * DEEP) if chance.random() < 0.2 else [parent[key]]
    elif way == "exchanged" or way == "renamed":
        other = chance.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    return tree


def _put(tree: Any, path: Sequence[Any], value: Any) -> Any:
    if not path:
        return value
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return tree


def to_json(tree: Any) -> str:
    """JSON, with `Raw` and `Pairs` as they are."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs | dict):
        pairs = tree.items() if isinstance(tree, dict) else list(tree)
        return "{" + ", ".join(f"{json.dumps(str(key))}: {to_json(value)}" for key, value in pairs) + "}"
    if isinstance(tree, list | tuple):
        return "[" + ", ".join(map(to_json, tree)) + "]"
    return json.dumps(tree)


def json_file(path: Path, tree: Any, chance: Chance, what: list[str], harmless: bool, harmed: bool) -> None:
    """Write a tree, spoiled or in another form that means the same."""
    if harmed:
        for _ in range(chance.choice([1, 1, 2])):
            if isinstance(tree, dict | list):
                tree = spoil_tree(tree, chance, what)
    content = to_json(tree).encode()
    if harmless:
        what.append("same: indented, keys in another order")
        keys = list(tree)
        chance.shuffle(keys)
        content = json.dumps({key: tree[key] for key in keys}, indent=4, ensure_ascii=chance.random() < 0.5).encode()
    if harmed and chance.random() < 0.3:
        content = spoil_bytes(content, chance, what)
    elif harmed and chance.random() < 0.1:
        encoding = chance.choice(["utf-16", "utf-8-sig", "utf-32"])
        what.append(encoding)
        content = content.decode().encode(encoding)
    path.write_bytes(content)


# tables

Rows = list[list[str]]


def render(rows: Rows, delimiter: str = ",", newline: str = "\n") -> str:
    """Rows as text; cells with a delimiter are quoted."""

    def cell(content: str) -> str:
        special = any(sign in content for sign in (delimiter, '"', "\n", "\r"))
        return '"' + content.replace('"', '""') + '"' if special else content

    return newline.join(delimiter.join(map(cell, row)) for row in rows) + newline


def same_table(rows: Rows, chance: Chance, what: list[str], encodings: Sequence[str]) -> bytes:
    """Return the same table as another program would write it."""
    order = list(range(len(rows[0])))
    chance.shuffle(order)
    rows = [[row[column] for column in order] for row in rows]
    encoding, delimiter = chance.choice(encodings), chance.choice(",;\t")
    newline = chance.choice(["\n", "\r\n", "\r"])
    what.append(f"same: {encoding}, {delimiter!r}, {newline!r}, other order of columns")
    try:
        return render(rows, delimiter, newline).encode(encoding)
    except UnicodeEncodeError:
        return render(rows, delimiter, newline).encode()


def spoiled_table(rows: Rows, chance: Chance, what: list[str]) -> bytes:
    """Return a table with one to three slips."""
    rows = [list(row) for row in rows]
    for _ in range(chance.choice([1, 1, 2, 3])):
        row, way = chance.choice(rows), chance.randrange(12)
        if not row:
            continue
        column = chance.randrange(len(row))
        what.append(f"table: way {way}, row {rows.index(row)}, column {column}")
        if way < 3:
            row[column] = text(chance)
        elif way == 3:
            row[column] = str(chance.choice(NUMBERS))
        elif way == 4:
            del row[column]
        elif way == 5:
            row.append(text(chance))
        elif way == 6:
            rows.append(list(row))
        elif way == 7 and rows[0]:
            rows[0][min(column, len(rows[0]) - 1)] = chance.choice(
                ["", rows[0][0], text(chance), "id", "split", "group"]
            )
        elif way == 8 and rows[0]:
            rows[0].append(rows[0][0])
            for other in rows[1:]:
                other.append(other[0] if other else "")
        elif way == 9:
            rows.remove(row)
        elif way == 10:
            row[column] = chance.choice(["'", '"', '"' + row[column], row[column] + "\n", "\t" + row[column]])
        else:
            other = chance.choice(rows)
            if other:
                at = chance.randrange(len(other))
                row[column], other[at] = other[at], row[column]
        if not rows:
            rows = [["image"]]
    encoded = render(rows, chance.choice(",,,;\t")).encode(chance.choice(["utf-8"] * 5 + ["utf-16"]), errors="replace")
    return spoil_bytes(encoded, chance, what) if chance.random() < 0.25 else encoded
